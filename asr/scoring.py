"""How far are the hypotheses from the references? Error rates, aligned by jiwer.

    rate = (S + D + I) / N

S words are substituted, D deleted and I inserted to turn the N words of the references
into the hypotheses. Texts are compared as they stand, case and punctuation too (see
`asr.alphabet.normalizer`), except that white space only parts words, and that both are
brought into NFC: an accent is no error because it has two codes.

Source of the confidence interval: Bisani and Ney (2004), "Bootstrap estimates for
confidence intervals in ASR performance evaluation", ICASSP.
"""

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple
from unicodedata import normalize

import jiwer
import numpy as np
import numpy.typing as npt

GAP = "***"
"""What `aligned_text` shows where the other text has a word and this one has none."""


@dataclass(frozen=True)
class ErrorRate:
    """Edits that turn references into hypotheses, of one utterance or of many."""

    substitutions: int
    deletions: int
    insertions: int
    num_reference: int
    """Words (or characters) in all references together."""

    @property
    def errors(self) -> int:
        """All edits together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word: above one where more is said than was there."""
        return self.errors / max(self.num_reference, 1)

    def __add__(self, other: "ErrorRate") -> "ErrorRate":
        """Count two sets of utterances as one."""
        return ErrorRate(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.num_reference + other.num_reference,
        )

    def __str__(self) -> str:
        """Follow the line that Kaldi's scoring prints.

        >>> str(ErrorRate(substitutions=1, deletions=2, insertions=0, num_reference=8))
        '37.50 [ 3 / 8, 0 ins, 2 del, 1 sub ]'
        """
        return (
            f"{100 * self.rate:.2f} [ {self.errors} / {self.num_reference}, "
            f"{self.insertions} ins, {self.deletions} del, {self.substitutions} sub ]"
        )


@dataclass(frozen=True)
class Confusion:
    """A word taken for another, and how often."""

    count: int
    reference_word: str
    """Empty where the hypothesis has a word too many."""
    hypothesis_word: str
    """Empty where the word was missed."""


class Edit(NamedTuple):
    """One place of an alignment."""

    mark: str
    """S, D or I; a space where the words are equal."""
    reference_word: str
    """Empty for I."""
    hypothesis_word: str
    """Empty for D."""


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRate:
    """Count word edits over all pairs (micro average, as the field reports it).

    Raises:
        ValueError: there are not as many hypotheses as references.
    """
    return _total(error_rates(references, hypotheses))


def error_rates(
    references: Sequence[str], hypotheses: Sequence[str]
) -> Iterator[ErrorRate]:
    """Count the word edits of each pair.

    Raises:
        ValueError: there are not as many hypotheses as references.

    >>> [pair.errors for pair in error_rates(["A B C", "A"], ["A C", "A"])]
    [1, 0]
    """
    return map(_count, align(references, hypotheses))


def char_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRate:
    """Count character edits over all pairs; the space between two words is one too.

    Raises:
        ValueError: there are not as many hypotheses as references.
    """
    _check_lengths(references=references, hypotheses=hypotheses)
    counted = jiwer.process_characters(_spaced(references), _spaced(hypotheses))
    return ErrorRate(
        substitutions=counted.substitutions,
        deletions=counted.deletions,
        insertions=counted.insertions,
        num_reference=sum(len(characters) for characters in counted.references),
    )


def spelling_errors(
    references: Sequence[str], hypotheses: Sequence[str], spelled: Callable[[str], str]
) -> int:
    """Count the word errors that another spelling of both texts takes away.

    Args:
        references: what was said.
        hypotheses: what was written.
        spelled: brings a text into the other spelling, see `asr.alphabet.normalizer`.

    >>> spelling_errors(["Go, do!"], ["GO DON'T"], lambda text: text.strip("!").upper())
    0
    >>> spelling_errors(["Go on"], ["GO ON"], str.lower)
    2
    """
    plain = ([spelled(text) for text in texts] for texts in (references, hypotheses))
    left = word_error_rate(*plain).errors
    return max(word_error_rate(references, hypotheses).errors - left, 0)


