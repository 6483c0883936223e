import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torch import Tensor

from asr.audio import (
    AUDIO_SUFFIXES,
    SAMPLE_RATE,
    duration,
    from_samples,
    num_channels,
    read_blocks,
    read_waveform,
    resample,
)
from asr.errors import AudioError
from tests.sounds import FORMATS, encoded, frequency, noise, tone

CORPORA = Path("/work/shared/corpora/LibriSpeech")


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
@pytest.mark.parametrize("channels", [1, 2])
def test_a_tone_is_read_from_every_format(
    path: Path, kind: str, rate: int, channels: int
) -> None:
    path.write_bytes(encoded(kind, tone(rate, num_channels=channels), rate))

    waveform = read_waveform(path)

    assert num_channels(path) == channels

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
def test_the_duration_comes_from_the_header(path: Path, kind: str) -> None:
    path.write_bytes(encoded(kind, tone(rate=24_000), 24_000))
    assert duration(path) == pytest.approx(0.5)


@pytest.mark.parametrize("folder", ["dev-clean", "train-clean-5"])
def test_libri_speech_lasts_as_long_as_its_headers_have_it(folder: str) -> None:
    paths = sorted(CORPORA.glob(f"{folder}/*/*/*.[mof]*"))[::300]
    if not paths:
        pytest.skip(f"{CORPORA / folder} is not here")
    for path in paths:
        assert duration(path) == len(read_waveform(path)) / SAMPLE_RATE


# Resampling


