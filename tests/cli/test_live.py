"""`asr live` and `asr transcribe --follow`; the recognizer understands beeps."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from asr.audio import PCMStream, microphone, read_waveform
from asr.cli import live as live_command
from asr.cli import main
from asr.cli import transcribe as transcribe_command
from asr.cli.listening import Blocks, Screen, listen, pipe
from asr.errors import AudioError
from asr.inference.live import (
    DRAFT_BEAM,
    Event,
    Final,
    LiveConfig,
    Provisional,
    SpeechStarted,
)
from asr.transcript import Segment, Word
from tests.beeps import beeps, read_beeps

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]


class BeepRecognizer:
    """Has what `listen` needs of a recognizer."""

    decoding = SimpleNamespace(beam_size=64)

    def __init__(self) -> None:
        self.beams = list[int]()
        self._beam = 64

    def with_beam_size(self, size: int) -> "BeepRecognizer":
        other = BeepRecognizer()
        other.beams, other._beam = self.beams, size
        return other

    def recognize(self, waveforms: Sequence[Tensor]) -> list[Segment]:
        self.beams.append(self._beam)
        return [read_beeps(waveform) for waveform in waveforms]


def pcm(text: str) -> bytes:
    samples = (beeps(text) * 2**15).round().numpy().astype("<i2")
    return samples.tobytes()


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Gives a function that puts bytes on standard input, and its end behind them."""
    kept, recognizer = os.dup(0), BeepRecognizer()
    monkeypatch.setattr(transcribe_command, "load_recognizer", lambda args: recognizer)

    def put(content: bytes) -> None:
        reader, writer = os.pipe()
        os.dup2(reader, 0)
        os.close(reader)

        def write() -> None:
            with os.fdopen(writer, "wb") as file:
                file.write(content)

        threading.Thread(target=write, daemon=True).start()

    yield put
    os.dup2(kept, 0)
    os.close(kept)


Put = Callable[[bytes], None]


# asr transcribe --follow


def test_raw_pcm_is_transcribed_line_by_line(piped: Put, capsys: Capture) -> None:
    piped(pcm(", ALPHA BRAVO , CHARLIE ,"))

    assert main(["transcribe", "--follow", "-"]) == 0

    assert capsys.readouterr().out == "ALPHA BRAVO\nCHARLIE\n"


def test_json_is_a_segment_a_line(piped: Put, capsys: Capture) -> None:
    piped(pcm(", ALPHA , BRAVO ,"))

    assert main(["transcribe", "--follow", "-", "-f", "json"]) == 0

    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["text"], second["text"]) == ("ALPHA", "BRAVO")
    assert first["words"][0]["start"] == pytest.approx(1.0, abs=0.02)
    assert second["words"][0]["start"] == pytest.approx(2.35, abs=0.02)


def test_words_are_printed_with_their_times(piped: Put, capsys: Capture) -> None:
    piped(pcm(", ALPHA ,"))

    assert main(["transcribe", "--follow", "-", "--print-words"]) == 0

    assert capsys.readouterr().out == "ALPHA\n      1.00     1.25  0.90  ALPHA\n"


def test_the_rate_and_the_pause_can_be_set(piped: Put, capsys: Capture) -> None:
    piped(pcm(", ALPHA , BRAVO ,")[: 2 * 16_000 * 4])
    options = ["--pcm-rate", "16000", "--pause", "1.5"]

    assert main(["transcribe", "--follow", "-", *options]) == 0

    assert capsys.readouterr().out == "ALPHA BRAVO\n"


def test_half_a_sample_at_the_end_is_remarked(piped: Put, capsys: Capture) -> None:
    piped(pcm(", ALPHA ,") + b"\0")

    assert main(["transcribe", "--follow", "-"]) == 0

    out, err = capsys.readouterr()
    assert out == "ALPHA\n"
    assert err == "asr: standard input: ends within a sample (is it 16-bit PCM?)\n"


