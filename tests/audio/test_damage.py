"""Whatever a file holds, it is read or refused, in one line and with no word more."""

import os
import random
from pathlib import Path

import pytest
import soundfile

from asr.audio.soundfiles import _hushed
from tests.sounds import (
    CODECS,
    FORMATS,
    assert_read_or_refused,
    contained,
    damaged,
    encoded,
    noise,
    tone,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sound.bin"


@pytest.mark.parametrize("num_files", [30, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [*FORMATS, *CODECS])
def test_a_damaged_file_is_read_or_refused(
    path: Path, capfd: pytest.CaptureFixture[str], kind: str, num_files: int
) -> None:
    draws = random.Random(num_files)
    whole = _file(kind)

    for _ in range(num_files):
        path.write_bytes(damaged(whole, draws))
        assert_read_or_refused(path)

    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [*FORMATS, *CODECS])
def test_a_file_cut_anywhere_is_read_or_refused(path: Path, kind: str) -> None:
    whole = _file(kind)
    for size in range(1, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:size])
        assert_read_or_refused(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_printed_on_stderr(
    path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    contents = bytearray(encoded(kind, tone()))
    middle = len(contents) // 2
    contents[middle : middle + 50] = bytes(50)
    path.write_bytes(contents)

    assert_read_or_refused(path)
    os.write(2, b"only this")

    assert capfd.readouterr().err == "only this"


def test_what_others_print_on_stderr_is_printed(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    contents = bytearray(encoded("mp3", tone()))
    middle = len(contents) // 2
    contents[middle : middle + 50] = bytes(50)
    path.write_bytes(contents)

    with _hushed(bytes(contents[:16])):
        os.write(2, b"asr: talk.wav: is empty\n")  # as another thread may
        soundfile.SoundFile(path).read()

    assert capfd.readouterr().err == "asr: talk.wav: is empty\n"


def _file(kind: str) -> bytes:
    if kind in FORMATS:
        return encoded(kind, tone())
    rate = {"amr": 8_000, "webm": 48_000}.get(kind, 16_000)
    return contained(kind, noise(0.5, rate), rate)
