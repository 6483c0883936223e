"""Workers of a server whose recognizer does as its audio asks."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from torch import Tensor

from asr.errors import ConfigError
from asr.inference.recognizer_settings import RecognizerSettings
from asr.server.engine import Engine
from asr.server.errors import WorkerError
from asr.server.settings import ServerSettings
from asr.text import CharTokenizer
from asr.transcript import Segment, silence
from tests.server.conftest import children_of

FINE, BLOCKS_ONCE, BLOCKS, KILLS = 0.1, 0.2, 0.3, 0.4
"""The first sample of a waveform, and what recognising it does."""
SETTINGS = ServerSettings(work_timeout=0.5, work_factor=0.01)


class FakeRecognizer:
    """Its texts are the settings that it was asked for, and how many pieces it had."""

    name = "fake"
    language_model = None
    tokenizer = CharTokenizer()

    def __init__(self, folder: Path, beam_size: int, hotwords: str = "") -> None:
        self._folder, self._beam_size, self._hotwords = folder, beam_size, hotwords
        self.settings = {"beam_size": beam_size}

    def with_beam_size(self, beam_size: int) -> "FakeRecognizer":
        if beam_size < 1:
            raise ConfigError("beam_size must be at least 1")
        return FakeRecognizer(self._folder, beam_size, self._hotwords)

    def with_hotwords(self, hotwords: Iterable[str]) -> "FakeRecognizer":
        return FakeRecognizer(self._folder, self._beam_size, " ".join(hotwords))

    def recognize(
        self, waveforms: Sequence[Tensor], *, return_alignment: bool = False
    ) -> list[Segment]:
        for waveform in waveforms:
            self._do(round(float(waveform[0]), 1))
        text = f"beam {self._beam_size} for {len(waveforms)}: {self._hotwords}"
        return [replace(silence(1.0), text=text) for _ in waveforms]

    def _do(self, what: float) -> None:
        (self._folder / f"{what} {time.monotonic_ns()}").touch()
        again = len(list(self._folder.glob(f"{what} *"))) > 1
        if what == BLOCKS or (what == BLOCKS_ONCE and not again):
            time.sleep(600)
        if what == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class FakeSettings:
    """Those of a fake recognizer."""

    folder: Path
    device: str = "cpu"

    def load(self) -> FakeRecognizer:
        if (self.folder / "gone").exists():
            raise ConfigError("/secret/model: is gone")
        return FakeRecognizer(self.folder, 64)


def used(
    folder: Path,
    use: Callable[[Engine], Awaitable[Any]],
    settings: ServerSettings = SETTINGS,
) -> Any:
    """Start an engine with one worker, use it, and end it."""

    async def work() -> Any:
        recognizer = cast(RecognizerSettings, FakeSettings(folder))
        async with asyncio.timeout(120), Engine(recognizer, settings, 1) as engine:
            return await use(engine)

    return asyncio.run(work())


async def texts(engine: Engine, *asked: dict[str, Any]) -> list[str]:
    """Have pieces recognised at the same time."""
    found = [
        engine.recognize(sound(asking.pop("what", FINE)), **asking) for asking in asked
    ]
    return [segment.text for segment in await asyncio.gather(*found)]


def sound(what: float) -> Any:
    return np.full(16_000, what, np.float32)


@pytest.mark.slow
def test_pieces_of_equal_settings_are_recognised_together(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"beam_size": 8},
        {"beam_size": 8, "hotwords": ["SHIP"]},
        {"beam_size": 64},
        {"beam_size": 100},
        {"beam_size": 8},
    ]
    found = used(tmp_path, lambda engine: texts(engine, *asked))

    whole, narrow = "beam 64 for 3: ", "beam 8 for 2: "
    assert found == [whole, narrow, "beam 8 for 1: SHIP", whole, whole, narrow]


def test_an_impossible_beam_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^beam_size must be at least 1$"):
        used(tmp_path, lambda engine: texts(engine, {"beam_size": 0}))


def test_hot_words_are_checked_before_there_is_audio(tmp_path: Path) -> None:
    async def check(engine: Engine) -> None:
        engine.check_hotwords(["Zo\u00eb", "SHIP"])
        engine.check_hotwords(["SHIP", "\u65e5\u672c"])

    with pytest.raises(ConfigError, match="hot word '\u65e5\u672c': has no letter"):
        used(tmp_path, check)


@pytest.mark.slow
def test_what_a_worker_hangs_over_is_tried_once_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(engine: Engine) -> tuple[list[str], int]:
        found = await texts(engine, {}, {"what": BLOCKS_ONCE})
        return found, engine.counts.workers_replaced

    found, replaced = used(tmp_path, use)

    assert found == ["beam 64 for 1: "] * 2  # each by itself
    assert replaced == 1
    assert caplog.messages == [
        "a worker took more than 1 s: its work is tried once more"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("what", [BLOCKS, KILLS])
def test_what_two_workers_hang_or_end_over_is_an_error_of_its_request(
    what: float, tmp_path: Path
) -> None:
    async def use(engine: Engine) -> tuple[list[str], int]:
        with pytest.raises(WorkerError, match="ended twice over this recording"):
            await texts(engine, {"what": what})
        return await texts(engine, {}), engine.counts.workers_replaced

    assert used(tmp_path, use) == (["beam 64 for 1: "], 2)


def test_more_audio_and_a_wider_beam_may_take_longer(tmp_path: Path) -> None:
    settings = ServerSettings(work_timeout=60.0, work_factor=30.0)

    async def use(engine: Engine) -> list[float]:
        cases = ((10.0, None), (20.0, None), (10.0, 32), (10.0, 8), (10.0, 1))
        return [engine.time_limit(*case) for case in cases]

    assert used(tmp_path, use, settings) == [360.0, 660.0, 210.0, 135.0, 135.0]


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_again_is_the_servers_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(engine: Engine) -> tuple[bool, bool]:
        was_ready = engine.is_ready
        (tmp_path / "gone").touch()
        for pid in children_of(os.getpid()):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"^a worker process could not load") as e:
            await texts(engine, {})
        assert "/secret" not in str(e.value)
        return was_ready, engine.is_ready

    assert used(tmp_path, use, ServerSettings()) == (True, False)
    assert (
        "a worker could not load the model: /secret/model: is gone" in caplog.messages
    )


def test_a_model_that_cannot_be_loaded_at_first_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "gone").touch()
    with pytest.raises(ConfigError, match=r"^/secret/model: is gone$"):
        used(tmp_path, lambda engine: texts(engine, {}))


@pytest.mark.parametrize(
    ("workers", "requests", "expected"),
    [(1, 1, 16), (32, 1, 128), (32, 8, 16), (32, 32, 4), (1, 32, 2), (32, 500, 2)],
)
def test_the_pieces_of_recordings_leave_room_for_others(
    workers: int, requests: int, expected: int, tmp_path: Path
) -> None:
    recognizer = cast(RecognizerSettings, FakeSettings(tmp_path))
    engine = Engine(recognizer, ServerSettings(max_pieces=256), workers)
    engine.counts.requests = requests
    assert engine._num_ahead == expected
