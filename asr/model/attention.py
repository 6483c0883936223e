"""Attend: which steps of the listener does the speller need for the next character?

For character i, the speller's state s_i is compared with every listener step h_j:

    e_ij     = v . tanh(W s_i + U h_j + b)               additive
    e_ij     = v . tanh(W s_i + U h_j + L f_ij + b)      location-aware
               f_i = filters * alpha_{i-1}               (a convolution over j)
    e_ij     = (W s_i) . (U h_j + b) / sqrt(A)           scaled dot
    alpha_ij = exp(e_ij) / sum_j' exp(e_ij')             attention weight, real steps
    c_i      = sum_j alpha_ij h_j                        context

Another way to write the additive energy is v . relu(M [s_i ; h_j] + b): with M = [W U]
it is the same sum, and the activation may be relu here too.

The scaled dot may have N > 1 heads. Head n looks with its own A / N of the A numbers of
W s_i and U h_j + b, and takes its own H / N of V h_j; c_i is what all of them took,
side by side, and alpha_i, where one is asked for, their mean.

Shapes: B utterances, J listener steps, H listener size, S speller size, K states of an
        utterance, A attention size, N heads, R = 2 * reach + 1 steps that a location
        filter spans.

Source: Bahdanau, Cho and Bengio (2015), arXiv:1409.0473, appendix A.1.2; Chorowski et
al. (2015), arXiv:1506.07503, section 2.1 (location-aware); Vaswani et al. (2017),
arXiv:1706.03762, section 3.2.1 (scaled dot). Chan et al. (2015), arXiv:1508.01211,
section 3.2, compare by a dot product of two MLPs.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asr.padding import valid_mask

KINDS = ("location", "additive", "dot")
ACTIVATIONS = ("tanh", "relu")


@dataclass(frozen=True)
class AttentionConfig:
    """Settings of an attention."""

    kind: str = "location"
    """How states and steps are compared: location, additive or dot."""
    size: int = 128
    """A: the size of the space in which states and steps are compared."""
    activation: str = "tanh"
    """Of the additive and location-aware energies: tanh or relu."""
    filters: int = 10
    """Location-aware: number of filters that look at the previous weights."""
    reach: int = 15
    """Location-aware: steps that a filter sees to each side."""
    heads: int = 1
    """N, of the dot: how many looks are taken at a time."""

    def __post_init__(self) -> None:
        """Refuse sizes that no layer can have."""
        for name, choices in (("kind", KINDS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"attention.{name} must be one of {', '.join(choices)}, "
                    f"not {getattr(self, name)}"
                )
        for name, least in (("size", 1), ("filters", 1), ("reach", 0), ("heads", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"attention.{name} must be at least {least}, "
                    f"not {getattr(self, name)}"
                )
        if self.heads > 1 and self.kind != "dot":
            raise ValueError(f"attention.heads must be 1 where kind is {self.kind}")
        if self.size % self.heads:
            raise ValueError(
                f"attention.size must be a multiple of the {self.heads} heads, "
                f"not {self.size}"
            )


class Memory(NamedTuple):
    """What the speller can look at: one padded batch of listened-to utterances."""

    h: Tensor
    """(B, J, H) listener steps; of several heads V h_j."""
    keys: Tensor
    """(B, J, A) U h_j + b: the same for every character, so worked out once."""
    valid: Tensor
    """(B, J) bool, True where the step is speech and False where it is padding."""

    def select(self, rows: Tensor) -> "Memory":
        """Keep, in this order, the given rows (B',)."""
        return Memory(self.h[rows], self.keys[rows], self.valid[rows])


class Glance(NamedTuple):
    """What one look at the memory yields."""

    context: Tensor
    """(..., H) c_i."""
    weights: Tensor
    """(..., J) alpha_i: each row sums to one and is zero on padding."""


class Attention(nn.Module):
    """What all attentions share: keys worked out once, weights, and their context.

    A state may carry one more axis than the memory, (B, K, S) against (B, J, H): the K
    hypotheses of an utterance look at the same memory, which is not copied.
    """

    def __init__(
        self, config: AttentionConfig, listener_size: int, speller_size: int
    ) -> None:
        super().__init__()
        self.query = nn.Linear(speller_size, config.size, bias=False)  # W
        self.key = nn.Linear(listener_size, config.size)  # U and b
        self.heads = config.heads

    def remember(self, h: Tensor, num_steps: Tensor) -> Memory:
        """Prepare utterances for being looked at, once for all their characters.

        Args:
            h: (B, J, H) listener steps, padded.
            num_steps: (B,) how many of the J steps are real.

        Raises:
            ValueError: an utterance has no step at all, so nothing can be attended to.
        """
        if int(num_steps.min()) < 1:
            raise ValueError(f"every utterance needs a step, got {num_steps.tolist()}")
        return Memory(h, self.key(h), valid_mask(num_steps.to(h.device), h.size(1)))

    def start(self, memory: Memory) -> Tensor:
        """(B, J) weights before the first character: all on the first step."""
        weights = torch.zeros_like(memory.h[:, :, 0])
        weights[:, 0] = 1.0
        return weights

    def energies(self, s: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        """(B, K, S) states, (B, K, J) previous weights -> (B, N, K, J) e_i."""
        raise NotImplementedError

    def forward(self, s: Tensor, memory: Memory, previous: Tensor) -> Glance:
        """Look once.

        Args:
            s: (B, S) or (B, K, S) speller states s_i.
            memory: what `remember` made of the same B utterances.
            previous: (B, J) or (B, K, J) weights of the character before.
        """
        single = s.dim() == 2
        if single:
            s, previous = s[:, None], previous[:, None]
        energies = self.energies(s, memory, previous)
        energies = energies.masked_fill(~memory.valid[:, None, None], -torch.inf)
        weights = energies.softmax(dim=-1)  # (B, N, K, J)
        context = weights @ split_heads(memory.h, self.heads)  # (B, N, K, H / N)
        context, weights = context.transpose(1, 2).flatten(2), weights.mean(dim=1)
        return (
            Glance(context[:, 0], weights[:, 0]) if single else Glance(context, weights)
        )


class AdditiveAttention(Attention):
    """Content-based attention with a one-layer comparison of state and step."""

    def __init__(
        self, config: AttentionConfig, listener_size: int, speller_size: int
    ) -> None:
        super().__init__(config, listener_size, speller_size)
        self.energy = nn.Linear(config.size, 1, bias=False)  # v
        self.activation = config.activation

    def energies(self, s: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        """(B, K, S), (B, K, J) -> (B, 1, K, J) v . act(W s_i + U h_j + b)."""
        del previous  # only the content counts
        return self._energies(self.query(s)[:, :, None] + memory.keys[:, None])

    def _energies(self, compared: Tensor) -> Tensor:
        """(B, K, J, A) -> (B, 1, K, J)."""
        active = compared.tanh() if self.activation == "tanh" else compared.relu()
        return (active @ self.energy.weight[0])[:, None]


class LocationAwareAttention(AdditiveAttention):
    """Additive attention that also sees where it looked for the character before."""

    def __init__(
        self, config: AttentionConfig, listener_size: int, speller_size: int
    ) -> None:
        super().__init__(config, listener_size, speller_size)
        width = 2 * config.reach + 1
        self.filters = nn.Parameter(torch.empty(config.filters, width))
        self.location = nn.Linear(config.filters, config.size, bias=False)  # L
        nn.init.uniform_(self.filters, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def energies(self, s: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        """(B, K, S), (B, K, J) -> (B, 1, K, J) v . act(W s_i + U h_j + L f_ij + b)."""
        seen = neighbours(previous, self.filters.size(1)) @ self.filters.t()
        located = self.location(seen).view(*previous.shape, -1)  # (B, K, J, A)
        compared = self.query(s)[:, :, None] + memory.keys[:, None]
        return self._energies(compared + located)


def neighbours(weights: Tensor, width: int) -> Tensor:
    """(..., J) -> (rows of all * J, R) the R weights around each step; zeros beyond."""
    padded = nn.functional.pad(weights, (width // 2, width // 2))
    return padded.unfold(-1, width, 1).reshape(-1, width)


class DotAttention(Attention):
    """Content-based attention by a scaled dot product, with one head or several."""

    def __init__(
        self, config: AttentionConfig, listener_size: int, speller_size: int
    ) -> None:
        super().__init__(config, listener_size, speller_size)
        if self.heads > 1:
            self.value = nn.Linear(listener_size, listener_size, bias=False)  # V

    def remember(self, h: Tensor, num_steps: Tensor) -> Memory:
        """Prepare utterances for being looked at, once for all their characters."""
        memory = super().remember(h, num_steps)
        return memory._replace(h=self.value(h)) if self.heads > 1 else memory

    def energies(self, s: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        """(B, K, S), (B, K, J) -> (B, N, K, J) (W s_i) . (U h_j + b) / sqrt(A / N)."""
        del previous  # only the content counts
        queries = split_heads(self.query(s), self.heads)
        keys = split_heads(memory.keys, self.heads)
        return queries @ keys.transpose(2, 3) / math.sqrt(keys.size(-1))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, J, X) -> (B, N, J, X / N): to each head its own part."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def build_attention(
    config: AttentionConfig, listener_size: int, speller_size: int
) -> Attention:
    """Build the attention that the settings ask for."""
    kinds: dict[str, Any] = {
        "location": LocationAwareAttention,
        "additive": AdditiveAttention,
        "dot": DotAttention,
    }
    attention: Attention = kinds[config.kind](config, listener_size, speller_size)
    return attention
