import itertools
from collections.abc import Callable, Iterator
from itertools import groupby
from math import exp, inf, log, log1p
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

from asr.decoding import CTCPrefix, SearchConfig, beam_search
from asr.decoding.ctc import WindowedCTCPrefix, search_prefix
from asr.decoding.ctc_window import RANGE
from asr.decoding.search import StepModel

BLANK, EOS, A, B = range(4)
V = 4
Spelling = tuple[int, ...]


def random_log_probs(num_steps: int, seed: int, sharpness: float = 2.0) -> Tensor:
    """(J, V) with labels for all but <eos>, which is no label."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(num_steps, V, generator=generator)
    logits[:, EOS] = -inf
    return logits.log_softmax(dim=-1)


Prefix = StepModel[Any]
Kind = Callable[..., Prefix]
both = pytest.mark.parametrize("kind", [CTCPrefix, WindowedCTCPrefix])


def prefix_of(
    log_probs: Tensor,
    num_steps: int | None = None,
    kind: Kind = WindowedCTCPrefix,
) -> Prefix:
    lengths = torch.tensor([num_steps or len(log_probs)])
    return kind(log_probs[None], lengths, blank=BLANK, eos=EOS)


def spell(prefix: Prefix, spelling: Spelling) -> tuple[Tensor, float]:
    """Return the (V,) scores after a spelling, and the sum of those of its tokens."""
    scores, state = prefix.step(torch.tensor([EOS]), prefix.start())
    total = 0.0
    for token in spelling:
        total += float(scores[0, token])
        scores, state = prefix.step(torch.tensor([token]), state)
    return scores[0], total


def enumerate_paths(log_probs: Tensor) -> dict[Spelling, float]:
    """Work out P of every spelling by adding up all label paths."""
    probs = log_probs.double().exp().tolist()
    spelled = dict[Spelling, float]()
    for path in itertools.product((BLANK, A, B), repeat=len(probs)):
        p = 1.0
        for step, label in zip(probs, path, strict=True):
            p *= step[label]
        spelling = tuple(label for label, _ in groupby(path) if label != BLANK)
        spelled[spelling] = spelled.get(spelling, 0.0) + p
    return spelled


def plain_scores(log_probs: Tensor, spelling: Spelling) -> tuple[float, Tensor]:
    """Work out log P(g ...), and the scores of <eos>, A and B, by loops over steps."""
    steps = log_probs.double().tolist()
    token, blank = [-inf] * (len(steps) + 1), [0.0]
    for step in steps:
        blank.append(blank[-1] + step[BLANK])
    prefix, last = 0.0, None
    for c in spelling:
        prefix, token, blank = _append(steps, token, blank, c, repeated=c == last)
        last = c
    following = [_append(steps, token, blank, c, repeated=c == last)[0] for c in (A, B)]
    scores = torch.tensor([_add(token[-1], blank[-1]), *following]) - prefix
    return prefix, scores


def _append(
    steps: list[list[float]],
    token: list[float],
    blank: list[float],
    c: int,
    *,
    repeated: bool,
) -> tuple[float, list[float], list[float]]:
    prefix, new_token, new_blank = -inf, [-inf], [-inf]
    for j, step in enumerate(steps):
        phi = blank[j] if repeated else _add(blank[j], token[j])
        prefix = _add(prefix, phi + step[c])
        new_blank.append(_add(new_blank[j], new_token[j]) + step[BLANK])
        new_token.append(_add(new_token[j], phi) + step[c])
    return prefix, new_token, new_blank


def _add(a: float, b: float) -> float:
    """Return log(exp a + exp b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -inf else high + log1p(exp(low - high))


def spellings(max_length: int) -> Iterator[Spelling]:
    for length in range(max_length + 1):
        yield from itertools.product((A, B), repeat=length)


# Golden: worked by hand


@both
def test_two_steps_worked_by_hand(kind: Kind) -> None:
    probs = torch.tensor([[0.5, 0.0, 0.4, 0.1], [0.2, 0.0, 0.3, 0.5]])

    at_start, _ = spell(prefix_of(probs.log(), kind=kind), ())
    after_a, total = spell(prefix_of(probs.log(), kind=kind), (A,))

    # A begins at the first step, or after a blank: 0.4 + 0.5 * 0.3 = 0.55;
    # B likewise 0.1 + 0.5 * 0.5 = 0.35; nothing but blanks 0.5 * 0.2 = 0.1
    torch.testing.assert_close(at_start.exp(), torch.tensor([0.0, 0.1, 0.55, 0.35]))
    assert total == pytest.approx(log(0.55))
    # Of these 0.55, AB has 0.4 * 0.5 = 0.2; AA needs a blank between and a third step;
    # A alone has 0.4 * (0.2 + 0.3) + 0.5 * 0.3 = 0.35
    expected = torch.tensor([0.0, 0.35, 0.0, 0.2]) / 0.55
    torch.testing.assert_close(after_a.exp(), expected)


# Parity: with all paths there are, and with torch's loss


@pytest.mark.parametrize("num_steps", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(4))
@both
def test_scores_are_those_of_all_paths(num_steps: int, seed: int, kind: Kind) -> None:
    log_probs = random_log_probs(num_steps, seed)
    paths = enumerate_paths(log_probs)

    def starting_with(prefix: Spelling) -> float:
        return sum(p for s, p in paths.items() if s[: len(prefix)] == prefix)

    for spelling in spellings(min(4, num_steps)):
        before = starting_with(spelling)
        if before == 0:
            continue
        scores, total = spell(prefix_of(log_probs, kind=kind), spelling)
        expected = {
            BLANK: 0.0,
            EOS: paths.get(spelling, 0.0) / before,
            A: starting_with((*spelling, A)) / before,
            B: starting_with((*spelling, B)) / before,
        }
        assert total == pytest.approx(log(before), abs=1e-4)
        assert scores.exp().tolist() == pytest.approx(
            [expected[token] for token in range(V)], abs=1e-5
        )


@pytest.mark.parametrize("sharpness", [1.0, 5.0, 20.0])
@pytest.mark.parametrize(("num_steps", "length"), [(50, 1), (50, 20), (400, 100)])
def test_a_whole_spelling_has_the_log_prob_of_the_ctc_loss(
    sharpness: float, num_steps: int, length: int
) -> None:
    vocab_size = 31
    log_probs = (sharpness * torch.randn(1, num_steps, vocab_size)).log_softmax(dim=-1)
    log_probs = log_probs.clamp(min=-80)
    tokens = torch.randint(A, vocab_size, (1, length))
    tokens[0, -1] = tokens[0, -2:][0]  # a repeated letter

    scores, total = spell(
        prefix_of(log_probs[0], kind=CTCPrefix), tuple(tokens[0].tolist())
    )

    loss = ctc_loss(
        log_probs.double().transpose(0, 1),
        tokens,
        torch.tensor([num_steps]),
        torch.tensor([length]),
        blank=BLANK,
        reduction="sum",
    )
    expected = pytest.approx(-float(loss), abs=1e-4, rel=1e-6)
    assert total + float(scores[EOS]) == expected


@pytest.mark.parametrize("sharpness", [1.0, 5.0, 20.0, 50.0])
@pytest.mark.parametrize("length", [0, 1, 8, 20])
def test_agrees_with_the_recurrences_worked_step_by_step(
    sharpness: float, length: int
) -> None:
    log_probs = random_log_probs(40, seed=length, sharpness=sharpness).clamp(min=-80)
    spelling = tuple(torch.randint(A, V, (length,)).tolist())

    scores, total = spell(prefix_of(log_probs, kind=CTCPrefix), spelling)

    before, expected = plain_scores(log_probs, spelling)
    assert total == pytest.approx(before, rel=1e-6, abs=1e-4)
    torch.testing.assert_close(scores[[EOS, A, B]], expected, rtol=1e-5, atol=1e-4)


# The window of steps that a search on a CPU keeps


def spoken(num_tokens: int, seed: int) -> tuple[Tensor, Spelling]:
    """(J, V) of a recording of tokens, some with a pause behind them, and these."""
    generator = torch.Generator().manual_seed(seed)
    logits, spelling = list[Tensor](), list[int]()
    for number in range(num_tokens):
        token = int(torch.randint(A, V, (1,), generator=generator))
        pause = 100 if number % 20 == 10 else 2
        labels = torch.tensor([token] * 2 + [BLANK] * pause)
        rows = 2 * torch.randn(len(labels), V, generator=generator)
        rows[torch.arange(len(labels)), labels] += 10
        logits.append(rows)
        spelling.append(token)
    return torch.cat(logits).log_softmax(dim=-1), tuple(spelling)


@pytest.mark.parametrize("seed", range(5))
def test_a_window_holds_all_that_a_likely_spelling_needs(seed: int) -> None:
    log_probs, spelling = spoken(60, seed)
    narrow, whole = prefix_of(log_probs), prefix_of(log_probs, kind=CTCPrefix)
    sos = torch.tensor([EOS, EOS])
    found, state = narrow.step(sos[:1], narrow.start())
    expected, all_steps = whole.step(sos[:1], whole.start())
    widths = list[int]()
    for place, token in enumerate(spelling):
        least = -RANGE / 2  # <eos> after the first of them, say
        torch.testing.assert_close(found.clamp(min=least), expected.clamp(min=least))
        rows = torch.tensor([[0, 0]])
        state, all_steps = narrow.select(state, rows), whole.select(all_steps, rows)
        other = A + B - token if place % 10 == 0 else token  # a wrong one beside it
        tokens = torch.tensor([token, other])
        found, state = narrow.step(tokens, state)
        expected, all_steps = whole.step(tokens, all_steps)
        widths.append(len(state.either))
    assert all_steps.either.size(1) == len(log_probs) + 1
    assert max(widths) > 100  # over a pause
    assert sum(widths) / len(widths) < len(log_probs) / 2
    assert state.first + widths[-1] == len(log_probs) + 1


def test_what_a_window_leaves_out_makes_a_spelling_less_likely() -> None:
    torch.manual_seed(0)
    log_probs = (20 * torch.randn(400, 31)).log_softmax(dim=-1)
    spelling = tuple(torch.randint(A, 31, (100,)).tolist())
    found, exact = (
        float(scores[EOS]) + total
        for scores, total in (
            spell(prefix_of(log_probs, kind=kind), spelling)
            for kind in (WindowedCTCPrefix, CTCPrefix)
        )
    )
    assert -inf < found < exact - 1
    assert exact < -RANGE


@pytest.mark.parametrize("seed", range(10))
@both
def test_a_wide_beam_finds_the_most_probable_spelling(seed: int, kind: Kind) -> None:
    log_probs = random_log_probs(6, seed)
    paths = enumerate_paths(log_probs)
    best = max(paths, key=lambda spelling: paths[spelling])

    found = beam_search(
        prefix_of(log_probs, kind=kind),
        SearchConfig(beam_size=200, length_norm=0.0),
        sos=EOS,
        eos=EOS,
        max_lengths=torch.tensor([6]),
    )[0][0]

    assert found.tokens == best
    assert found.log_prob == pytest.approx(log(paths[best]), abs=1e-4)


# Property: what holds for every table


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 30.0])
@both
def test_what_follows_and_the_end_share_the_whole_probability(
    seed: int, sharpness: float, kind: Kind
) -> None:
    log_probs = random_log_probs(40, seed, sharpness)
    torch.manual_seed(seed)
    spelling = tuple(torch.randint(A, V, (15,)).tolist())

    for length in range(0, len(spelling) + 1, 5):
        scores, _ = spell(prefix_of(log_probs, kind=kind), spelling[:length])
        assert (scores <= 0).all()
        assert float(scores.exp().sum()) == pytest.approx(1.0, abs=1e-5)


