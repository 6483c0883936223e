"""A network that starts from one with a narrower listener."""

from copy import deepcopy
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asr.features import NUM_MELS
from asr.model.attention import AttentionConfig
from asr.model.convolutional_front import ConvolutionalFront
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.lstm import BidirectionalLSTM
from asr.model.speller import SpellerConfig
from asr.model.storage import load_model
from asr.training.growth import (
    _pass_on,
    _read_passed_on,
    averaged,
    grow,
    interpolate,
)

SPELLER = SpellerConfig(size=6, embedding_size=5)


def network(
    width: int, seed: int = 0, speller: SpellerConfig = SPELLER, tokens: int = 9
) -> LAS:
    torch.manual_seed(seed)
    config = LASConfig(
        ListenerConfig(size=width, reductions=[2, 2, 1]),
        AttentionConfig(size=7),
        speller,
    )
    return LAS(config, tokens).eval()


def test_new_units_are_silent_and_the_old_ones_put_out_what_they_did() -> None:
    old, las = network(32), network(40, seed=1)
    grow(las, old)
    x = torch.randn(2, 11, 2 * NUM_MELS)
    said, says = (
        net.listener.layers[0](x, torch.tensor([11, 8])) for net in (old, las)
    )
    old_units = torch.cat((torch.arange(32), 40 + torch.arange(32)))
    new_units = torch.cat((torch.arange(32, 40), 72 + torch.arange(8)))
    torch.testing.assert_close(says[:, :, old_units], said)
    assert not says[:, :, new_units].any()


def test_a_trained_network_still_finds_what_it_found() -> None:
    old = load_model(Path(str(files("asr") / "assets/las_mini"))).las.eval()
    listener = replace(old.config.listener, size=old.config.listener.size * 4 // 3)
    torch.manual_seed(1)
    las = LAS(replace(old.config, listener=listener), old.vocab_size).eval()
    grow(las, old)
    x = torch.randn(2, 300, NUM_MELS).cumsum(dim=1) / 5 + old.norm.mean
    with torch.no_grad():
        before, after = (
            net.ctc_log_probs(net.listen(x, torch.tensor([300, 200]))).exp()
            for net in (old, las)
        )
    assert (after - before).abs().max() < 0.1


def network_behind(channels: int, width: int = 8, reduction: int = 2) -> LAS:
    torch.manual_seed(1)
    listener = ListenerConfig(width, [reduction, 2, 1], conv_channels=channels)
    return LAS(LASConfig(listener, AttentionConfig(size=7), SPELLER), 9).eval()


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_convolutions_pass_on_at_first_what_was_read(
    channels: int, reduction: int
) -> None:
    old, las = (network_behind(n, reduction=reduction) for n in (0, channels))

    taken = grow(las, old)

    x, lengths = torch.randn(2, 50, NUM_MELS), torch.tensor([50, 37])
    inputs = torch.tensor([[1, 4, 5, 6], [1, 7, 8, 3]])
    before, after = (net(x, lengths, inputs) for net in (old, las))
    torch.testing.assert_close(after[0].logits, before[0].logits)
    torch.testing.assert_close(after[1], before[1])
    new = {name for name in las.state_dict() if name.startswith("listener.front.")}
    layer = "listener.layers.0.{}.weight_ih_l0"
    new |= {layer.format("forwards"), layer.format("backwards")}
    assert taken == las.state_dict().keys() - new


@pytest.mark.parametrize("num_bands", [1, 2, 5, 6, 7, 80])
def test_all_bands_are_passed_on_whatever_their_number(num_bands: int) -> None:
    front = ConvolutionalFront(10, num_bands)
    weight, x = torch.randn(3, 2, num_bands), torch.randn(1, 6, num_bands)
    with torch.no_grad():
        _pass_on(front)
        passed_on = front(x, torch.tensor([6]))
        read = _read_passed_on(front, weight)
    torch.testing.assert_close(passed_on[0] @ read[:, 1].T, x[0] @ weight[:, 1].T)


def test_what_more_convolutions_find_is_learned_from_the_first_update_on() -> None:
    las = network_behind(12, width=12)
    grow(las, network(8))
    x, inputs = torch.randn(2, 50, NUM_MELS), torch.tensor([[1, 4, 5], [1, 7, 3]])
    spelling, ctc, _ = las(x, torch.tensor([50, 37]), inputs)
    (spelling.logits.square().mean() + ctc.square().mean()).backward()
    assert las.listener.front is not None
    first, second = las.listener.front.convolutions
    assert gradient(first, "weight")[:4].norm() > 0
    assert gradient(second, "weight")[:8].norm() > 0
    read = gradient(las.listener.layers[0], "forwards.weight_ih_l0")
    by_channel = read.view(len(read), 2, 12, -1).square().sum(dim=(0, 1, 3))
    assert (by_channel > 0).all()


def gradient(module: nn.Module, name: str) -> Tensor:
    found = module.get_parameter(name).grad
    assert found is not None
    return found


def test_too_few_channels_to_pass_on_all_bands_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"conv_channels was 0 and is 7, .* at least 8"
    ):
        grow(network_behind(7), network(8))
    with pytest.raises(ValueError, match=r"conv_channels was 8 and is 0, and only"):
        grow(network(8), network_behind(8))
    with pytest.raises(ValueError, match=r"conv_channels was 8 and is 9, and only"):
        grow(network_behind(9), network_behind(8))