def confidence_interval(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    num_samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Estimate the interval of the word error rate on other utterances of this kind.

    Args:
        references: what was said.
        hypotheses: what was written.
        groups: what draws errors together, such as the speaker of each utterance: with
            them the interval is for other speakers, and wider. Without them each
            utterance is its own group.
        level: how much of the rates of the test sets drawn lies in the interval.
        num_samples: how many test sets are drawn, each of as many groups as there are.
        seed: of the draws.

    Returns:
        The lower and the upper end, as `ErrorRate.rate`.

    Raises:
        ValueError: there is no utterance, lengths differ, or a number is impossible.
    """
    counts = _counts(references, hypotheses, groups)
    rates = _drawn_rates(counts, level, num_samples, seed)[:, 0]
    lower, upper = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def difference_interval(
    references: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    num_samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Estimate the interval of the difference between two word error rates.

    Both are of the same utterances, and each test set that is drawn has the same of
    them, so that how hard they are cancels out: the interval is narrower than those of
    the two rates.

    Args:
        references: what was said.
        before: what was written at first.
        after: what was written then.
        groups: see `confidence_interval`.
        level: see `confidence_interval`.
        num_samples: see `confidence_interval`.
        seed: of the draws.

    Returns:
        The lower and the upper end of the rate after less the rate before: below zero
        where there are fewer errors now.

    Raises:
        ValueError: see `confidence_interval`.
    """
    counts = _counts(references, before, groups), _counts(references, after, groups)
    rates = _drawn_rates(np.hstack(counts), level, num_samples, seed)
    differences = rates[:, 1] - rates[:, 0]
    lower, upper = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def _counts(
    references: Sequence[str],
    hypotheses: Sequence[str],
    groups: Sequence[str] | None,
) -> npt.NDArray[np.int64]:
    """(groups, 2) errors and words of each group.

    Raises:
        ValueError: there is no utterance, or lengths differ.
    """
    if not references:
        raise ValueError("an interval needs an utterance, got none")
    if groups is None:
        groups = [str(number) for number in range(len(references))]
    counts = by_group(references, hypotheses, groups).values()
    return np.array([(count.errors, count.num_reference) for count in counts])


def _drawn_rates(
    counts: npt.NDArray[np.int64], level: float, num_samples: int, seed: int
) -> npt.NDArray[np.float64]:
    """(groups, 2 n) errors and words -> (num_samples, n) rates of drawn test sets.

    Raises:
        ValueError: a number is impossible.
    """
    if not 0 < level < 1 or num_samples < 1:
        raise ValueError(f"level {level} of {num_samples} samples is impossible")
    draws = np.random.default_rng(seed)
    drawn = [
        counts[draws.integers(len(counts), size=len(counts))].sum(axis=0)
        for _ in range(num_samples)
    ]
    sums = np.array(drawn).reshape(num_samples, -1, 2)
    rates: npt.NDArray[np.float64] = sums[..., 0] / np.maximum(sums[..., 1], 1)
    return rates


def by_group(
    references: Sequence[str], hypotheses: Sequence[str], groups: Sequence[str]
) -> dict[str, ErrorRate]:
    """Count word edits for each group, such as each speaker, in alphabetical order.

    Raises:
        ValueError: there are not as many hypotheses or groups as references.
    """
    _check_lengths(references=references, groups=groups)
    members = defaultdict[str, list[ErrorRate]](list)
    counts = error_rates(references, hypotheses)
    for group, count in zip(groups, counts, strict=True):
        members[group].append(count)
    return {group: _total(members[group]) for group in sorted(members)}


def worst(
    references: Sequence[str], hypotheses: Sequence[str], number: int = 5
) -> list[int]:
    """Find the utterances with most word errors, worst first; none without an error.

    Raises:
        ValueError: there are not as many hypotheses as references.

    >>> worst(["GO ON", "GO", "GO ON NOW"], ["GO", "GO", "NO"], number=2)
    [2, 0]
    """
    errors = [pair.errors for pair in error_rates(references, hypotheses)]
    order = sorted(range(len(errors)), key=lambda place: -errors[place])
    return [place for place in order[:number] if errors[place]]


def by_length(
    references: Sequence[str],
    hypotheses: Sequence[str],
    durations: Sequence[float],
    edges: Sequence[float] = (2, 5, 10, 15),
) -> dict[str, ErrorRate]:
    """Count word edits for utterances of like length, the shortest first.

    Args:
        references: what was said.
        hypotheses: what was written.
        durations: length of each utterance in seconds.
        edges: where the bins meet, in seconds. An utterance as long as an edge is in
            the bin above it; bins without utterances are left out.

    Returns:
        The error rate of "0-2 s", "2-5 s" and so on to "15+ s".

    Raises:
        ValueError: the lengths differ, or the edges do not rise from above zero.
    """
    _check_lengths(references=references, durations=durations)
    if not edges or any(low >= high for low, high in pairwise((0, *edges))):
        raise ValueError(f"edges must rise from above zero, got {list(edges)}")
    bins = [bisect(edges, duration) for duration in durations]
    labels = [f"{low:g}-{high:g} s" for low, high in pairwise((0, *edges))]
    labels.append(f"{edges[-1]:g}+ s")
    counts = by_group(references, hypotheses, [labels[number] for number in bins])
    return {labels[number]: counts[labels[number]] for number in sorted(set(bins))}


def by_position(
    references: Sequence[str], hypotheses: Sequence[str], parts: int = 10
) -> list[ErrorRate]:
    """Count word edits in each part of the utterances, from beginning to end.

    Word i of I (from 0) lies at (i + 1/2) / I of its utterance, so that those of an
    utterance with fewer words than there are parts are spread over it evenly. A word
    too many lies where the word before it lies, at the very beginning in the first
    part.

    Raises:
        ValueError: there are not as many hypotheses as references, or no part.
    """
    if parts < 1:
        raise ValueError(f"at least one part is needed, got {parts}")
    edits = list[list[Edit]]([] for _ in range(parts))
    for aligned in align(references, hypotheses):
        num_words = sum(edit.mark != "I" for edit in aligned)
        part = word = 0
        for edit in aligned:
            if edit.mark != "I":
                part = (2 * word + 1) * parts // (2 * num_words)
                word += 1
            edits[part].append(edit)
    return [_count(part_edits) for part_edits in edits]


def by_frequency(
    references: Sequence[str],
    hypotheses: Sequence[str],
    edges: Sequence[int] = (2, 5, 20, 100),
) -> dict[str, ErrorRate]:
    """Count what became of rare and of frequent words, the rarest first.

    A word too many is no word of the references, so insertions are left out.

    Args:
        references: what was said; words are counted in it.
        hypotheses: what was written.
        edges: where the bins meet. A word that is said as often as an edge is in the
            bin above it; bins without words are left out.

    Returns:
        The rate of words said "once", "2-4 times" and so on to "100+ times".

    Raises:
        ValueError: the lengths differ, or the edges do not rise from above one.
    """
    if not edges or any(low >= high for low, high in pairwise((1, *edges))):
        raise ValueError(f"edges must rise from above one, got {list(edges)}")
    counts = Counter(word for text in _spaced(references) for word in text.split())
    spans = [(low, high - 1) for low, high in pairwise((1, *edges))]
    labels = [_times(low, high) for low, high in spans] + [f"{edges[-1]}+ times"]
    edits = list[list[Edit]]([] for _ in labels)
    for edit in chain.from_iterable(align(references, hypotheses)):
        if edit.mark != "I":
            edits[bisect(edges, counts[edit.reference_word])].append(edit)
    return {
        label: _count(found)
        for label, found in zip(labels, edits, strict=True)
        if found
    }


def _times(low: int, high: int) -> str:
    if low == high:
        return "once" if low == 1 else f"{low} times"
    return f"{low}-{high} times"


def confusions(
    references: Sequence[str], hypotheses: Sequence[str], top: int = 20
) -> list[Confusion]:
    """Return the most frequent word edits, the most frequent first.

    Raises:
        ValueError: there are not as many hypotheses as references.
    """
    counts = Counter(
        (edit.reference_word, edit.hypothesis_word)
        for edits in align(references, hypotheses)
        for edit in edits
        if edit.mark != " "
    )
    found = [Confusion(count, *words) for words, count in counts.items()]
    return sorted(found, key=_by_frequency)[:top]


def _by_frequency(confusion: Confusion) -> tuple[int, str, str]:
    return -confusion.count, confusion.reference_word, confusion.hypothesis_word


def aligned_text(reference: str, hypothesis: str) -> str:
    """Show two texts word above word, and S, D or I below what is wrong.

    >>> print(aligned_text("THE CAT SAT", "A CAT SAT DOWN"))
    REF: THE CAT SAT ***
    HYP: A   CAT SAT DOWN
         S           I
    """
    lines = ["REF:", "HYP:", "    "]
    for mark, *words in next(align([reference], [hypothesis])):
        shown = [*(word or GAP for word in words), mark]
        width = max(map(len, shown))
        lines = [
            f"{line} {word:{width}}" for line, word in zip(lines, shown, strict=True)
        ]
    return "\n".join(line.rstrip() for line in lines)


def align(references: Sequence[str], hypotheses: Sequence[str]) -> Iterator[list[Edit]]:
    """Align each pair; the edits of each are in the order of the words.

    Raises:
        ValueError: there are not as many hypotheses as references.
    """
    _check_lengths(references=references, hypotheses=hypotheses)
    if not references:
        return  # jiwer takes no pair for one pair of empty texts
    aligned = jiwer.process_words(_spaced(references), _spaced(hypotheses))
    for chunks, reference, hypothesis in zip(
        aligned.alignments, aligned.references, aligned.hypotheses, strict=True
    ):
        yield [e for chunk in chunks for e in _edits(chunk, reference, hypothesis)]


def _edits(
    chunk: jiwer.AlignmentChunk, reference: list[str], hypothesis: list[str]
) -> list[Edit]:
    said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    written = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    if chunk.type == "delete":
        return [Edit("D", word, "") for word in said]
    if chunk.type == "insert":
        return [Edit("I", "", word) for word in written]
    mark = "S" if chunk.type == "substitute" else " "
    return [Edit(mark, *words) for words in zip(said, written, strict=True)]


def _count(edits: list[Edit]) -> ErrorRate:
    marks = Counter(edit.mark for edit in edits)
    return ErrorRate(marks["S"], marks["D"], marks["I"], len(edits) - marks["I"])


def _total(counts: Iterable[ErrorRate]) -> ErrorRate:
    return sum(counts, start=ErrorRate(0, 0, 0, 0))


def _spaced(texts: Sequence[str]) -> list[str]:
    return [" ".join(normalize("NFC", text).split()) for text in texts]


def _check_lengths(**columns: Sequence[object]) -> None:
    if len({len(column) for column in columns.values()}) > 1:
        counts = [f"{len(column)} {name}" for name, column in columns.items()]
        raise ValueError(f"as many of each are needed, got {', '.join(counts)}")