def test_silence_is_remarked(piped: Put, capsys: Capture) -> None:
    piped(bytes(64_000))

    assert main(["transcribe", "--follow", "-"]) == 0

    out, err = capsys.readouterr()
    assert (out, err) == ("", "asr: standard input: silence, no text\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (raw PCM was expected)"),
        (b"RIFF....WAVE", "is WAV, and --follow reads raw PCM (leave --follow out"),
        (b"OggS", "is Ogg,"),
        (b"fLaC", "is FLAC,"),
        (b"ID3", "is MP3,"),
        (b"RF64\xff\xff\xff\xffWAVE", "is WAV,"),
        (b"FORM....AIFF", "is AIFF,"),
        (b"\0\0\0\x1cftypM4A ", "is MPEG-4 audio (m4a, mp4),"),
        (2 * (b"\xff\xfb\x90\x64" + bytes(413)), "is MP3,"),
        (2 * bytes.fromhex("fff15040 02 1ffc 00" + 8 * "00"), "is AAC audio,"),
        (b"#!AMR\n", "is AMR audio,"),
        (b"\x1a\x45\xdf\xa3", "is Matroska (mka, webm),"),
    ],
)
def test_what_is_no_raw_pcm_is_refused(
    piped: Put, capsys: Capture, content: bytes, message: str
) -> None:
    piped(content)

    assert main(["transcribe", "--follow", "-"]) == 1

    assert f"asr: standard input: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("signature", [b"\xff\xfb\x90\x64", b"\xff\xf1\x50\x40"])
def test_samples_that_look_like_a_frame_are_pcm(
    piped: Put, capsys: Capture, signature: bytes
) -> None:
    piped(signature + bytes(64_000))

    assert main(["transcribe", "--follow", "-"]) == 0

    assert capsys.readouterr().err == "asr: standard input: silence, no text\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--follow", "a.wav"], "--follow reads standard input (asr transcribe"),
        (["--follow", "-", "a.wav"], "--follow reads standard input"),
        (["--follow", "-", "--clip", "1:2"], "--clip is not possible with --follow"),
        (["--follow", "-", "-o", "out"], "--output-dir is not possible"),
        (["--follow", "-", "--channel", "left"], "--channel is not possible"),
        (["--follow", "-", "--processes", "2"], "--processes is not possible"),
        (["--follow", "-", "--engine", "ray"], "--engine is not possible"),
        (["--follow", "-", "-f", "srt"], "output format srt: is not possible"),
        (["--follow", "-", "-f", "json", "--print-words"], "--print-words adds to"),
        (["--follow", "-", "--pcm-rate", "3"], "a rate is 1000 to 1000000 Hz, not 3"),
        (["--follow", "-", "--pause", "0"], "pause is 0.1 to 10, not 0"),
        (["--pcm-rate", "8000", "a.wav"], "--pcm-rate needs --follow"),
        (["--pause", "1", "a.wav"], "--pause needs --follow"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    capsys: Capture, arguments: list[str], message: str
) -> None:
    assert main(["transcribe", *arguments]) == 1

    assert f"asr: {message}" in capsys.readouterr().err


def test_a_pipe_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(AudioError, match="pipe: cannot be read"):
            pipe(folder, "pipe")
    finally:
        os.close(folder)


def test_a_terminal_is_no_pipe() -> None:
    ours, theirs = os.openpty()
    try:
        with pytest.raises(AudioError, match="pipe: is a terminal"):
            pipe(theirs, "pipe")
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.slow
def test_a_pipe_that_goes_on_is_transcribed_as_it_goes_and_ends_at_ctrl_c() -> None:
    """The bundled model, a pipe that stays open, and Ctrl-C: all that was said."""
    waveform = read_waveform(ROOT / "asr" / "assets" / "sample.opus")
    content = (waveform * 32_767).numpy().astype("<i2").tobytes()
    program = [sys.executable, "-m", "asr", "transcribe", "--follow", "-"]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(content)
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()

    assert process.returncode == 0
    assert first.startswith(b"BUT SOMETHING HAD TO BE DONE")
    assert rest.strip() == b"THE WEEK WAS GOING BY"


# listen


def blocks_of(*contents: bytes) -> Blocks:
    blocks = Blocks()
    for content in contents:
        blocks.put(content)
    return blocks


def test_provisional_readings_have_a_smaller_beam() -> None:
    recognizer: Any = BeepRecognizer()
    content = pcm(", ALPHA BRAVO CHARLIE DELTA ECHO FOXTROT ,")
    parts = [content[start : start + 3_200] for start in range(0, len(content), 3_200)]
    events = list[Event]()
    blocks, more = Blocks(), iter([*parts, b""])

    class Slowly(Blocks):  # a block at a time, as from a microphone
        def get(self, block: bool = True, timeout: float | None = None) -> bytes:
            return next(more)

        def get_nowait(self) -> bytes:
            return blocks.get_nowait()

    listen(Slowly(), PCMStream(), recognizer, LiveConfig(), events.extend)

    assert set(recognizer.beams) == {DRAFT_BEAM, 64}
    assert recognizer.beams.count(64) == 1
    assert any(isinstance(event, Provisional) for event in events)
    assert isinstance(events[0], SpeechStarted)


