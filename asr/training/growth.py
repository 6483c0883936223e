"""Grow: start a network with more before and in its listener from an older one.

A small network learns fast and soon ends; a large one begins where it ended. The old
units keep their weights. The new ones get those of chance, all but the weights of their
candidate g = tanh(...), which are zero:

    c_t = f c_{t-1} + i 0 = 0      h_t = o tanh(0) = 0

So they are silent at first, and what is read from them by weights of chance changes
nothing, but teaches each of them something else from the first update on. The layer
normalisation sees silent units among the others: with zeros for a share of its inputs
the variance falls to n / N of what it was (the mean of the old units is near zero), so
its gains are made sqrt(n / N) of what they were.

Convolutions before a pyramid that had none pass on what it read, at first. Of every
second band a channel sees the band itself or its neighbour; relu keeps one sign, so two
channels hold both:

    x_b = relu(x_b) - relu(-x_b)

That is four channels of the first convolution for its two bands, and eight of the
second for four, from which the pyramid's first weights are read with either sign. What
further channels find has no weight at first, and gets one with the first update.

Of another alphabet each token gets the rows of an old one, or keeps those that were
drawn (see `token_rows`). An additive attention that becomes location-aware looks where
it did: what the filters find has no weight at first. Any other attention with other
settings is drawn anew: it learns in minutes where to look, with a listener and a
speller that know what they need.

Shapes: n units of an LSTM before, N after; its output is [forwards ; backwards].

Source: Chen, Goodfellow and Shlens (2016), "Net2Net", arXiv:1511.05641, who copy units
and halve their outgoing weights; copies get the same gradients and part only by chance.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from asr.model.attention import AttentionConfig
from asr.model.convolutional_front import BANDS, SEEN, ConvolutionalFront
from asr.model.las import LAS, LASConfig

_CANDIDATE = 2
"""Which quarter of torch's gate weights (i, f, g, o) is that of the candidate."""
_ATTENTION = "speller.attention."
_LOCATION = _ATTENTION + "location.weight"
_OF_TOKENS = (
    *("speller.embedding.weight", "speller.output.weight", "speller.output.bias"),
    *("ctc.weight", "ctc.bias"),
)
"""Weights with a row for each token."""
_MORE_THAN_CHANCE = 4.0
"""Standard deviations of a correlation of two draws; what was trained has dozens."""
_MAY_CHANGE = ("listener.size", "listener.dropout", "speller.dropout")
_NO_FRONT = ("listener.conv_channels", 0)
_PASSING = 2 * BANDS**2
"""Channels that pass on all bands, of both signs."""


@torch.no_grad()
def grow(
    las: LAS, old: LAS, rows: Sequence[int | None] | None = None
) -> frozenset[str]:
    """Give a network the weights of one whose listener is narrower, or as wide.

    The old one may lack the convolutions that the new one has before its listener.
    Where the attention has other settings, its weights stay as they were drawn; but see
    above.

    Args:
        las: as it was drawn; is changed.
        old: the network that is to live on.
        rows: for each token the old one whose rows it gets, None where those that were
            drawn stay (`token_rows.match_tokens`); None where the tokens are the same.

    Returns:
        Names of the weights that were taken over whole: no number of theirs is new, nor
        are the tokens.

    Raises:
        ValueError: they differ in more than the size of the listener, its convolutions
            and the attention, the old one is the wider one, or it would grow under
            several heads of the attention. Nothing is changed then.
    """
    before, after = _sizes(las, old, rows)
    taken, targets = set[str](), las.state_dict()
    changed = set[str]()
    if las.listener.front and not old.listener.front:
        old, changed = _behind(las.listener.front, old)
    anew = old.config.attention != las.config.attention
    if anew and _gains_filters(old.config.attention, las.config.attention):
        targets[_LOCATION].zero_()
        anew = False
    for name, source in old.state_dict().items():
        if anew and name.startswith(_ATTENTION):
            continue
        target = targets[name]
        if not source.shape:  # a single number of an attention of the user's own
            target.copy_(source)
            continue
        if ".layers." in name:
            candidate = target.view(4, after, *target.shape[1:])[_CANDIDATE]
            candidate[before:] = 0
        if rows is not None and name in _OF_TOKENS:
            first = torch.tensor([i for i, row in enumerate(rows) if row is not None])
            source = source[[row for row in rows if row is not None]]
        else:
            first = _places(len(source), len(target), before, after)
            if source.shape == target.shape and name not in changed:
                taken.add(name)
        further = [
            _places(small, large, before, after)
            for small, large in zip(source.shape[1:], target.shape[1:], strict=True)
        ]
        target[torch.meshgrid(first, *further, indexing="ij")] = source
        if ".norms." in name and name.endswith("weight"):
            target.mul_(math.sqrt(before / after))
    return frozenset(taken)


