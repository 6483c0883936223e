"""From a recording to a transcript without torch: the Python API over ONNX.

>>> from asr.onnx.recognizer import OnnxRecognizer
>>> recognizer = OnnxRecognizer.load("las_mini_onnx")               # doctest: +SKIP
>>> recognizer.transcribe("talk.flac").text                         # doctest: +SKIP
'GO DO YOU HEAR'

It does what `asr.inference.recognizer.Recognizer` does with the network that was
exported, and finds the same.

Shapes: N samples.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from asr.audio import Channel, read_arrays, waveform_of
from asr.decoding.config import DecodingConfig
from asr.decoding.hotwords import spell_hotwords
from asr.errors import ConfigError
from asr.inference.given_audio import Audio, is_one, is_samples, recording_of
from asr.inference.long_audio import Clip, Progress, Recording
from asr.inference.recognition import Recognition
from asr.inference.situations import (
    Decoding,
    Situation,
    settled,
    wants_language_model,
)
from asr.lm.word_files import load_for
from asr.onnx.folder import OnnxModel, read_folder
from asr.onnx.ngram import WordNGram, load_ngram
from asr.onnx.speech_search import SpeechSearch

Floats = npt.NDArray[np.float32]


class OnnxRecognizer(Recognition):
    """An exported model, ready to transcribe.

    It keeps no state between calls and may be used from several threads.

    Args:
        model: what its folder holds.
        decoding: settings of the search.
        language_model: of words, for the search; None for none.

    Raises:
        CheckpointError: the graphs cannot be run.
        ConfigError: a hot word has no letter that the model writes, or the attention
            has a window.
    """

    def __init__(
        self,
        model: OnnxModel,
        decoding: DecodingConfig | None = None,
        language_model: WordNGram | None = None,
    ) -> None:
        decoding = decoding or DecodingConfig()
        if decoding.attention_window is not None:
            raise ConfigError(
                "decoding.attention_window: is for models in torch (give one, or "
                "decoding.attention_window=null)"
            )
        hotwords = spell_hotwords(decoding.hotwords, model.tokenizer)
        self.decoding = replace(decoding, hotwords=hotwords)
        self.tokenizer, self.metadata = model.tokenizer, model.metadata
        self.precision, self.calibration = model.precision, model.calibration
        self.name, self.language_model = model.folder.name, language_model
        self._search = SpeechSearch(model, language_model, hotwords)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        decoding: Decoding = None,
        language_model: str | Path | None = None,
    ) -> "OnnxRecognizer":
        """Load an exported model.

        Args:
            folder: that `asr export --onnx` made.
            decoding: settings of the search; see `Recognizer.load`.
            language_model: folder of a word n-gram, an LSTM beside it or not; None for
                the bundled one, which is left out, with a notice, beside a model that
                writes other characters, or subwords.

        Raises:
            CheckpointError: there is no such model, or it is damaged.
            ConfigError: a setting is unknown or impossible.
        """
        model, words = read_folder(Path(folder)), None
        if wants_language_model(decoding):
            words = load_for(language_model, model.tokenizer, load_ngram)
        situation = Situation.of(language_model, words is not None)
        settings = settled(model.decoding(situation), situation, decoding)
        return cls(model, settings, words)

    def transcribe(
        self,
        audio: Audio | Sequence[Audio],
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        clip: Clip = (0.0, None),
        return_alignment: bool = False,
        progress: Progress | None = None,
    ) -> Any:
        """Transcribe a recording of any length, or several.

        Args and errors are those of `Recognizer.transcribe`, but that samples are
        arrays of numpy.

        Returns:
            A `Transcript`, or a list of them for several recordings.
        """
        several = not is_one(audio)
        recordings = [
            _recording(one, sample_rate, channel, clip)
            for one in cast(Sequence[Audio], audio if several else [audio])
        ]
        found = self.transcribe_all(recordings, return_alignment, progress)
        return found if several else found[0]


def _recording(
    audio: Audio, sample_rate: int | None, channel: Channel, clip: Clip
) -> Recording:
    if not is_samples(audio):
        return recording_of(audio, channel, clip, read_arrays)
    if sample_rate is None:
        raise TypeError(
            "samples need their rate: transcribe(samples, sample_rate=16000)"
        )
    start, end = clip
    samples = np.asarray(cast(Any, audio))
    waveform: Any = waveform_of(
        samples, sample_rate, channel=channel, start=start, end=end
    )
    return Recording(lambda: [waveform], channel=channel, start=start)
