"""Parts of a network that learn nothing, or more slowly than the rest.

A part is a module by its name in the network: `listener`, `listener.layers.0`,
`speller.attention`. What is frozen gets no gradient and is in no group of the
optimiser, so that neither weight decay nor momentum moves it; its moving average is
what it is itself.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from asr.errors import ConfigError

SHARE = "share"
"""Key of an optimiser's group: its share of the learning rate."""
_DEPTH = 2
"""How deep the parts lie that a message names."""


def freeze(network: nn.Module, names: Sequence[str]) -> None:
    """Let parts of a network learn nothing.

    Raises:
        ConfigError: there is no such part, or nothing is left that learns.
    """
    for name in names:
        part = _parts(network).get(name)
        if part is None:
            raise ConfigError(f"training.freeze: {name}: {_hint(network, name)}")
        part.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(
            f"training.freeze: {', '.join(names)}: nothing is left that learns (leave "
            "a part out)"
        )


def parameter_groups(
    network: nn.Module, taken: Iterable[str], share: float
) -> list[dict[str, Any]]:
    """Make the groups of the optimiser, of what learns.

    Args:
        network: with its frozen parts.
        taken: names of parameters that learn with a share of the learning rate.
        share: this share.

    Returns:
        One group or two, each with its `SHARE`; those that learn at the full rate
        first.
    """
    learning = {n: p for n, p in network.named_parameters() if p.requires_grad}
    slow = learning.keys() & set(taken) if share != 1 else set[str]()
    groups = (
        {"params": [p for n, p in learning.items() if n not in slow], SHARE: 1.0},
        {"params": [p for n, p in learning.items() if n in slow], SHARE: share},
    )
    return [group for group in groups if group["params"]]


def _parts(network: nn.Module) -> dict[str, nn.Module]:
    """Find all parts that have weights, by their names."""
    return {
        name: part
        for name, part in network.named_modules()
        if name and any(True for _ in part.parameters())
    }


def _hint(network: nn.Module, name: str) -> str:
    names = list(_parts(network))
    shallow = [known for known in names if known.count(".") < _DEPTH]
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"is no part of the network ({hint}there are {', '.join(shallow)})"