@both
def test_no_label_is_ruled_out_altogether(kind: Kind) -> None:
    log_probs = torch.full((30, V), -inf)
    log_probs[:, BLANK] = 0.0

    scores, total = spell(prefix_of(log_probs, kind=kind), (A,))

    # e^-80 at each of 30 steps; then B after A at any of 30 * 29 / 2 pairs of steps
    assert total == pytest.approx(-80 + log(30))
    assert float(scores[B]) == pytest.approx(-80 + log(435 / 30))


@both
def test_no_token_follows_when_the_steps_are_used_up(kind: Kind) -> None:
    scores, _ = spell(prefix_of(random_log_probs(3, seed=0), kind=kind), (A, B, A))
    assert (scores == -inf).tolist() == [True, False, True, True]
    assert float(scores[EOS]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("impossible", [(A, A, B), (A, B, A, B), (BLANK, A), (EOS, B)])
@both
def test_nothing_follows_what_cannot_be(impossible: Spelling, kind: Kind) -> None:
    scores, _ = spell(prefix_of(random_log_probs(3, seed=0), kind=kind), impossible)
    assert (scores == -inf).all()


@both
def test_sos_never_follows(kind: Kind) -> None:
    log_probs = random_log_probs(5, seed=0)[None]
    prefix = kind(log_probs, torch.tensor([5]), blank=BLANK, eos=EOS, sos=B)
    scores, _ = prefix.step(torch.tensor([B]), prefix.start())
    assert (scores == -inf).tolist() == [[True, False, False, True]]


# Invariance: neither neighbours nor padding nor the order of the beam are felt


@both
def test_padding_changes_nothing(kind: Kind) -> None:
    short = random_log_probs(5, seed=0)
    padded = torch.cat([short, random_log_probs(4, seed=1)])

    for spelling in spellings(4):
        scores, total = spell(prefix_of(short, kind=kind), spelling)
        beside_padding, same = spell(
            prefix_of(padded, num_steps=5, kind=kind), spelling
        )
        torch.testing.assert_close(beside_padding, scores)
        assert same == pytest.approx(total, abs=1e-5)


@both
def test_hypotheses_and_utterances_are_kept_apart(kind: Kind) -> None:
    tables = [random_log_probs(num_steps, seed=num_steps) for num_steps in (8, 3, 6)]
    log_probs = torch.nn.utils.rnn.pad_sequence(tables, batch_first=True)
    prefix = kind(log_probs, torch.tensor([8, 3, 6]), blank=BLANK, eos=EOS)

    _, state = prefix.step(torch.tensor([EOS] * 3), prefix.start())
    state = prefix.select(state, torch.tensor([[0, 0], [1, 1], [2, 2]]))
    _, state = prefix.step(torch.tensor([A, B, A, B, A, B]), state)
    state = prefix.select(state, torch.tensor([[1, 0, 1], [5, 5, 4]]))  # one is done
    scores, _ = prefix.step(torch.tensor([A, A, B, A, B, A]), state)

    expected = [
        spell(prefix_of(tables[utterance], kind=kind), spelling)[0]
        for utterance, spelling in [
            (0, (B, A)),
            (0, (A, A)),
            (0, (B, B)),
            (2, (B, A)),
            (2, (B, B)),
            (2, (A, A)),
        ]
    ]
    torch.testing.assert_close(scores, torch.stack(expected))


@pytest.mark.parametrize("seed", range(5))
@both
def test_an_utterance_is_spelled_alone_as_in_a_batch(seed: int, kind: Kind) -> None:
    tables = [random_log_probs(n, seed=10 * seed + n) for n in (8, 1, 5)]
    log_probs = torch.nn.utils.rnn.pad_sequence(tables, batch_first=True)
    num_steps = torch.tensor([8, 1, 5])
    config = SearchConfig(beam_size=3)

    together = beam_search(
        kind(log_probs, num_steps, blank=BLANK, eos=EOS),
        config,
        sos=EOS,
        eos=EOS,
        max_lengths=num_steps,
    )

    for table, nbest in zip(tables, together, strict=True):
        lengths = torch.tensor([len(table)])
        (alone,) = beam_search(
            prefix_of(table, kind=kind), config, sos=EOS, eos=EOS, max_lengths=lengths
        )
        assert [h.tokens for h in nbest] == [h.tokens for h in alone]
        for ours, theirs in zip(nbest, alone, strict=True):
            assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-5)


