import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.padding import pad_rows, valid_mask

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=6)
few = settings(max_examples=25, deadline=None)


# The mask


@few
@given(LENGTHS, st.integers(0, 3))
def test_a_row_is_valid_up_to_its_length(lengths: list[int], more: int) -> None:
    width = max(lengths) + more

    valid = valid_mask(torch.tensor(lengths), width)

    assert valid.dtype == torch.bool
    assert valid.tolist() == [[j < length for j in range(width)] for length in lengths]


def test_a_length_beyond_the_width_is_valid_throughout() -> None:
    assert valid_mask(torch.tensor([5]), 3).tolist() == [[True, True, True]]


# The stack


@few
@given(LENGTHS)
def test_rows_come_back_out_of_the_stack(lengths: list[int]) -> None:
    rows = [torch.randn(length, 2) for length in lengths]

    padded, found = pad_rows(rows, value=-7.0)

    assert padded.shape == (len(rows), max(lengths), 2)
    assert found.tolist() == lengths
    for row, stacked in zip(rows, padded, strict=True):
        torch.testing.assert_close(stacked[: len(row)], row, rtol=0, atol=0)
        assert (stacked[len(row) :] == -7.0).all()


def test_padding_is_zero_unless_another_value_is_given() -> None:
    padded, _ = pad_rows([torch.tensor([1.5, 2.5]), torch.tensor([3.5])])

    assert padded.tolist() == [[1.5, 2.5], [3.5, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_rows_keep_their_type_and_lengths_are_whole_numbers(dtype: torch.dtype) -> None:
    padded, lengths = pad_rows([torch.ones(2, dtype=dtype), torch.ones(1, dtype=dtype)])

    assert padded.dtype == dtype
    assert lengths.dtype == torch.int64


def test_mask_and_stack_mean_the_same_padding() -> None:
    rows = [torch.ones(length) for length in (3, 0, 5)]

    padded, lengths = pad_rows(rows)

    assert torch.equal(valid_mask(lengths, padded.size(1)), padded == 1)
