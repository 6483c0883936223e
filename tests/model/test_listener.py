import math

import pytest
import torch
from torch import Tensor, nn

from asr.model.listener import (
    Listener,
    ListenerConfig,
    ListenerOutput,
    quantize_int8,
    stack_frames,
)
from asr.model.lstm import BidirectionalLSTM
from asr.runtime import allow_tf32

F, SIZE = 4, 3


def build(*reductions: int, dropout: float = 0.0, conv_channels: int = 0) -> Listener:
    config = ListenerConfig(SIZE, list(reductions), dropout, conv_channels)
    return Listener(config, num_features=F)


def listen(listener: Listener, x: Tensor, *num_frames: int) -> ListenerOutput:
    listened: ListenerOutput = listener(x, torch.tensor(num_frames))
    return listened


# Joining neighbours: golden


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        (1, [[1, 2], [3, 4], [5, 6], [7, 8]]),
        (2, [[1, 2, 3, 4], [5, 6, 7, 8]]),
        (3, [[1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]]),
        (5, [[1, 2, 3, 4, 5, 6, 7, 8, 0, 0]]),
    ],
)
def test_neighbours_are_joined_and_zeros_fill_the_last(
    reduction: int, expected: list[list[float]]
) -> None:
    x = torch.arange(1.0, 9.0).view(1, 4, 2)

    assert stack_frames(x, reduction).tolist() == [expected]


# One layer: parity with torch's packed sequences


@pytest.mark.parametrize("seed", range(4))
def test_a_layer_agrees_with_packed_sequences(seed: int) -> None:
    torch.manual_seed(seed)
    lengths = torch.randint(1, 9, (5,))
    width = int(lengths.max()) + seed % 2  # padded further than it need be, or not
    layer = BidirectionalLSTM(F, SIZE).double()
    torchs = _torch_layer_with_the_weights_of(layer)
    x = torch.randn(5, width, F, dtype=torch.float64)
    ours_x, torchs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    valid = (torch.arange(width) < lengths[:, None])[:, :, None]
    noise = torch.randn(5, width, 2 * SIZE, dtype=torch.float64) * valid

    ours = layer(ours_x, lengths)
    packed = nn.utils.rnn.pack_padded_sequence(
        torchs_x, lengths, batch_first=True, enforce_sorted=False
    )
    theirs, _ = nn.utils.rnn.pad_packed_sequence(
        torchs(packed)[0], batch_first=True, total_length=width
    )
    torch.autograd.backward([(ours * noise).sum(), (theirs * noise).sum()])

    torch.testing.assert_close(ours * valid, theirs)
    torch.testing.assert_close(ours_x.grad, torchs_x.grad)
    for name, parameter in layer.forwards.named_parameters():
        torch.testing.assert_close(parameter.grad, torchs.get_parameter(name).grad)
    for name, parameter in layer.backwards.named_parameters():
        expected = torchs.get_parameter(f"{name}_reverse").grad
        torch.testing.assert_close(parameter.grad, expected)


def _torch_layer_with_the_weights_of(layer: BidirectionalLSTM) -> nn.LSTM:
    weights = dict(layer.forwards.named_parameters())
    weights |= {f"{n}_reverse": p for n, p in layer.backwards.named_parameters()}
    theirs = nn.LSTM(F, SIZE, batch_first=True, bidirectional=True).double()
    theirs.load_state_dict({name: w.detach().clone() for name, w in weights.items()})
    return theirs


# The pyramid: parity, shape, layer of the CTC head


def test_the_pyramid_is_its_layers_one_after_the_other() -> None:
    listener = build(2, 1, 3)
    x = torch.randn(1, 11, F)

    listened = listen(listener, x, 11)

    h, ctc_h = x, x
    for index, reduction in enumerate((2, 1, 3)):
        h = stack_frames(h, reduction)
        lstm = listener.layers[index]
        assert isinstance(lstm, BidirectionalLSTM)
        backwards = lstm.backwards(h.flip(1))[0].flip(1)
        h = torch.cat([lstm.forwards(h)[0], backwards], dim=-1)
        h = listener.norms[index](h)
        if index == 1:  # a step of two frames; the next has six
            ctc_h = h
    torch.testing.assert_close(listened.h, h)
    torch.testing.assert_close(listened.ctc_h, ctc_h)


