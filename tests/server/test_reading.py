"""Uploads are read by processes that may fail."""

import asyncio
import os
import signal
import subprocess
import sys
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE
from asr.errors import AudioError
from asr.server.reading import (
    ReadLimits,
    ReadPiece,
    reading,
    start_forking,
)
from tests.server.conftest import children_of
from tests.sounds import encoded

LIMITS = ReadLimits(seconds=3600.0, memory=2**30, patience=120.0)


@pytest.fixture(scope="module", autouse=True)
def _forking() -> None:
    start_forking()


def read(path: Path, limits: ReadLimits = LIMITS) -> list[ReadPiece]:
    async def run() -> list[ReadPiece]:
        async with reading(path, "talk", limits) as pieces:
            return [piece async for piece in pieces]

    return asyncio.run(run())


def noise(path: Path, seconds: int, kind: str = "flac") -> Path:
    samples = np.random.default_rng(0).normal(0, 0.1, (seconds * SAMPLE_RATE, 1))
    path.write_bytes(encoded(kind, samples.astype(np.float32)))
    return path


@pytest.mark.slow
def test_pieces_are_those_of_the_file(tmp_path: Path) -> None:
    pieces = read(noise(tmp_path / "a", 20))
    assert len(pieces) == 2
    assert pieces[-1].start + pieces[-1].num_samples == 20 * SAMPLE_RATE
    assert pieces[1].overlap > 0
    assert all(
        piece.waveform is not None and len(piece.waveform) == piece.num_samples
        for piece in pieces
    )


def test_silence_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded("flac", np.zeros((20 * SAMPLE_RATE, 1), np.float32)))
    assert {piece.waveform is None for piece in read(path)} == {True}


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="talk: cannot be read"):
        read(tmp_path / "missing")


def test_a_reader_without_memory_is_an_error(tmp_path: Path) -> None:
    little = ReadLimits(seconds=3600.0, memory=2**16, patience=120.0)
    with pytest.raises(AudioError, match=r"talk: .*(memory|failed|cannot be read)"):
        read(noise(tmp_path / "a", 60), little)


def test_a_reader_that_is_too_slow_is_an_error(tmp_path: Path) -> None:
    hasty = ReadLimits(seconds=3600.0, memory=2**30, patience=1e-6)
    with pytest.raises(AudioError, match="talk: reading takes too long"):
        read(noise(tmp_path / "a", 20), hasty)


@pytest.mark.slow
def test_a_recording_may_not_be_longer_than_its_header_has_it(tmp_path: Path) -> None:
    short = ReadLimits(seconds=19.0, memory=2**30, patience=120.0)
    for kind in ("flac", "mp3"):
        with pytest.raises(AudioError, match="talk: is longer than the 19 s"):
            read(noise(tmp_path / kind, 20, kind), short)


@pytest.mark.slow
def test_a_reader_that_is_killed_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = noise(tmp_path / "a", 600)
    before = children_of(os.getpid())

    async def run() -> None:
        async with reading(path, "talk", LIMITS) as pieces:
            async for _ in pieces:
                for pid in children_of(os.getpid()) - before:
                    os.kill(pid, signal.SIGKILL)

    with pytest.raises(AudioError, match="decoding it ended in signal 9"):
        asyncio.run(run())
    assert children_of(os.getpid()) <= before


def test_a_reader_ends_where_nobody_wants_its_pieces(tmp_path: Path) -> None:
    path = noise(tmp_path / "a", 600)
    before = children_of(os.getpid())

    async def run() -> None:
        async with reading(path, "talk", LIMITS) as pieces:
            await anext(aiter(pieces))
            assert children_of(os.getpid()) - before

    asyncio.run(run())
    assert children_of(os.getpid()) <= before


def test_a_reader_that_has_ended_is_sent_no_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise(tmp_path / "a", 60)
    before, readers, killed = active_children(), list[BaseProcess](), list[int]()

    async def run() -> None:
        async with reading(path, "talk", LIMITS) as pieces:
            async for _ in pieces:
                readers[:] = readers or set(active_children()) - set(before)
            wait([readers[0].sentinel], 120)
            monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))

    asyncio.run(run())
    assert killed == []


@pytest.mark.slow
def test_a_reader_that_was_just_forked_takes_no_notice_of_sigterm() -> None:
    """In a process of its own: here another test may have started what forks it."""
    script = """
import os, signal, time
from asr.server.reading import _context, start_forking

start_forking()
waiting = _context.Process(target=time.sleep, args=(60,), daemon=True)
waiting.start()
os.kill(waiting.pid, signal.SIGTERM)
waiting.join(1)
print(waiting.is_alive())
waiting.kill()
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert found.stdout == "True\n"