# Errors: the message names what was wrong


@pytest.mark.parametrize(
    ("size", "lengths", "message"),
    [
        ((6, V), [6], r"need num_steps \(B,\), got \(6, 4\) and \(1,\)"),
        ((2, 6, V), [6], r"need num_steps \(B,\), got \(2, 6, 4\) and \(1,\)"),
    ],
)
@both
def test_sizes_that_do_not_match_are_refused(
    size: tuple[int, ...], lengths: list[int], message: str, kind: Kind
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(torch.zeros(size), torch.tensor(lengths), blank=BLANK, eos=EOS)


@both
def test_eos_is_not_the_blank(kind: Kind) -> None:
    with pytest.raises(ValueError, match="<eos> must not be the blank, both are 0"):
        kind(torch.zeros(1, 6, V), torch.tensor([6]), blank=BLANK, eos=BLANK)


@pytest.mark.gpu
def test_runs_on_the_gpu() -> None:
    log_probs = random_log_probs(6, seed=0)
    expected, _ = prefix_of(log_probs).step(
        torch.tensor([EOS]), prefix_of(log_probs).start()
    )

    prefix = prefix_of(log_probs.cuda(), kind=CTCPrefix)
    scores, _ = prefix.step(torch.tensor([EOS]), prefix.start())

    torch.testing.assert_close(scores.cpu(), expected)


def test_a_search_on_a_cpu_keeps_a_window_of_the_steps() -> None:
    log_probs, num_steps = random_log_probs(6, seed=0)[None], torch.tensor([6])
    prefix = search_prefix(log_probs, num_steps, blank=BLANK, eos=EOS, sos=B)
    assert isinstance(prefix, WindowedCTCPrefix)


@both
def test_that_nothing_was_said_has_a_score_in_a_long_recording(kind: Kind) -> None:
    log_probs = torch.full((400, V), -9.0)
    log_probs[:, A] = 0.0

    scores, _ = spell(prefix_of(log_probs, kind=kind), ())

    assert float(scores[EOS]) == pytest.approx(-3600)