def _behind(drawn: ConvolutionalFront, old: LAS) -> tuple[LAS, set[str]]:
    """Copy a network as one that reads what convolutions pass on; name what is new.

    Args:
        drawn: the convolutions, of which those channels stay that pass nothing on.
        old: the network without any.
    """
    grown = deepcopy(old)
    front = grown.listener.front = deepcopy(drawn)
    _pass_on(front)
    new = {f"listener.front.{name}" for name, _ in front.named_parameters()}
    layer, reduction = grown.listener.layers[0], grown.listener.reductions[0]
    for name, weight in layer.named_parameters():
        if "weight_ih" in name:
            bands = weight.view(len(weight), reduction, -1)
            lstm = layer.get_submodule(name.partition(".")[0])
            lstm.weight_ih_l0 = nn.Parameter(_read_passed_on(front, bands).flatten(1))
            new.add(f"listener.layers.0.{name}")
    return grown, new


def _pass_on(front: ConvolutionalFront) -> None:
    """Make the first channels pass on the bands, each sign by itself."""
    first, second = front.convolutions
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    middle = SEEN // 2
    for convolution, channels in ((first, 2 * BANDS), (second, _PASSING)):
        assert convolution.bias is not None
        convolution.weight[:channels] = 0
        convolution.bias[:channels] = 0
    for channel in range(2 * BANDS):
        place, is_minus = divmod(channel, 2)
        first.weight[channel, 0, middle, middle + place] = -1 if is_minus else 1
    for channel in range(_PASSING):
        read, place = divmod(channel, BANDS)
        second.weight[channel, read, middle, middle + place] = 1


