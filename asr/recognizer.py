"""From a recording to a transcript, with a trained model: the Python API.

>>> from asr import Recognizer
>>> recognizer = Recognizer.load()                                  # doctest: +SKIP
>>> recognizer.transcribe("talk.flac").text                         # doctest: +SKIP
'GO DO YOU HEAR'

Shapes: N samples, T frames, F mel bands, I tokens, J listener steps.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE, from_samples, read_waveform
from asr.decoding.ctc import CTCPrefix
from asr.decoding.fusion import Fusion
from asr.decoding.ngram import WordNGram
from asr.decoding.search import Hypothesis, SearchConfig, StepModel, beam_search
from asr.errors import CheckpointError, ConfigError
from asr.features import FRAMES_PER_SECOND, log_mel
from asr.model.folder import DESCRIPTION, Model, load_model
from asr.model.listener import Heard, in_bytes
from asr.model.products import PRECISIONS
from asr.model.steps import StepWeights
from asr.padding import pad_rows
from asr.segmenting import pieces
from asr.transcript import Alignment, Alternative, Flag, Segment, Transcript

BUNDLED = "las_mini"
"""Name of the model that comes with the package."""
BUNDLED_WORDS = "words"
"""Name of the word n-gram that comes with the package."""
MOST_CHARACTERS = 25
"""A second: more than anybody says. The search stops there."""
SILENCE = 1e-4
"""Largest sample, full scale being 1, of a piece that holds nothing: -80 dB."""

Audio = str | Path | npt.NDArray[Any] | Tensor


@dataclass(frozen=True)
class DecodingConfig(SearchConfig):
    """Settings of the search, and of what it asks."""

    eos_threshold: float | None = 1.5
    ctc_weight: float = 0.3
    """Share of the CTC head's prefix scores in the score; the rest is the speller's."""
    coverage: float = 0.0
    """Bonus for each listener step that a hypothesis has looked at."""
    lm_weight: float = 0.5
    """Weight of the language model, where there is one, beside the rest."""
    word_bonus: float = -2.0
    """Added for each finished word, where there is a language model."""

    def __post_init__(self) -> None:
        """Refuse a search that could find nothing."""
        super().__post_init__()
        if not 0 <= self.ctc_weight <= 1:
            raise ValueError(
                f"decoding.ctc_weight is a share from 0 to 1, not {self.ctc_weight}"
            )
        if self.coverage < 0:
            raise ValueError(
                f"decoding.coverage must be at least 0, not {self.coverage}"
            )
        if not 0 <= self.lm_weight < inf:
            raise ValueError(
                f"decoding.lm_weight must be zero or more, not {self.lm_weight}"
            )
        if not -inf < self.word_bonus < inf:
            raise ValueError(
                f"decoding.word_bonus must be a number, not {self.word_bonus}"
            )


class Recognizer:
    """A trained model, ready to transcribe.

    It keeps no state between calls and may be used from several threads.

    Args:
        model: the network and its tokenizer.
        decoding: settings of the search.
        device: where the network runs.
        precision: float32; or int8 for weights as bytes, which is faster on a CPU.
        language_model: has its say in the search.

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
    ) -> None:
        self.device = torch.device(device)
        _check_precision(precision, self.device)
        self.las = model.las.to(self.device).eval()
        self._weights = StepWeights(self.las.speller, precision)
        if precision == "int8":
            self.las = copy(self.las)  # the caller's network stays as it is
            self.las._modules = dict(self.las._modules)
            self.las.listener = in_bytes(self.las.listener)
        self.tokenizer, self.facts = model.tokenizer, model.facts
        self.decoding = decoding or DecodingConfig()
        if language_model and language_model.tokenizer != self.tokenizer:
            raise CheckpointError("the language model has another alphabet")
        self.language_model = language_model

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
            language_model: folder of a word n-gram; None for the bundled one.
                A `lm_weight` of 0 does without.

        Raises:
            CheckpointError: there is no model, or it is damaged.
            ConfigError: the precision is not known, or not to be had on the device.
        """
        model = load_model(find_model(folder))
        decoding = decoding or DecodingConfig()
        words = None
        if decoding.lm_weight:
            words = WordNGram.load(find_language_model(language_model))
            if language_model is None and words.tokenizer != model.tokenizer:
                words = None  # the bundled one speaks for its own alphabet only
        return cls(model, decoding, device, precision, words)

    @overload  # a str is a sequence of str, too: the first of the two wins
    def transcribe(  # type: ignore[overload-overlap]
        self, audio: Audio, rate: int | None = None, *, alignment: bool = False
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        audio: Sequence[Audio],
        rate: int | None = None,
        *,
        alignment: bool = False,
    ) -> list[Transcript]: ...

    def transcribe(
        self,
        audio: Audio | Sequence[Audio],
        rate: int | None = None,
        *,
        alignment: bool = False,
    ) -> Transcript | list[Transcript]:
        """Transcribe a recording, or several.

        Args:
            audio: a path; or samples, (N,) or (channels, N), with their rate; or a list
                of such.
            rate: Hz; needed for samples, not used for paths.
            alignment: whether to keep where the model looked for each character.

        Raises:
            AudioError: a recording cannot be read or holds nothing.
        """
        if isinstance(audio, str | Path | np.ndarray | Tensor):
            return self._transcribe_all([_waveform(audio, rate)], alignment)[0]
        return self._transcribe_all([_waveform(one, rate) for one in audio], alignment)

    def _transcribe_all(
        self, waveforms: Sequence[Tensor], alignment: bool
    ) -> list[Transcript]:
        return [
            Transcript(
                tuple(self._segments(waveform, alignment)), len(waveform) / SAMPLE_RATE
            )
            for waveform in waveforms
        ]

    def _segments(self, waveform: Tensor, alignment: bool) -> list[Segment]:
        segments = []
        for start, end in pieces(waveform):
            piece = waveform[start:end]
            (segment,) = self.recognize([piece], alignment=alignment)
            offset = start / SAMPLE_RATE
            segments.append(replace(segment, start=offset, end=offset + segment.end))
        return segments

    @torch.inference_mode()
    def recognize(
        self, waveforms: Sequence[Tensor], *, alignment: bool = False
    ) -> list[Segment]:
        """Recognise short waveforms together, each as one segment that starts at 0.

        Args:
            waveforms: (N,) float32 at 16 kHz each, of at most about 16 s.
            alignment: whether to keep where the model looked for each character.
        """
        loud = [i for i, w in enumerate(waveforms) if float(w.abs().max()) >= SILENCE]
        spelled = self._spell([waveforms[i] for i in loud], alignment)
        found = dict(zip(loud, spelled, strict=True))
        return [
            replace(found[i], end=len(waveform) / SAMPLE_RATE)
            if i in found
            else _silence(len(waveform) / SAMPLE_RATE)
            for i, waveform in enumerate(waveforms)
        ]

    def _spell(self, waveforms: list[Tensor], alignment: bool) -> list[Segment]:
        if not waveforms:
            return []
        features, num_frames = pad_rows([log_mel(waveform) for waveform in waveforms])
        heard = self.las.listen(features.to(self.device), num_frames)
        most = (num_frames / FRAMES_PER_SECOND * MOST_CHARACTERS).long() + 5
        found = beam_search(
            self._step_model(heard),
            self.decoding,
            sos=self.tokenizer.sos,
            eos=self.tokenizer.eos,
            max_lengths=most.to(self.device),
        )
        return [
            self._segment(
                hypotheses,
                self._align(heard, row, hypotheses[0]) if alignment else None,
            )
            for row, hypotheses in enumerate(found)
        ]

    def _step_model(self, heard: Heard) -> StepModel[Any]:
        las = self.las.steps(heard, self.decoding.coverage, self._weights)
        share, weight = self.decoding.ctc_weight, self.decoding.lm_weight
        models: list[StepModel[Any]] = [las]
        weights = [1 - share]
        if share:
            ctc = CTCPrefix(
                self.las.ctc_log_probs(heard),
                heard.num_ctc_steps,
                blank=self.tokenizer.pad,
                eos=self.tokenizer.eos,
                sos=self.tokenizer.sos,
            )
            models, weights = [*models, ctc], [*weights, share]
        if self.language_model and weight:
            bonus = self.decoding.word_bonus / weight  # the weight is taken of it, too
            words = self.language_model.steps(heard.h.size(0), bonus)
            models, weights = [*models, words], [*weights, weight]
        return Fusion(models, weights) if len(models) > 1 else las

    def _segment(
        self, hypotheses: list[Hypothesis], alignment: Alignment | None
    ) -> Segment:
        nbest = tuple(
            Alternative(self.tokenizer.decode(hypothesis.tokens), hypothesis.score)
            for hypothesis in hypotheses
        )
        flags = () if hypotheses[0].finished else (Flag.UNFINISHED,)
        return Segment(0.0, 0.0, nbest[0].text, (), 0.0, flags, nbest, alignment)

    def _align(self, heard: Heard, row: int, hypothesis: Hypothesis) -> Alignment:
        """Ask where the speller looks when it is fed with a hypothesis."""
        steps = heard.num_steps[row : row + 1]
        alone = heard._replace(h=heard.h[row : row + 1, : int(steps)], num_steps=steps)
        tokens = [self.tokenizer.sos, *hypothesis.tokens]
        inputs = torch.tensor([tokens], device=self.device)
        spelling = self.las.speller.spell(self.las.remember(alone), inputs)
        return Alignment(
            self.tokenizer.decode(hypothesis.tokens) + "\u220e",
            spelling.weights[0].float().cpu(),
            self.las.listener.reduction / FRAMES_PER_SECOND,
        )


def find_model(folder: str | Path | None) -> Path:
    """Find the folder of a model: one given, that of a run, or a bundled one by name.

    A path that exists wins over a bundled model of that name.

    Raises:
        CheckpointError: there is none.
    """
    assets = Path(str(files("asr") / "assets"))
    if folder is None:
        return assets / BUNDLED
    folder = Path(folder)
    if (folder / DESCRIPTION).exists():
        return folder
    if (folder / "model" / DESCRIPTION).exists():
        return folder / "model"
    bundled = sorted(path.parent.name for path in assets.glob(f"*/{DESCRIPTION}"))
    if not folder.exists() and str(folder) in bundled:
        return assets / folder
    raise CheckpointError(
        f"{folder}: holds no model (a folder with {DESCRIPTION}, a run that was "
        f"validated at least once, or a bundled model was expected: "
        f"{', '.join(bundled)})"
    )


def find_language_model(folder: str | Path | None) -> Path:
    """Find the folder of a word n-gram: the bundled one, or one given."""
    if folder is None:
        return Path(str(files("asr") / "assets" / BUNDLED_WORDS))
    return Path(folder)


def _check_precision(precision: str, device: torch.device) -> None:
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision {precision}: is not known (use {' or '.join(PRECISIONS)})"
        )
    if precision == "int8" and device.type != "cpu":
        raise ConfigError(f"precision int8: is for the CPU (not for {device.type})")


def _waveform(audio: Audio, rate: int | None) -> Tensor:
    if isinstance(audio, str | Path):
        return read_waveform(audio)
    if rate is None:
        raise TypeError("samples need their rate: transcribe(samples, rate=16000)")
    return from_samples(audio, rate)


def _silence(seconds: float) -> Segment:
    return Segment(0.0, seconds, "", (), 0.0, (Flag.SILENCE,), (), None)
