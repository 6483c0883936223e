from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.inference.segmentation import LONGEST, OVERLAP, Piece, merge_segments, pieces
from asr.transcript import Alignment, Segment, Word


def noise(seconds: float, *pauses: tuple[float, float], quiet: float = 0.001) -> Tensor:
    """White noise with pauses (from, to), in seconds."""
    waveform = 0.1 * torch.randn(round(seconds * SAMPLE_RATE))
    for start, end in pauses:
        waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] *= quiet
    return waveform


def cut(waveform: Tensor) -> list[Piece]:
    return list(pieces([waveform]))


def ends(waveform: Tensor) -> list[float]:
    """Where pieces end, in seconds, but for the last."""
    return [piece.end / SAMPLE_RATE for piece in cut(waveform)[:-1]]


# Golden


def test_the_cut_is_in_the_middle_of_a_pause() -> None:
    assert ends(noise(20.0, (10.0, 11.0))) == [pytest.approx(10.5, abs=0.02)]


def test_the_longer_of_two_pauses_is_cut() -> None:
    (end,) = ends(noise(20.0, (7.0, 7.8), (12.0, 12.3)))

    assert 7.0 < end < 7.8


def test_a_click_of_silence_is_no_pause() -> None:
    (end,) = ends(noise(20.0, (9.0, 9.05), (12.0, 12.3)))

    assert 12.0 < end < 12.3


def test_a_pause_early_in_a_piece_is_not_needed() -> None:
    (end,) = ends(noise(20.0, (3.0, 4.0), (11.0, 11.3)))

    assert 11.0 < end < 11.3


def test_the_next_piece_is_counted_from_the_last_cut() -> None:
    waveform = noise(38.0, (9.0, 9.3), (17.0, 17.3), (20.0, 20.4), (30.0, 30.3))

    first, second, third = ends(waveform)

    # A cut is 5 to 15 s behind the last one; the longest pause there is taken.
    assert 9.0 < first < 9.3
    assert 20.0 < second < 20.4
    assert 30.0 < third < 30.3


def test_a_long_pause_becomes_a_silent_piece_with_speech_left_on_both_sides() -> None:
    first, silent, last = cut(noise(12.0, (4.0, 9.0)))

    assert [first.silent, silent.silent, last.silent] == [False, True, False]
    assert first.end / SAMPLE_RATE == pytest.approx(4.25, abs=0.15)
    assert last.start / SAMPLE_RATE == pytest.approx(8.75, abs=0.15)


def test_a_long_pause_with_a_little_hiss_is_silent_too() -> None:
    found = cut(noise(60.0, (10.0, 50.0), quiet=0.01))

    silent = [piece for piece in found if piece.silent]
    assert silent[0].start / SAMPLE_RATE == pytest.approx(10.25, abs=0.15)
    assert silent[-1].end / SAMPLE_RATE == pytest.approx(49.75, abs=0.15)
    assert len(found) == len(silent) + 2


def test_a_quiet_speaker_after_a_loud_one_is_found() -> None:
    waveform = torch.cat((noise(12.0), torch.zeros(SAMPLE_RATE), 0.1 * noise(12.0)))

    assert not any(piece.silent for piece in cut(waveform))


def low_speech() -> Tensor:
    """Sounds of some seconds with pauses between them, 26 dB below `noise`."""
    return 0.05 * noise(8.0, (2.0, 2.4), (5.0, 5.5))


def test_a_quiet_speaker_right_before_a_loud_one_is_found() -> None:
    waveform = torch.cat((low_speech(), noise(6.0)))

    assert not any(piece.silent for piece in cut(waveform))


def test_a_quiet_speaker_is_found_however_loud_another_was() -> None:
    pause = torch.zeros(3 * SAMPLE_RATE)
    waveform = torch.cat((5 * noise(6.0), pause, low_speech(), pause, low_speech()))

    found = cut(waveform)

    silent = sum(piece.seconds for piece in found if piece.silent)
    assert silent == pytest.approx(5.0, abs=0.5)  # of both pauses, without margins


def test_steady_noise_before_a_loud_speaker_is_silent_with_a_click_in_it() -> None:
    quiet = 0.01 * noise(8.0)
    quiet[4 * SAMPLE_RATE : 4 * SAMPLE_RATE + 1600] *= 14

    first, second = cut(torch.cat((quiet, noise(6.0))))

    assert first.silent
    assert not second.silent


def test_where_nobody_pauses_pieces_overlap() -> None:
    first, second = cut(noise(20.0))

    assert first.end == LONGEST * SAMPLE_RATE
    assert first.end - second.start == second.overlap == OVERLAP * SAMPLE_RATE
    assert second.end == 20 * SAMPLE_RATE


