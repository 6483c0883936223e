import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.audio import read_waveform
from asr.decoding.long_alignment import FLOOR
from asr.errors import AudioError, ConfigError
from asr.inference import aligning
from asr.inference.aligning import SURE
from asr.inference.long_audio import Recording
from asr.inference.recognizer import Recognizer
from asr.model.storage import Model
from asr.transcript import Flag, Segment, Transcript, Word

ASSETS = Path(__file__).parents[2] / "asr" / "assets"
SAMPLE = ASSETS / "sample.opus"
TEXT = json.loads((ASSETS / "sample.json").read_text())["text"]
FIRST, SECOND = "But something had to be done,", "the priests and the rulers said."
THIRD = "The week was going by …"


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load(decoding={"lm_weight": 0.0})


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return read_waveform(SAMPLE)


def flagged(found: Transcript, flag: Flag) -> list[Segment]:
    return [segment for segment in found.segments if flag in segment.flags]


def test_lines_have_the_times_of_their_words(recognizer: Recognizer) -> None:
    found = recognizer.align(SAMPLE, f"{FIRST}\n{SECOND}\n\n{THIRD}\n")

    assert [segment.text for segment in found.segments] == [FIRST, SECOND, THIRD]
    assert found.text == f"{FIRST} {SECOND} {THIRD}"
    assert [w.text for w in found.words][-2:] == ["going", "by …"]
    transcribed = recognizer.transcribe(SAMPLE).words
    starts = [word.start for word in found.words]
    assert starts == pytest.approx([word.start for word in transcribed], abs=0.3)
    assert all(segment.confidence > SURE for segment in found.segments)
    assert all(
        a.end <= b.start for a, b in zip(found.words, found.words[1:], strict=False)
    )


def test_a_clip_keeps_the_clock_of_the_recording(recognizer: Recognizer) -> None:
    whole = recognizer.align(SAMPLE, [FIRST, SECOND, THIRD])
    start = whole.segments[1].start - 0.1

    clip = recognizer.align(SAMPLE, [SECOND, THIRD], clip=(start, None))

    assert clip.segments[0].start == pytest.approx(whole.segments[1].start, abs=0.1)
    assert clip.segments[-1].end == pytest.approx(whole.segments[-1].end, abs=0.1)


def test_a_line_that_nobody_says_is_flagged(recognizer: Recognizer) -> None:
    found = recognizer.align(SAMPLE, [FIRST, "Nobody said that.", SECOND, THIRD, "♪"])

    unsaid = flagged(found, Flag.UNSAID)
    assert [segment.text for segment in unsaid] == ["Nobody said that.", "♪"]
    assert [len(segment.words) for segment in unsaid] == [0, 0]
    assert len(found.segments) == 5


def test_speech_without_a_line_is_a_segment_without_text(
    recognizer: Recognizer,
) -> None:
    whole = recognizer.align(SAMPLE, [FIRST, SECOND, THIRD])

    found = recognizer.align(SAMPLE, [FIRST, THIRD])

    (untold,) = flagged(found, Flag.UNTOLD)
    assert untold.start == pytest.approx(whole.segments[1].start, abs=0.3)
    assert untold.end == pytest.approx(whole.segments[1].end, abs=0.3)
    assert found.segments.index(untold) == 1


@pytest.mark.parametrize("silence", [0.5, 4.0, 40.0])
def test_pauses_of_any_length_move_what_is_behind_them(
    recognizer: Recognizer, speech: Tensor, silence: float
) -> None:
    pause = torch.zeros(round(silence * 16_000))
    once = recognizer.align(speech, [TEXT], 16_000)

    twice = recognizer.align(
        torch.cat((pause, speech, pause, speech)), [TEXT, TEXT], 16_000
    )

    moved = silence * 2 + len(speech) / 16_000
    first, second = twice.segments
    assert first.start - silence == pytest.approx(once.segments[0].start, abs=0.1)
    assert second.start - moved == pytest.approx(once.segments[0].start, abs=0.1)
    assert second.end - moved == pytest.approx(once.segments[0].end, abs=0.1)


