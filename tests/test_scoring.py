import random
import unicodedata
from collections.abc import Callable, Sequence

import pytest

from asr.scoring import (
    Confusion,
    Edit,
    ErrorRate,
    align,
    aligned_text,
    by_frequency,
    by_group,
    by_length,
    by_position,
    char_error_rate,
    confidence_interval,
    confusions,
    difference_interval,
    spelling_errors,
    word_error_rate,
    worst,
)

SAID = ["THE CAT SAT", "GO", "ON THE MAT"]
DECODED = ["THE BAT", "GO ON", "ON THE MAT"]

Measure = Callable[[Sequence[str], Sequence[str]], ErrorRate]

# Golden: worked by hand


def test_word_errors_counted_by_hand() -> None:
    # THE CAT SAT / THE BAT: 1 S, 1 D. GO / GO ON: 1 I. The last is right.
    assert word_error_rate(SAID, DECODED) == ErrorRate(1, 1, 1, num_reference=7)


def test_character_errors_counted_by_hand() -> None:
    # "THE CAT SAT" / "THE BAT": C -> B, and " SAT" is gone. "GO" / "GO ON": " ON".
    # References: 11 + 2 + 10 characters, spaces counted.
    assert char_error_rate(SAID, DECODED) == ErrorRate(1, 4, 3, num_reference=23)


def test_the_rate_is_errors_per_reference_word() -> None:
    count = ErrorRate(substitutions=1, deletions=2, insertions=3, num_reference=4)
    assert count.errors == 6
    assert count.rate == 1.5
    assert str(count) == "150.00 [ 6 / 4, 3 ins, 2 del, 1 sub ]"


def test_two_sets_are_counted_as_one() -> None:
    both = ErrorRate(1, 2, 3, 4) + ErrorRate(10, 20, 30, 40)
    assert both == ErrorRate(11, 22, 33, 44)


@pytest.mark.parametrize("measure", [word_error_rate, char_error_rate])
@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("", "", ErrorRate(0, 0, 0, 0)),
        ("A", "", ErrorRate(0, 1, 0, 1)),
        ("", "A", ErrorRate(0, 0, 1, 0)),
    ],
)
def test_an_empty_text_has_no_words(
    measure: Measure, reference: str, hypothesis: str, expected: ErrorRate
) -> None:
    assert measure([reference], [hypothesis]) == expected


@pytest.mark.parametrize("measure", [word_error_rate, char_error_rate])
def test_no_utterances_have_no_errors(measure: Measure) -> None:
    assert measure([], []) == ErrorRate(0, 0, 0, 0)
    assert measure([], []).rate == 0


def test_white_space_only_parts_words() -> None:
    spaced = [" THE\tCAT \n SAT"]
    assert word_error_rate(spaced, ["THE CAT SAT"]).errors == 0
    assert char_error_rate(spaced, ["THE CAT SAT"]).errors == 0


def test_case_counts() -> None:
    assert word_error_rate(["Go"], ["GO"]).errors == 1


# Parity: against a count of our own


@pytest.mark.parametrize("seed", range(30))
def test_errors_are_as_few_as_dynamic_programming_finds(seed: int) -> None:
    pairs = random_pairs(seed)
    for reference, hypothesis in pairs:
        said, decoded = reference.split(), hypothesis.split()

        words = word_error_rate([reference], [hypothesis])
        characters = char_error_rate([reference], [hypothesis])

        assert words.errors == edit_distance(said, decoded)
        assert words.num_reference == len(said)
        assert words.num_reference - words.deletions + words.insertions == len(decoded)
        assert characters.errors == edit_distance(list(reference), list(hypothesis))
        assert characters.num_reference == len(reference)

    together = word_error_rate(*zip(*pairs, strict=True))
    apart = [word_error_rate([said], [decoded]) for said, decoded in pairs]
    assert together == sum(apart, start=ErrorRate(0, 0, 0, 0))


# Confidence


def test_the_interval_holds_the_rate_and_shrinks_with_more_utterances() -> None:
    said, decoded = zip(*random_pairs(0, num_pairs=400), strict=True)

    widths = []
    for number in (25, 100, 400):
        low, high = confidence_interval(said[:number], decoded[:number])
        assert low < word_error_rate(said[:number], decoded[:number]).rate < high
        widths.append(high - low)

    # Four times the utterances: about half the width.
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.4)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.4)


