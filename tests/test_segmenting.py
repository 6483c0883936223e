from itertools import pairwise

import pytest
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.segmenting import LONGEST, Piece, pieces


def noise(seconds: float, *pauses: tuple[float, float], quiet: float = 0.0) -> Tensor:
    """White noise with pauses (from, to), told in seconds."""
    waveform = torch.randn(round(seconds * SAMPLE_RATE))
    for start, end in pauses:
        waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] *= quiet
    return waveform


def cuts(waveform: Tensor) -> list[float]:
    """Where a recording is cut, in seconds."""
    return [piece.start / SAMPLE_RATE for piece in pieces(waveform)[1:]]


# Golden


def test_the_cut_is_in_the_middle_of_a_short_pause() -> None:
    assert cuts(noise(20.0, (10.0, 10.2))) == [10.1]


def test_the_quieter_of_two_pauses_is_cut() -> None:
    waveform = noise(20.0, (9.0, 9.5), quiet=0.1)
    waveform[12 * SAMPLE_RATE : 13 * SAMPLE_RATE] *= 0.01

    (cut,) = cuts(waveform)

    assert 12.0 < cut < 13.0


def test_a_click_of_silence_is_no_pause() -> None:
    (cut,) = cuts(noise(20.0, (9.0, 9.05), (12.0, 12.3), quiet=0.01))

    assert 12.0 < cut < 12.3


def test_a_pause_early_in_a_piece_is_not_needed() -> None:
    (cut,) = cuts(noise(20.0, (3.0, 4.0), (11.0, 11.3), quiet=0.01))

    assert 11.0 < cut < 11.3


def test_the_next_piece_is_counted_from_the_last_cut() -> None:
    waveform = noise(38.0, (8.0, 8.3), (16.0, 16.3), (20.0, 20.3), (26.0, 26.3))

    first, second, third = cuts(waveform)

    # A cut is 7.5 to 15 s behind the last one; of two pauses alike the first is taken.
    assert 8.0 < first < 8.3
    assert 16.0 < second < 16.3
    assert 26.0 < third < 26.3


# Short recordings


@pytest.mark.parametrize("num_samples", [0, 1, 159, 16_000, 240_000])
def test_a_short_recording_stays_whole(num_samples: int) -> None:
    assert pieces(torch.randn(num_samples)) == [Piece(0, num_samples)]


def test_one_sample_more_than_a_piece_may_have_is_cut() -> None:
    assert len(pieces(torch.randn(15 * SAMPLE_RATE + 1))) == 2


# Property


@pytest.mark.parametrize("seed", range(8))
def test_pieces_cover_everything_and_none_is_too_long(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_samples = 15 * SAMPLE_RATE + int(
        torch.randint(1, 60 * SAMPLE_RATE, (), generator=generator)
    )
    waveform = torch.rand(num_samples, generator=generator)

    found = pieces(waveform)

    assert found[0].start == 0
    assert found[-1].end == num_samples
    for piece, following in pairwise(found):
        assert piece.end == following.start
    for piece in found:
        assert 0 < piece.end - piece.start <= LONGEST * SAMPLE_RATE
    for piece in found[:-1]:
        assert piece.end - piece.start >= LONGEST * SAMPLE_RATE / 2


@pytest.mark.parametrize("pause", [7.6, 9.0, 10.55, 13.3, 14.7])
def test_the_cut_falls_into_the_pause(pause: float) -> None:
    (cut,) = cuts(noise(22.0, (pause, pause + 0.25), quiet=0.01))

    assert pause < cut < pause + 0.25


def test_digital_silence_is_cut_too() -> None:
    found = pieces(torch.zeros(40 * SAMPLE_RATE))

    assert found[-1].end == 40 * SAMPLE_RATE
    assert all(piece.end - piece.start <= 15 * SAMPLE_RATE for piece in found)


def test_the_recording_is_left_as_it_was() -> None:
    waveform = noise(20.0)
    before = waveform.clone()

    pieces(waveform)

    assert torch.equal(waveform, before)
