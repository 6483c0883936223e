"""What `asr live` and `asr transcribe --follow` share: bytes in, text out, in time."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from typing import TYPE_CHECKING, TextIO

from asr.cli.options import one_line
from asr.errors import AudioError

if TYPE_CHECKING:
    from asr.audio import PCMStream
    from asr.inference.live import Event, LiveConfig, Reading
    from asr.inference.recognizer import Recognizer
    from asr.transcript import Segment

_BLOCK, _AHEAD = 2**15, 32
"""Bytes that are read from a pipe at once, and blocks that wait: half a minute."""
_LOOK = 0.05
"""Seconds after which it is looked whether Ctrl-C was pressed."""

Blocks = Queue[bytes]
"""Raw PCM; an empty block at the end."""
Show = Callable[["Iterable[Event]"], object]


def pipe(descriptor: int, name: str) -> Blocks:
    """Read a pipe in a thread of its own, no more than half a minute ahead.

    Raises:
        AudioError: it cannot be read, or has nothing, or an audio file.
    """
    from asr.audio import file_kind

    blocks = Blocks(_AHEAD)
    if os.isatty(descriptor):
        raise AudioError(f"{name}: is a terminal (pipe raw PCM into it)")
    try:
        first = os.read(descriptor, _BLOCK)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror})") from error
    if not first:
        raise AudioError(f"{name}: is empty (raw PCM was expected)")
    if kind := file_kind(first):
        raise AudioError(
            f"{name}: is {kind}, and --follow reads raw PCM (leave --follow out, "
            "or pipe it through: ffmpeg -i - -f s16le -ar 16000 -ac 1 -)"
        )

    def read() -> None:
        block = first
        while block:
            blocks.put(block)
            try:
                block = os.read(descriptor, _BLOCK)
            except OSError:  # nothing more will come
                break
        blocks.put(b"")

    threading.Thread(target=read, daemon=True).start()
    return blocks


def listen(
    blocks: Blocks,
    stream: "PCMStream",
    recognizer: "Recognizer",
    config: "LiveConfig",
    show: Show,
) -> float:
    """Transcribe blocks as they come, until they end or Ctrl-C is pressed.

    Args:
        blocks: of raw PCM.
        stream: makes waveforms of them.
        recognizer: for final texts.
        config: of live transcription.
        show: takes events.

    Returns:
        How many seconds there were.
    """
    from asr.inference.live import DRAFT_BEAM, LiveTranscriber

    live = LiveTranscriber(config)
    size = min(DRAFT_BEAM, recognizer.decoding.beam_size)
    draft = recognizer.with_beam_size(size)

    def read(reading: "Reading") -> "Segment":
        reader = recognizer if reading.is_final else draft
        return reader.recognize([reading.waveform])[0]

    with _interruptible() as is_stopped:
        ended = False
        while not ended and not is_stopped():
            arrived = _arrived(blocks)
            ended = b"" in arrived
            show(live.feed(stream.feed(b"".join(arrived))))
            while not is_stopped() and (reading := live.next_reading()):
                show(live.done(read(reading)))
        if not ended:  # what came during the last reading
            show(live.feed(stream.feed(b"".join(_arrived(blocks)))))
        show(live.feed(stream.end()))
        show(live.commit())
        while reading := live.next_reading():
            show(live.done(read(reading)))
    return live.seconds


def _arrived(blocks: Blocks) -> list[bytes]:
    """Return all that has come since; wait a moment if that is nothing."""
    try:
        arrived = [blocks.get(timeout=_LOOK)]
    except Empty:
        return []
    for _ in range(blocks.qsize()):  # and not what comes meanwhile: a pipe is fast
        arrived.append(blocks.get_nowait())
    return arrived


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C, so that what was said is still read; a second one ends at once."""
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)
    try:
        yield stopped.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class Screen:
    """Shows text on a terminal: final in lines, provisional dimmed and redrawn.

    Args:
        file: the terminal.
        width: gives its columns.
    """

    def __init__(self, file: TextIO, width: Callable[[], int]) -> None:
        self._file, self._width = file, width
        self._is_dirty = False

    def show(self, events: "Iterable[Event]") -> None:
        """Show what has changed."""
        from asr.inference.live import Final, Provisional, SpeechStarted

        for event in events:
            if isinstance(event, Final):
                self._draw(f"{one_line(event.segment.text)}\n")
                self._is_dirty = False
            elif isinstance(event, Provisional):
                self._provisional(" ".join(word.text for word in event.words))
            elif isinstance(event, SpeechStarted):
                self._provisional("…")
        self._file.flush()

    def end(self) -> None:
        """Take back what is not final."""
        self._draw("")

    def _provisional(self, text: str) -> None:
        room = max(2, self._width() - 1)
        text = one_line(text)
        if len(text) > room:
            text = "…" + text[1 - room :]
        self._draw(f"\x1b[2m{text}\x1b[0m" if text else "")
        self._is_dirty = True

    def _draw(self, text: str) -> None:
        """Write in place of what was provisional."""
        self._file.write(("\r\x1b[K" if self._is_dirty else "") + text)
        self._file.flush()


class Lines:
    """Prints final text only, each segment by a function of its own.

    Args:
        line: makes lines of a segment.
    """

    def __init__(self, line: "Callable[[Segment], str]") -> None:
        self._line = line
        self.has_text = False

    def show(self, events: "Iterable[Event]") -> None:
        """Print what is final."""
        from asr.inference.live import Final

        for event in events:
            if isinstance(event, Final):
                self.has_text = True
                print(self._line(event.segment), flush=True)


def is_terminal() -> bool:
    """Return whether standard output can be redrawn."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
