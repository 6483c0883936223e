"""Microphones, by PortAudio: the optional extra `listen-attend-spell[mic]`."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from asr.errors import AudioError

BLOCK_SECONDS = 0.05
"""How much a microphone gives at once."""
_INSTALL = 'pip install "listen-attend-spell[mic]"'


class Device(NamedTuple):
    """Something that sound is recorded with."""

    number: int
    name: str
    rate: int
    """Hz that it works at."""
    is_default: bool


def devices() -> list[Device]:
    """List what sound can be recorded with.

    Raises:
        AudioError: PortAudio, or the package that calls it, is missing, or lists none.
    """
    sounddevice = _sounddevice()
    default = sounddevice.default.device[0]
    try:
        there = sounddevice.query_devices()
    except sounddevice.PortAudioError as error:
        raise AudioError(
            f"microphone: devices cannot be listed ({error.args[0]})"
        ) from error
    return [
        Device(
            number, str(one["name"]), int(one["default_samplerate"]), number == default
        )
        for number, one in enumerate(there)
        if one["max_input_channels"] > 0
    ]


def find_device(name: str | None) -> Device:
    """Find a device by its number, its name or a part of it; None for the default.

    Raises:
        AudioError: there is none, or several have that in their names.
    """
    there = devices()
    if not there:
        raise AudioError("microphone: there is none (plug one in, or use a pipe)")
    if name is None:
        return next((one for one in there if one.is_default), there[0])
    exact = [one for one in there if name in (str(one.number), one.name)]
    found = exact or [one for one in there if name.casefold() in one.name.casefold()]
    if len(found) != 1:
        what = "is not there" if not found else "may be several"
        raise AudioError(f"microphone {name}: {what} (--list-devices shows them)")
    return found[0]


@contextmanager
def recording(device: Device, take: Callable[[bytes], object]) -> Iterator[None]:
    """Record one channel while the block runs.

    Args:
        device: what is recorded with.
        take: called in another thread with 16-bit samples at the device's rate; with
            no bytes where the device has stopped by itself.

    Raises:
        AudioError: it cannot be opened; or it has stopped by itself, at the end of the
            block.
    """
    sounddevice, has_stopped = _sounddevice(), threading.Event()

    def finished() -> None:
        has_stopped.set()
        take(b"")

    def callback(data: Any, frames: int, time: Any, status: Any) -> None:
        take(bytes(data))

    with ExitStack() as stack:
        try:
            stream = sounddevice.RawInputStream(
                samplerate=device.rate,
                blocksize=round(device.rate * BLOCK_SECONDS),
                device=device.number,
                channels=1,
                dtype="int16",
                callback=callback,
                finished_callback=finished,
            )
            stack.enter_context(stream)
        except sounddevice.PortAudioError as error:
            raise AudioError(
                f"microphone {device.name}: cannot be opened ({error.args[0]})"
            ) from error
        yield
        if has_stopped.is_set():
            raise AudioError(
                f"microphone {device.name}: has stopped (is it unplugged?)"
            )


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise AudioError(f"microphone: needs sounddevice ({_INSTALL})") from error
    except OSError as error:  # the library, which Linux wheels do not bring
        raise AudioError(
            f"microphone: {error} (on Debian and Ubuntu: apt install libportaudio2)"
        ) from error
    return sounddevice
