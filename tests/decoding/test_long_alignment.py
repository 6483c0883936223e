import random
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding import long_alignment
from asr.decoding.ctc_alignment import align
from asr.decoding.long_alignment import FLOOR, Evidence, TextPath, align_words

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BLANK, SPACE = 0, 1
COLUMNS = {2 + n: n for n in range(len(LETTERS))}


def tokens(text: str) -> list[list[int]]:
    return [[2 + LETTERS.index(c) for c in word] for word in text.split()]


def said(text: str, *, wrong: float = 0.0, seed: int = 0) -> Evidence:
    """What a head writes that gets some letters wrong: a step a letter, then blanks.

    A dot is a step of silence.
    """
    rng = random.Random(seed)
    written = list[int]()
    for character in text:
        if character == ".":
            written.append(BLANK)
        elif character == " ":
            written += [SPACE, BLANK]
        else:
            letter = rng.choice(LETTERS) if rng.random() < wrong else character
            written += [2 + LETTERS.index(letter), BLANK]
    steps = np.array(written)
    log_probs = np.full((len(steps), len(LETTERS) + 2), FLOOR, dtype=np.float16)
    is_letter = steps >= 2
    log_probs[np.flatnonzero(is_letter), steps[is_letter] - 2] = 0.0
    log_probs[~is_letter, -1] = 0.0
    log_probs[steps == BLANK, -2] = 0.0
    return Evidence(log_probs, np.full(len(steps), -0.1, np.float16), steps, COLUMNS)


def spelled(evidence: Evidence, path: TextPath) -> str:
    """What the head wrote at the places where the letters of a text were found."""
    found = evidence.written[path.begins[path.begins >= 0]]
    return "".join(LETTERS[token - 2] for token in found)


def story(num_words: int, seed: int = 1) -> str:
    rng = random.Random(seed)
    return " ".join(
        "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 8)))
        for _ in range(num_words)
    )


def test_each_letter_is_where_it_was_said() -> None:
    evidence = said("..GO... ON..")

    path = align_words(evidence, tokens("GO ON"))

    assert path.begins.tolist() == [2, 4, 11, 13]
    assert path.ends.tolist() == [3, 5, 12, 14]
    assert path.log_probs.tolist() == pytest.approx([-0.1] * 4, abs=1e-3)


@pytest.mark.parametrize(
    "audio",
    [
        "THIS IS MUCH ELSE THE CAT SAT ON THE MAT",
        "THE CAT SAT ON THE MAT WHICH IS MUCH ELSE",
        "THE CAT SAT AND NOBODY KNOWS WHY ON THE MAT",
    ],
)
def test_audio_without_text_is_passed_over(audio: str) -> None:
    evidence = said(audio)

    path = align_words(evidence, tokens("THE CAT SAT ON THE MAT"))

    assert spelled(evidence, path) == "THECATSATONTHEMAT"


def test_what_is_passed_over_may_begin_before_a_better_letter() -> None:
    evidence = said("ABBXYXYXYXY CD")
    evidence.log_probs[2, 1] = -2.0  # the first B: the second one alone is better

    path = align_words(evidence, tokens("AB CD"))

    # 2 + FILL_BEGIN from the first B on, FLOOR + FILL_BEGIN from the second one on.
    assert path.begins[:2].tolist() == [0, 2]


@pytest.mark.parametrize(
    "text",
    [
        "WHAT NOBODY KNOWS GO HOME NOW CHILDREN",
        "GO HOME NOW CHILDREN WHAT NOBODY KNOWS",
        "GO HOME WHAT NOBODY KNOWS NOW CHILDREN",
    ],
)
def test_words_that_nobody_says_are_left_out(text: str) -> None:
    evidence = said("GO HOME NOW CHILDREN")

    path = align_words(evidence, tokens(text))

    letters = [w for w in text.split() for _ in w]
    unsaid = {letters[n] for n in np.flatnonzero(path.begins < 0)}
    assert unsaid == {"WHAT", "NOBODY", "KNOWS"}
    assert spelled(evidence, path) == "GOHOMENOWCHILDREN"
    assert set(path.log_probs[path.begins < 0]) == {-np.inf}


def test_a_word_with_a_wrong_letter_is_kept() -> None:
    evidence = said("THE CAD SAT")

    path = align_words(evidence, tokens("THE CAT SAT"))

    assert (path.begins >= 0).all()


def test_nothing_but_silence_has_no_word() -> None:
    path = align_words(said("." * 200), tokens("THE CAT SAT ON THE MAT"))

    assert (path.begins < 0).all()


def test_a_repeated_letter_needs_a_blank_between() -> None:
    path = align_words(said("..SEE.."), tokens("SEE"))

    assert path.begins.tolist() == [2, 4, 6]