def test_the_interval_is_that_of_the_normal_distribution() -> None:
    # 1000 words, each its own utterance and wrong with p = 0.2: the standard error is
    # sqrt(0.2 * 0.8 / 1000) = 0.01265, so 95 % lie within 1.96 of them: 0.0248.
    said = ["A"] * 1000
    decoded = ["B"] * 200 + ["A"] * 800

    low, high = confidence_interval(said, decoded, num_samples=4000)

    assert low == pytest.approx(0.2 - 0.0248, abs=0.002)
    assert high == pytest.approx(0.2 + 0.0248, abs=0.002)


def test_a_higher_level_is_wider() -> None:
    said, decoded = zip(*random_pairs(0), strict=True)
    low, high = confidence_interval(said, decoded, level=0.5)
    lower, higher = confidence_interval(said, decoded, level=0.99)
    assert lower < low < high < higher


def test_errors_of_one_speaker_go_together() -> None:
    said = ["A"] * 100
    decoded = ["B"] * 50 + ["A"] * 50
    speakers = [str(number // 10) for number in range(100)]  # wrong or right throughout

    low, high = confidence_interval(said, decoded)
    lower, higher = confidence_interval(said, decoded, groups=speakers)

    # Ten speakers in place of a hundred utterances: sqrt(10) times as wide.
    ratio = (higher - lower) / (high - low)
    assert ratio == pytest.approx(10**0.5, rel=0.2)


def test_the_interval_is_the_same_each_time() -> None:
    said, decoded = zip(*random_pairs(0), strict=True)
    first = confidence_interval(said, decoded, seed=1)
    assert confidence_interval(said, decoded, seed=1) == first
    assert confidence_interval(said, decoded, seed=2) != first


def test_without_errors_the_interval_is_a_point() -> None:
    assert confidence_interval(SAID, SAID) == (0, 0)
    assert confidence_interval([""], [""]) == (0, 0)


def test_the_interval_of_a_difference_knows_that_the_utterances_are_the_same() -> None:
    # Each speaker has one error less after than before, however many there were: of 10
    # words each that is 0.1 in any test set that is drawn.
    said = ["A A A A A A A A A A"] * 8
    before = [" ".join("B" * n + "A" * (10 - n)) for n in range(1, 9)]
    after = [" ".join("B" * (n - 1) + "A" * (11 - n)) for n in range(1, 9)]

    low, high = difference_interval(said, before, after)

    assert [low, high] == pytest.approx([-0.1, -0.1])
    low, high = difference_interval(said, after, before)
    assert [low, high] == pytest.approx([0.1, 0.1])


def test_the_interval_of_a_difference_holds_it_and_zero_where_nothing_changed() -> None:
    said, before = zip(*random_pairs(0, num_pairs=100), strict=True)
    _, after = zip(*random_pairs(1, num_pairs=100), strict=True)

    low, high = difference_interval(said, before, after)

    change = word_error_rate(said, after).rate - word_error_rate(said, before).rate
    assert low < change < high
    assert difference_interval(said, before, before) == (0, 0)


def test_differences_of_one_speaker_go_together() -> None:
    said, before = ["A"] * 100, ["B"] * 100
    after = ["A"] * 50 + ["B"] * 50
    speakers = [str(number // 10) for number in range(100)]

    low, high = difference_interval(said, before, after)
    lower, higher = difference_interval(said, before, after, groups=speakers)

    assert lower < low < high < higher


# Tables


def test_errors_by_speaker() -> None:
    counts = by_group(SAID, DECODED, ["b", "a", "b"])
    assert list(counts.items()) == [
        ("a", ErrorRate(0, 0, 1, 1)),
        ("b", ErrorRate(1, 1, 0, 6)),
    ]


def test_the_worst_have_most_word_errors_and_the_right_are_none_of_them() -> None:
    said = ["A B C", "A", "A B", "A B C D", "A"]
    written = ["A B C", "B", "C D", "A", "A A"]

    assert worst(said, written) == [3, 2, 1, 4]
    assert worst(said, written, number=1) == [3]
    assert worst(["A"], ["A"]) == []
    with pytest.raises(ValueError, match="hypotheses"):
        worst(["A"], [])


def test_errors_by_length() -> None:
    texts = [str(number) for number in range(6)]
    counts = by_length(texts, texts, [1.9, 2, 4.99, 15, 99, 0])
    assert list(counts.items()) == [
        ("0-2 s", ErrorRate(0, 0, 0, 2)),
        ("2-5 s", ErrorRate(0, 0, 0, 2)),
        ("15+ s", ErrorRate(0, 0, 0, 2)),
    ]


def test_the_bins_may_be_chosen() -> None:
    counts = by_length(SAID, DECODED, [1, 10, 2], edges=[2.5, 10])
    assert counts == {"0-2.5 s": ErrorRate(1, 1, 0, 6), "10+ s": ErrorRate(0, 0, 1, 1)}
    assert list(counts) == ["0-2.5 s", "10+ s"]


def test_errors_by_position() -> None:
    # Four words lie at 1/8, 3/8, 5/8 and 7/8: two in each half. C is wrong, D is gone.
    halves = by_position(["A B C D"], ["A B X"], parts=2)
    assert halves == [ErrorRate(0, 0, 0, 2), ErrorRate(1, 1, 0, 2)]

    # The middle of three words lies at 1/2, where the second half begins.
    assert by_position(["A B C"], ["A X C"], parts=2) == [
        ErrorRate(0, 0, 0, 1),
        ErrorRate(1, 0, 0, 2),
    ]


def test_a_word_too_many_lies_where_the_word_before_it_lies() -> None:
    halves = by_position(["A B", "A B", ""], ["X A B", "A B X", "X"], parts=2)
    assert halves == [ErrorRate(0, 0, 2, 2), ErrorRate(0, 0, 1, 2)]


def test_a_long_utterance_fills_all_tenths_alike() -> None:
    text = " ".join(map(str, range(40)))
    assert by_position([text], [text]) == [ErrorRate(0, 0, 0, 4)] * 10


@pytest.mark.parametrize("seed", range(5))
def test_the_errors_of_all_positions_are_all_errors(seed: int) -> None:
    said, decoded = zip(*random_pairs(seed), strict=True)
    parts = by_position(said, decoded)
    assert sum(parts, start=ErrorRate(0, 0, 0, 0)) == word_error_rate(said, decoded)


def test_errors_by_frequency() -> None:
    # THE is said 5 times and CAT twice, SAT once. One THE is wrong, one gone; so is
    # SAT. What is said too much is of no reference word.
    said = ["THE CAT SAT", "THE CAT", "THE THE THE"]
    decoded = ["A CAT", "THE CAT TOO", "THE THE"]
    counts = by_frequency(said, decoded)
    assert list(counts.items()) == [
        ("once", ErrorRate(0, 1, 0, 1)),
        ("2-4 times", ErrorRate(0, 0, 0, 2)),
        ("5-19 times", ErrorRate(1, 1, 0, 5)),
    ]


def test_words_are_as_frequent_in_any_code() -> None:
    decomposed = ["u\u0308ber u\u0308ber"]

    found = by_frequency(decomposed, ["\u00fcber"])

    assert found == {"2-4 times": ErrorRate(0, 1, 0, num_reference=2)}


def test_the_bins_of_frequency_may_be_chosen() -> None:
    said = ["A B B C C C"]
    assert by_frequency(said, said, edges=[2, 3]) == {
        "once": ErrorRate(0, 0, 0, 1),
        "2 times": ErrorRate(0, 0, 0, 2),
        "3+ times": ErrorRate(0, 0, 0, 3),
    }


def test_an_alignment_has_an_edit_for_each_place() -> None:
    (edits,) = align(["THE CAT SAT"], ["A CAT"])
    assert edits == [
        Edit("S", "THE", "A"),
        Edit(" ", "CAT", "CAT"),
        Edit("D", "SAT", ""),
    ]
    assert list(align([], [])) == []


def test_the_most_frequent_errors_come_first() -> None:
    said = ["A B", "A B", "A", "C D", "E"]
    decoded = ["X B", "X B", "A Y", "C", "E"]
    assert confusions(said, decoded) == [
        Confusion(2, "A", "X"),
        Confusion(1, "", "Y"),
        Confusion(1, "D", ""),
    ]
    assert confusions(said, decoded, top=1) == [Confusion(2, "A", "X")]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("A", "A", ["REF: A", "HYP: A", ""]),
        ("", "", ["REF:", "HYP:", ""]),
        ("GO", "", ["REF: GO", "HYP: ***", "     D"]),
        (
            "WE SAW THE CAT SLEEP",
            "WE SAWED CAT SLEEP NOW",
            [
                "REF: WE SAW   THE CAT SLEEP ***",
                "HYP: WE SAWED *** CAT SLEEP NOW",
                "        S     D             I",
            ],
        ),
    ],
)
def test_two_texts_stand_word_above_word(
    reference: str, hypothesis: str, expected: list[str]
) -> None:
    assert aligned_text(reference, hypothesis).split("\n") == expected


# Errors: what cannot be counted


def test_each_reference_needs_a_hypothesis() -> None:
    message = "needed, got 2 references, 1 hypotheses"
    for measure in (word_error_rate, char_error_rate, confusions):
        with pytest.raises(ValueError, match=message):
            measure(["A", "B"], ["A"])
    with pytest.raises(ValueError, match="needed, got 0 references, 1 hypotheses"):
        word_error_rate([], ["A"])


def test_each_reference_needs_a_group_and_a_duration() -> None:
    with pytest.raises(ValueError, match="needed, got 1 references, 2 groups"):
        by_group(["A"], ["A"], ["1", "2"])
    with pytest.raises(ValueError, match="needed, got 1 references, 2 groups"):
        confidence_interval(["A"], ["A"], groups=["1", "2"])
    with pytest.raises(ValueError, match="needed, got 1 references, 0 durations"):
        by_length(["A"], ["A"], [])


@pytest.mark.parametrize("edges", [[], [0, 1], [2, 2], [3, 2]])
def test_bins_must_follow_each_other(edges: list[float]) -> None:
    with pytest.raises(ValueError, match="edges must rise from above zero"):
        by_length(["A"], ["A"], [1], edges)


@pytest.mark.parametrize("edges", [[], [1, 2], [3, 3], [3, 2]])
def test_bins_of_frequency_must_follow_each_other(edges: list[int]) -> None:
    with pytest.raises(ValueError, match="edges must rise from above one"):
        by_frequency(["A"], ["A"], edges)


def test_a_position_needs_a_part() -> None:
    with pytest.raises(ValueError, match="at least one part is needed, got 0"):
        by_position(["A"], ["A"], parts=0)


def test_an_interval_needs_utterances() -> None:
    with pytest.raises(ValueError, match="needs an utterance"):
        confidence_interval([], [])
    with pytest.raises(ValueError, match="needs an utterance"):
        difference_interval([], [], [])


@pytest.mark.parametrize(("level", "num_samples"), [(0, 9), (1, 9), (95, 9), (0.95, 0)])
def test_an_impossible_interval_is_refused(level: float, num_samples: int) -> None:
    with pytest.raises(ValueError, match="is impossible"):
        confidence_interval(["A"], ["A"], level=level, num_samples=num_samples)


def random_pairs(seed: int, num_pairs: int = 30) -> list[tuple[str, str]]:
    draws = random.Random(seed)

    def text() -> str:
        return " ".join(draws.choices(["A", "AB", "BA", "C"], k=draws.randrange(9)))

    return [(text(), text()) for _ in range(num_pairs)]


def edit_distance(said: list[str], decoded: list[str]) -> int:
    row = list(range(len(decoded) + 1))
    for i, word in enumerate(said, 1):
        above, row = row, [i]
        for j, other in enumerate(decoded, 1):
            substituted = above[j - 1] + (word != other)
            row.append(min(substituted, above[j] + 1, row[j - 1] + 1))
    return row[-1]


# One text, several codes


@pytest.mark.parametrize("measure", [word_error_rate, char_error_rate])
@pytest.mark.parametrize("text", ["café", "Ångström", "각", "ế"])
def test_an_accent_is_no_error_because_it_has_two_codes(
    measure: Measure, text: str
) -> None:
    nfc, nfd = unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)
    assert nfc != nfd

    for pair in ([nfc], [nfd]), ([nfd], [nfc]), ([nfd], [nfd]):
        found = measure(*pair)
        assert found.errors == 0
        assert found == measure([nfc], [nfc])


def test_characters_that_only_look_alike_are_errors() -> None:
    assert word_error_rate(["a"], ["а"]).errors == 1  # noqa: RUF001 -- Cyrillic


def test_errors_of_spelling_are_those_that_go() -> None:
    assert spelling_errors(["Go on."], ["GO IN"], str.lower) == 1
    assert spelling_errors(["GO"], ["GO"], str.lower) == 0
    assert spelling_errors(["A B"], ["A B"], lambda text: text[:1]) == 0
