import torch

from asr.reports.letters import joined_letters, with_whole_letters
from asr.transcript import Alignment


def test_plain_letters_keep_their_rows() -> None:
    weights = torch.eye(3, 4)

    letters, same = joined_letters("ab", weights)

    assert letters == ["a", "b"]
    assert same is weights


def test_rows_of_a_letter_are_averaged_and_still_sum_to_one() -> None:
    # Three rows of e with two marks, one of x, one of the end.
    weights = torch.eye(5)

    letters, joined = joined_letters(["e", "\u0323", "\u0302", "x"], weights)

    assert letters == ["e\u0323\u0302", "x"]
    third = 1 / 3
    expected = [[third] * 3 + [0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    torch.testing.assert_close(joined, torch.tensor(expected))


def test_an_alignment_has_a_row_a_letter_and_its_end() -> None:
    tokens = ("e", "\u0301", "a", "\u220e")
    alignment = Alignment(tokens, torch.eye(4, 6), 0.04, 1.5)

    whole = with_whole_letters(alignment)

    assert whole.tokens == ("e\u0301", "a", "\u220e")
    assert whole.weights.shape == (3, 6)
    assert (whole.seconds_per_step, whole.start) == (0.04, 1.5)