def test_digital_silence_is_silent() -> None:
    found = cut(torch.zeros(40 * SAMPLE_RATE))

    assert found[-1].end == 40 * SAMPLE_RATE
    assert all(piece.silent for piece in found)


@pytest.mark.parametrize("offset", [0.02, -0.3])
def test_an_offset_of_all_samples_hides_no_pause(offset: float) -> None:
    waveform = noise(40.0, (10.0, 11.0), (20.0, 24.0), (30.0, 30.5))

    shifted = cut(waveform + offset)

    for piece, plain in zip(shifted, cut(waveform), strict=True):
        assert (piece.start, piece.end) == (plain.start, plain.end)
        assert (piece.overlap, piece.silent) == (plain.overlap, plain.silent)


def test_an_offset_that_begins_later_hides_no_pause() -> None:
    sound = noise(20.0, (6.0, 6.5)) + 0.2
    waveform = torch.cat((torch.zeros(5 * SAMPLE_RATE), sound))

    assert 11.0 < ends(waveform)[1] < 11.5


# Short recordings


@pytest.mark.parametrize("num_samples", [1, 159, 16_000, 240_000])
def test_a_short_recording_stays_whole(num_samples: int) -> None:
    waveform = torch.randn(num_samples)

    (piece,) = cut(waveform)

    assert piece.start == piece.overlap == 0
    assert torch.equal(piece.waveform, waveform)


def test_nothing_has_no_pieces() -> None:
    assert list(pieces([])) == cut(torch.zeros(0)) == []


def test_one_sample_more_than_a_piece_may_have_is_cut() -> None:
    assert len(cut(torch.randn(15 * SAMPLE_RATE + 1))) == 2


# Properties