@pytest.mark.parametrize("num_frames", [1, 3, 4, 5, 8, 9, 50])
@pytest.mark.parametrize("reductions", [(2, 2, 1), (2, 2, 2), (4, 2), (3, 3), (1,)])
def test_there_are_as_many_steps_as_the_reductions_say(
    reductions: tuple[int, ...], num_frames: int
) -> None:
    listener = build(*reductions)

    listened = listen(listener, torch.randn(1, num_frames, F), num_frames)

    num_steps = math.ceil(num_frames / math.prod(reductions))
    num_ctc_steps = math.ceil(num_frames / listener.ctc_reduction)
    assert listener.reduction == math.prod(reductions)
    assert listened.num_steps.tolist() == [num_steps]
    assert listened.h.shape == (1, num_steps, 2 * SIZE)
    assert listened.num_ctc_steps.tolist() == [num_ctc_steps]
    assert listened.ctc_h.shape == (1, num_ctc_steps, 2 * SIZE)


@pytest.mark.parametrize(
    ("reductions", "layer", "ctc_reduction"),
    [
        ((2, 2, 1), 2, 4),
        ((2, 2, 2), 1, 4),
        ((4, 2), 0, 4),
        ((1, 2, 2, 2), 2, 4),
        ((3, 2), 0, 3),
        ((1, 1), 1, 1),
    ],
)
def test_ctc_listens_to_the_highest_layer_with_25_steps_a_second(
    reductions: tuple[int, ...], layer: int, ctc_reduction: int
) -> None:
    listener = build(*reductions)

    assert listener.ctc_layer == layer
    assert listener.ctc_reduction == ctc_reduction


# Invariance: an utterance does not depend on its neighbours, nor its padding


@pytest.mark.parametrize("length", range(1, 18))
@pytest.mark.parametrize("reductions", [(2, 2, 2), (3, 1, 2)])
@pytest.mark.parametrize("conv_channels", [0, 2])
def test_an_utterance_does_not_depend_on_its_neighbours(
    reductions: tuple[int, ...], length: int, conv_channels: int
) -> None:
    listener = build(*reductions, conv_channels=conv_channels)
    x = torch.randn(3, 17, F)

    alone = listen(listener, x[1:2, :length], length)
    together = listen(listener, x, 17, length, 5)

    num_steps, num_ctc_steps = int(alone.num_steps), int(alone.num_ctc_steps)
    assert int(together.num_steps[1]) == num_steps
    assert int(together.num_ctc_steps[1]) == num_ctc_steps
    torch.testing.assert_close(together.h[1, :num_steps], alone.h[0])
    torch.testing.assert_close(together.ctc_h[1, :num_ctc_steps], alone.ctc_h[0])
    assert not together.h[1, num_steps:].any()
    assert not together.ctc_h[1, num_ctc_steps:].any()


@pytest.mark.parametrize("rubbish", [1e6, math.inf, math.nan])
@pytest.mark.parametrize("conv_channels", [0, 2])
def test_what_stands_in_the_padding_does_not_matter(
    rubbish: float, conv_channels: int
) -> None:
    listener = build(2, 2, 1, conv_channels=conv_channels)
    x = torch.randn(2, 9, F)
    spoilt = x.clone()
    spoilt[0, 6:] = rubbish

    clean, found = listen(listener, x, 6, 9), listen(listener, spoilt, 6, 9)

    torch.testing.assert_close(found.h, clean.h, rtol=0, atol=0)
    torch.testing.assert_close(found.ctc_h, clean.ctc_h, rtol=0, atol=0)


def test_every_frame_counts_and_no_padding_does() -> None:
    listener = build(2, 2, 2)
    x = torch.randn(2, 13, F, requires_grad=True)

    listened = listen(listener, x, 13, 6)
    torch.autograd.backward((listened.h * torch.randn_like(listened.h)).sum())

    assert x.grad is not None
    assert x.grad[0].abs().sum(dim=-1).all()
    assert x.grad[1, :6].abs().sum(dim=-1).all()
    assert not x.grad[1, 6:].any()


