import os
import random
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torch import Tensor

from asr.audio import (
    SAMPLE_RATE,
    duration,
    encode_vorbis,
    from_samples,
    read_waveform,
    resample,
)
from asr.errors import AudioError

CORPORA = Path("/work/shared/corpora/LibriSpeech")
FORMATS = ["wav", "flac", "ogg", "opus", "mp3"]
FORMAT = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "opus": "OGG", "mp3": "MP3"}

Samples = npt.NDArray[np.float32]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sound.bin"  # no suffix may be needed


# Golden: worked by hand


def test_sixteen_bits_are_scaled_to_one(path: Path) -> None:
    soundfile.write(path, np.array([0, 16384, -32768], np.int16), 16_000, format="WAV")
    assert read_waveform(path).tolist() == [0.0, 0.5, -1.0]


def test_channels_are_averaged(path: Path) -> None:
    stereo = np.array([[0.5, -0.25], [0.75, 0.0]], np.float32)  # (N, channels)
    path.write_bytes(encoded("wav", stereo))
    torch.testing.assert_close(read_waveform(path), torch.tensor([0.125, 0.375]))


# Property: the same sound, however it was written


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        (kind, rate)
        for kind in FORMATS
        for rate in (8_000, 16_000, 44_100, 48_000)
        if (kind, rate) != ("opus", 44_100)  # there is no such Opus
    ],
)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_tone_is_read_from_every_format(
    path: Path, kind: str, rate: int, num_channels: int
) -> None:
    path.write_bytes(encoded(kind, tone(rate, num_channels=num_channels), rate))

    waveform = read_waveform(path)

    assert waveform.dtype == torch.float32
    assert waveform.shape == (SAMPLE_RATE // 2,)
    assert frequency(waveform, SAMPLE_RATE) == pytest.approx(440, abs=4)
    middle = waveform[2000:6000]
    assert float(middle.abs().max()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("width", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "DOUBLE"])
def test_a_sample_is_as_loud_at_any_width(path: Path, width: str) -> None:
    soundfile.write(path, tone(), SAMPLE_RATE, format="WAV", subtype=width)
    expected = torch.from_numpy(tone())
    torch.testing.assert_close(read_waveform(path), expected, atol=0.01, rtol=0)


def test_thirty_channels_are_read(path: Path) -> None:
    path.write_bytes(encoded("wav", tone(num_channels=30)))
    torch.testing.assert_close(
        read_waveform(path), torch.from_numpy(tone()), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("rate", [8_000, 22_050])
def test_a_waveform_comes_at_the_wished_rate(path: Path, rate: int) -> None:
    path.write_bytes(encoded("flac", tone()))
    waveform = read_waveform(path, rate)
    assert waveform.shape == (rate // 2,)
    assert frequency(waveform, rate) == pytest.approx(440, abs=4)


def test_a_long_file_is_read_whole(path: Path) -> None:
    noise = np.random.default_rng(0).integers(-99, 99, 5_000_000).astype(np.int16)
    soundfile.write(path, noise, SAMPLE_RATE, format="WAV")  # more than a block
    torch.testing.assert_close(read_waveform(path), torch.from_numpy(noise) / 2**15)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_header_tells_the_duration(path: Path, kind: str) -> None:
    path.write_bytes(encoded(kind, tone(rate=24_000), 24_000))
    assert duration(path) == pytest.approx(0.5)


@pytest.mark.parametrize("folder", ["dev-clean", "train-clean-5"])
def test_libri_speech_lasts_as_long_as_its_headers_tell(folder: str) -> None:
    paths = sorted(CORPORA.glob(f"{folder}/*/*/*.[mof]*"))[::300]
    if not paths:
        pytest.skip(f"{CORPORA / folder} is not here")
    for path in paths:
        assert duration(path) == len(read_waveform(path)) / SAMPLE_RATE


# Resampling


def test_what_the_new_rate_cannot_carry_is_filtered_out() -> None:
    low, high = tone(48_000, hertz=1_000), tone(48_000, hertz=11_000)

    heard = resample(torch.from_numpy(low + high), 48_000, 16_000)

    expected = torch.from_numpy(tone(16_000, hertz=1_000))
    middle = slice(500, -500)
    torch.testing.assert_close(heard[middle], expected[middle], atol=1e-3, rtol=0)


def test_an_equal_rate_leaves_the_waveform_alone() -> None:
    waveform = torch.randn(10)
    assert resample(waveform, 16_000, 16_000) is waveform


def test_speech_at_a_higher_speed_is_shorter_and_higher() -> None:
    faster = resample(torch.from_numpy(tone()), 1.1, 1)
    assert len(faster) == round(8_000 / 1.1)
    assert frequency(faster, SAMPLE_RATE) == pytest.approx(484, abs=4)


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rates must be above zero"):
        resample(torch.zeros(9), rate, 16_000)
    with pytest.raises(ValueError, match="rates must be above zero"):
        resample(torch.zeros(9), 16_000, rate)


def test_channels_are_not_resampled() -> None:
    with pytest.raises(ValueError, match=r"\(N,\) is needed, got \(2, 9\)"):
        resample(torch.zeros(2, 9), 8_000, 16_000)


# Samples in memory


@pytest.mark.parametrize(
    "samples",
    [
        np.array([0, -16384, 16384], np.int16),
        np.array([0, -(2**30), 2**30], np.int32),
        np.array([128, 64, 192], np.uint8),
        np.array([0, -0.5, 0.5], np.float64),
        torch.tensor([0, -0.5, 0.5], dtype=torch.float16),
        torch.tensor([[0.5, -1, 1], [-0.5, 0, 0]], requires_grad=True),
    ],
    ids=lambda samples: f"{samples.dtype}",
)
def test_samples_of_every_type_are_scaled_to_one(samples: Any) -> None:
    waveform = from_samples(samples, SAMPLE_RATE)
    assert waveform.dtype == torch.float32
    assert waveform.tolist() == [0.0, -0.5, 0.5]


def test_samples_are_resampled_as_a_file_is(path: Path) -> None:
    path.write_bytes(encoded("wav", tone(48_000, num_channels=2), 48_000))
    samples, rate = soundfile.read(path, dtype="int16")
    torch.testing.assert_close(from_samples(samples.T, rate), read_waveform(path))


def test_the_samples_given_stay_as_they_are() -> None:
    samples = np.ones(9, np.float32)
    from_samples(samples, SAMPLE_RATE).zero_()
    assert samples.sum() == 9


@pytest.mark.parametrize(
    ("samples", "rate", "error", "message"),
    [
        (np.zeros((9, 2)), 16_000, ValueError, r"got \(9, 2\): transpose it"),
        (np.zeros((2, 9, 1)), 16_000, ValueError, r"is needed, got \(2, 9, 1\)"),
        (np.zeros(9), 0, ValueError, "a rate of 1000 to 1000000 Hz is needed, not 0"),
        (np.zeros(9, np.int64), 16_000, TypeError, "not int64"),
        (np.zeros(9, bool), 16_000, TypeError, "not bool"),
        (np.zeros(0), 16_000, AudioError, "samples: holds no samples"),
        (np.zeros((0, 9)), 16_000, AudioError, "samples: holds no samples"),
        (np.array([0, np.nan]), 16_000, AudioError, "infinite or no numbers"),
        (np.array([0, 1e39]), 16_000, AudioError, "infinite or no numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_bad_samples_are_refused(
    samples: npt.NDArray[Any], rate: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        from_samples(samples, rate)


# Errors: a file that cannot be read is told in one line


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b"Hello, world.\n" * 9, "is no audio that can be read .wav, flac, ogg vorb"),
        (b"\0\0\0 ftypM4A \0\0\0\0", r"is MPEG-4 audio \(m4a, mp4\) \(convert it: wav"),
        (b"\x1a\x45\xdf\xa3" + bytes(99), "is Matroska"),
        (b"RIFF", "is damaged or cut short"),
        (b"OggS", "is cut short"),
        (b"ID3", "is damaged or cut short"),
        (b"\xff\xfb\x90\x00", "is damaged or cut short"),
        (bytes(1000), "is no audio that can be read"),
    ],
)
@pytest.mark.parametrize("name", ["sound.wav", "sound.mp3", "sound.raw", "sound"])
def test_what_is_no_audio_is_refused(
    tmp_path: Path, name: str, contents: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(contents)
    assert_refused(path, message)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.wav", r"cannot be read \(No such file or directory\)")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, r"is a folder \(a file was expected\)")


def test_a_device_is_refused() -> None:
    assert_refused(Path("/dev/null"), "is a pipe or a device")


def test_a_path_that_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.wav"
    path.symlink_to(path)
    assert_refused(path, r"cannot be read \(Too many levels of symbolic links\)")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(AudioError, match=r"'a\\x00.wav': cannot be read \(embedded"):
        read_waveform("a\0.wav")


def test_a_file_of_another_user_is_refused(path: Path) -> None:
    path.write_bytes(encoded("wav", tone()))
    path.chmod(0)
    try:
        path.read_bytes()
        pytest.skip("this user may read everything")
    except PermissionError:
        assert_refused(path, r"cannot be read \(Permission denied\)")


@pytest.mark.parametrize("kind", ["wav", "ogg"])
def test_a_file_without_samples_is_refused(path: Path, kind: str) -> None:
    path.write_bytes(encoded(kind, np.zeros(0, np.float32)))
    assert_refused(path, "holds no samples")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_was_cut_short_is_refused(
    path: Path, kind: str, share: float
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE)
    whole = encoded(kind, noise.astype(np.float32))
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(AudioError, match=r"sound\.bin: is .*cut short"):
        read_waveform(path)


@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_sample_that_is_no_number_is_refused(
    path: Path, sample: float, rate: int
) -> None:
    samples = tone(rate)
    samples[100] = sample
    soundfile.write(path, samples, rate, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match="infinite or no numbers"):
        read_waveform(path)


def test_a_file_too_short_for_the_wished_rate_is_refused(path: Path) -> None:
    path.write_bytes(encoded("wav", np.zeros(1, np.float32), 48_000))
    with pytest.raises(AudioError, match="is too short: 1 samples at 48000 Hz"):
        read_waveform(path)


def test_a_sample_rate_that_no_recorder_has_is_refused(path: Path) -> None:
    contents = bytearray(encoded("wav", tone()))
    contents[24:28] = (7).to_bytes(4, "little")  # bytes 24 to 27: the sample rate
    path.write_bytes(contents)
    assert_refused(path, r"has a sample rate of 7 Hz \(1000 to 1000000 Hz can be")


def test_a_wav_that_was_piped_is_read(path: Path) -> None:
    contents = bytearray(encoded("wav", tone()))
    contents[40:44] = (
        b"\xff" * 4
    )  # bytes 40 to 43: the size of the samples, unknown yet
    path.write_bytes(contents)
    torch.testing.assert_close(
        read_waveform(path), torch.from_numpy(tone()), atol=1e-4, rtol=0
    )


def test_a_flac_that_was_piped_is_refused(path: Path) -> None:
    path.write_bytes(flac_that_promises(0))
    assert_refused(path, "does not tell its length")


def test_an_ogg_that_lost_a_page_is_refused(path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE)
    contents = bytearray(encoded("ogg", noise.astype(np.float32)))
    place = int(0.7 * len(contents))
    contents[place : place + 30] = bytes(30)  # its checksum is wrong: it is skipped
    path.write_bytes(contents)
    with pytest.raises(AudioError, match=r"cut short: \d+ of 48000 samples are there"):
        read_waveform(path)


def test_a_promise_of_gigabytes_does_not_cost_gigabytes(path: Path) -> None:
    path.write_bytes(flac_that_promises(2**36 - 1))

    tracemalloc.start()
    with pytest.raises(AudioError, match="is damaged or cut short"):
        read_waveform(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**25  # bytes


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_joined_ogg_files_are_refused(path: Path, kind: str) -> None:
    path.write_bytes(2 * encoded(kind, tone()))
    assert_refused(path, "is several files joined")


# MP3: libsndfile trusts a header, or guesses


def test_joined_mp3_files_are_read_to_the_end(path: Path) -> None:
    path.write_bytes(2 * encoded("mp3", tone()))

    waveform = read_waveform(path)

    # Each half has some silence at both ends, which its own header told to skip.
    assert SAMPLE_RATE < len(waveform) < 1.2 * SAMPLE_RATE
    assert len(waveform) == duration(path) * SAMPLE_RATE
    assert waveform[-4000:-2000].abs().max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("is_tagged", [False, True])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_an_mp3_without_xing_header_is_read_to_the_end(
    path: Path, rate: int, num_channels: int, is_tagged: bool
) -> None:
    # Silence, then noise: at a variable bit rate the first frame tells nothing.
    noise = np.random.default_rng(0).normal(0, 0.1, (2 * rate, num_channels))
    noise[:rate] = 0
    whole = encoded("mp3", noise.astype(np.float32), rate)
    audio = whole[whole.index(b"\xff", 200) :]
    assert b"Xing" in whole
    assert b"Xing" not in audio

    path.write_bytes(id3_tag() + audio + ape_tag() if is_tagged else audio)

    assert duration(path) == pytest.approx(2, abs=0.12)
    waveform = read_waveform(path, rate)
    assert len(waveform) == duration(path) * rate
    assert waveform[-rate // 2 : -4000].std() > 0.05


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_said_on_stderr(
    path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    contents = bytearray(encoded(kind, tone()))
    middle = len(contents) // 2
    contents[middle : middle + 50] = bytes(50)
    path.write_bytes(contents)

    _try_to_read(path)
    os.write(2, b"only this")

    assert capfd.readouterr().err == "only this"


# Property: whatever a file holds, it is read or refused


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_read_or_refused(path: Path, kind: str) -> None:
    draws = random.Random(0)
    whole = encoded(kind, tone())
    for _ in range(100):
        path.write_bytes(damaged(whole, draws))
        _try_to_read(path)


def _try_to_read(path: Path) -> None:
    try:
        waveform = read_waveform(path)
    except AudioError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert waveform.dim() == 1
        assert len(waveform) > 0
        assert waveform.isfinite().all()


# Packed to be played


@pytest.mark.parametrize("num_samples", [1, 16_000, 3_000_001])
def test_a_packed_waveform_is_as_long_as_it_was(path: Path, num_samples: int) -> None:
    waveform = torch.from_numpy(np.resize(tone(), num_samples))

    path.write_bytes(encode_vorbis(waveform))

    read = read_waveform(path)
    assert len(read) == num_samples
    assert bool(((read - waveform)[2000:-2000].abs() < 0.05).all())


def test_what_is_too_loud_is_clipped_when_it_is_packed(path: Path) -> None:
    path.write_bytes(encode_vorbis(4 * torch.from_numpy(tone())))

    assert float(read_waveform(path).abs().max()) < 1.5


# What the tests above are made of


def tone(
    rate: int = SAMPLE_RATE, *, hertz: float = 440, num_channels: int = 0
) -> Samples:
    """Half a second: (N,), or (N, channels) as soundfile has it."""
    wave = 0.5 * np.sin(2 * np.pi * hertz / rate * np.arange(rate // 2))
    channels = [wave] * num_channels
    return (np.stack(channels, axis=1) if channels else wave).astype(np.float32)


def frequency(waveform: Tensor, rate: int) -> float:
    spectrum = torch.fft.rfft(waveform * torch.hann_window(len(waveform))).abs()
    return int(spectrum.argmax()) * rate / len(waveform)


def encoded(kind: str, samples: Samples, rate: int = SAMPLE_RATE) -> bytes:
    file = BytesIO()
    subtype = "OPUS" if kind == "opus" else None
    soundfile.write(file, samples, rate, format=FORMAT[kind], subtype=subtype)
    return file.getvalue()


def flac_that_promises(num_samples: int) -> bytes:
    contents = bytearray(encoded("flac", tone()))
    field = int.from_bytes(contents[21:26])  # its last 36 bits are the samples
    contents[21:26] = (field >> 36 << 36 | num_samples).to_bytes(5)
    return bytes(contents)


def id3_tag() -> bytes:
    """A tag such as a cover picture, full of what looks like frames."""
    picture = 100 * b"\xff\xfb\x90\x00".ljust(417, b"\0")  # 128 kbit/s at 44.1 kHz
    size = bytes(len(picture) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + picture


def ape_tag() -> bytes:
    """A tag that now and then has what looks like a frame."""
    return b"APETAGEX" + 20 * b"\xff\xfb\x90\x00".ljust(500, b"\0")


def damaged(whole: bytes, draws: random.Random) -> bytes:
    contents = bytearray(whole)
    for _ in range(draws.choice([1, 3, 30])):
        reach = draws.choice([64, 200, len(contents)])  # the header more often
        place = draws.randrange(min(reach, len(contents)))
        match draws.randrange(3):
            case 0:
                contents[place] = draws.choice([0, 255, draws.randrange(256)])
            case 1:
                del contents[place : place + draws.randrange(1, 20)]
            case _:
                contents[place:place] = draws.randbytes(5)
    if draws.random() < 0.3:
        del contents[draws.randrange(len(contents)) :]
    return bytes(contents)


def assert_refused(path: Path, message: str) -> None:
    for read in (read_waveform, duration):
        with pytest.raises(AudioError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
