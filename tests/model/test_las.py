import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from asr.decoding import Hypothesis, SearchConfig, beam_search, greedy_search
from asr.features import NUM_MELS
from asr.model.attention import KINDS, AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import Listener, ListenerConfig, ListenerOutput
from asr.model.speller import SpellerConfig, Spelling

V, SOS, EOS = 7, 1, 2


def build(kind: str = "location", reductions: Sequence[int] = (2, 2, 1)) -> LAS:
    las = LAS(
        LASConfig(
            ListenerConfig(size=4, reductions=list(reductions), dropout=0.0),
            AttentionConfig(kind, size=3, filters=2, reach=1),
            SpellerConfig(size=5, layers=2, embedding_size=3, dropout=0.0),
        ),
        vocab_size=V,
    )
    with torch.no_grad():  # sharper, so that hypotheses differ
        for parameter in las.speller.parameters():
            parameter.mul_(2.0)
    return las


def features_of(num_utterances: int, num_frames: int) -> Tensor:
    return torch.randn(num_utterances, num_frames, NUM_MELS)


def run(
    las: LAS, features: Tensor, num_frames: Sequence[int], inputs: Tensor
) -> tuple[Spelling, Tensor, ListenerOutput]:
    said: tuple[Spelling, Tensor, ListenerOutput]
    said = las(features, torch.tensor(num_frames), inputs)
    return said


# Shape and layers


@pytest.mark.parametrize(
    ("reductions", "layer"),
    [((2, 2, 1), 2), ((2, 2, 2), 1), ((4, 2), 0), ((1, 2, 2, 2), 2)],
)
def test_the_ctc_head_has_25_steps_a_second(
    reductions: tuple[int, ...], layer: int
) -> None:
    las = build(reductions=reductions)
    outputs = list[Tensor]()
    norm = las.listener.norms[layer]
    norm.register_forward_hook(lambda *args: outputs.append(args[2]))

    _, ctc_log_probs, listened = run(
        las, features_of(1, 100), [100], torch.tensor([[1]])
    )

    (expected,) = outputs
    assert ctc_log_probs.shape == (1, 25, V)
    assert listened.num_ctc_steps.tolist() == [25]
    torch.testing.assert_close(ctc_log_probs, las.ctc(expected).log_softmax(dim=-1))


def test_outputs_have_the_promised_shapes() -> None:
    las = build()

    spelling, ctc_log_probs, listened = run(
        las, features_of(2, 30), [30, 9], torch.ones(2, 5, dtype=torch.int64)
    )

    assert las.vocab_size == V
    assert spelling.logits.shape == (2, 5, V)
    assert spelling.weights.shape == (2, 5, 8)
    assert ctc_log_probs.shape == (2, 8, V)
    assert listened.num_steps.tolist() == [8, 3]
    torch.testing.assert_close(ctc_log_probs.exp().sum(dim=-1), torch.ones(2, 8))


