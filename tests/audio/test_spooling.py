import os
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import torch

from asr.audio import read_waveform, spooled
from asr.errors import AudioError
from tests.sounds import encoded, tone


@pytest.mark.parametrize("descriptors", ["/proc/self/fd", "/none"])
def test_a_pipe_is_read_like_a_file(
    descriptors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.audio.spooling._DESCRIPTORS", Path(descriptors))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = tmp_path / "sound.wav"
    path.write_bytes(encoded("wav", tone()))
    read_end, write_end = os.pipe()
    os.write(write_end, path.read_bytes())
    os.close(write_end)

    with open(read_end, "rb") as pipe, spooled(pipe) as copy:
        waveform = read_waveform(copy)

    assert torch.equal(waveform, read_waveform(path))
    assert not copy.exists()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this is not Linux")
def test_on_linux_the_copy_has_no_name_that_could_be_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with spooled(BytesIO(b"RIFF")) as copy:
        assert copy.read_bytes() == b"RIFF"
        assert not list(tmp_path.iterdir())


def test_the_copy_is_gone_after_an_error() -> None:
    with pytest.raises(KeyError), spooled(BytesIO(b"RIFF")) as copy:
        raise KeyError
    assert not copy.exists()


def test_an_empty_standard_input_is_refused() -> None:
    with (
        pytest.raises(AudioError, match=r"^standard input: is empty \(a recording was"),
        spooled(BytesIO()),
    ):
        pass


def test_a_stream_that_breaks_is_refused() -> None:
    class Broken(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    message = r"^standard input: cannot be copied to .* \(Input/output error\)"
    with pytest.raises(AudioError, match=message), spooled(Broken()):
        pass


def test_a_long_stream_needs_little_memory() -> None:
    class Zeros:
        left = 2**26

        def read(self, size: int) -> bytes:
            num_bytes = min(size, self.left)
            self.left -= num_bytes
            return bytes(num_bytes)

    tracemalloc.start()
    with spooled(cast(BinaryIO, Zeros())) as copy:
        assert copy.stat().st_size == 2**26
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**23
