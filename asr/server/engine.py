"""Recognition for many at once: what waits goes through the network together.

A request is cut into pieces as it is read (`reading`), a few ahead of those that are
recognised. Whenever a worker process has nothing to do, it gets a batch of what waits:
one piece of each request in turn (`turns`), so that an hour of audio and a short
request go on side by side.

Where the system kills a worker, or one takes far too long and is killed for it, another
takes its place, and each piece that it had is tried once more, by itself: if one of
them is what kills workers, only its request fails.

All runs in one thread of asyncio.
"""

import asyncio
import logging
import math
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.audio import SAMPLE_RATE
from asr.decoding.hotwords import spell_hotwords
from asr.errors import AsrError, ConfigError
from asr.inference.long_audio import BATCH, GPU_PIECES, GPU_SECONDS
from asr.inference.processes import number_of_processes
from asr.inference.recognizer_settings import RecognizerSettings
from asr.inference.segmentation import LONGEST, merge_segments
from asr.processes import Worker, WorkerEndedError
from asr.server.errors import OverloadError, WorkerError
from asr.server.reading import ReadLimits, ReadPiece, reading, start_forking
from asr.server.settings import ServerSettings
from asr.server.turns import Turns, Waiting
from asr.server.workers import (
    Batch,
    Description,
    LoadError,
    describe,
    recognize,
    segments_of,
    starter_of_workers,
)
from asr.transcript import Segment, Transcript, moved, silence

LOGGER = logging.getLogger("asr.server")

OnSegment = Callable[[Segment], Awaitable[None]]

CPU_SECONDS = 60.0
"""Audio in a batch of several requests on a CPU, padding counted: each of them, and who
comes while it is recognised, waits for all of it. Two such batches take a third more
CPU time than one of twice the size (beam size 8)."""


_USUAL_BEAM, _LEAST_SHARE = 64, 0.25
"""The time that a batch may take is for this beam. It grows with the beam, down to a
share of that for what no beam changes."""


@dataclass
class EngineCounts:
    """What an engine has done since it started."""

    batches: int = 0
    pieces: int = 0
    audio_seconds: float = 0.0
    """Recognised; padding and silence not counted."""
    busy_seconds: float = 0.0
    """Of all workers."""
    workers_replaced: int = 0
    requests: int = 0
    """Under way."""


@dataclass(eq=False)
class _Request:
    """Whose turn it is."""


@dataclass(eq=False)
class _Piece:
    """What waits to be recognised."""

    waveform: npt.NDArray[np.float32]
    return_alignment: bool
    future: asyncio.Future[Segment]


class _Kind(NamedTuple):
    """What pieces must have in common to be recognised together."""

    hotwords: tuple[str, ...] = ()
    beam_size: int | None = None
    """None for the server's own."""


_Taken = list[tuple[_Request, Waiting[_Piece]]]


