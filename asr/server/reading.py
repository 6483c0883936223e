"""Uploads are read by processes that may fail: one for each, with bounded memory and
time.

What strangers send is decoded by libraries in C. Here that happens in a process of its
own, which is forked in some milliseconds from one that has imported everything, and
which the system ends where it takes too much. What comes back over a socket are bytes
that are checked, never pickles: a reader that somebody else has taken over can send
this process wrong samples and texts of errors. It is no sandbox: such a reader may do
whatever the user of the server may do (docs/serving.md has how systemd limits that).

The socket is what keeps a reader from running ahead: it waits until its pieces are
taken. Closing it, or ending the process, is how a request is given up.

Shapes: N samples.
"""

import asyncio
import math
import resource
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.audio import SAMPLE_RATE, probe, read_blocks
from asr.errors import AudioError
from asr.files import errors_of
from asr.forking import end_with_parent
from asr.inference.segmentation import LONGEST, pieces
from asr.processes import uninterrupted
from asr.runtime import use_one_thread

_HEAD = struct.Struct("<cQII")
"""What it is, where it starts, samples or bytes, samples of overlap."""
_LOUD, _SILENT, _ERROR, _END = b"l", b"s", b"e", b"z"
_MOST = round(LONGEST * SAMPLE_RATE) + 1
"""Samples of a piece."""
_MOST_TEXT = 4096
"""Bytes of an error's message."""
_CPU_SHARE = 0.05
"""Of the longest recording's seconds: the CPU time that decoding may take, and
`_CPU_SECONDS` more. What is usual is a hundredth."""
_CPU_SECONDS = 30
_context = get_context("forkserver")


@dataclass(frozen=True)
class ReadLimits:
    """What a reader may take."""

    seconds: float
    """Of the recording."""
    memory: int
    """Bytes, beside what the process starts with."""
    patience: float
    """Seconds for the next piece."""

    @property
    def cpu_seconds(self) -> int:
        """CPU time of the process."""
        return math.ceil(_CPU_SECONDS + _CPU_SHARE * self.seconds)


class ReadPiece(NamedTuple):
    """A piece of a recording; see `asr.inference.segmentation.Piece`."""

    start: int
    num_samples: int
    overlap: int
    waveform: npt.NDArray[np.float32] | None
    """(N,) at 16 kHz; None for silence."""


def start_forking() -> None:
    """Start the process that readers are forked from, and have it import all it needs.

    It ends with this process. No signal for a terminal reaches it, and SIGTERM, which
    may be sent to all processes of a server, neither it nor a reader that has just been
    forked: what is being read is finished first. (Where something else has started it
    in this process, a reader ignores SIGTERM only from its first line on.)
    """
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # or it would unblock SIGTERM below
    _context.set_forkserver_preload([__name__])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # is inherited
    try:
        with uninterrupted():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@asynccontextmanager
async def reading(
    path: Path, name: str, limits: ReadLimits
) -> AsyncIterator[AsyncIterator[ReadPiece]]:
    """Give the pieces of a file, read by a process that ends with the block.

    Args:
        path: the file, one that another process can open.
        name: what errors call it.
        limits: of memory and time.

    Raises:
        AudioError: it cannot be read, is too long, or reading takes too much.
    """
    start_forking()  # once more, if it was killed
    here, there = socket.socketpair()
    with there:
        process = _context.Process(
            target=_read, args=(there, str(path), name, limits), daemon=True
        )
        with uninterrupted():
            process.start()
    reader, writer = await asyncio.open_connection(sock=here)
    try:
        yield _received(reader, process, name, limits)
    finally:
        writer.close()
        if process.is_alive():  # or else its number may be another's by now
            process.kill()
        await _ended(process)
        process.close()


async def _ended(process: BaseProcess) -> None:
    """Wait until a process that was killed has ended: some milliseconds."""
    while process.is_alive():
        await asyncio.sleep(0.005)


async def _received(
    reader: asyncio.StreamReader,
    process: BaseProcess,
    name: str,
    limits: ReadLimits,
) -> AsyncIterator[ReadPiece]:
    while True:
        try:
            async with asyncio.timeout(limits.patience):
                head = await reader.readexactly(_HEAD.size)
                kind, start, number, overlap = _HEAD.unpack(head)
                if kind == _END:
                    return
                if kind == _ERROR:
                    text = await reader.readexactly(min(number, _MOST_TEXT))
                    raise AudioError(text.decode(errors="replace"))
                yield_piece = await _piece(reader, kind, start, number, overlap)
        except TimeoutError as error:
            raise AudioError(
                f"{name}: reading takes too long (over {limits.patience:g} s for a "
                "piece of it)"
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await _ended(process)
            raise AudioError(f"{name}: cannot be read ({_reason(process)})") from error
        yield yield_piece


async def _piece(
    reader: asyncio.StreamReader, kind: bytes, start: int, number: int, overlap: int
) -> ReadPiece:
    """Receive a piece.

    Raises:
        ValueError: it is none.
    """
    if kind not in (_LOUD, _SILENT) or not 0 < number <= _MOST or overlap > number:
        raise ValueError("no piece")
    if kind == _SILENT:
        return ReadPiece(start, number, overlap, None)
    samples = np.frombuffer(await reader.readexactly(4 * number), np.float32)
    if not np.isfinite(samples).all():
        raise ValueError("samples that are no numbers")
    return ReadPiece(start, number, overlap, samples)


def _reason(process: BaseProcess) -> str:
    """Explain why a reader has ended."""
    code = process.exitcode
    if code == -signal.SIGXCPU:
        return "it takes too much time to decode"
    if code is not None and code < 0:
        return f"decoding it ended in signal {-code}"
    return "decoding it failed"


# In a reader process


def _read(there: socket.socket, path: str, name: str, limits: ReadLimits) -> None:
    """Read a file, and send its pieces."""
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its request is finished first
    use_one_thread()
    _limit(limits)
    with there, suppress(BrokenPipeError, ConnectionResetError):
        try:
            with errors_of(name):
                _send_pieces(there, path, name, limits)
        except MemoryError:
            _send_error(there, f"{name}: takes too much memory to decode")
        except Exception as error:
            _send_error(there, str(error) or f"{name}: cannot be read")


def _limit(limits: ReadLimits) -> None:
    with Path("/proc/self/statm").open() as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    memory = used + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    cpu = limits.cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _send_pieces(
    there: socket.socket, path: str, name: str, limits: ReadLimits
) -> None:
    """Send the pieces of a file.

    Raises:
        AudioError: it cannot be read, or is too long.
    """
    if probe(path, name=name).seconds > limits.seconds:  # as far as it is known
        raise _too_long(name, limits)
    most = limits.seconds * SAMPLE_RATE
    for piece in pieces(read_blocks(path, name=name)):
        if piece.end > most:
            raise _too_long(name, limits)
        kind = _SILENT if piece.silent else _LOUD
        number = len(piece.waveform)
        there.sendall(_HEAD.pack(kind, piece.start, number, piece.overlap))
        if not piece.silent:
            there.sendall(piece.waveform.numpy().tobytes())
    there.sendall(_HEAD.pack(_END, 0, 0, 0))


def _send_error(there: socket.socket, message: str) -> None:
    content = message.encode(errors="backslashreplace")[:_MOST_TEXT]
    there.sendall(_HEAD.pack(_ERROR, 0, len(content), 0) + content)


def _too_long(name: str, limits: ReadLimits) -> AudioError:
    return AudioError(
        f"{name}: is longer than the {limits.seconds:g} s that this server takes (cut "
        "it)"
    )
