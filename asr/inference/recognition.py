"""What recognisers have in common, whether torch works for them or numpy.

Shapes: N samples.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from asr.audio import SAMPLE_RATE
from asr.decoding.config import DecodingConfig
from asr.errors import AsrError
from asr.inference.confidence import Calibration
from asr.inference.long_audio import BATCH, Progress, Recording, transcripts
from asr.inference.retry import RETRY_CTC_WEIGHT, better, is_lost
from asr.inference.search_result import SearchResult
from asr.inference.silence import may_be_speech
from asr.transcript import Segment, Transcript, silence


class Search(Protocol):
    """Finds the texts of short waveforms."""

    def search(
        self, waveforms: Sequence[Any], decoding: DecodingConfig
    ) -> list[SearchResult]:
        """Return what was found for each of the waveforms, (N,) each."""


class Recognition:
    """From pieces to transcripts; a waveform is what the search takes.

    A subclass sets what is declared here.
    """

    decoding: DecodingConfig
    precision: str
    language_model: Any
    """Of words, or None."""
    calibration: Calibration | None
    name: str
    """Of the model."""
    _search: Search

    @property
    def batch_size(self) -> int:
        """Most pieces that are recognised together."""
        return BATCH

    def transcribe_all(
        self,
        recordings: Iterable[Recording],
        return_alignment: bool = False,
        progress: Progress | None = None,
    ) -> list[Transcript]:
        """Transcribe recordings; the first error ends it.

        Raises:
            AudioError: a recording cannot be read.
        """
        found = list[Transcript]()
        for one in self.transcribe_recordings(recordings, return_alignment, progress):
            if isinstance(one, AsrError):
                raise one
            found.append(one)
        return found

    def transcribe_recordings(
        self,
        recordings: Iterable[Recording],
        return_alignment: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Transcript | AsrError]:
        """Transcribe recordings one after the other.

        Args:
            recordings: what to transcribe.
            return_alignment: keep where the model looked for each token.
            progress: called now and then with the seconds that were done since.

        Yields:
            For each its transcript, or what is wrong with it.
        """

        def recognize(batches: Iterator[list[Any]]) -> Iterator[list[Segment]]:
            return (
                self.recognize(batch, return_alignment=return_alignment)
                for batch in batches
            )

        for one in transcripts(
            recordings, recognize, batch_size=self.batch_size, progress=progress
        ):
            yield one if isinstance(one, AsrError) else self.labelled(one)

    def labelled(self, transcript: Transcript) -> Transcript:
        """Note in a transcript that it is this recognizer's."""
        return replace(transcript, model=self.name, settings=self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the search, and the precision of the weights."""
        return {
            **self.decoding.to_dict(),
            "precision": self.precision,
            "language_model": bool(self.language_model and self.decoding.lm_weight),
        }

    def recognize(
        self, waveforms: Sequence[Any], *, return_alignment: bool = False
    ) -> list[Segment]:
        """Recognise short waveforms together, each as one segment that starts at 0.

        A text that repeats itself or finds no end is searched for again; see `retry`.

        Args:
            waveforms: (N,) float32 at 16 kHz each, of at most about 16 s.
            return_alignment: keep where the model looked for each token.
        """
        segments = [silence(len(waveform) / SAMPLE_RATE) for waveform in waveforms]
        loud = [i for i, waveform in enumerate(waveforms) if may_be_speech(waveform)]
        results = self.search([waveforms[i] for i in loud])
        for i, result in zip(loud, results, strict=True):
            segments[i] = result.segment(self.calibration)
        lost = [i for i in loud if is_lost(segments[i])]
        results = self.search([waveforms[i] for i in lost], RETRY_CTC_WEIGHT)
        for i, result in zip(lost, results, strict=True):
            segments[i] = better(segments[i], result.segment(self.calibration))
        if not return_alignment:
            segments = [replace(segment, alignment=None) for segment in segments]
        return segments

    def search(
        self, waveforms: Sequence[Any], least_ctc_weight: float = 0.0
    ) -> list[SearchResult]:
        """Search for the texts of short waveforms, with the evidence for each.

        Args:
            waveforms: (N,) float32 at 16 kHz each, not silent.
            least_ctc_weight: of the CTC head, even where the settings have less.
        """
        weight = max(self.decoding.ctc_weight, least_ctc_weight)
        return self._search.search(waveforms, replace(self.decoding, ctc_weight=weight))