class Engine:
    """Worker processes that recognise pieces of many requests together.

    It is a context: workers are started when it is entered, and ended when it is left.

    Args:
        recognizer: what each worker loads.
        settings: of the server.
        processes: how many workers; None for one a core, or one alone on a GPU.

    Raises:
        ConfigError: there are less than one.
    """

    def __init__(
        self,
        recognizer: RecognizerSettings,
        settings: ServerSettings,
        processes: int | None = None,
    ) -> None:
        number = number_of_processes(processes, recognizer.device)
        self._starter = starter_of_workers(recognizer)
        self._workers = [Worker[Any](self._starter) for _ in range(number)]
        on_cpu = recognizer.device == "cpu"
        self._most = BATCH if on_cpu else GPU_PIECES
        self._batch_seconds = CPU_SECONDS if on_cpu else GPU_SECONDS
        self._limits = settings
        self._turns = Turns[_Request, _Piece]()
        self._changed = asyncio.Condition()
        self._idle = 0
        self._without_model = set[Worker[Any]]()
        """Those that could not load it when they were last started."""
        self._tasks = list[asyncio.Task[None]]()
        self._description: Description | None = None
        self.counts = EngineCounts()

    @property
    def model(self) -> str:
        """Name of the model that recognises."""
        return self._described.model

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the search, and the precision of the weights."""
        return self._described.settings

    @property
    def words(self) -> frozenset[str]:
        """Those that the language model knows; none without one."""
        return self._described.words

    def check_hotwords(self, hotwords: Iterable[str]) -> None:
        """Refuse hot words that every reading would fail with.

        Raises:
            ConfigError: one has no letter that the model writes.
        """
        spell_hotwords(hotwords, self._described.tokenizer)

    @property
    def _described(self) -> Description:
        assert self._description is not None, "the engine has not been started"
        return self._description

    @property
    def num_workers(self) -> int:
        """How many worker processes there are."""
        return len(self._workers)

    @property
    def is_ready(self) -> bool:
        """Whether all workers are there to recognise, and have the model."""
        if self._without_model or not self._tasks:
            return False
        return not any(task.done() for task in self._tasks)

    @property
    def num_waiting(self) -> int:
        """How many pieces wait."""
        return len(self._turns)

    async def __aenter__(self) -> "Engine":
        """Start the workers, and wait until each has its model.

        Raises:
            AsrError: the model cannot be loaded.
        """
        start_forking()
        try:
            found = [
                asyncio.wrap_future(worker.submit(describe, None))
                for worker in self._workers
            ]
            self._description = (await asyncio.gather(*found))[0]
        except WorkerEndedError as error:
            self._end_workers()
            raise ConfigError(
                "processes: a worker was killed while it loaded the model (where "
                "memory is short, use fewer processes)"
            ) from error
        except BaseException:
            self._end_workers()
            raise
        self._tasks = [asyncio.create_task(self._run(one)) for one in self._workers]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the workers, at once: what is to be finished has been waited for."""
        for task in self._tasks:
            task.cancel()
        self._end_workers()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end_workers(self) -> None:
        self._starter.kill()
        for worker in self._workers:
            worker.close()
        self._starter.close()

    async def recognize(
        self,
        waveform: npt.NDArray[np.float32],
        *,
        hotwords: Sequence[str] = (),
        return_alignment: bool = False,
        beam_size: int | None = None,
    ) -> Segment:
        """Recognise one piece. Where the caller is cancelled, it is taken back.

        Args:
            waveform: (N,) at 16 kHz, of at most 15 s.
            hotwords: to favour, beside those of the server.
            return_alignment: keep where the model looked for each token.
            beam_size: at most; None for the server's own.

        Raises:
            OverloadError: too much waits already.
            ConfigError: a hot word has no letter that the model writes, or the beam
                is impossible.
            WorkerError: worker processes end over it, or cannot load the model.
        """
        if error := self.overload():
            raise error
        if beam_size is not None and beam_size >= self._beam_size:
            beam_size = None
        kind = _Kind(tuple(hotwords), beam_size)
        return await self._recognize(_Request(), waveform, kind, return_alignment)

    @property
    def _beam_size(self) -> int:
        return int(self.settings["beam_size"])

    async def transcribe(
        self,
        path: Path,
        *,
        name: str,
        hotwords: Sequence[str] = (),
        return_alignment: bool = False,
        on_segment: OnSegment | None = None,
    ) -> Transcript:
        """Transcribe a file of any length. Where the caller is cancelled, it is left.

        Args:
            path: of the file, which another process can open.
            name: what errors and the transcript call it.
            hotwords: to favour, beside those of the server.
            return_alignment: keep where the model looked for each token.
            on_segment: is awaited for each segment in order, as soon as nothing will
                change it any more.

        Raises:
            OverloadError: too much is under way already.
            AudioError: the file cannot be read, or is longer than the server takes.
            ConfigError: a hot word has no letter that the model writes.
            WorkerError: worker processes end over it, or cannot load the model.
        """
        if error := self.overload(self.counts.requests):
            raise error
        self.counts.requests += 1
        said = list[Segment]()
        duration, num_given = 0.0, 0
        limits = ReadLimits(
            self._limits.max_seconds,
            self._limits.read_memory,
            self._limits.read_timeout,
        )
        try:
            async with reading(path, name, limits) as pieces:
                kind = _Kind(tuple(hotwords))
                found = self._segments(pieces, kind, return_alignment)
                async with aclosing(found):
                    async for piece, segment in found:
                        duration = (piece.start + piece.num_samples) / SAMPLE_RATE
                        said.append(moved(segment, piece.start / SAMPLE_RATE))
                        if piece.overlap:
                            said[-2:] = merge_segments(*said[-2:])
                        if on_segment:  # the last may still be merged with the next
                            for one in said[num_given:-1]:
                                await on_segment(one)
                            num_given = len(said) - 1
            if on_segment:
                for one in said[num_given:]:
                    await on_segment(one)
        finally:
            self.counts.requests -= 1
        settings = dict(self.settings)
        if hotwords:
            settings["hotwords"] = [*settings.get("hotwords", ()), *hotwords]
        return Transcript(tuple(said), duration, name, "mix", self.model, settings)

    async def _segments(
        self,
        pieces: AsyncIterator[ReadPiece],
        kind: _Kind,
        return_alignment: bool,
    ) -> AsyncGenerator[tuple[ReadPiece, Segment], None]:
        """Have pieces recognised, some of them ahead; yield them in their order."""
        request = _Request()
        async with _ahead() as ahead:
            async for piece in pieces:
                task = self._begin(request, piece, kind, return_alignment)
                ahead.append((piece, task))
                while ahead and (ahead[0][1].done() or len(ahead) > self._num_ahead):
                    yield await _first(ahead)
            while ahead:
                yield await _first(ahead)

    @property
    def _num_ahead(self) -> int:
        """Pieces of a request that wait or are recognised: enough for all workers.

        All requests together leave room for others among the pieces that may wait.
        """
        requests = max(1, self.counts.requests)
        share = math.ceil(2 * self._most * len(self._workers) / requests)
        return max(2, min(share, self._limits.max_pieces // (2 * requests)))

    def _begin(
        self,
        request: _Request,
        piece: ReadPiece,
        kind: _Kind,
        return_alignment: bool,
    ) -> asyncio.Task[Segment]:
        if piece.waveform is None:
            return asyncio.create_task(_silence(piece.num_samples / SAMPLE_RATE))
        return asyncio.create_task(
            self._recognize(request, piece.waveform, kind, return_alignment)
        )

    async def _recognize(
        self,
        request: _Request,
        waveform: npt.NDArray[np.float32],
        kind: _Kind,
        return_alignment: bool,
    ) -> Segment:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Segment] = loop.create_future()
        piece = _Piece(waveform, return_alignment, future)
        waiting = Waiting(piece, len(waveform) / SAMPLE_RATE, kind)
        await self._put(request, waiting)
        try:
            return await future
        finally:
            self._turns.drop(request, waiting)

    async def _put(self, request: _Request, waiting: Waiting[_Piece]) -> None:
        async with self._changed:
            self._turns.put(request, waiting, in_front=waiting.alone)
            self._changed.notify()

    def overload(self, num_requests: int = 0) -> OverloadError | None:
        """Return the error of a further request, where there is no room for one.

        Args:
            num_requests: that are received or transcribed.
        """
        full = num_requests >= self._limits.max_requests
        if full or len(self._turns) >= self._limits.max_pieces:
            return self._overloaded()
        return None

    def _overloaded(self) -> OverloadError:
        """Guess when there will be room, by how fast the workers have been so far."""
        pace = self.counts.audio_seconds / max(self.counts.busy_seconds, 1e-3)
        work = self._turns.seconds + LONGEST
        seconds = work / max(pace, 0.1) / len(self._workers)
        return OverloadError(min(60, max(1, math.ceil(seconds))))

    # The workers

    async def _run(self, worker: Worker[Any]) -> None:
        """Keep a worker busy."""
        while True:
            async with self._changed:
                self._idle += 1
                try:
                    await self._changed.wait_for(lambda: len(self._turns) > 0)
                    share = math.ceil(len(self._turns) / self._idle)
                finally:
                    self._idle -= 1
                seconds = self._batch_seconds if self._turns.num_owners > 1 else inf
                taken = self._turns.take(min(self._most, share), seconds)
            try:
                await self._recognize_batch(worker, taken)
            except Exception as error:
                if not isinstance(error, AsrError):
                    LOGGER.exception("a batch failed")
                for _, waiting in taken:
                    _set(waiting.work.future, error)

    async def _recognize_batch(self, worker: Worker[Any], taken: _Taken) -> None:
        pieces = [waiting.work for _, waiting in taken]
        kind = taken[0][1].kind
        assert isinstance(kind, _Kind)
        aligned = any(piece.return_alignment for piece in pieces)
        batch = Batch([piece.waveform for piece in pieces], *kind, aligned)
        seconds = sum(waiting.seconds for _, waiting in taken)
        limit = self.time_limit(seconds, kind.beam_size)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(limit) as timeout:
                content = await asyncio.wrap_future(worker.submit(recognize, batch))
        except TimeoutError:
            if not timeout.expired():
                raise
            await asyncio.to_thread(worker.kill)
            await self._try_again(taken, f"took more than {limit:.0f} s")
            return
        except WorkerEndedError as ended:
            await self._try_again(taken, str(ended))
            return
        except LoadError as error:
            LOGGER.error("a worker could not load the model: %s", error)
            self._without_model.add(worker)
            await asyncio.to_thread(worker.kill)  # another may be able to
            raise WorkerError(
                "a worker process could not load the model again (the server's log "
                "says why)"
            ) from error
        self._without_model.discard(worker)
        self.counts.busy_seconds += time.perf_counter() - began
        self.counts.batches += 1
        self.counts.pieces += len(pieces)
        self.counts.audio_seconds += seconds
        for piece, segment in zip(pieces, segments_of(content), strict=True):
            if not piece.return_alignment:
                segment = replace(segment, alignment=None)
            _set(piece.future, segment)

    def time_limit(self, seconds: float, beam_size: int | None) -> float:
        """Return the seconds that a worker may take for a batch.

        Args:
            seconds: of its audio.
            beam_size: None for the server's own.
        """
        share = max(_LEAST_SHARE, (beam_size or self._beam_size) / _USUAL_BEAM)
        return self._limits.work_timeout + self._limits.work_factor * share * seconds

    async def _try_again(self, taken: _Taken, how: str) -> None:
        """Put back what a worker had that has ended, each piece by itself."""
        LOGGER.warning("a worker %s: its work is tried once more", how)
        self.counts.workers_replaced += 1
        for request, waiting in reversed(taken):
            if waiting.alone:
                error = WorkerError(
                    "a worker process ended twice over this recording (the server's "
                    "log says how)"
                )
                _set(waiting.work.future, error)
            elif not waiting.work.future.done():
                waiting.alone = True
                await self._put(request, waiting)


def _set(future: asyncio.Future[Segment], result: Segment | Exception) -> None:
    """Answer who waits, if somebody does."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


async def _silence(seconds: float) -> Segment:
    return silence(seconds)


_Ahead = list[tuple[ReadPiece, asyncio.Task[Segment]]]


async def _first(ahead: _Ahead) -> tuple[ReadPiece, Segment]:
    """Wait for the first, and take it out."""
    piece, task = ahead[0]
    segment = await task
    del ahead[0]
    return piece, segment


@asynccontextmanager
async def _ahead() -> AsyncIterator[_Ahead]:
    """Give a list of tasks; those that are left in the end are cancelled."""
    ahead: _Ahead = []
    try:
        yield ahead
    finally:
        tasks = [task for _, task in ahead]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
