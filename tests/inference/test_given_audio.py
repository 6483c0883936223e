import io
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
import soundfile
import torch

from asr.audio import from_samples, read_waveform
from asr.decoding.config import DecodingConfig
from asr.errors import AudioError
from asr.inference.recognizer import Recognizer
from asr.model.storage import Model

SAMPLE = Path(str(files("asr") / "assets" / "sample.opus"))
CONTENT = SAMPLE.read_bytes()


@pytest.fixture
def recognizer(model: Model) -> Recognizer:
    return Recognizer(model, DecodingConfig(beam_size=2))  # any search will do


def spooled_file() -> BinaryIO:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(CONTENT)
    file.seek(0)
    return cast(BinaryIO, file)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CONTENT,
        lambda: bytearray(CONTENT),
        lambda: memoryview(CONTENT),
        lambda: io.BytesIO(CONTENT),
        lambda: SAMPLE.open("rb"),
        spooled_file,
    ],
    ids=["bytes", "bytearray", "memoryview", "BytesIO", "file", "upload"],
)
def test_an_upload_gives_the_text_of_the_file(
    recognizer: Recognizer,
    make: Callable[[], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole = recognizer.transcribe(SAMPLE)
    upload = make()

    found = recognizer.transcribe(upload)

    assert (found.text, found.duration) == (whole.text, whole.duration)
    assert list(tmp_path.iterdir()) == []  # the copy is gone
    if hasattr(upload, "close"):
        upload.close()


def test_an_upload_has_channels_and_clips(recognizer: Recognizer) -> None:
    left = read_waveform(SAMPLE).numpy()
    stereo = io.BytesIO()
    soundfile.write(stereo, np.stack([left, 0 * left], axis=1), 16_000, format="FLAC")
    content = stereo.getvalue()

    clip = recognizer.transcribe(content, channel="left", clip=(1.0, 3.0))
    silent = recognizer.transcribe(content, channel="right")

    assert clip.segments[0].start == pytest.approx(1.0, abs=0.3)
    assert clip.duration == pytest.approx(2.0)
    assert silent.text == ""


def test_uploads_and_paths_may_be_mixed(recognizer: Recognizer) -> None:
    one, other = recognizer.transcribe([CONTENT, SAMPLE])
    (third,) = recognizer.transcribe(cast(Any, iter([str(SAMPLE)])))
    assert one.text == other.text == third.text


class Later:
    async def read(self) -> bytes:
        return CONTENT


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (io.StringIO("RIFF"), r"was opened as text \(open it with 'rb'\)"),
        (Later(), r"a read\(\) that is async \(read it, and pass bytes"),
        ([0.1, 0.2], r"not float in a list \(of numbers make an array\)"),
        ([[SAMPLE]], "not list in a list"),
        (None, "or a list of such was expected, not None"),
        (3, "a path, bytes, a file opened with 'rb', an array .*, not int"),
        ({"path": SAMPLE}, "was expected, not dict"),
        ({SAMPLE}, "was expected, not set"),
    ],
    ids=["text", "async", "floats", "lists", "None", "int", "dict", "set"],
)
def test_what_is_no_audio_gets_a_clear_answer(
    recognizer: Recognizer, audio: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        recognizer.transcribe(audio)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (b"", "the audio given: is empty"),
        (b"hello", "the audio given: is no audio"),
        (CONTENT[: len(CONTENT) // 2], "the audio given: is cut short"),
        ("https://example.org/talk.mp3", "is an address, not a file .download it"),
        ("s3://bucket/talk.wav", "is an address, not a file"),
        ("file:///tmp/talk.wav", "is an address, not a file"),
        ("a\0b.wav", "cannot be read"),
        ("a" * 5000, "cannot be read"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_upload_or_path_that_cannot_be_read_is_an_error(
    recognizer: Recognizer, audio: Any, message: str
) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        recognizer.transcribe(audio)
    assert len(str(caught.value)) < 700


def test_an_open_file_is_called_by_its_name(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(b"RIFF")
    with path.open("rb") as file, pytest.raises(AudioError, match=r"talk\.wav: is "):
        recognizer.transcribe(file)


@pytest.mark.parametrize("decoding", [[1], "beam_size=4", 3, [("beam_size", 4)]])
def test_settings_that_are_none_are_a_type_error(model: Model, decoding: Any) -> None:
    with pytest.raises(TypeError, match="decoding is settings by name, such as"):
        Recognizer.load(decoding=decoding)
    with pytest.raises(TypeError, match="decoding is a DecodingConfig, not"):
        Recognizer(model, decoding=decoding)


# Samples of every type


def as_16_bit() -> Any:
    return (read_waveform(SAMPLE).numpy() * 32767).astype(np.int16)


@pytest.mark.parametrize(
    "samples",
    [
        as_16_bit(),
        as_16_bit().astype(">i2"),
        as_16_bit().astype(np.int32) << 16,
        read_waveform(SAMPLE),
        read_waveform(SAMPLE).double(),
        read_waveform(SAMPLE).bfloat16(),
        read_waveform(SAMPLE).half(),
        read_waveform(SAMPLE).numpy().astype(">f8"),
        torch.from_numpy(as_16_bit()),
    ],
    ids=lambda samples: str(samples.dtype),
)
def test_samples_of_each_type_have_the_same_scale(samples: Any) -> None:
    torch.testing.assert_close(
        from_samples(samples, 16_000), read_waveform(SAMPLE), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (as_16_bit().astype(np.int32), ValueError, "these are 16-bit .use samples.ast"),
        (torch.from_numpy(as_16_bit()).int(), ValueError, "these are 16-bit"),
        (
            as_16_bit().astype(np.float32),
            ValueError,
            "floats have full scale 1, not 19",
        ),
        (np.full(9, 1e300), ValueError, "have full scale 1, not 1e.300"),
        (np.full(9, np.inf), AudioError, "infinite or no numbers"),
        (as_16_bit().astype(np.int64), TypeError, "not int64 .convert them"),
        (as_16_bit().view(np.uint16), TypeError, "not uint16"),
        (as_16_bit() > 0, TypeError, "not bool"),
        (as_16_bit().astype(complex), TypeError, "not complex128"),
        (as_16_bit().astype(object), TypeError, "not object"),
    ],
    ids=lambda value: str(getattr(value, "dtype", value))[:12],
)
def test_samples_on_another_scale_get_a_clear_answer(
    recognizer: Recognizer, samples: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        recognizer.transcribe(samples, sample_rate=16_000)


def test_near_silence_of_32_bits_is_silence(recognizer: Recognizer) -> None:
    noise = np.random.default_rng(0).integers(-256, 256, 16_000, dtype=np.int32)
    assert recognizer.transcribe(noise, sample_rate=16_000).text == ""
