"""Single utterances, word by word, to read and to listen to."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr.data.manifest import Utterance
from asr.reports.players import Players
from asr.reports.templates import Markup, render
from asr.scoring import Edit, ErrorRate, align

NUM_WORST, NUM_RANDOM = 20, 10
_SIGNS = {
    "S": ("sub", "\u2260", "substituted"),
    "D": ("del", "\u2212", "missed"),
    "I": ("ins", "+", "invented"),
}
"""Class of the style sheet, sign, and word of each mark."""
_GAP = "\u00b7"


@dataclass(frozen=True)
class Result:
    """An utterance, and its hypothesis."""

    utterance: Utterance
    hypothesis: str
    edits: list[Edit]

    @property
    def count(self) -> ErrorRate:
        """Errors of this utterance alone."""
        marks = [edit.mark for edit in self.edits]
        return ErrorRate(
            marks.count("S"),
            marks.count("D"),
            marks.count("I"),
            len(marks) - marks.count("I"),
        )


def results(said: Sequence[Utterance], hypotheses: Sequence[str]) -> list[Result]:
    """Align all utterances."""
    aligned = align([utterance.text for utterance in said], hypotheses)
    return [Result(*one) for one in zip(said, hypotheses, aligned, strict=True)]


def worst(results: Iterable[Result], number: int = NUM_WORST) -> list[Result]:
    """Return those with the highest error rate; of equal ones the longer first."""
    wrong = [result for result in results if result.count.errors]
    return sorted(wrong, key=_by_badness)[:number]


def _by_badness(result: Result) -> tuple[float, int, str]:
    count = result.count
    return -count.rate, -count.errors, result.utterance.id


def drawn(
    results: Sequence[Result], number: int = NUM_RANDOM, seed: int = 0
) -> list[Result]:
    """Draw utterances by chance, the same each time, in the order of the manifest."""
    places = random.Random(seed).sample(range(len(results)), min(number, len(results)))
    return [results[place] for place in sorted(places)]


def show_all(results: Iterable[Result], players: Players) -> Markup:
    """Show utterances one below the other."""
    return Markup().join(_show(result, players) for result in results)


def _show(result: Result, players: Players) -> Markup:
    utterance, count = result.utterance, result.count
    speaker = f"speaker {utterance.speaker}, " if utterance.speaker else ""
    return render(
        "reports/utterance.html",
        id=utterance.id,
        about=f"{speaker}{utterance.duration:.1f} s",
        rate=f"{100 * count.rate:.0f} %",
        counts=f"errors: {count.errors}, words: {count.num_reference}",
        recording=players.source(utterance),
        pairs=map(_pair, result.edits),
    )


def _pair(edit: Edit) -> dict[str, str]:
    kind, sign, meaning = _SIGNS.get(edit.mark, ("", "", ""))
    return {
        "kind": kind,
        "sign": sign,
        "meaning": meaning,
        "reference": edit.reference_word or _GAP,
        "hypothesis": edit.hypothesis_word or _GAP,
    }