@pytest.mark.slow
def test_pieces_that_overlap_meet_in_the_middle(recognizer: Recognizer) -> None:
    rng = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(40 * 16_000, generator=rng)  # nobody pauses
    columns = aligning._columns(recognizer.tokenizer, [[4, 5]])

    evidence, levels, duration = aligning._listen(
        recognizer.las, columns, Recording(lambda: [noise]), None
    )

    assert duration == 40.0
    assert len(evidence.best) == len(evidence.log_probs) == 1001
    assert len(levels) == 4004
    assert float(evidence.log_probs.min()) == FLOOR
    assert np.abs(levels[:4000] - -20).max() < 3


def test_the_progress_is_all_of_the_recording(recognizer: Recognizer) -> None:
    done = list[float]()

    found = recognizer.align(SAMPLE, [TEXT], progress=done.append)

    assert sum(done) == pytest.approx(found.duration)


def test_a_text_of_another_recording_is_refused(recognizer: Recognizer) -> None:
    lines = ["Some other words", "stand in here instead", "of what is said"]

    with pytest.raises(
        ConfigError, match=r"sample.opus: none of the 3 lines was found"
    ):
        recognizer.align(SAMPLE, lines)


def test_silence_has_no_line(model: Model) -> None:
    with pytest.raises(ConfigError, match="the recording: none of the 1 lines"):
        Recognizer(model).align(torch.zeros(16_000), ["go"], 16_000)


@pytest.mark.parametrize("text", ["", " \n\n", "* * *\n…"])
def test_a_text_without_letters_is_refused(model: Model, text: str) -> None:
    with pytest.raises(ConfigError, match="the text has no letter that the model can"):
        Recognizer(model).align(torch.ones(16_000), text, 16_000)


def test_a_recording_that_is_not_there_is_reported(model: Model) -> None:
    with pytest.raises(AudioError, match=r"nowhere.wav: cannot be read"):
        Recognizer(model).align("nowhere.wav", "go")


def test_audio_that_is_too_short_for_its_text_has_what_is_in_it(
    recognizer: Recognizer, speech: Tensor
) -> None:
    found = recognizer.align(
        speech[: 2 * 16_000 + 8_000], [FIRST, SECOND, THIRD], 16_000
    )

    assert [segment.flags for segment in found.segments] == [
        (),
        (Flag.UNSAID,),
        (Flag.UNSAID,),
    ]


def test_words_that_are_not_found_lie_between_their_neighbours() -> None:
    times = [
        aligning._Times(0.0, 0.0, 0.0, False),
        aligning._Times(2.0, 2.4, 0.9, True),
        aligning._Times(0.0, 0.0, 0.0, False),
        aligning._Times(0.0, 0.0, 0.0, False),
        aligning._Times(3.0, 3.4, 0.9, True),
        aligning._Times(0.0, 0.0, 0.0, False),
    ]

    found = aligning._with_skipped(times, [2, 3, 1, 2, 3, 4], 1.0, 3.5)

    spans = [(round(one.start, 2), round(one.end, 2)) for one in found]
    assert spans == [
        (1.84, 2.0),  # 0.08 s a letter, right before the word behind it
        (2.0, 2.4),
        (2.4, 2.48),
        (2.48, 2.64),
        (3.0, 3.4),
        (3.4, 3.5),  # no more time than there is
    ]


def test_an_edge_moves_to_the_next_pause_and_no_further() -> None:
    levels = np.full(1000, -20.0, dtype=np.float16)
    levels[:300] = levels[500:] = -60.0  # sound from 3 s to 5 s
    word = Word("go", 3.2, 4.7, 0.9)
    line = Segment(3.2, 4.7, "go", (word,), 0.9, (), (), None)

    (found,) = aligning._with_edges([line], levels)
    (alone,) = aligning._with_edges([line], np.full(1000, -20.0, dtype=np.float16))

    assert (found.start, found.end) == pytest.approx((3.05, 5.0), abs=0.051)
    assert (found.words[0].start, found.words[0].end) == (found.start, found.end)
    assert (alone.start, alone.end) == (3.2, 4.7)