def test_one_word_has_the_path_of_plain_ctc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_alignment, "WAIT", 0.0)
    monkeypatch.setattr(long_alignment, "FILL_BEGIN", 1e4)
    monkeypatch.setattr(long_alignment, "SKIP_BEGIN", 1e4)
    for _ in range(20):
        log_probs = torch.randn(30, 28).mul(3).log_softmax(dim=1)
        log_probs[:, SPACE] = -50.0
        word = torch.randint(2, 5, (6,))  # few letters: some stand twice in a row
        best, written = log_probs.max(dim=1)
        below = log_probs - best[:, None]
        kept = torch.cat((below[:, 2:], below[:, :1], below[:, :1]), dim=1)
        evidence = Evidence(kept.numpy(), best.numpy(), written.numpy(), COLUMNS)

        path = align_words(evidence, [word.tolist()])

        plain = align(log_probs, word, BLANK)
        assert path.begins.tolist() == plain.begins.tolist()
        assert path.ends.tolist() == plain.ends.tolist()
        assert path.log_probs.tolist() == pytest.approx(plain.log_probs.tolist())


@pytest.mark.parametrize("wrong", [0.0, 0.2, 0.4])
def test_pins_do_not_change_the_path(
    monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    text = story(400)
    evidence = said(text, wrong=wrong)
    whole = align_words(evidence, tokens(text))
    monkeypatch.setattr(long_alignment, "_SMALL", 10_000)
    pins = long_alignment._pins(
        evidence,
        long_alignment._Text(tokens(text), COLUMNS),
        long_alignment._Pin(-1, -1),
        long_alignment._Pin(len(evidence.best), sum(map(len, tokens(text)))),
    )

    pinned = align_words(evidence, tokens(text))

    assert pins
    same = (pinned.begins == whole.begins).mean()
    assert same > 0.995  # the steps of a wrong letter may be as good elsewhere


def test_back_pointers_of_one_block_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = story(60)
    audio = f"{story(20, 2)} {text[:150]} {story(10, 3)} {text[220:]}"
    evidence = said(audio, wrong=0.1)
    whole = align_words(evidence, tokens(text))
    monkeypatch.setattr(long_alignment, "_BLOCK", 5_000)

    in_blocks = align_words(evidence, tokens(text))

    assert in_blocks.begins.tolist() == whole.begins.tolist()
    assert in_blocks.ends.tolist() == whole.ends.tolist()


def test_of_a_part_that_is_too_large_both_ends_are_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_alignment, "_MOST", 1_000)
    monkeypatch.setattr(long_alignment, "_EDGE", 20)
    text = f"GOOD MORNING ALL {story(40)} THANK YOU ALL"
    evidence = said(f"GOOD MORNING ALL {story(40, 2)} THANK YOU ALL")

    path = align_words(evidence, tokens(text))

    found = spelled(evidence, path)
    assert found.startswith("GOODMORNINGALL")
    assert found.endswith("THANKYOUALL")


def test_a_text_of_another_recording_has_hardly_a_letter() -> None:
    path = align_words(said(story(300)), tokens(story(300, 2)))

    assert np.exp(np.maximum(path.log_probs, FLOOR).mean()) < 0.05


def test_pins_leave_out_a_chapter_that_is_missing_in_either() -> None:
    first, second, third, fourth = (story(300, seed) for seed in range(4))
    evidence = said(f"{first} {second} {fourth}")

    path = align_words(evidence, tokens(f"{first} {third} {fourth}"))

    sizes = [sum(map(len, part.split())) for part in (first, third, fourth)]
    parts = np.split(path.begins >= 0, np.cumsum(sizes)[:-1])
    assert [part.mean().round(2) for part in (parts[0], parts[2])] == [1.0, 1.0]
    assert parts[1].mean() < 0.5


@pytest.mark.parametrize(("step", "letter"), [(1, 5), (11, 0)])
def test_a_pin_without_time_for_its_word_is_left(
    monkeypatch: pytest.MonkeyPatch, step: int, letter: int
) -> None:
    pin = long_alignment._Pin(step, letter)
    monkeypatch.setattr(long_alignment, "_pins", lambda *_: [pin])
    evidence = said("ABCDEF")

    path = align_words(evidence, tokens("ABCDEF"))

    assert spelled(evidence, path) == "ABCDEF"


@given(st.lists(st.integers(0, 9), max_size=8))
def test_the_longest_chain_is_as_long_as_any(values: Sequence[int]) -> None:
    pairs = list(enumerate(values))

    chain = long_alignment._longest_chain(pairs)

    longest = max(
        size
        for size in range(len(pairs) + 1)
        for some in combinations(values, size)
        if all(a < b for a, b in pairwise(some))
    )
    assert len(chain) == longest
    assert all(a[1] < b[1] for a, b in pairwise(chain))
    assert set(chain) <= set(pairs)