def _read_passed_on(front: ConvolutionalFront, weight: Tensor) -> Tensor:
    """(N, joined, F) weights of bands -> (N, joined, C * F'') of what is passed on."""
    channels = front.convolutions[-1].get_parameter("weight").size(0)
    found = weight.new_zeros(*weight.shape[:2], channels, front.size // channels)
    for channel in range(_PASSING):
        read, second = divmod(channel, BANDS)
        first, is_minus = divmod(read, 2)
        bands = weight[:, :, BANDS * second + first :: BANDS**2]
        found[:, :, channel, : bands.size(2)] = -bands if is_minus else bands
    return found.flatten(2)


def _gains_filters(old: AttentionConfig, new: AttentionConfig) -> bool:
    """Return whether an attention becomes location-aware, and nothing else."""
    gained = replace(old, kind="location", filters=new.filters, reach=new.reach)
    return old.kind == "additive" and gained == new


def _sizes(las: LAS, old: LAS, rows: Sequence[int | None] | None) -> tuple[int, int]:
    """Return how wide the listener was, and is.

    Raises:
        ValueError: see `grow`.
    """
    if rows is None and old.vocab_size != las.vocab_size:
        raise ValueError(f"it knows {old.vocab_size} tokens, not {las.vocab_size}")
    different = _different(old.config, las.config)
    if different:
        raise ValueError(
            f"{different}, and only listener.size may grow, convolutions come before "
            "it, and the attention change"
        )
    channels = las.config.listener.conv_channels
    if not old.config.listener.conv_channels and 0 < channels < _PASSING:
        raise ValueError(
            f"listener.conv_channels was 0 and is {channels}, and it takes at least "
            f"{_PASSING} to pass on what the listener read"
        )
    before, after = old.config.listener.size, las.config.listener.size
    if before > after:
        raise ValueError(f"listener.size was {before} and cannot shrink to {after}")
    heads = old.config.attention.heads
    anew = old.config.attention != las.config.attention
    if (
        before < after and heads > 1 and not anew
    ):  # each would get another part of the output
        raise ValueError(f"listener.size cannot grow under {heads} attention.heads")
    return before, after


@torch.no_grad()
def interpolate(
    start: LAS,
    trained: LAS,
    share: float,
    seed: int,
    rows: Sequence[int | None] | None = None,
) -> LAS:
    """Return the network between the start of a training and its end.

    On the way from one to the other both the loss on what the training was about and
    that on what it was not often are lower than at either end.

    Args:
        start: the weights that the training started from; it grows if it is narrower.
        trained: what came of them.
        share: of what was trained, from 0 to 1.
        seed: of the training, which drew the units and tokens that were new.
        rows: where the tokens of what was trained started; see `grow`.

    Raises:
        ValueError: see `grow`; or the seed is another than the training's.

    Source: Wortsman et al. (2022), "Robust fine-tuning of zero-shot models",
    arXiv:2109.01903.
    """
    between, taken = _grown(start, trained, seed, rows)
    weights = trained.state_dict()
    if taken != weights.keys():
        other, _ = _grown(start, trained, seed + 1, rows)
        if not _was_drawn(between.state_dict(), other.state_dict(), weights):
            raise ValueError(
                f"seed {seed} drew other units or tokens than were trained"
            )
    for name, value in between.state_dict().items():
        value.lerp_(weights[name].to(value), share)
    return between.eval()


def _grown(
    start: LAS, trained: LAS, seed: int, rows: Sequence[int | None] | None
) -> tuple[LAS, frozenset[str]]:
    """Return what a training with this seed began with, and what `grow` returns."""
    torch.manual_seed(seed)
    las = LAS(trained.config, trained.vocab_size)
    return las, grow(las, start, rows)


def _was_drawn(
    drawn: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
) -> bool:
    """Return whether what was trained still resembles what was drawn.

    Args:
        drawn: by the seed that is asked about; of another one, what was trained
            resembles it by chance only.
        other: by another seed: what differs was drawn.
        trained: what came of the weights.
    """
    pairs = [
        (drawn[name][is_drawn], trained[name].to(value)[is_drawn])
        for name, value in other.items()
        if (is_drawn := drawn[name] != value).any()
    ]
    if not pairs:
        return True
    before, after = (torch.cat(part) for part in zip(*pairs, strict=True))
    correlation = float(torch.cosine_similarity(before, after, dim=0))
    return correlation * math.sqrt(len(before)) > _MORE_THAN_CHANCE


@torch.no_grad()
def averaged(ends: Sequence[LAS]) -> LAS:
    """Return the mean of networks that were trained from one start.

    Trainings with other seeds or settings end in one valley when they began in it, and
    its middle often is lower than any end.

    Raises:
        ValueError: they are of different sizes, or know other tokens.

    Source: Wortsman et al. (2022), "Model soups", arXiv:2203.05482.
    """
    first, *others = ends
    for other in others:
        if (other.config, other.vocab_size) != (first.config, first.vocab_size):
            raise ValueError("they are different networks")
    mean = deepcopy(first)
    weights = [end.state_dict() for end in ends]
    for name, value in mean.state_dict().items():
        value.copy_(torch.stack([one[name].to(value) for one in weights]).mean(dim=0))
    return mean.eval()


def _different(old: LASConfig, new: LASConfig) -> str:
    """Name the first setting that makes another network.

    The listener's size is none, nor are convolutions before it where there were none,
    nor the settings of the attention.

    >>> from asr.model.listener import ListenerConfig
    >>> from asr.model.speller import SpellerConfig
    >>> _different(LASConfig(), LASConfig(ListenerConfig(512)))
    ''
    >>> _different(LASConfig(), LASConfig(speller=SpellerConfig(256, 2)))
    'speller.layers was 1 and is 2'
    """
    before, after = asdict(old), asdict(new)
    for part, settings in before.items():
        for name, value in settings.items():
            setting, now = f"{part}.{name}", after[part][name]
            may_change = part == "attention" or setting in _MAY_CHANGE
            if not may_change and now != value and (setting, value) != _NO_FRONT:
                return f"{setting} was {value} and is {now}"
    return ""


def _places(small: int, large: int, before: int, after: int) -> Tensor:
    """Return where along an axis the old numbers go.

    An axis that grows is made of blocks of n or N units (gates, directions, joined
    neighbours), perhaps behind numbers that do not come from the listener.

    >>> _places(7, 9, 2, 3).tolist()  # three others, then two blocks of 2 in 3 places
    [0, 1, 2, 3, 4, 6, 7]
    """
    if small == large:
        return torch.arange(small)
    blocks = (large - small) // (after - before)
    first = small - blocks * before
    places = torch.arange(blocks)[:, None] * after + torch.arange(before)
    return torch.cat((torch.arange(first), first + places.flatten()))
