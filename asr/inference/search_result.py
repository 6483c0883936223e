"""What a search found in one piece of a recording, with the evidence for it.

The search gives texts with scores. For the best one there are three kinds of evidence:
times and log P of each token by the CTC head; attention weights and log P by the
speller, which is fed the text once more; and the other texts of the n-best list. Out of
that come the words, their times and confidence, and the flags of the segment.

Shapes: I tokens with the end, J listener steps, W words, D features of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from asr.decoding.hypothesis import Hypothesis
from asr.decoding.word_times import Found, word_places, word_spans
from asr.inference.confidence import Calibration, confidence, support, word_features
from asr.inference.repetition import repeats_itself
from asr.transcript import (
    Alignment,
    Alternative,
    Flag,
    Segment,
    Word,
    mean_confidence,
)

if TYPE_CHECKING:
    from torch import Tensor

END = "\u220e"
"""Stands for the end of a text in an alignment."""


class TokenTimes(Found, Protocol):
    """Where the CTC head finds the tokens of a text, and how sure it is of each."""

    @property
    def log_probs(self) -> Any:
        """(I,) log P of each token at its best step."""


@dataclass(frozen=True)
class SearchResult:
    """The texts that were found for a waveform, and the witnesses of the best one."""

    hypotheses: Sequence[Hypothesis]
    """Best first, at least one."""
    texts: Sequence[str]
    """What they spell."""
    pieces: Sequence[str]
    """What each token of the best text writes; joined, the words of that text."""
    alignment: TokenTimes
    """Where the CTC head finds the tokens of the best text."""
    log_probs: npt.ArrayLike
    """(I,) log P of each token of the best text by the speller."""
    weights: "Tensor"
    """(I, J) alpha, where the speller looked when it read that text."""
    seconds_per_ctc_step: float
    seconds_per_step: float
    """Of the listener."""
    duration: float
    """Seconds of the waveform."""
    block_size: int = 0
    """Steps of a block that attention looked inside of first; 0 without blocks."""

    @property
    def features(self) -> npt.NDArray[np.floating]:
        """(W, D) what is known of each word of the best text; see `confidence`."""
        return word_features(
            word_places(self.pieces),
            self.alignment.log_probs,
            np.asarray(self.log_probs)[:-1],
            support(self.texts, [one.log_prob for one in self.hypotheses]),
        )

    @property
    def clear(self) -> float:
        """Share of the best text's tokens that the CTC head is sure of; 1 for none."""
        sure = np.asarray(self.alignment.log_probs) > log(0.5)
        return float(sure.mean()) if len(sure) else 1.0

    def segment(self, calibration: Calibration | None) -> Segment:
        """Return the segment that starts at 0, with its alignment.

        Args:
            calibration: of the model; without one, words found in noise are kept.
        """
        places = word_places(self.pieces)
        unclear = calibration is not None and self.clear < calibration.speech
        if unclear or not places:
            return Segment(0.0, self.duration, "", (), 0.0, (Flag.NOISE,), (), None)
        spans = word_spans(
            self.alignment, places, self.seconds_per_ctc_step, self.duration
        )
        sure = confidence(self.features, calibration)
        words = tuple(
            Word(_spelled(self.pieces[place]), span.start, span.end, share)
            for place, span, share in zip(places, spans, sure, strict=True)
        )
        return Segment(
            start=0.0,
            end=self.duration,
            text=" ".join(word.text for word in words),
            words=words,
            confidence=mean_confidence(words),
            flags=self._flags(),
            nbest=tuple(
                Alternative(text, hypothesis.score)
                for text, hypothesis in zip(self.texts, self.hypotheses, strict=True)
            ),
            alignment=self._alignment(),
        )

    def _alignment(self) -> Alignment:
        """Leave the rows of superfluous spaces out."""
        places = word_places(self.pieces)
        gaps = [
            slice(place.stop, min(place.stop + 1, after.start))
            for place, after in pairwise(places)
        ]
        end = slice(len(self.pieces), len(self.pieces) + 1)
        kept = sorted([*places, *gaps, end], key=lambda place: place.start)
        tokens = (*self.pieces, END)
        return Alignment(
            tuple(token for place in kept for token in tokens[place]),
            self.weights[[row for place in kept for row in _rows(place)]],
            self.seconds_per_step,
            block_size=self.block_size,
        )

    def _flags(self) -> tuple[Flag, ...]:
        flags = list[Flag]()
        if not self.hypotheses[0].finished:
            flags.append(Flag.UNFINISHED)
        if repeats_itself(self.texts[0]):
            flags.append(Flag.LOOP)
        return tuple(flags)


def _rows(place: slice) -> range:
    return range(place.start, place.stop)


def _spelled(pieces: Sequence[str]) -> str:
    """Return the word that some pieces write."""
    return "".join(pieces).strip()