def test_a_network_of_the_same_size_is_the_same() -> None:
    old, las = network(8), network(8, seed=1)
    grow(las, old)
    for name, weight in old.state_dict().items():
        assert las.state_dict()[name].equal(weight), name


def test_every_new_unit_learns_something_else() -> None:
    old, las = network(8), network(12, seed=1)
    grow(las, old)
    x = torch.randn(2, 50, NUM_MELS)
    inputs = torch.tensor([[1, 4, 5, 6], [1, 7, 8, 3]])
    spelling, ctc, _ = las(x, torch.tensor([50, 37]), inputs)
    (spelling.logits.square().mean() + ctc.square().mean()).backward()
    for layer in las.listener.layers:
        assert isinstance(layer, BidirectionalLSTM)
        gradient = layer.forwards.weight_ih_l0.grad.view(4, 12, -1)[2, 8:]
        assert (gradient.norm(dim=1) > 0).all()
        assert torch.linalg.matrix_rank(gradient) == 4


@pytest.mark.parametrize(
    ("las", "message"),
    [
        (network(6), "listener.size was 8 and cannot shrink to 6"),
        (network(8, speller=replace(SPELLER, size=7)), "speller.size was 6 and is 7"),
        (network(12, speller=replace(SPELLER, size=9)), "speller.size was 6 and is 9"),
        (network(8, speller=replace(SPELLER, layers=2)), "only listener.size may grow"),
        (network(8, tokens=10), "it knows 9 tokens, not 10"),
        (network(12, tokens=10), "it knows 9 tokens, not 10"),
    ],
)
def test_other_networks_are_refused(las: LAS, message: str) -> None:
    before = {name: weight.clone() for name, weight in las.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        grow(las, network(8))
    assert all(las.state_dict()[name].equal(w) for name, w in before.items())


def test_nothing_grows_under_several_heads() -> None:
    attention = AttentionConfig("dot", size=8, heads=2)
    old, wide, same = (
        LAS(LASConfig(ListenerConfig(size), attention, SPELLER), 9)
        for size in (4, 6, 4)
    )
    with pytest.raises(ValueError, match=r"cannot grow under 2 attention\.heads"):
        grow(wide, old)
    grow(same, old)
    assert same.speller.attention.get_parameter("value.weight").equal(
        old.speller.attention.get_parameter("value.weight")
    )


def test_an_attention_with_other_settings_is_drawn_anew_and_all_else_kept() -> None:
    old = network(8)
    torch.manual_seed(4)
    attention = AttentionConfig("additive", size=6, block_size=4)
    las = LAS(replace(old.config, attention=attention), old.vocab_size)
    drawn = {name: weight.clone() for name, weight in las.state_dict().items()}

    taken = grow(las, old)

    before, after = old.state_dict(), las.state_dict()
    of_attention = {name for name in after if name.startswith("speller.attention.")}
    assert of_attention
    assert taken == after.keys() - of_attention
    assert all(after[name].equal(drawn[name]) for name in of_attention)
    assert all(after[name].equal(before[name]) for name in taken)


@pytest.mark.parametrize("block_size", [0, 2])
def test_an_additive_attention_that_gets_filters_looks_where_it_did(
    block_size: int,
) -> None:
    torch.manual_seed(0)
    config = LASConfig(
        ListenerConfig(size=8, reductions=[2, 2, 1]),
        AttentionConfig("additive", size=7, block_size=block_size),
        SPELLER,
    )
    old = LAS(config, 9).eval()
    aware = replace(config.attention, kind="location", filters=3, reach=4)
    las = LAS(replace(config, attention=aware), 9).eval()

    taken = grow(las, old)

    x, length = torch.randn(1, 50, NUM_MELS), torch.tensor([50])
    inputs = torch.tensor([[1, 4, 5, 6]])
    before, after = (net(x, length, inputs)[0] for net in (old, las))
    torch.testing.assert_close(after.weights, before.weights)
    torch.testing.assert_close(after.logits, before.logits)
    assert "speller.attention.energy.weight" in taken
    after.logits.square().mean().backward()
    learned = las.state_dict(keep_vars=True)["speller.attention.location.weight"]
    assert learned.grad is not None
    assert learned.grad.any()


def test_an_attention_of_another_size_does_not_keep_its_content() -> None:
    old = network(8)
    content = replace(old.config.attention, kind="additive")
    las = LAS(replace(old.config, attention=replace(content, size=9)), 9)
    drawn = {name: weight.clone() for name, weight in las.state_dict().items()}

    grow(las, LAS(replace(old.config, attention=content), 9))

    attention = [name for name in drawn if name.startswith("speller.attention.")]
    assert all(las.state_dict()[name].equal(drawn[name]) for name in attention)


def moved(las: LAS) -> LAS:
    """Return a network as training might leave it: every weight is a little other."""
    end = deepcopy(las)
    torch.manual_seed(5)
    for weight in end.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    return end


def test_a_seed_that_drew_other_units_is_refused() -> None:
    start, grown = network(8), network(12, seed=3)
    grow(grown, start)
    trained = moved(grown)

    with pytest.raises(ValueError, match="seed 4 drew other units or tokens than were"):
        interpolate(start, trained, 0.5, seed=4)

    interpolate(grown, trained, 0.5, seed=4)  # nothing is new


def test_between_start_and_end_are_the_weights_of_both() -> None:
    start = network(8)
    grown = network(12, seed=3)
    grow(grown, start)
    trained = moved(grown)

    for share in (0.0, 0.25, 1.0):
        between = interpolate(start, trained, share, seed=3)
        for name, weight in between.state_dict().items():
            expected = (1 - share) * grown.state_dict()[name]
            expected = expected + share * trained.state_dict()[name]
            torch.testing.assert_close(weight, expected)


def test_the_mean_of_several_ends_is_that_of_their_weights() -> None:
    ends = [network(8, seed=seed) for seed in range(3)]

    mean = averaged(ends)

    for name, weight in mean.state_dict().items():
        expected = sum(end.state_dict()[name] for end in ends) / 3
        torch.testing.assert_close(weight, expected)
    assert all(
        weight.equal(w)
        for weight, w in zip(
            *(net.parameters() for net in (ends[0], network(8, seed=0))), strict=True
        )
    )


def test_different_networks_have_no_mean() -> None:
    with pytest.raises(ValueError, match="they are different networks"):
        averaged([network(8), network(9)])


# Another alphabet


def test_rows_of_tokens_are_taken_over_exactly_and_the_rest_stays_as_drawn() -> None:
    old, las = network(8, tokens=9), network(8, seed=1, tokens=7)
    drawn = {name: weight.clone() for name, weight in las.state_dict().items()}
    rows = [0, 1, 2, 8, None, 3, 3]

    taken = grow(las, old, rows)

    before, after = old.state_dict(), las.state_dict()
    for name in OF_TOKENS:
        for row, source in enumerate(rows):
            wanted = drawn[name][row] if source is None else before[name][source]
            assert after[name][row].equal(wanted), (name, row)
    for name in before.keys() - set(OF_TOKENS):
        assert after[name].equal(before[name]), name
    assert taken == before.keys() - set(OF_TOKENS)


def test_the_listener_may_grow_beside_another_alphabet() -> None:
    old, las = network(8, tokens=9), network(10, seed=1, tokens=12)
    drawn = las.ctc.weight.clone()

    taken = grow(las, old, [*range(9), None, 0, None])

    places = torch.cat((torch.arange(8), 10 + torch.arange(8)))
    assert las.ctc.weight[:9, places].equal(old.ctc.weight)
    assert las.ctc.weight[10, places].equal(old.ctc.weight[0])
    assert las.ctc.weight[11].equal(drawn[11])
    assert "speller.attention.energy.weight" in taken or "speller.hidden.bias" in taken
    assert not any(name.startswith("listener.layers") for name in taken)


def test_all_is_taken_over_whole_where_nothing_is_new() -> None:
    old, las = network(8), network(8, seed=1)

    assert grow(las, old) == old.state_dict().keys()


def test_the_way_between_two_alphabets_begins_where_training_began() -> None:
    rows = [0, 1, 2, 5, None, 3]
    start, began = network(8, tokens=9), network(8, seed=3, tokens=6)
    grow(began, start, rows)

    between = interpolate(start, moved(began), 0.0, 3, rows)

    for name, weight in began.state_dict().items():
        assert between.state_dict()[name].equal(weight), name


OF_TOKENS = (
    *("speller.embedding.weight", "speller.output.weight", "speller.output.bias"),
    *("ctc.weight", "ctc.bias"),
)
