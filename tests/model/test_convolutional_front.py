from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from asr.features import NUM_MELS
from asr.model.convolutional_front import ConvolutionalFront
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.storage import load_model, save_model
from asr.text import CharTokenizer
from asr.training.growth import grow

C, F = 3, 10


@pytest.mark.parametrize(("bands", "kept"), [(80, 20), (10, 3), (4, 1), (1, 1)])
def test_a_quarter_of_the_bands_is_left_of_each_frame(bands: int, kept: int) -> None:
    front = ConvolutionalFront(C, bands)

    y = front(torch.randn(2, 7, bands), torch.tensor([7, 4]))

    assert front.size == C * kept
    assert y.shape == (2, 7, C * kept)


def test_one_utterance_is_convolved_twice_as_torch_does() -> None:
    front, x = ConvolutionalFront(C, F), torch.randn(1, 7, F)
    first, second = front.convolutions
    expected = torch.relu(second(torch.relu(first(x[:, None]))))

    y = front(x, torch.tensor([7]))

    for t in range(7):
        torch.testing.assert_close(y[0, t], expected[0, :, t].flatten())


def test_an_utterance_does_not_depend_on_its_neighbours() -> None:
    front, x = ConvolutionalFront(C, F), torch.randn(2, 9, F)
    x[1, 5:] = 0

    together = front(x, torch.tensor([9, 5]))

    torch.testing.assert_close(together[1, :5], front(x[1:, :5], torch.tensor([5]))[0])
    assert not together[1, 5:].any()


def test_a_frame_is_seen_by_two_to_each_side() -> None:
    front, x = ConvolutionalFront(C, F), torch.randn(1, 12, F, requires_grad=True)

    front(x, torch.tensor([12]))[0, 6].sum().backward()

    assert x.grad is not None
    seen = x.grad[0].abs().sum(dim=1).nonzero().flatten().tolist()
    assert seen == [4, 5, 6, 7, 8]


def test_what_comes_out_is_about_as_loud_as_what_goes_in() -> None:
    torch.manual_seed(0)
    front = ConvolutionalFront(32, NUM_MELS)

    with torch.no_grad():
        y = front(torch.randn(1, 200, NUM_MELS), torch.tensor([200]))

    assert 0.5 < float(y.square().mean()) < 2


def network(channels: int, size: int = 6) -> LAS:
    config = LASConfig(ListenerConfig(size, [2, 2, 1], conv_channels=channels))
    return LAS(config, CharTokenizer().size).eval()


def test_the_listener_reads_what_it_puts_out() -> None:
    las = network(C)
    weight = las.state_dict()["listener.layers.0.forwards.weight_ih_l0"]

    assert isinstance(las.listener.front, ConvolutionalFront)
    assert weight.size(1) == 2 * las.listener.front.size == 2 * C * 20


def test_without_channels_there_is_none() -> None:
    assert network(0).listener.front is None


def test_a_model_with_it_is_kept_and_loaded(tmp_path: Path) -> None:
    las, x = network(C), torch.randn(1, 30, NUM_MELS)
    save_model(tmp_path / "model", las, CharTokenizer(), {})

    loaded = load_model(tmp_path / "model").las

    lengths = torch.tensor([30])
    torch.testing.assert_close(loaded.listen(x, lengths).h, las.listen(x, lengths).h)


def test_the_listener_grows_behind_it() -> None:
    old, las = network(C, size=6), network(C, size=8)

    taken = grow(las, old)

    assert {name for name in taken if ".front." in name} == {
        f"listener.front.convolutions.{number}.{part}"
        for number in (0, 1)
        for part in ("weight", "bias")
    }
    after, before = (
        net.state_dict()["listener.layers.0.forwards.weight_ih_l0"]
        for net in (las, old)
    )
    torch.testing.assert_close(
        after.view(4, 8, -1)[:, :6], before.view(4, 6, -1), rtol=0, atol=0
    )


def test_a_network_does_not_start_from_one_without_it() -> None:
    with pytest.raises(ValueError, match=r"listener\.conv_channels was 0 and is 3"):
        grow(network(C), network(0))


def test_all_of_it_learns() -> None:
    las = network(C).train()
    inputs = torch.tensor([[1, 4, 5]])

    spelling, _, _ = las(torch.randn(1, 20, NUM_MELS), torch.tensor([20]), inputs)
    spelling.logits.square().mean().backward()

    assert isinstance(las.listener.front, nn.Module)
    for name, weight in las.listener.front.named_parameters():
        assert weight.grad is not None
        assert weight.grad.any(), name


def test_more_channels_than_anybody_needs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"listener\.conv_channels must be at most"):
        replace(LASConfig(), listener=ListenerConfig(conv_channels=2000))