def test_what_the_new_rate_cannot_carry_is_filtered_out() -> None:
    low, high = tone(48_000, hertz=1_000), tone(48_000, hertz=11_000)

    resampled = resample(torch.from_numpy(low + high), 48_000, 16_000)

    expected = torch.from_numpy(tone(16_000, hertz=1_000))
    middle = slice(500, -500)
    torch.testing.assert_close(resampled[middle], expected[middle], atol=1e-3, rtol=0)


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
        (np.zeros(9), 16_000.5, ValueError, r"Hz is needed, not 16000\.5"),
        (np.zeros(9), math.nan, ValueError, "Hz is needed, not nan"),
        (np.zeros(9), "16000", ValueError, "Hz is needed, not '16000'"),
        (np.zeros(9, np.int64), 16_000, TypeError, "not int64"),
        (np.zeros(9, bool), 16_000, TypeError, "not bool"),
        (np.zeros(0), 16_000, AudioError, "samples: holds no samples"),
        (np.zeros((0, 9)), 16_000, AudioError, "samples: holds no samples"),
        (np.array([0, np.nan]), 16_000, AudioError, "infinite or no numbers"),
        (np.array([0, 1e39]), 16_000, ValueError, r"full scale 1, not 1e\+39"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_bad_samples_are_refused(
    samples: npt.NDArray[Any], rate: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        from_samples(samples, rate)


def test_a_rate_may_be_a_whole_float() -> None:
    samples = tone(8_000)

    found = from_samples(samples, 8_000.0)

    torch.testing.assert_close(found, from_samples(samples, 8_000))


# Blocks: what is read piece by piece is what is read at once


RATES = [8_000, 16_000, 44_100, 48_000]


def whole(path: Path) -> Tensor:
    """What libsndfile reads at once, resampled at once."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return resample(torch.from_numpy(samples.mean(axis=1)), rate, SAMPLE_RATE)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_blocks_joined_are_the_whole(path: Path, kind: str, rate: int) -> None:
    path.write_bytes(encoded(kind, noise(23.7, rate, num_channels=2), rate))

    blocks = list(read_blocks(path))

    assert len(blocks) > 1
    assert all(0 < len(block) < 10.1 * SAMPLE_RATE for block in blocks)
    torch.testing.assert_close(torch.cat(blocks), whole(path), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat(blocks), read_waveform(path), atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_what_is_not_resampled_is_the_same_to_the_last_bit(
    path: Path, kind: str
) -> None:
    path.write_bytes(encoded(kind, noise(21, num_channels=2)))
    assert torch.equal(read_waveform(path), whole(path))


@pytest.mark.parametrize("kind", ["wav", "mp3"])
def test_a_longer_file_needs_no_more_memory(path: Path, kind: str) -> None:
    rate = 48_000 if kind == "wav" else 16_000  # as encoding takes its time
    peaks = []
    for seconds in (30, 90):
        path.write_bytes(encoded(kind, noise(seconds, rate, num_channels=2), rate))
        tracemalloc.start()
        num_samples = sum(len(block) for block in read_blocks(path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert num_samples == seconds * SAMPLE_RATE

    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 2**24  # bytes; at once the WAV alone has 35 MB


def test_many_channels_at_a_high_rate_come_in_smaller_blocks(path: Path) -> None:
    path.write_bytes(encoded("wav", noise(2, 96_000, num_channels=100), 96_000))
    assert max(len(block) for block in read_blocks(path)) < SAMPLE_RATE


def test_a_file_is_closed_when_no_more_blocks_are_wanted(path: Path) -> None:
    path.write_bytes(encoded("wav", noise(30)))
    blocks = read_blocks(path)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert list(blocks) == []


def test_blocks_come_before_the_damage(path: Path) -> None:
    contents = bytearray(encoded("flac", noise(30)))
    del contents[int(0.8 * len(contents)) :]
    path.write_bytes(contents)

    blocks = read_blocks(path)

    assert len(next(blocks)) == 10 * SAMPLE_RATE
    with pytest.raises(AudioError, match="is damaged or cut short"):
        list(blocks)


# Channels


@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize("kind", FORMATS)
def test_one_channel_is_read_without_the_other(
    path: Path, kind: str, rate: int
) -> None:
    both = np.stack([tone(rate), tone(rate, hertz=1_000)], axis=1)
    path.write_bytes(encoded(kind, both, rate))

    left, right = (read_waveform(path, channel=side) for side in ("left", "right"))

    assert frequency(left, SAMPLE_RATE) == pytest.approx(440, abs=4)
    assert frequency(right, SAMPLE_RATE) == pytest.approx(1_000, abs=4)
    torch.testing.assert_close((left + right) / 2, read_waveform(path))


def test_the_one_channel_is_the_left_one(path: Path) -> None:
    path.write_bytes(encoded("wav", tone()))
    assert torch.equal(read_waveform(path, channel="left"), read_waveform(path))


def test_the_right_channel_of_a_mono_file_is_refused(path: Path) -> None:
    path.write_bytes(encoded("wav", tone()))
    with pytest.raises(AudioError, match=r"bin: is mono \(has no right channel\)"):
        read_waveform(path, channel="right")


def test_an_unknown_channel_is_refused(path: Path) -> None:
    channel: Any = "middle"
    with pytest.raises(ValueError, match=r"channel must be one of .*, not 'middle'"):
        read_waveform(path, channel=channel)


# Clips


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_a_clip_is_what_the_whole_has_there(path: Path, kind: str, rate: int) -> None:
    path.write_bytes(encoded(kind, noise(13.3, rate), rate))
    waveform = read_waveform(path)

    for start, end in [(0, 1.5), (0.3, 0.31), (4.56789, 12.3), (12.345, 13.3)]:
        clip = read_waveform(path, start=start, end=end)

        expected = waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        torch.testing.assert_close(clip, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("end", [None, 2.0, 99.0, 1e308, float("inf")])
def test_a_clip_ends_where_the_recording_ends(path: Path, end: float | None) -> None:
    path.write_bytes(encoded("wav", noise(2)))
    clip = read_waveform(path, start=0.5, end=end)
    assert torch.equal(clip, read_waveform(path)[8_000:])


def test_a_clip_of_one_channel_at_another_rate(path: Path) -> None:
    path.write_bytes(encoded("flac", noise(5, 44_100, num_channels=2), 44_100))
    wishes: dict[str, Any] = {"rate": 8_000, "channel": "right"}
    expected = read_waveform(path, **wishes)[20_000:24_000]
    clip = read_waveform(path, **wishes, start=2.5, end=3)
    torch.testing.assert_close(clip, expected, atol=1e-6, rtol=0)


def test_the_start_of_a_damaged_file_is_read(path: Path) -> None:
    contents = encoded("flac", noise(30))
    path.write_bytes(contents[: int(0.8 * len(contents))])
    assert len(read_waveform(path, start=1, end=5)) == 4 * SAMPLE_RATE


@pytest.mark.parametrize("start", [2, 2.5, 3, 99, 1e308])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_start_behind_the_end_is_refused(path: Path, kind: str, start: float) -> None:
    path.write_bytes(encoded(kind, noise(2)))
    with pytest.raises(AudioError, match=r"lasts 2.00 s \(nothing is there from .* on"):
        read_waveform(path, start=start)


@pytest.mark.parametrize(
    ("start", "end"), [(1, 1), (1, 0.5), (0, 0), (0, -1), (0, float("nan"))]
)
def test_a_clip_that_ends_before_it_starts_is_refused(
    path: Path, start: float, end: float
) -> None:
    path.write_bytes(encoded("wav", tone()))
    with pytest.raises(AudioError, match=r"the end must be after the start"):
        read_waveform(path, start=start, end=end)


def test_a_clip_shorter_than_a_sample_is_refused(path: Path) -> None:
    path.write_bytes(encoded("wav", tone()))
    with pytest.raises(AudioError, match=r"has no sample from 0.2 s to 0.200001 s"):
        read_waveform(path, start=0.2, end=0.200001)


@pytest.mark.parametrize("start", [-1, float("inf"), float("nan")])
def test_an_impossible_start_is_refused(path: Path, start: float) -> None:
    with pytest.raises(ValueError, match="start must be a number of seconds from 0"):
        read_waveform(path, start=start)


# Names


def test_errors_call_a_file_by_another_name(path: Path) -> None:
    path.write_bytes(b"RIFF")
    for read in (read_waveform, duration, num_channels):
        with pytest.raises(AudioError, match=r"^standard input: is damaged"):
            read(path, name="standard input")


def test_the_endings_of_audio_files_are_in_lower_case() -> None:
    assert {f".{kind}" for kind in FORMATS} < AUDIO_SUFFIXES
    assert all(suffix == suffix.lower() for suffix in AUDIO_SUFFIXES)


# Errors: a file that cannot be read is an error of one line


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b"Hello, world.\n" * 9, "is no audio that can be read .wav, flac, ogg vorb"),
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
    with pytest.raises(AudioError, match="holds no samples"):
        read_waveform(path, start=3)


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


@pytest.mark.parametrize("loud", [1e20, -3e38])
def test_samples_beyond_any_scale_are_an_error_of_the_file(
    tmp_path: Path, loud: float
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([0, loud] * 800), 16_000, subtype="FLOAT")

    with pytest.raises(AudioError, match=r"a\.wav: holds samples of \de\+\d\d \(full"):
        read_waveform(path)


def test_samples_on_the_scale_of_32_bit_integers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([0, 2.0**31] * 800), 16_000, subtype="FLOAT")

    assert float(read_waveform(path).max()) == 2.0**31


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
    assert_refused(path, "has no length in its header")


def test_an_ogg_that_lost_a_page_is_refused(path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE)
    contents = bytearray(encoded("ogg", noise.astype(np.float32)))
    place = int(0.7 * len(contents))
    contents[place : place + 30] = bytes(30)  # libsndfile skips it
    path.write_bytes(contents)
    assert_refused(path, r"is damaged: the page at byte \d+ has a wrong checksum")


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


def flac_that_promises(num_samples: int) -> bytes:
    contents = bytearray(encoded("flac", tone()))
    field = int.from_bytes(contents[21:26])  # its last 36 bits are the samples
    contents[21:26] = (field >> 36 << 36 | num_samples).to_bytes(5)
    return bytes(contents)


def assert_refused(path: Path, message: str) -> None:
    for read in (read_waveform, duration):
        with pytest.raises(AudioError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
