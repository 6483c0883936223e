"""Channels: the mean of all, or one of them.

Shapes: N samples of each channel.
"""

from typing import Final, Literal, get_args

import numpy as np

from asr.audio.remarks import remark
from asr.audio.waveforms import Samples
from asr.errors import AudioError
from asr.wording import counted

Channel = Literal["mix", "left", "right"] | int
"""The mean of all channels, or one of them; numbers count from 1."""

_NAMES: Final = get_args(get_args(Channel)[0])
_NUMBERS: Final = {"left": 1, "right": 2}
_CANCELLED = 0.1  # of the power that the mean of unrelated channels has
_SILENT = 1e-6  # power: -60 dB


def check_channel(channel: Channel) -> None:
    """Raise a ValueError where a channel is none."""
    is_number = isinstance(channel, int) and not isinstance(channel, bool)
    if channel not in _NAMES and not (is_number and int(channel) >= 1):
        raise ValueError(
            f"channel must be one of {_NAMES} or a number from 1 on, not {channel!r}"
        )


def channel_number(channel: Channel | str) -> int:
    """Return the number of a channel, from 1 on; that of the mean is 1, too.

    >>> [channel_number(channel) for channel in ("mix", "left", "right", 3, "3")]
    [1, 1, 2, 3, 3]
    """
    return 1 if channel == "mix" else _NUMBERS.get(str(channel)) or int(channel)


class Mixer:
    """Makes one channel of many, block by block.

    Args:
        channel: the mean of all, or one.
        num_channels: of the recording.
        place: what errors call it.

    Raises:
        AudioError: there is no such channel.
    """

    def __init__(self, channel: Channel, num_channels: int, place: str) -> None:
        self._place, self._num_channels = place, num_channels
        self._index = channel_number(channel) - 1
        if self._index >= num_channels:
            if num_channels == 1 and channel == "right":
                raise AudioError(f"{place}: is mono (has no right channel)")
            raise AudioError(
                f"{place}: has {counted(num_channels, 'channel')} (there is no channel "
                f"{self._index + 1})"
            )
        self._mixes = channel == "mix" and num_channels > 1
        self._num_samples = 0
        self._power_of_mean = self._power = 0.0  # summed up

    def mixed(self, block: Samples) -> Samples:
        """Return (N,) of (N, channels)."""
        if not self._mixes:
            return np.ascontiguousarray(block[:, self._index])
        mean: Samples = block.mean(axis=1)
        self._num_samples += len(mean)
        self._power_of_mean += float(np.vdot(mean, mean))
        self._power += float(np.vdot(block, block)) / self._num_channels
        return mean

    def remark_on_cancelling(self) -> None:
        """Remark on channels of which the mean has next to nothing left."""
        is_loud = self._power > _SILENT * self._num_samples
        least = _CANCELLED * self._power / self._num_channels
        if self._mixes and is_loud and self._power_of_mean < least:
            one = "left" if self._num_channels == 2 else "1"
            remark(
                self._place,
                "the channels cancel each other, so their mean is next to silent (take "
                f"one of them: --channel {one})",
            )
