"""One channel of many, of files and of samples in memory; and channels that cancel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.audio import SAMPLE_RATE, from_samples, read_waveform
from asr.errors import AudioError
from tests.sounds import Samples, encoded, noise, tone

NUMBER_OF = {"left": 1, "right": 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sound.bin"


@pytest.mark.parametrize("channel", [1, 2, 3, 4, "left", "right"])
def test_a_channel_is_the_one_of_its_number(path: Path, channel: Any) -> None:
    samples = noise(1, num_channels=4)
    path.write_bytes(encoded("wav", samples))
    expected = torch.from_numpy(samples[:, NUMBER_OF.get(channel, channel) - 1].copy())
    for waveform in (
        read_waveform(path, channel=channel),
        from_samples(samples.T, SAMPLE_RATE, channel=channel),
    ):
        torch.testing.assert_close(waveform, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("channel", ["bogus", "split", 0, -1, True, None, 1.5])
def test_what_is_no_channel_is_refused(path: Path, channel: Any) -> None:
    path.write_bytes(encoded("wav", tone()))
    message = r"channel must be one of .* or a number from 1 on, not "
    with pytest.raises(ValueError, match=message):
        read_waveform(path, channel=channel)
    with pytest.raises(ValueError, match=message):
        from_samples(tone(), SAMPLE_RATE, channel=channel)


def test_a_channel_that_is_not_there_is_refused(path: Path) -> None:
    path.write_bytes(encoded("wav", tone(num_channels=2)))
    message = r"has 2 channels \(there is no channel 3\)"
    with pytest.raises(AudioError, match=message):
        read_waveform(path, channel=3)
    with pytest.raises(AudioError, match=f"samples: {message}"):
        from_samples(tone(num_channels=2).T, SAMPLE_RATE, channel=3)
    with pytest.raises(AudioError, match=r"samples: is mono \(has no right channel\)"):
        from_samples(tone(), SAMPLE_RATE, channel="right")


@pytest.mark.parametrize("clip", [(0.5, 1.25), (1, None), (0, 99)])
@pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
def test_a_clip_of_samples_is_that_of_the_file(
    path: Path, clip: tuple[float, float | None], rate: int
) -> None:
    samples = noise(2, rate, num_channels=2)
    path.write_bytes(encoded("wav", samples, rate))
    start, end = clip
    expected = read_waveform(path, channel="right", start=start, end=end)
    found = from_samples(samples.T, rate, channel="right", start=start, end=end)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_clip_that_samples_have_not_is_refused() -> None:
    with pytest.raises(AudioError, match=r"samples: lasts 0.50 s .nothing is there"):
        from_samples(tone(), SAMPLE_RATE, start=2)
    with pytest.raises(AudioError, match="samples: cannot be read from 2 s to 1 s"):
        from_samples(tone(), SAMPLE_RATE, start=2, end=1)
    with pytest.raises(ValueError, match="start must be a number of seconds"):
        from_samples(tone(), SAMPLE_RATE, start=-1)


# Channels that cancel each other


@pytest.mark.parametrize("kind", ["wav", "opus", "mp3"])
def test_opposite_channels_are_remarked_on(
    path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path.write_bytes(encoded(kind, opposite()))
    read_waveform(path)
    assert f"{path}: the channels cancel each other" in caplog.text
    assert "(take one of them: --channel left)" in caplog.text


def test_opposite_channels_in_memory_are_remarked_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    four = np.hstack([opposite(), opposite()]).T[:, ::-1]
    from_samples(four, SAMPLE_RATE)
    assert "samples: the channels cancel each other" in caplog.text
    assert "(take one of them: --channel 1)" in caplog.text


@pytest.mark.parametrize("channel", ["left", "right", 1])
def test_one_of_opposite_channels_needs_no_remark(
    path: Path, caplog: pytest.LogCaptureFixture, channel: Any
) -> None:
    path.write_bytes(encoded("wav", opposite()))
    read_waveform(path, channel=channel)
    assert caplog.records == []


@pytest.mark.parametrize(
    "samples",
    [
        noise(2, num_channels=2),  # unrelated
        noise(2, num_channels=8),
        np.hstack([noise(2), np.zeros_like(noise(2))]),  # one is silent
        np.hstack([noise(2), -0.3 * noise(2)]),  # weaker, not gone
        0.0005 * np.hstack([noise(2), -noise(2)]),  # next to silent anyway
        np.zeros((9_000, 2), np.float32),
    ],
)
def test_usual_channels_need_no_remark(
    path: Path, caplog: pytest.LogCaptureFixture, samples: Samples
) -> None:
    path.write_bytes(encoded("wav", samples))
    read_waveform(path)
    assert caplog.records == []


def opposite() -> Samples:
    return np.hstack([noise(2), -noise(2)])
