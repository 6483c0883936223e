"""What a worker process of a server does: recognise batches, with hot words or without.

Shapes: N samples.
"""

import pickle
import signal
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from asr.forking import Starter
from asr.inference.processes import begin
from asr.inference.recognizer import Recognizer
from asr.inference.recognizer_settings import RecognizerSettings
from asr.text import Tokenizer
from asr.transcript import Segment

_KEPT = 8
"""Sets of hot words that a worker is ready for."""


class Batch(NamedTuple):
    """What is recognised together."""

    waveforms: list[npt.NDArray[np.float32]]
    """(N,) at 16 kHz each."""
    hotwords: tuple[str, ...]
    """Those of the requests, beside the server's own."""
    beam_size: int | None
    """None for the server's own."""
    return_alignment: bool


class Description(NamedTuple):
    """What recognises."""

    model: str
    settings: dict[str, Any]
    words: frozenset[str]
    """Those that the language model knows; none without one."""
    tokenizer: Tokenizer


class _State:
    """A recognizer, and variants of it for sets of hot words, the last used kept."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self._variants = OrderedDict[tuple[str, ...], Recognizer]()

    def variant(self, hotwords: tuple[str, ...], beam_size: int | None) -> Recognizer:
        found = self._with_hotwords(hotwords) if hotwords else self.recognizer
        return found if beam_size is None else found.with_beam_size(beam_size)

    def _with_hotwords(self, hotwords: tuple[str, ...]) -> Recognizer:
        if hotwords not in self._variants:
            self._variants[hotwords] = self.recognizer.with_hotwords(hotwords)
            if len(self._variants) > _KEPT:
                self._variants.popitem(last=False)
        self._variants.move_to_end(hotwords)
        return self._variants[hotwords]


class LoadError(Exception):
    """A worker that was started anew could not load the model."""


class _Failed:
    """In place of a state: why there is none."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def starter_of_workers(settings: RecognizerSettings) -> Starter:
    """Return what starts processes that each have a recognizer.

    Args:
        settings: of the recognizer: on a CPU it is loaded once, in memory that all of
            them share.
    """
    begin = pickle.dumps(partial(_begin, settings))
    return Starter(begin, shared=settings.device == "cpu")


def _begin(settings: RecognizerSettings) -> _State | _Failed:
    # Who stops a whole group of processes has the server finish its requests first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        return _State(begin(settings.load))
    except Exception as error:
        return _Failed(error)


def describe(state: _State | _Failed, _: None) -> Description:
    """Return what recognises.

    Raises:
        AsrError: the model cannot be loaded.
    """
    if isinstance(state, _Failed):
        raise state.error
    recognizer = state.recognizer
    language_model = recognizer.language_model
    words = frozenset(language_model.words if language_model else ())
    name = recognizer.name
    if not name.startswith("hf:"):
        name = Path(name).name  # where it lies is nobody's business
    return Description(name, recognizer.settings, words, recognizer.tokenizer)


def recognize(state: _State | _Failed, batch: Batch) -> bytes:
    """Recognise a batch.

    Returns:
        A pickled list of segments: pickled by torch's way, tensors would go through
        shared memory and open files.

    Raises:
        LoadError: the model cannot be loaded.
    """
    if isinstance(state, _Failed):
        raise LoadError(str(state.error)) from state.error
    waveforms = [torch.from_numpy(waveform) for waveform in batch.waveforms]
    recognizer = state.variant(batch.hotwords, batch.beam_size)
    segments = recognizer.recognize(waveforms, return_alignment=batch.return_alignment)
    return pickle.dumps(segments)


def segments_of(content: bytes) -> list[Segment]:
    """Return what `recognize` found."""
    found: list[Segment] = pickle.loads(content)
    return found