@pytest.mark.parametrize("seed", range(12))
def test_pieces_cover_everything_and_none_is_too_long(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_samples = 15 * SAMPLE_RATE + int(
        torch.randint(1, 60 * SAMPLE_RATE, (), generator=generator)
    )
    waveform = torch.rand(num_samples, generator=generator)
    for start in torch.randint(num_samples, (seed,), generator=generator).tolist():
        waveform[start : start + 5_000 * (seed + 1)] = 0.0

    found = cut(waveform)

    assert found[0].start == 0
    assert found[-1].end == num_samples
    for piece, following in pairwise(found):
        assert piece.end - following.overlap == following.start
    for piece in found:
        assert 0 < piece.end - piece.start <= LONGEST * SAMPLE_RATE
        assert torch.equal(piece.waveform, waveform[piece.start : piece.end])


@pytest.mark.parametrize("size", [1_000, 16_000, 123_457])
def test_the_size_of_the_blocks_changes_nothing(size: int) -> None:
    waveform = noise(50.0, (7.0, 7.4), (20.0, 26.0), (44.0, 44.5))

    by_blocks = list(pieces(torch.split(waveform, size)))

    assert [(p.start, p.end, p.silent) for p in by_blocks] == [
        (p.start, p.end, p.silent) for p in cut(waveform)
    ]


def test_no_more_is_read_ahead_than_a_piece_and_a_block() -> None:
    read = list[int]()

    def blocks() -> Iterator[Tensor]:
        for _ in range(100):
            read.append(SAMPLE_RATE)
            yield 0.1 * torch.randn(SAMPLE_RATE)

    for piece in pieces(blocks()):
        assert sum(read) <= piece.start + (LONGEST + 2) * SAMPLE_RATE


def test_the_recording_is_left_as_it_was() -> None:
    waveform = noise(20.0)
    before = waveform.clone()

    cut(waveform)

    assert torch.equal(waveform, before)


# Joining


def segment(start: float, end: float, text: str, *times: float) -> Segment:
    """A segment whose words last 0.4 s each and begin at the given times."""
    words = tuple(
        Word(word, time, time + 0.4, 0.5)
        for word, time in zip(text.split(), times, strict=True)
    )
    weights = torch.arange(float(len(text) + 1))[:, None]
    alignment = Alignment(tuple(text + "$"), weights, 0.04, start)
    return Segment(start, end, text, words, 0.5, (), (), alignment)


def test_two_segments_meet_behind_a_word_that_both_have() -> None:
    before = segment(0.0, 15.0, "GO ON AND STO", 12.0, 13.2, 14.0, 14.6)
    after = segment(13.0, 20.0, "OWN AND STOP NOW", 13.1, 14.05, 14.6, 16.0)

    left, right = merge_segments(before, after)

    assert (left.text, right.text) == ("GO ON AND", "STOP NOW")
    assert left.end == right.start == pytest.approx(14.4)
    assert [word.text for word in left.words + right.words] == [
        *("GO", "ON", "AND", "STOP", "NOW"),
    ]


def test_of_several_such_words_the_middle_one_counts() -> None:
    before = segment(0.0, 15.0, "A B C D", 13.0, 13.5, 14.0, 14.5)
    after = segment(13.0, 20.0, "A B C D", 13.0, 13.5, 14.0, 14.5)

    left, right = merge_segments(before, after)

    assert (left.text, right.text) in [("A B", "C D"), ("A B C", "D")]


def test_without_a_common_word_they_meet_in_the_middle() -> None:
    before = segment(0.0, 15.0, "GO ON AND", 12.0, 13.2, 14.4)
    after = segment(13.0, 20.0, "HE STOPPED", 13.3, 14.4)

    left, right = merge_segments(before, after)

    assert (left.text, right.text) == ("GO ON", "STOPPED")
    assert left.end == right.start == pytest.approx(14.0)


def test_the_same_word_at_another_time_is_another_word() -> None:
    before = segment(0.0, 15.0, "GO AND", 12.0, 13.1)
    after = segment(13.0, 20.0, "ON AND", 13.9, 14.5)

    left, right = merge_segments(before, after)

    assert (left.text, right.text) == ("GO AND", "ON AND")


def test_words_that_are_dropped_take_their_attention_with_them() -> None:
    before = segment(0.0, 15.0, "GO ON AND", 12.0, 13.2, 14.4)
    after = segment(13.0, 20.0, "HE STOPPED", 13.3, 14.4)

    left, right = merge_segments(before, after)

    assert left.alignment is not None
    assert left.alignment.characters == "GO ON"
    assert left.alignment.weights[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert right.alignment is not None
    assert right.alignment.characters == "STOPPED$"
    assert right.alignment.weights[:, 0].tolist() == list(range(3, 11))
    assert right.alignment.start == 13.0


def test_words_stay_where_the_other_segment_has_none() -> None:
    said = segment(0.0, 15.0, "GO AND", 12.0, 14.4)
    silent = Segment(13.0, 20.0, "", (), 0.0, (), (), None)
    noise = Segment(0.0, 15.0, "", (), 0.0, (), (), None)

    left, right = merge_segments(said, silent)
    nothing, whole = merge_segments(noise, segment(13.0, 20.0, "OH NO", 13.2, 17.0))

    assert (left.text, right.text) == ("GO AND", "")
    assert left.end == right.start == 15.0
    assert left.words == said.words
    assert (nothing.text, whole.text) == ("", "OH NO")
    assert nothing.end == whole.start == 13.0


def test_silence_that_ends_within_the_overlap_does_not_end_before_it_begins() -> None:
    said = segment(0.0, 15.0, "GO AND", 12.0, 14.4)
    silent = Segment(13.0, 14.75, "", (), 0.0, (), (), None)

    left, right = merge_segments(said, silent)

    assert left.text == "GO AND"
    assert left.words[-1].end == left.end == right.start == right.end == 14.75


def test_segments_without_words_meet_in_the_middle() -> None:
    nothing, more = merge_segments(segment(0.0, 15.0, ""), segment(13.0, 20.0, ""))

    assert (nothing.text, more.text) == ("", "")
    assert nothing.end == more.start == 14.0


def test_times_stay_inside_the_segments() -> None:
    before = segment(0.0, 15.0, "GO ON", 12.0, 13.7)
    after = segment(13.0, 20.0, "AT LAST", 13.85, 15.0)

    left, right = merge_segments(before, after)

    assert [word.end for word in left.words] == pytest.approx([12.4, 14.0])
    assert [word.start for word in right.words] == pytest.approx([14.0, 15.0])


def test_subwords_that_are_dropped_take_their_attention_with_them() -> None:
    def of_subwords(one: Segment, *tokens: str) -> Segment:
        weights = torch.arange(float(len(tokens)))[:, None]
        return replace(one, alignment=Alignment(tokens, weights, 0.04, one.start))

    before = segment(0.0, 15.0, "GOING ON AND", 12.0, 13.2, 14.4)
    after = segment(13.0, 20.0, "HE STOPPED", 13.3, 14.4)

    left, right = merge_segments(
        of_subwords(before, " GO", "ING", " ON", " AND", "$"),
        of_subwords(after, " HE", " STOP", "PED", "$"),
    )

    assert left.alignment is not None
    assert left.alignment.tokens == (" GO", "ING", " ON")
    assert left.alignment.weights[:, 0].tolist() == [0, 1, 2]
    assert right.alignment is not None
    assert right.alignment.tokens == (" STOP", "PED", "$")
    assert right.alignment.weights[:, 0].tolist() == [1, 2, 3]
