"""From a recording to a transcript, with a trained model: the Python API.

>>> from asr import Recognizer
>>> recognizer = Recognizer.load()                                  # doctest: +SKIP
>>> recognizer.transcribe("talk.flac").text                         # doctest: +SKIP
'GO DO YOU HEAR'

Shapes: N samples, T frames, F mel bands, I tokens, J listener steps.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE, Channel, from_samples
from asr.decoding.config import DecodingConfig, length_limits
from asr.decoding.ctc import CTCPrefix
from asr.decoding.ctc_alignment import align
from asr.decoding.fusion import Fusion
from asr.decoding.search import StepModel, beam_search
from asr.errors import AsrError, CheckpointError, ConfigError
from asr.features import FRAMES_PER_SECOND, log_mel
from asr.inference.confidence import Calibration
from asr.inference.long_audio import Clip, Progress, Recording, transcripts
from asr.inference.search_result import SearchResult
from asr.lm.ngram import WordNGram, find_language_model
from asr.model.listener import ListenerOutput, quantize_int8
from asr.model.quantized import PRECISIONS
from asr.model.speller_search import StepWeights
from asr.model.storage import Model, find_model, load_model, read_further
from asr.padding import pad_rows
from asr.transcript import Flag, Segment, Transcript, silence

SILENCE_AMPLITUDE = 1e-4
"""Largest sample, full scale being 1, of a piece that holds nothing: -80 dB."""

CALIBRATION = "confidence.json"
"""The file of a model's folder that tells how sure its words are."""
CAUTION = 0.7
"""Weight of the CTC head where a first search lost its place."""
SHORTEST = 0.1
"""Seconds: in less nobody says anything."""

Audio = str | Path | npt.NDArray[Any] | Tensor


