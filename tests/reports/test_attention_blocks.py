import torch

from asr.model.attention import attend_across, cut_blocks
from asr.reports.attention_blocks import across_weights, inside_weights


def test_both_looks_are_those_of_the_attention() -> None:
    valid = torch.ones(1, 11, dtype=torch.bool)
    blocks = cut_blocks(torch.randn(1, 11, 5), valid, 4)
    energies, query, v = torch.randn(1, 3, 11), torch.randn(1, 3, 5), torch.randn(5)
    looked = attend_across(energies, query, blocks, v, "tanh")

    weights = looked.log_weights[0].exp()  # (I, J) of three rows
    inside, across = inside_weights(weights, 4), across_weights(weights, 4)

    torch.testing.assert_close(inside, looked.inside[0].flatten(1)[:, :11])
    beta = (looked.active @ v)[0].softmax(dim=1)
    torch.testing.assert_close(across, beta)


def test_inside_sums_to_one_in_each_block_however_little_weight_it_has() -> None:
    weights = torch.tensor([[0.6, 0.4, 1e-25, 3e-25, 0.0]])

    inside = inside_weights(weights, 2)

    torch.testing.assert_close(inside, torch.tensor([[0.6, 0.4, 0.25, 0.75, 0.0]]))


def test_a_block_outside_of_a_window_is_blank() -> None:
    weights = torch.tensor([[0.0, 0.0, 0.5, 0.5]])

    assert inside_weights(weights, 2).tolist() == [[0.0, 0.0, 0.5, 0.5]]
    assert across_weights(weights, 2).tolist() == [[0.0, 1.0]]


def test_a_recording_may_be_shorter_than_a_block() -> None:
    weights = torch.tensor([[0.25, 0.75]])

    assert across_weights(weights, 25).tolist() == [[1.0]]
    assert inside_weights(weights, 25).tolist() == weights.tolist()


def test_looks_inside_and_across_multiply_to_the_weights() -> None:
    weights = torch.rand(3, 11).softmax(dim=1)

    inside, across = inside_weights(weights, 4), across_weights(weights, 4)

    assert across.shape == (3, 3)
    torch.testing.assert_close(across.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(inside[:, :4].sum(dim=1), torch.ones(3))
    torch.testing.assert_close(inside[:, 8:].sum(dim=1), torch.ones(3))
    torch.testing.assert_close(
        inside * across.repeat_interleave(4, dim=1)[:, :11], weights
    )
