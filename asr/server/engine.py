"""Recognition for many at once: what waits goes through the network together."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.inference.recognizer_settings import RecognizerSettings
from asr.server.settings import ServerSettings
from asr.transcript import Segment, Transcript

OnSegment = Callable[[Segment], Awaitable[None]]


class Engine:
    """Worker processes that recognise pieces of many requests together."""

    model: str
    """Name of the model that recognises."""
    settings: Mapping[str, Any]
    """Of its search."""

    def __init__(
        self, recognizer: RecognizerSettings, settings: ServerSettings, processes: int
    ) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> "Engine":
        """Start the workers."""
        raise NotImplementedError

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End them."""
        raise NotImplementedError

    async def recognize(
        self,
        waveform: npt.NDArray[np.float32],
        *,
        hotwords: Sequence[str] = (),
        return_alignment: bool = False,
    ) -> Segment:
        """Recognise one piece of at most 15 s at 16 kHz."""
        raise NotImplementedError

    async def transcribe(
        self,
        path: Path,
        *,
        name: str,
        hotwords: Sequence[str] = (),
        return_alignment: bool = False,
        on_segment: OnSegment | None = None,
    ) -> Transcript:
        """Transcribe a file of any length."""
        raise NotImplementedError