class Recognizer:
    """A trained model, ready to transcribe.

    It keeps no state between calls and may be used from several threads.

    Args:
        model: the network and its tokenizer.
        decoding: settings of the search.
        device: where the network runs.
        precision: float32; or int8 for weights as bytes, which is faster on a CPU.
        language_model: has its say in the search.
        calibration: of the words' confidence; None for the n-best list's word alone.
        name: of the model.

    Raises:
        ConfigError: the precision is not known, or not to be had on the device.
    """

    def __init__(
        self,
        model: Model,
        decoding: DecodingConfig | None = None,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        language_model: WordNGram | None = None,
        calibration: Calibration | None = None,
        name: str = "",
    ) -> None:
        self.device = torch.device(device)
        _check_precision(precision, self.device)
        self.precision = precision
        self.las = model.las.to(self.device).eval()
        self._weights = StepWeights(self.las.speller, precision)
        if precision == "int8":
            self.las = copy(self.las)  # the caller's network stays as it is
            self.las._modules = dict(self.las._modules)
            self.las.listener = quantize_int8(self.las.listener)
        self.tokenizer, self.metadata = model.tokenizer, model.metadata
        self.decoding = decoding or DecodingConfig()
        if language_model and language_model.tokenizer != self.tokenizer:
            raise CheckpointError("the language model has another alphabet")
        self.language_model = language_model
        self.calibration, self.name = calibration, name

    @classmethod
    def load(
        cls,
        folder: str | Path | None = None,
        *,
        decoding: DecodingConfig | None = None,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        language_model: str | Path | None = None,
    ) -> "Recognizer":
        """Load a model.

        Args:
            folder: of a model, or of a run that has one; or the name of a bundled model
                ("las_mini"), unless a file or folder of that name is here; None for the
                bundled one.
            decoding: settings of the search.
            device: where the network runs.
            precision: float32; or int8 for weights as bytes, which is faster on a CPU.
            language_model: folder of a word n-gram, an LSTM beside it or not; None for
                the bundled one. A `lm_weight` of 0 does without.

        Raises:
            CheckpointError: there is no model, or it is damaged.
            ConfigError: the precision is not known, or not to be had on the device.
        """
        place = find_model(folder)
        model = load_model(place)
        decoding = decoding or DecodingConfig()
        words = None
        if decoding.lm_weight:
            words = WordNGram.load(find_language_model(language_model))
            if language_model is None and words.tokenizer != model.tokenizer:
                words = None  # the bundled one speaks for its own alphabet only
        calibration = _calibration(place)
        name = str(folder or place.name)
        return cls(model, decoding, device, precision, words, calibration, name)

    @overload  # a str is a sequence of str, too: the first of the two wins
    def transcribe(  # type: ignore[overload-overlap]
        self,
        audio: Audio,
        rate: int | None = None,
        *,
        channel: Channel = "mix",
        clip: Clip = (0.0, None),
        alignment: bool = False,
        progress: Progress | None = None,
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        audio: Sequence[Audio],
        rate: int | None = None,
        *,
        channel: Channel = "mix",
        clip: Clip = (0.0, None),
        alignment: bool = False,
        progress: Progress | None = None,
    ) -> list[Transcript]: ...

    def transcribe(
        self,
        audio: Audio | Sequence[Audio],
        rate: int | None = None,
        *,
        channel: Channel = "mix",
        clip: Clip = (0.0, None),
        alignment: bool = False,
        progress: Progress | None = None,
    ) -> Transcript | list[Transcript]:
        """Transcribe a recording of any length, or several.

        A file is read and transcribed piece by piece; memory does not grow with it.

        Args:
            audio: a path; or samples, (N,) or (channels, N), with their rate; or a list
                of such.
            rate: Hz; needed for samples, not used for paths.
            channel: of a file: mix for the mean of all, left or right.
            clip: of a file: from which second to which; None for its end.
            alignment: whether to keep where the model looked for each character.
            progress: is told, now and then, how many seconds more are done.

        Raises:
            AudioError: a recording cannot be read or holds nothing.
        """
        several = not isinstance(audio, str | Path | np.ndarray | Tensor)
        recordings = [
            _recording(one, rate, channel, clip)
            for one in cast(Sequence[Audio], audio if several else [audio])
        ]

        found = list[Transcript]()
        for one in self.transcribe_recordings(recordings, alignment, progress):
            if isinstance(one, AsrError):
                raise one
            found.append(one)
        return found if several else found[0]

    def transcribe_recordings(
        self,
        recordings: Iterable[Recording],
        alignment: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Transcript | AsrError]:
        """Transcribe recordings one after the other.

        Args:
            recordings: what to transcribe.
            alignment: whether to keep where the model looked for each character.
            progress: is told, now and then, how many seconds more are done.

        Yields:
            For each its transcript, or what is wrong with it.
        """

        def answer(batches: Iterator[list[Tensor]]) -> Iterator[list[Segment]]:
            return (self.recognize(batch, alignment=alignment) for batch in batches)

        for one in transcripts(recordings, answer, progress=progress):
            yield one if isinstance(one, AsrError) else self.signed(one)

    def signed(self, transcript: Transcript) -> Transcript:
        """Note in a transcript that it is this recognizer's."""
        return replace(transcript, model=self.name, settings=self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the search, and the precision of the weights."""
        return {
            **asdict(self.decoding),
            "precision": self.precision,
            "language_model": self.language_model is not None,
        }

    def recognize(
        self, waveforms: Sequence[Tensor], *, alignment: bool = False
    ) -> list[Segment]:
        """Recognise short waveforms together, each as one segment that starts at 0.

        A text that goes in circles or finds no end is searched for again with more
        weight on the CTC head, which cannot lose its place.

        Args:
            waveforms: (N,) float32 at 16 kHz each, of at most about 16 s.
            alignment: whether to keep where the model looked for each character.
        """
        segments = [silence(len(waveform) / SAMPLE_RATE) for waveform in waveforms]
        loud = [i for i, waveform in enumerate(waveforms) if _may_be_speech(waveform)]
        for i, result in zip(
            loud, self.find([waveforms[i] for i in loud]), strict=True
        ):
            segments[i] = result.segment(self.calibration)
        lost = [i for i in loud if _is_lost(segments[i])]
        again = self.find([waveforms[i] for i in lost], CAUTION)
        for i, result in zip(lost, again, strict=True):
            segments[i] = _better(segments[i], result.segment(self.calibration))
        if not alignment:
            segments = [replace(segment, alignment=None) for segment in segments]
        return segments

    @torch.inference_mode()
    def find(
        self, waveforms: Sequence[Tensor], ctc_weight: float = 0.0
    ) -> list[SearchResult]:
        """Search for what is said in short waveforms, and hear the witnesses.

        Args:
            waveforms: (N,) float32 at 16 kHz each, not silent.
            ctc_weight: least weight of the CTC head.
        """
        if not waveforms:
            return []
        decoding = replace(
            self.decoding, ctc_weight=max(self.decoding.ctc_weight, ctc_weight)
        )
        features, num_frames = pad_rows([log_mel(waveform) for waveform in waveforms])
        listened = self.las.listen(features.to(self.device), num_frames)
        ctc_log_probs = self.las.ctc_log_probs(listened)
        most = length_limits(num_frames / FRAMES_PER_SECOND)
        found = beam_search(
            self._step_model(listened, ctc_log_probs, decoding),
            decoding,
            sos=self.tokenizer.sos,
            eos=self.tokenizer.eos,
            max_lengths=most.to(self.device),
        )
        tokens = [torch.tensor(one[0].tokens, dtype=torch.int64) for one in found]
        log_probs, weights = self._read(listened, tokens)
        ctc_log_probs, blank = ctc_log_probs.cpu(), self.tokenizer.pad
        return [
            SearchResult(
                hypotheses=hypotheses,
                texts=[self.tokenizer.decode(one.tokens) for one in hypotheses],
                alignment=align(ctc_log_probs[row, :num_ctc_steps], tokens[row], blank),
                log_probs=log_probs[row, : len(tokens[row]) + 1],
                weights=weights[row, : len(tokens[row]) + 1, :num_steps].clone(),
                seconds_per_ctc_step=(
                    self.las.listener.ctc_reduction / FRAMES_PER_SECOND
                ),
                seconds_per_step=self.las.listener.reduction / FRAMES_PER_SECOND,
                duration=len(waveforms[row]) / SAMPLE_RATE,
            )
            for row, (hypotheses, num_steps, num_ctc_steps) in enumerate(
                zip(
                    found,
                    listened.num_steps.tolist(),
                    listened.num_ctc_steps.tolist(),
                    strict=True,
                )
            )
        ]

    def _read(
        self, listened: ListenerOutput, texts: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Let the speller read (B,) texts: (B, I) log P, (B, I, J) alpha."""
        sos, eos = (
            torch.tensor([token]) for token in (self.tokenizer.sos, self.tokenizer.eos)
        )
        inputs = pad_rows([torch.cat((sos, text)) for text in texts])[0]
        targets = pad_rows([torch.cat((text, eos)) for text in texts])[0]
        memory = self.las.precompute(listened)
        spelling = self.las.speller.spell(memory, inputs.to(self.device))
        log_probs = spelling.logits.float().log_softmax(dim=-1)
        log_probs = log_probs.gather(2, targets.to(self.device)[:, :, None])[:, :, 0]
        return log_probs.cpu(), spelling.weights.float().cpu()

    def _step_model(
        self, listened: ListenerOutput, ctc_log_probs: Tensor, decoding: DecodingConfig
    ) -> StepModel[Any]:
        """Put together what the search asks."""
        num_utterances, share = listened.h.size(0), decoding.ctc_weight
        las = self.las.steps(listened, decoding.coverage, self._weights)
        models: list[StepModel[Any]] = [las]
        weights = [1 - share]
        if share:
            ctc = CTCPrefix(
                ctc_log_probs,
                listened.num_ctc_steps,
                blank=self.tokenizer.pad,
                eos=self.tokenizer.eos,
                sos=self.tokenizer.sos,
            )
            models, weights = [*models, ctc], [*weights, share]
        if self.language_model and decoding.lm_weight:
            weight = decoding.lm_weight
            bonus = decoding.word_bonus / weight  # the weight is taken of it, too
            words = self.language_model.steps(num_utterances, bonus)
            internal_lm = self.las.internal_lm(num_utterances, self._weights)
            models += [words, internal_lm]
            weights += [weight, -decoding.ilm_weight]
        return Fusion(models, weights) if len(models) > 1 else las


def _calibration(folder: Path) -> Calibration | None:
    """Read how sure a model's words are, if that is known."""
    content = read_further(folder, CALIBRATION)
    if content is None:
        return None
    try:
        return Calibration.from_dict(json.loads(content))
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / CALIBRATION}: {error}") from error


def _check_precision(precision: str, device: torch.device) -> None:
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision {precision}: is not known (use {' or '.join(PRECISIONS)})"
        )
    if precision == "int8" and device.type != "cpu":
        raise ConfigError(f"precision int8: is for the CPU (not for {device.type})")


def _recording(
    audio: Audio, rate: int | None, channel: Channel, clip: Clip
) -> Recording:
    if isinstance(audio, str | Path):
        return Recording.of_file(audio, channel, clip)
    if rate is None:
        raise TypeError("samples need their rate: transcribe(samples, rate=16000)")
    waveform = from_samples(audio, rate)
    return Recording(lambda: [waveform])


def _may_be_speech(waveform: Tensor) -> bool:
    is_long = len(waveform) >= SHORTEST * SAMPLE_RATE
    return is_long and float(waveform.abs().max()) >= SILENCE_AMPLITUDE


def _is_lost(segment: Segment) -> bool:
    return Flag.LOOP in segment.flags or Flag.UNFINISHED in segment.flags


def _better(first: Segment, second: Segment) -> Segment:
    """Choose between a text that is no good and one found with more caution."""
    if _is_lost(second):
        return first
    return replace(second, flags=(*second.flags, Flag.RETRIED))