def test_features_are_brought_to_the_measured_scale_first() -> None:
    las, inputs = build(), torch.tensor([[SOS, 3, 4]])
    features = 3 * features_of(1, 20) + 5
    plain = run(las, (features - 5.5) / 2.0, [20], inputs)

    las.norm.mean.fill_(5.5)
    las.norm.std.fill_(2.0)
    normed = run(las, features, [20], inputs)

    torch.testing.assert_close(normed[0].logits, plain[0].logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(normed[1], plain[1], atol=1e-5, rtol=1e-4)


# Invariance


@pytest.mark.parametrize("num_frames", [1, 3, 4, 5, 17, 24])
@pytest.mark.parametrize("kind", KINDS)
def test_an_utterance_gives_the_same_alone_and_in_a_batch(
    kind: str, num_frames: int
) -> None:
    las = build(kind)
    las.norm.measure([features_of(1, 50)[0] + 3])  # so that padding is not zero then
    features, inputs = features_of(3, 24), torch.randint(V, (3, 6))

    alone = run(las, features[1:2, :num_frames], [num_frames], inputs[1:2])
    together = run(las, features, [24, num_frames, 8], inputs)

    steps = int(alone[2].num_ctc_steps)
    torch.testing.assert_close(together[0].logits[1], alone[0].logits[0])
    torch.testing.assert_close(together[1][1, :steps], alone[1][0])


def test_sampling_is_handed_on_to_the_speller() -> None:
    las = build()
    features, inputs = features_of(1, 20), torch.full((1, 30), 3)

    plain = las(features, torch.tensor([20]), inputs)[0].logits
    sampled = las(features, torch.tensor([20]), inputs, 1.0)[0].logits

    torch.testing.assert_close(sampled[:, 0], plain[:, 0])
    assert not torch.allclose(sampled[:, -1], plain[:, -1])


def test_every_weight_is_trained() -> None:
    las = build()

    spelling, ctc_log_probs, _ = run(
        las, features_of(2, 30), [30, 9], torch.randint(V, (2, 5))
    )
    torch.autograd.backward([x.square().sum() for x in (spelling[0], ctc_log_probs)])

    for name, parameter in las.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


class HalfListener(Listener):
    """A listener that puts out the same for any input, in half precision."""

    def __init__(self, listened: ListenerOutput) -> None:
        super().__init__(ListenerConfig(size=4), NUM_MELS)
        self.listened = listened

    def forward(self, x: Tensor, num_frames: Tensor) -> ListenerOutput:
        h, num_steps, ctc_h, num_ctc_steps = self.listened
        return ListenerOutput(h.bfloat16(), num_steps, ctc_h.bfloat16(), num_ctc_steps)


def test_the_speller_works_in_full_precision_under_autocast() -> None:
    las = build()
    features, inputs = features_of(2, 30), torch.randint(V, (2, 5))
    listened = las.listen(features, torch.tensor([30, 9]))
    listened = listened._replace(h=listened.h.bfloat16().float())
    las.listener = HalfListener(listened)  # in bfloat16, as under autocast on a GPU
    expected = las.speller.spell(las.precompute(listened), inputs).logits

    with torch.autocast("cpu", dtype=torch.bfloat16):
        spelling, ctc_log_probs, _ = run(las, features, [30, 9], inputs)

    assert spelling.logits.dtype == ctc_log_probs.dtype == torch.float32
    torch.testing.assert_close(spelling.logits, expected, atol=1e-5, rtol=1e-5)


# As a search sees it: parity with teacher forcing


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_reordered_hypotheses_score_as_their_spelling_does(
    kind: str, seed: int
) -> None:
    chance = random.Random(seed)
    las = build(kind)
    num_frames = [24, 5, 17]
    listened = las.listen(features_of(3, 24), torch.tensor(num_frames))
    memory, steps = las.precompute(listened), las.steps(listened)
    state = steps.start()
    groups = [[(utterance, [SOS])] for utterance in range(3)]

    for _ in range(7):
        rows = [row for group in groups for row in group]
        tokens = torch.tensor([spelled[-1] for _, spelled in rows])

        scores, state = steps.step(tokens, state)

        for (utterance, spelled), found in zip(rows, scores, strict=True):
            one = memory.select(torch.tensor([utterance]))
            logits = las.speller.spell(one, torch.tensor([spelled])).logits
            torch.testing.assert_close(found, logits[0, -1].log_softmax(dim=-1))
        width = len(groups[0])
        kept = [g for g in range(len(groups)) if chance.random() < 0.85] or [0]
        new_width = chance.randint(1, 4)
        chosen = [
            [g * width + chance.randrange(width) for _ in range(new_width)]
            for g in kept
        ]
        state = steps.select(state, torch.tensor(chosen))
        groups = [
            [(rows[r][0], [*rows[r][1], chance.randrange(V)]) for r in group]
            for group in chosen
        ]


def test_what_is_no_longer_searched_is_no_longer_kept() -> None:
    las = build()
    listened = las.listen(features_of(3, 24), torch.tensor([24, 24, 24]))
    steps = las.steps(listened)
    _, state = steps.step(torch.tensor([SOS] * 3), steps.start())
    third = state.memory.keys[2]

    state = steps.select(state, torch.tensor([[2, 2]]))

    assert len(state.memory.h) == 1
    assert torch.equal(state.memory.keys[0], third)
    assert len(state.kept) == len(state.weights) == 2


def test_scores_are_log_probabilities() -> None:
    las = build()
    listened = las.listen(features_of(2, 24), torch.tensor([24, 9]))
    steps = las.steps(listened)

    scores, _ = steps.step(torch.tensor([SOS, SOS]), steps.start())

    torch.testing.assert_close(scores.exp().sum(dim=-1), torch.ones(2))


# Searched


def search(
    las: LAS, listened: ListenerOutput, beam_size: int
) -> list[list[Hypothesis]]:
    config = SearchConfig(beam_size, length_norm=0.0)
    limits = torch.full_like(listened.num_steps, 6)
    return beam_search(
        las.steps(listened), config, sos=SOS, eos=EOS, max_lengths=limits
    )


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_hypotheses_carry_the_probability_of_their_spelling(kind: str) -> None:
    las = build(kind)
    listened = las.listen(features_of(2, 24), torch.tensor([24, 9]))
    memory = las.precompute(listened)

    found = search(las, listened, beam_size=4)

    for utterance, hypotheses in enumerate(found):
        assert hypotheses
        for hypothesis in hypotheses:
            tokens = [*hypothesis.tokens, EOS]
            one = memory.select(torch.tensor([utterance]))
            inputs = torch.tensor([[SOS, *hypothesis.tokens]])
            log_probs = las.speller.spell(one, inputs).logits[0].log_softmax(dim=-1)
            each = [float(log_probs[i, token]) for i, token in enumerate(tokens)]
            each = each if hypothesis.finished else each[:-1]
            assert hypothesis.log_prob == pytest.approx(sum(each), abs=1e-4)


def test_a_search_finds_the_same_alone_and_in_a_batch() -> None:
    las = build()
    features = features_of(3, 24)
    lengths = [24, 5, 17]

    together = search(las, las.listen(features, torch.tensor(lengths)), beam_size=3)

    for utterance, length in enumerate(lengths):
        x = features[utterance : utterance + 1, :length]
        (alone,) = search(las, las.listen(x, torch.tensor([length])), beam_size=3)
        assert [h.tokens for h in alone] == [h.tokens for h in together[utterance]]


def test_a_beam_of_one_is_greedy() -> None:
    las = build()
    listened = las.listen(features_of(3, 24), torch.tensor([24, 5, 17]))
    limits = torch.full_like(listened.num_steps, 6)

    greedy = greedy_search(las.steps(listened), sos=SOS, eos=EOS, max_lengths=limits)

    beam = search(las, listened, beam_size=1)
    assert [h.tokens for h in greedy] == [hypotheses[0].tokens for hypotheses in beam]


# Learning


def test_learns_to_spell_two_utterances() -> None:
    las = build()
    features, num_frames = features_of(2, 16), torch.tensor([16, 12])
    targets = torch.tensor([[3, 4, 5, EOS], [5, 3, EOS, EOS]])
    inputs = torch.cat([torch.tensor([[SOS], [SOS]]), targets[:, :-1]], dim=1)
    optimizer = torch.optim.Adam(las.parameters(), lr=0.03)
    for _ in range(60):
        logits = las(features, num_frames, inputs)[0].logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten()
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    with torch.no_grad():
        listened = las.listen(features, num_frames)
    assert [found[0].tokens for found in search(las, listened, 4)] == [
        (3, 4, 5),
        (5, 3),
    ]
