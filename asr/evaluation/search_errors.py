"""Whose are the errors: the search's or the models'?

Each utterance is searched, and its reference is scored by the same models. Where the
text that was found is wrong,

    the search has lost     the reference, if that has the better score: a wider beam,
                            or better pruning, could find it;
    the models prefer       another text, if it has the worse: no search helps.

Beside it stands what a choice from the n-best list could gain at most: the word error
rate of its best text.

Source: Huang, Acero and Hon (2001), "Spoken Language Processing", section 13.
"""

from collections.abc import Sequence
from typing import NamedTuple

from asr.data.manifest import Utterance
from asr.data.recordings import read_utterance
from asr.decoding.hypothesis import Hypothesis
from asr.inference.long_audio import BATCH
from asr.inference.recognizer import Recognizer
from asr.progress import progress_bar
from asr.scoring import ErrorRate, error_rates, word_error_rate
from asr.wording import counted


class SearchErrors(NamedTuple):
    """What was found out about the errors of a search."""

    found: ErrorRate
    """Of the best texts."""
    best: ErrorRate
    """Of the best text of each n-best list."""
    lost: ErrorRate
    """Of the texts whose reference scores better."""
    num_utterances: int
    num_wrong: int
    num_lost: int

    def __str__(self) -> str:
        """Write it in some lines."""
        other = self.found.errors - self.lost.errors
        wrong = self.num_wrong - self.num_lost
        lost, prefer = counted(self.num_lost, "text"), counted(wrong, "text")
        total = counted(self.num_utterances, "utterance")
        return "\n".join(
            [
                f"found                  %WER {self.found}",
                f"best of n-best lists   %WER {self.best}",
                f"{self.num_wrong} of {total} wrong",
                f"  the search has lost the reference: {lost} "
                f"with {counted(self.lost.errors, 'word error')}",
                f"  the models prefer another text: {prefer} "
                f"with {counted(other, 'word error')}",
            ]
        )


def search_errors(
    recognizer: Recognizer, utterances: Sequence[Utterance]
) -> SearchErrors:
    """Search utterances, score their references, and compare.

    Args:
        recognizer: to try.
        utterances: with their texts, of at most half a minute each.

    Raises:
        AudioError: a recording cannot be read.
    """
    order = sorted(utterances, key=lambda utterance: -utterance.duration)
    references = [" ".join(utterance.text.split()) for utterance in order]
    texts, best, lost = list[str](), list[str](), list[bool]()
    with progress_bar(len(order), "evaluate", "utterances") as bar:
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            waveforms = [read_utterance(utterance) for utterance in some]
            said = references[start : start + BATCH]
            given = recognizer.score(waveforms, said)
            results = recognizer.search(waveforms)
            for text, reference, result in zip(said, given, results, strict=True):
                texts.append(result.texts[0])
                best.append(_closest(text, result.texts))
                lost.append(_is_lost(reference, result.hypotheses))
            bar.update(len(some))
    wrong = [pair.errors > 0 for pair in error_rates(references, texts)]
    of_lost = [i for i, (a, b) in enumerate(zip(wrong, lost, strict=True)) if a and b]
    return SearchErrors(
        found=word_error_rate(references, texts),
        best=word_error_rate(references, best),
        lost=word_error_rate(
            [references[i] for i in of_lost], [texts[i] for i in of_lost]
        ),
        num_utterances=len(order),
        num_wrong=sum(wrong),
        num_lost=len(of_lost),
    )


def _closest(reference: str, texts: Sequence[str]) -> str:
    """Return the text with the fewest word errors, the first of several."""
    return min(texts, key=lambda text: word_error_rate([reference], [text]).errors)


def _is_lost(reference: Hypothesis, found: Sequence[Hypothesis]) -> bool:
    return not found[0].finished or reference.score > found[0].score