def test_ctrl_c_ends_the_session_with_everything_that_was_said() -> None:
    recognizer: Any = BeepRecognizer()
    blocks = blocks_of(pcm(", ALPHA BRAVO"))  # and never an end
    found = list[str]()
    begun = threading.Event()

    def show(events: Any) -> None:
        found.extend(e.segment.text for e in events if isinstance(e, Final))
        begun.set()

    def press() -> None:
        begun.wait(60)
        while not blocks.empty():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    seconds = listen(blocks, PCMStream(), recognizer, LiveConfig(), show)

    assert found == ["ALPHA BRAVO"]
    assert seconds == pytest.approx(1.7)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_comes_during_the_last_reading_is_not_lost_at_ctrl_c() -> None:
    blocks = blocks_of(pcm(", ALPHA BRAVO CHARLIE"))
    found = list[str]()

    class Interrupted(BeepRecognizer):
        def recognize(self, waveforms: Sequence[Tensor]) -> list[Segment]:
            if not self.beams:
                blocks.put(pcm("DELTA"))
                blocks.put(pcm("ECHO"))
                os.kill(os.getpid(), signal.SIGINT)
            return super().recognize(waveforms)

    def show(events: Any) -> None:
        found.extend(e.segment.text for e in events if isinstance(e, Final))

    recognizer: Any = Interrupted()
    recognizer.with_beam_size = lambda size: recognizer
    seconds = listen(blocks, PCMStream(), recognizer, LiveConfig(), show)

    assert found == ["ALPHA BRAVO CHARLIE DELTA ECHO"]
    assert seconds == pytest.approx(1.0 + 5 * 0.35)


def test_audio_does_not_wait_for_provisional_readings_that_are_slow() -> None:
    content = pcm(", " + 10 * "ALPHA BRAVO CHARLIE DELTA ")
    parts = [content[start : start + 1_600] for start in range(0, len(content), 1_600)]
    blocks, waiting = blocks_of(*parts[:40]), list[int]()
    more = iter([*parts[40:], b""])

    class Slow(BeepRecognizer):
        def recognize(self, waveforms: Sequence[Tensor]) -> list[Segment]:
            waiting.append(blocks.qsize())
            for part in itertools.islice(more, 64):  # 3.2 s pass by
                blocks.put(part)
            return super().recognize(waveforms)

    recognizer: Any = Slow()
    recognizer.with_beam_size = lambda size: recognizer
    listen(blocks, PCMStream(), recognizer, LiveConfig(), lambda events: None)

    assert len(waiting) > 3
    assert set(waiting) == {0}


# The screen


def word(text: str) -> Word:
    return Word(text, 0.0, 1.0, 0.5)


def final(text: str) -> Final:
    words = tuple(map(word, text.split()))
    return Final(0, Segment(0.0, 1.0, text, words, 0.5, (), (), None))


def test_provisional_words_are_dim_and_are_replaced_in_place() -> None:
    file = io.StringIO()
    screen = Screen(file, lambda: 80)

    screen.show([Provisional(0, (word("A"),)), Provisional(0, (word("A"), word("B")))])
    screen.show([final("A C"), final("D")])

    dim = "\x1b[2m{}\x1b[0m".format
    assert file.getvalue() == f"{dim('A')}\r\x1b[K{dim('A B')}\r\x1b[KA C\nD\n"


def test_words_that_do_not_fit_in_a_line_are_cut_at_its_beginning() -> None:
    file = io.StringIO()

    Screen(file, lambda: 10).show([Provisional(0, tuple(map(word, "ABCDEFGH")))])

    assert file.getvalue() == "\x1b[2m…E F G H\x1b[0m" or "…" in file.getvalue()
    assert len(file.getvalue()) == 9 + len("\x1b[2m\x1b[0m")


def test_what_is_not_final_is_taken_back_at_the_end() -> None:
    file = io.StringIO()
    screen = Screen(file, lambda: 80)

    screen.show([SpeechStarted(0, 0.0), Provisional(0, (word("A"),))])
    screen.end()

    assert file.getvalue().endswith("\r\x1b[K")


# asr live


class InterruptedRecognizer(BeepRecognizer):
    """Somebody presses Ctrl-C while it reads."""

    def recognize(self, waveforms: Sequence[Tensor]) -> list[Segment]:
        os.kill(os.getpid(), signal.SIGINT)
        return super().recognize(waveforms)