def test_the_last_step_depends_on_the_first_frame_and_the_first_on_the_last() -> None:
    listener = build(2, 2, 1)
    x = torch.randn(1, 16, F)
    first, last = x.clone(), x.clone()
    first[0, 0] += 1
    last[0, -1] += 1

    h = listen(listener, x, 16).h

    assert not torch.allclose(listen(listener, first, 16).h[0, -1], h[0, -1], atol=1e-6)
    assert not torch.allclose(listen(listener, last, 16).h[0, 0], h[0, 0], atol=1e-6)


# Dropout


def test_a_share_of_each_output_is_dropped_in_training_only() -> None:
    listener = build(2, 1, dropout=0.4)
    x = torch.randn(4, 200, F)

    trained = listen(listener.train(), x, 200, 200, 200, 200)
    used = listen(listener.eval(), x, 200, 200, 200, 200)

    assert float((trained.h == 0).float().mean()) == pytest.approx(0.4, abs=0.05)
    assert float((trained.ctc_h == 0).float().mean()) == pytest.approx(0.4, abs=0.05)
    assert (used.h != 0).all()


# Errors


def test_an_utterance_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"every utterance needs a frame: \[3, 0\]"):
        listen(build(2), torch.randn(2, 3, F), 3, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, r"listener\.size must be at least 1, not 0"),
        ({"reductions": []}, r"listener\.reductions must be numbers from 1, not \[\]"),
        (
            {"reductions": [2, 0]},
            r"listener\.reductions must be numbers from 1, not \[2, 0\]",
        ),
        (
            {"reductions": [5, 1]},
            r"listener\.reductions may begin with at most 4 \(CTC needs 25 steps a "
            r"second\), not 5",
        ),
        ({"dropout": -0.1}, r"listener\.dropout is a share .* below 1, not -0\.1"),
        ({"dropout": 1.0}, r"listener\.dropout is a share .* below 1, not 1\.0"),
        ({"dropout": math.nan}, r"listener\.dropout is a share .* below 1, not nan"),
        ({"conv_channels": -1}, r"listener\.conv_channels must be at least 0, not -1"),
    ],
)
def test_a_pyramid_that_cannot_stand_is_refused(
    settings: dict[str, int | float | list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ListenerConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
def test_runs_on_the_gpu_with_lengths_on_the_cpu(tf32: bool) -> None:
    listener = build(2, 2, 1)
    x = torch.randn(2, 9, F)

    expected = listen(listener, x, 9, 4)
    allow_tf32(tf32)
    try:
        found = listen(listener.cuda(), x.cuda(), 9, 4)
    finally:
        allow_tf32(True)

    close = 1e-2 if tf32 else 1e-4
    torch.testing.assert_close(found.h.cpu(), expected.h, atol=close, rtol=close)


# In bytes


@torch.no_grad()
@pytest.mark.parametrize("conv_channels", [0, 2])
def test_an_int8_listener_puts_out_nearly_the_same(conv_channels: int) -> None:
    torch.manual_seed(0)
    listener = build(2, 2, conv_channels=conv_channels).eval()
    x = torch.randn(2, 20, F)
    before = listen(listener, x, 20, 11).h

    listened = listen(quantize_int8(listener), x, 20, 11)

    difference = (listened.h - before).abs().max()
    assert 0 < float(difference) < 0.2
    assert torch.equal(listen(listener, x, 20, 11).h, before)  # the first stays exact
    assert not listened.h[1, 3:].any()


@torch.no_grad()
def test_an_int8_listener_hears_an_utterance_as_if_it_were_alone() -> None:
    listener = quantize_int8(build(2, 2).eval())
    x = torch.randn(2, 20, F)
    x[0] *= 50

    together = listen(listener, x, 20, 11)

    alone = listen(listener, x[1:, :11], 11)
    assert torch.equal(together.h[1:, : alone.h.size(1)], alone.h)
