import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.errors import AsrError, AudioError
from asr.inference.long_audio import Recording, transcripts
from asr.transcript import Flag, Segment, Transcript, Word


def sound(level: float, seconds: float) -> Tensor:
    """A tone of 8 kHz, with its peaks at plus and minus a level."""
    waveform = torch.full((round(seconds * SAMPLE_RATE),), level)
    waveform[1::2] = -level
    return waveform


def tones(*levels: float) -> Recording:
    """Ten seconds of each level, with a pause before each: one piece a level."""
    pause = torch.zeros(SAMPLE_RATE)
    sounds = [sound(level, 9) for level in levels]
    waveform = torch.cat([part for sound in sounds for part in (sound, pause)])
    return Recording(lambda: [waveform], f"tones {levels}")


def level(waveform: Tensor) -> Segment:
    """What a fake recogniser finds: how loud a waveform is."""
    text = f"{float(waveform.max()):.1f}"
    end = len(waveform) / SAMPLE_RATE
    return Segment(0.0, end, text, (Word(text, 1.0, 2.0, 0.5),), 0.5, (), (), None)


def answer(batches: Iterator[list[Tensor]]) -> Iterator[list[Segment]]:
    return ([level(waveform) for waveform in batch] for batch in batches)


def texts(found: list[Transcript | AsrError]) -> list[str]:
    return [one.text if isinstance(one, Transcript) else str(one) for one in found]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_each_recording_gets_its_own_answers_in_order(batch_size: int) -> None:
    recordings = [tones(0.1, 0.2), tones(0.3), tones(0.4, 0.5, 0.6)]

    found = list(transcripts(recordings, answer, batch_size=batch_size))

    assert texts(found) == ["0.1 0.2", "0.3", "0.4 0.5 0.6"]


def test_batches_hold_pieces_of_several_recordings() -> None:
    sizes = list[int]()

    def counted(batches: Iterator[list[Tensor]]) -> Iterator[list[Segment]]:
        for batch in batches:
            sizes.append(len(batch))
            yield [level(waveform) for waveform in batch]

    list(transcripts([tones(0.1), tones(0.2), tones(0.3)], counted, batch_size=2))

    assert sizes == [2, 1]


def test_an_answer_may_take_several_batches_ahead() -> None:
    def hasty(batches: Iterator[list[Tensor]]) -> Iterator[list[Segment]]:
        return ([level(waveform) for waveform in batch] for batch in list(batches))

    found = list(transcripts([tones(0.1, 0.2), tones(0.3)], hasty, batch_size=1))

    assert texts(found) == ["0.1 0.2", "0.3"]


def test_times_are_those_of_the_recording() -> None:
    (found,) = transcripts([tones(0.1, 0.2)], answer)

    assert isinstance(found, Transcript)
    assert found.duration == 20.0
    first, second = found.words
    assert (first.start, first.end) == (1.0, 2.0)
    assert second.start == found.segments[1].start + 1.0
    assert found.segments[1].start == pytest.approx(9.5, abs=0.1)
    assert found.audio == "tones (0.1, 0.2)"


def test_the_clock_of_a_clip_is_that_of_its_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(0.5, 4).numpy(), SAMPLE_RATE)

    (found,) = transcripts([Recording.of_file(path, clip=(1.5, 3.0))], answer)

    assert isinstance(found, Transcript)
    assert found.duration == 1.5
    assert (found.segments[0].start, found.segments[0].end) == (1.5, 3.0)
    assert found.words[0].start == 2.5


def test_silence_is_not_listened_to() -> None:
    quiet = Recording(lambda: [torch.zeros(20 * SAMPLE_RATE)])

    def nobody(batches: Iterator[list[Tensor]]) -> Iterator[list[Segment]]:
        for batch in batches:
            assert batch == []
            yield []

    (found,) = transcripts([quiet], nobody)

    assert isinstance(found, Transcript)
    assert {flag for segment in found.segments for flag in segment.flags} == {
        Flag.SILENCE
    }


def test_silence_that_waits_takes_no_memory() -> None:
    half_an_hour = [torch.zeros(SAMPLE_RATE)] * 1800  # 110 MiB, were they not the same
    quiet = Recording(lambda: half_an_hour)

    tracemalloc.start()
    (found,) = transcripts([quiet], answer)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert isinstance(found, Transcript)
    assert found.duration == 1800.0
    assert most < 20 * 2**20


def test_an_error_stands_in_the_place_of_its_recording() -> None:
    def broken() -> Iterator[Tensor]:
        yield sound(0.9, 40)
        raise AudioError("b.wav: is cut short")

    recordings = [tones(0.1), Recording(broken, "b.wav"), tones(0.3)]

    found = list(transcripts(recordings, answer, batch_size=2))

    assert texts(found) == ["0.1", "b.wav: is cut short", "0.3"]


def test_pieces_that_overlap_are_joined() -> None:
    steady = Recording(lambda: [sound(0.5, 20)])

    (found,) = transcripts([steady], answer)

    assert isinstance(found, Transcript)
    first, second = found.segments
    assert first.end == second.start == 14.0  # of 13 to 15 s


def test_progress_adds_up_to_the_length() -> None:
    done = list[float]()
    steady = Recording(lambda: [sound(0.5, 40)])

    list(transcripts([steady, tones(0.1)], answer, progress=done.append))

    assert sum(done) == pytest.approx(50.0)


def test_no_recordings_have_no_transcripts() -> None:
    assert list(transcripts([], answer)) == []