class FakePortAudio:
    """Two microphones and a loudspeaker; the first microphone says beeps."""

    class PortAudioError(Exception):
        pass

    default = SimpleNamespace(device=[1, 0])
    rate = 16_000.0
    fails = False
    starts = True
    is_pulled_out = False

    def query_devices(self) -> list[dict[str, Any]]:
        rate = self.rate
        return [
            {"name": "Loud", "max_input_channels": 0, "default_samplerate": 48000.0},
            {"name": "USB mic", "max_input_channels": 1, "default_samplerate": rate},
            {"name": "USB cam", "max_input_channels": 2, "default_samplerate": 48000.0},
        ]

    def RawInputStream(self, **given: Any) -> Any:  # noqa: N802
        if self.fails:
            raise self.PortAudioError("Invalid device")
        assert given["samplerate"] == 16_000
        assert given["device"] == 1
        assert given["channels"] == 1

        class Stream:
            def __enter__(stream) -> None:  # noqa: N805
                if not self.starts:
                    raise self.PortAudioError("Unanticipated host error")
                given["callback"](memoryview(pcm(", ALPHA BRAVO ,")), 0, None, None)
                if self.is_pulled_out:
                    given["finished_callback"]()

            def __exit__(stream, *error: object) -> None:  # noqa: N805
                given["finished_callback"]()

        return Stream()


@pytest.fixture
def port_audio(monkeypatch: pytest.MonkeyPatch) -> FakePortAudio:
    fake = FakePortAudio()
    monkeypatch.setattr(microphone, "_sounddevice", lambda: fake)
    recognizer = InterruptedRecognizer()
    monkeypatch.setattr(live_command, "load_recognizer", lambda args: recognizer)
    return fake


def test_a_microphone_is_transcribed(
    port_audio: FakePortAudio, capsys: Capture
) -> None:
    assert main(["live"]) == 0

    out, err = capsys.readouterr()
    assert out == "ALPHA BRAVO\n"
    assert err == "asr: listening to USB mic\n"


def test_a_microphone_that_is_pulled_out_is_an_error_behind_all_that_was_said(
    port_audio: FakePortAudio, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    port_audio.is_pulled_out = True
    monkeypatch.setattr(live_command, "load_recognizer", lambda args: BeepRecognizer())

    assert main(["live"]) == 1

    out, err = capsys.readouterr()
    assert out == "ALPHA BRAVO\n"
    assert err.endswith("asr: microphone USB mic: has stopped (is it unplugged?)\n")


def test_microphones_are_listed(port_audio: FakePortAudio, capsys: Capture) -> None:
    assert main(["live", "--list-devices"]) == 0

    assert capsys.readouterr().out == (
        "*  1  USB mic (16000 Hz)\n   2  USB cam (48000 Hz)\n"
    )


@pytest.mark.parametrize("name", ["1", "USB mic", "MIC"])
def test_a_microphone_is_found_by_number_name_or_part(
    port_audio: FakePortAudio, name: str, capsys: Capture
) -> None:
    assert main(["live", "--device-name", name]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("usb", "microphone usb: may be several (--list-devices shows them)"),
        ("Loud", "microphone Loud: is not there (--list-devices shows them)"),
    ],
)
def test_a_microphone_that_is_not_clear_is_refused(
    port_audio: FakePortAudio, capsys: Capture, name: str, message: str
) -> None:
    assert main(["live", "--device-name", name]) == 1

    assert capsys.readouterr().err == f"asr: {message}\n"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fails", True, "microphone USB mic: cannot be opened (Invalid device)"),
        (
            "starts",
            False,
            "microphone USB mic: cannot be opened (Unanticipated host error)",
        ),
        ("rate", 500.0, "a rate is 1000 to 1000000 Hz, not 500"),
    ],
)
def test_a_microphone_that_cannot_be_used_is_one_line(
    port_audio: FakePortAudio, capsys: Capture, name: str, value: float, message: str
) -> None:
    setattr(port_audio, name, value)

    assert main(["live"]) == 1

    assert capsys.readouterr().err == f"asr: {message}\n"


def test_microphones_that_cannot_be_listed_are_one_line(
    port_audio: FakePortAudio, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise port_audio.PortAudioError("Error querying device -1")

    monkeypatch.setattr(port_audio, "query_devices", fail, raising=False)

    assert main(["live", "--list-devices"]) == 1

    message = "microphone: devices cannot be listed (Error querying device -1)"
    assert capsys.readouterr().err == f"asr: {message}\n"


def test_no_microphone_at_all_is_one_line(
    port_audio: FakePortAudio, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_audio, "query_devices", list, raising=False)

    assert main(["live"]) == 1

    assert "asr: microphone: there is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("raise ImportError('no')", r'needs sounddevice \(pip install "listen-attend'),
        ("raise OSError('PortAudio library not found')", "apt install libportaudio2"),
    ],
)
def test_what_is_missing_for_a_microphone_is_named(
    module: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sounddevice.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)

    with pytest.raises(AudioError, match=message):
        microphone.devices()
