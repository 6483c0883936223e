"""From a recording to a transcript, with a trained model: the Python API.

>>> from asr import Recognizer
>>> recognizer = Recognizer.load()                                  # doctest: +SKIP
>>> recognizer.transcribe("talk.flac").text                         # doctest: +SKIP
'GO DO YOU HEAR'

Shapes: N samples, T frames, F mel bands, I tokens, J listener steps.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numpy.typing as npt
import torch
from torch import Tensor

from asr.audio import Channel, from_samples
from asr.decoding.config import DecodingConfig, replaced
from asr.decoding.hotwords import spell_hotwords
from asr.decoding.hypothesis import Hypothesis
from asr.errors import CheckpointError, ConfigError
from asr.inference.aligning import align_recording
from asr.inference.confidence import Calibration
from asr.inference.given_audio import Audio, is_one, is_samples, recording_of
from asr.inference.long_audio import (
    BATCH,
    GPU_PIECES,
    Clip,
    Progress,
    Recording,
)
from asr.inference.recognition import Recognition
from asr.inference.script import read_script
from asr.inference.search_settings import search_settings
from asr.inference.situations import Decoding, Situation, wants_language_model
from asr.inference.speech_search import SpeechSearch
from asr.inference.stored_calibration import load_calibration
from asr.lm.ngram import WordNGram, load_language_model
from asr.lm.word_files import find_language_model
from asr.model.attention import Attention, note_plain_path
from asr.model.storage import Model, find_model, load_model, pinned_model
from asr.quantized import check_precision
from asr.runtime import pick_device
from asr.transcript import Segment, Transcript

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _renamed_arguments(**names: str) -> Callable[[_Function], _Function]:
    """Accept keyword arguments by the names of version 0.1 too, with a warning."""

    def decorate(function: _Function) -> _Function:
        @wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                kwargs[names[old]] = kwargs.pop(old)
                warnings.warn(
                    f"{function.__name__}: {old} is called {names[old]} now (the old "
                    "name works in 0.2 only)",
                    FutureWarning,
                    stacklevel=2,
                )
            return function(*args, **kwargs)

        return cast(_Function, accepting)

    return decorate


class Recognizer(Recognition):
    """A trained model, ready to transcribe.

    It keeps no state between calls and may be used from several threads.

    Args:
        model: the network and its tokenizer.
        decoding: settings of the search.
        device: where the network runs.
        precision: float32; or int8 for weights as bytes, which is faster on a CPU.
        language_model: of words, for the search; None for none.
        calibration: of the words' confidence; None for the n-best list's word alone.
        name: of the model.

    Raises:
        ConfigError: the precision is not known, or not to be had on the device or with
            the model's attention; or a hot word has no letter that the model writes.
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
        self.device = _device(device)
        _check_precision(precision, self.device)
        self.precision = precision
        las = model.las.to(self.device).eval()
        self.las = las.with_int8_listener() if precision == "int8" else las
        self.tokenizer, self.metadata = model.tokenizer, model.metadata
        if not isinstance(decoding, DecodingConfig | None):
            raise TypeError(f"decoding is a DecodingConfig, not {decoding!r:.40}")
        decoding = decoding or DecodingConfig()
        hotwords = spell_hotwords(decoding.hotwords, self.tokenizer)
        self.decoding = replace(decoding, hotwords=hotwords)
        if language_model and language_model.tokenizer != self.tokenizer:
            raise CheckpointError(
                "the language model has another alphabet than the model"
            )
        self.language_model: WordNGram | None = language_model
        self.calibration, self.name = calibration, name
        note_plain_path(type(las.speller.attention))
        self._search: SpeechSearch = SpeechSearch(
            self.las, self.tokenizer, language_model, precision, hotwords
        )

    @classmethod
    def load(
        cls,
        folder: str | Path | None = None,
        *,
        decoding: Decoding = None,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        language_model: str | Path | None = None,
        attention: type[Attention] | None = None,
    ) -> "Recognizer":
        """Load a model.

        Args:
            folder: of a model, or of a run that has one; or the name of a bundled model
                ("las_mini"), unless a file or folder of that name is here; or
                "hf:USER/NAME@REVISION" for one on the Hugging Face Hub, which is kept
                in its cache; None for the bundled one.
            decoding: settings of the search. None for the model's own; some by name
                ({"beam_size": 4}) replace those of the model; a `DecodingConfig`
                replaces all.
            device: where the network runs.
            precision: float32; or int8 for weights as bytes, which is faster on a CPU.
            language_model: folder of a word n-gram, an LSTM beside it or not; None for
                the bundled one, which is left out, with a notice, beside a model that
                writes other characters, or subwords. A `lm_weight` of 0 does without.
            attention: the class that the model was trained with, if it is not built in.

        Raises:
            CheckpointError: there is no model, or it is damaged or cannot be fetched,
                or it was trained with another class of attention.
            ConfigError: a setting is unknown or impossible; or the precision is not
                known, or not to be had on the device or with the model's attention.
            TypeError: the settings are none.
        """
        place, words = find_model(folder), None
        wanted = wants_language_model(decoding)
        if wanted:
            find_language_model(language_model)  # before a second of loading
        model = load_model(place, attention)
        if wanted:
            words = load_language_model(language_model, model.tokenizer)
        situation = Situation.of(language_model, words is not None)
        settings = search_settings(place, situation, decoding)
        calibration = load_calibration(place)
        name = str(pinned_model(folder) or place.name)
        return cls(model, settings, device, precision, words, calibration, name)

    @overload  # a str is a sequence of str, too: the first of the two wins
    def transcribe(  # type: ignore[overload-overlap]
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        clip: Clip = (0.0, None),
        return_alignment: bool = False,
        progress: Progress | None = None,
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        audio: Sequence[Audio],
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        clip: Clip = (0.0, None),
        return_alignment: bool = False,
        progress: Progress | None = None,
    ) -> list[Transcript]: ...

    @_renamed_arguments(rate="sample_rate", alignment="return_alignment")
    def transcribe(
        self,
        audio: Audio | Sequence[Audio],
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        clip: Clip = (0.0, None),
        return_alignment: bool = False,
        progress: Progress | None = None,
    ) -> Transcript | list[Transcript]:
        """Transcribe a recording of any length, or several.

        A file is read and transcribed piece by piece; memory does not grow with it.

        Args:
            audio: a path; the content of an audio file as bytes, or such a file opened
                with "rb"; or samples, (N,) or (channels, N), with their rate; or a list
                of such.
            sample_rate: Hz; needed for samples, not used for files.
            channel: mix for the mean of all, left, right, or a number from 1 on.
            clip: from which second to which; None for the end.
            return_alignment: keep where the model looked for each token.
            progress: called now and then with the seconds that were done since.

        Raises:
            AudioError: a recording cannot be read or holds nothing, or has no such
                channel or clip.
            TypeError: something else was given, or samples without their rate.
            ValueError: the channel is none.
        """
        several = not is_one(audio)
        recordings = [
            _recording(one, sample_rate, channel, clip)
            for one in cast(Sequence[Audio], audio if several else [audio])
        ]

        found = self.transcribe_all(recordings, return_alignment, progress)
        return found if several else found[0]

    def align(
        self,
        audio: Audio,
        text: str | Iterable[str],
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        clip: Clip = (0.0, None),
        progress: Progress | None = None,
    ) -> Transcript:
        """Find when a known text was said in a recording of any length.

        Args:
            audio: a path; or samples, (N,) or (channels, N), with their rate.
            text: lines, as a list or in one string; blank ones are left out.
            sample_rate: Hz; needed for samples, not used for paths.
            channel: mix for the mean of all, left, right, or a number from 1 on.
            clip: of a file: from which second to which; None for its end.
            progress: called now and then with the seconds that were done since.

        Returns:
            A segment for each line, its words as they were written. A line that was
            not found is flagged `unsaid`; speech that no line stands for is a segment
            without text, flagged `untold`. See `asr.inference.aligning` for what the
            confidence is.

        Raises:
            AudioError: the recording cannot be read or holds nothing.
            ConfigError: the text has no letter of the model's alphabet, or is of
                another recording.
        """
        recording = _recording(audio, sample_rate, channel, clip)
        lines = read_script(text, self.tokenizer)
        found = align_recording(self.las, self.tokenizer, recording, lines, progress)
        settings = {"precision": self.precision}
        return replace(found, model=self.name, settings=settings)

    def with_hotwords(self, hotwords: Iterable[str]) -> "Recognizer":
        """Return one that favours further words; the networks are the same.

        Args:
            hotwords: words and phrases, or a text of them with commas, beside those
                that this one favours.

        Raises:
            ConfigError: one is no text, or has no letter that the model writes.
        """
        given = hotwords if isinstance(hotwords, str) else list(hotwords)
        further = replaced(DecodingConfig(), {"hotwords": given}).hotwords
        phrases = dict.fromkeys((*self.decoding.hotwords, *further))
        spelled = spell_hotwords(phrases, self.tokenizer)
        other = copy.copy(self)
        other.decoding = replace(self.decoding, hotwords=spelled)
        other._search = SpeechSearch(
            self.las, self.tokenizer, self.language_model, self.precision, spelled
        )
        return other

    @property
    def batch_size(self) -> int:
        """Most pieces that are recognised together."""
        return BATCH if self.device.type == "cpu" else GPU_PIECES

    @_renamed_arguments(alignment="return_alignment")
    def recognize(
        self, waveforms: Sequence[Tensor], *, return_alignment: bool = False
    ) -> list[Segment]:
        """Recognise short waveforms together, each as one segment that starts at 0.

        A text that repeats itself or finds no end is searched for again; see `retry`.

        Args:
            waveforms: (N,) float32 at 16 kHz each, of at most about 16 s.
            return_alignment: keep where the model looked for each token.
        """
        return super().recognize(waveforms, return_alignment=return_alignment)

    def with_beam_size(self, beam_size: int) -> "Recognizer":
        """Return a recognizer with the same network and another size of the beam.

        Raises:
            ConfigError: the size is impossible.
        """
        other = copy.copy(self)
        other.decoding = replaced(self.decoding, {"beam_size": beam_size})
        return other

    def score(
        self, waveforms: Sequence[Tensor], texts: Sequence[str]
    ) -> list[Hypothesis]:
        """Score texts that are given as the search would have scored them.

        Args:
            waveforms: (N,) float32 at 16 kHz each.
            texts: one for each, in the characters that the model writes.
        """
        return self._search.score(waveforms, texts, self.decoding)


def _device(device: str | torch.device) -> torch.device:
    """Return the device; auto is a GPU where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    name = str(device).partition(":")[0]
    if name == "meta":  # torch's own, without memory
        return torch.device(device)
    picked = pick_device(name)
    return picked if name == "auto" else torch.device(device)


def _check_precision(precision: str, device: torch.device) -> None:
    check_precision(precision)
    if precision == "int8" and device.type != "cpu":
        raise ConfigError(f"precision int8: is for the CPU (not for {device.type})")


def _recording(
    audio: Audio, sample_rate: int | None, channel: Channel, clip: Clip
) -> Recording:
    if not is_samples(audio):
        return recording_of(audio, channel, clip)
    if sample_rate is None:
        raise TypeError(
            "samples need their rate: transcribe(samples, sample_rate=16000)"
        )
    start, end = clip
    samples = cast(npt.NDArray[Any] | Tensor, audio)
    waveform = from_samples(samples, sample_rate, channel=channel, start=start, end=end)
    return Recording(lambda: [waveform], channel=channel, start=start)
