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

Hierarchical: the additive and the location-aware attention may look inside blocks m
of G steps first, then across them (U' c_im is a sum of U' h_j, worked out beforehand):

    alpha_ij = exp(e_ij) / sum_{j' in m} exp(e_ij')         inside, of the steps of m
    c_im     = sum_{j in m} alpha_ij h_j
    e'_im    = v' . act(W' s_i + U' c_im + b')
    beta_im  = exp(e'_im) / sum_m' exp(e'_im')              across
    c_i      = sum_m beta_im c_im = sum_j beta_im alpha_ij h_j

so that it is again one weight for each step, beta_im alpha_ij.

What an attention must have is its `energies`: `Speller.spell_by_steps` trains and
`PlainSteps` decodes with nothing else. For the three that are built in,
`teacher_forcing` and `speller_search` do the same faster.

The scaled dot may have N > 1 heads. Head n looks with its own A / N of the A numbers of
W s_i and U h_j + b, and takes its own H / N of V h_j; c_i is what all of them took,
side by side, and alpha_i, where one is asked for, their mean.

Shapes: B utterances, J listener steps, H listener size, S speller size, K states of an
        utterance, A attention size, N heads, R = 2 * reach + 1 steps that a location
        filter spans, M blocks of G steps. Of a hierarchical attention queries and
        keys hold 2 * A numbers: A for inside, A for across.

Source: Bahdanau, Cho and Bengio (2015), arXiv:1409.0473, appendix A.1.2; Chorowski et
al. (2015), arXiv:1506.07503, section 2.1 (location-aware); Vaswani et al. (2017),
arXiv:1706.03762, section 3.2.1 (scaled dot); Libovický and Helcl (2017),
arXiv:1704.06567, section 3.2 (hierarchical). Chan et al. (2015), arXiv:1508.01211,
section 3.2, compare by a dot product of two MLPs.
"""

import math
import sys
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import NamedTuple

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
    block_size: int = 0
    """G, of the others: steps of a block, to look inside blocks first and then
    across them; 0 to look at all steps at once."""

    def __post_init__(self) -> None:
        """Refuse sizes that no layer can have."""
        for name, choices in (("kind", KINDS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"attention.{name} must be one of {', '.join(choices)}, "
                    f"not {getattr(self, name)}"
                )
        for name, least in (
            *(("size", 1), ("filters", 1), ("reach", 0)),
            *(("heads", 1), ("block_size", 0)),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"attention.{name} must be at least {least}, "
                    f"not {getattr(self, name)}"
                )
        if self.heads > 1 and self.kind != "dot":
            raise ValueError(f"attention.heads must be 1 where kind is {self.kind}")
        if self.block_size and self.kind == "dot":
            raise ValueError("attention.block_size must be 0 where kind is dot")
        if self.size % self.heads:
            raise ValueError(
                f"attention.size must be a multiple of the {self.heads} heads, "
                f"not {self.size}"
            )


class AttentionMemory(NamedTuple):
    """What the speller can look at: one padded batch of listened-to utterances."""

    h: Tensor
    """(B, J, H) listener steps; of several heads V h_j."""
    keys: Tensor
    """(B, J, A) U h_j + b: the same for every character, so worked out once."""
    valid: Tensor
    """(B, J) bool, True where the step is speech and False where it is padding."""

    def select(self, rows: Tensor) -> "AttentionMemory":
        """Keep, in this order, the given rows (B',)."""
        return AttentionMemory(self.h[rows], self.keys[rows], self.valid[rows])


class AttentionOutput(NamedTuple):
    """What one look at the memory yields."""

    context: Tensor
    """(..., H) c_i."""
    weights: Tensor
    """(..., J) alpha_i: each row sums to one and is zero on padding."""


class Attention(nn.Module):
    """What all attentions share: keys worked out once, weights, and their context.

    A state may carry one more axis than the memory, (B, K, S) against (B, J, H): the K
    hypotheses of an utterance look at the same memory, which is not copied.

    A new attention is a subclass with `energies` of its own; it may replace any of the
    other methods, too. It keeps no state between calls, and its parameters and buffers
    are floating-point numbers.

    Args:
        config: settings; a subclass reads those that it has a use for.
        listener_size: H.
        speller_size: S.
    """

    def __init__(
        self, config: AttentionConfig, listener_size: int, speller_size: int
    ) -> None:
        super().__init__()
        width = 2 * config.size if config.block_size else config.size
        self.query = nn.Linear(speller_size, width, bias=False)  # W
        self.key = nn.Linear(listener_size, width)  # U and b
        self.heads, self.block_size = config.heads, config.block_size

    @classmethod
    def has_fast_path(cls) -> bool:
        """Return whether `teacher_forcing` and `speller_search` know this very class.

        A subclass of a built-in attention may have other energies than its parent, so
        it has none.
        """
        return cls in BUILT_IN.values()

    def precompute(
        self, h: Tensor, num_steps: Tensor, *, detach_keys: bool = False
    ) -> AttentionMemory:
        """Prepare utterances for being looked at, once for all their characters.

        Args:
            h: (B, J, H) listener steps, padded.
            num_steps: (B,) how many of the J steps are real.
            detach_keys: let no gradient flow from the keys to h, so that where the
                attention looks does not train the listener.

        Raises:
            ValueError: an utterance has no step at all, so nothing can be attended to.
        """
        if num_steps.device.type == "cpu" and int(num_steps.min()) < 1:
            raise ValueError(f"every utterance needs a step, got {num_steps.tolist()}")
        keys = self.key(h.detach() if detach_keys else h)
        return AttentionMemory(h, keys, valid_mask(num_steps.to(h.device), h.size(1)))

    def start(self, memory: AttentionMemory) -> Tensor:
        """(B, J) weights before the first character: all on the first step."""
        weights = torch.zeros_like(memory.h[:, :, 0])
        weights[:, 0] = 1.0
        return weights

    def energies(self, s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        """(B, K, S) states, (B, K, J) previous weights -> (B, N, K, J) e_i.

        Of a hierarchical attention it is log(alpha_i beta_i): softmax leaves it so.
        """
        raise NotImplementedError

    def forward(
        self, s: Tensor, memory: AttentionMemory, previous: Tensor
    ) -> AttentionOutput:
        """Look once.

        Args:
            s: (B, S) or (B, K, S) speller states s_i.
            memory: what `precompute` made of the same B utterances.
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
            AttentionOutput(context[:, 0], weights[:, 0])
            if single
            else AttentionOutput(context, weights)
        )


class AdditiveAttention(Attention):
    """Content-based attention with a one-layer comparison of state and step."""

    def __init__(
        self, config: AttentionConfig, listener_size: int, speller_size: int
    ) -> None:
        super().__init__(config, listener_size, speller_size)
        self.energy = nn.Linear(config.size, 1, bias=False)  # v
        self.activation = config.activation
        if config.block_size:
            self.across = nn.Linear(config.size, 1, bias=False)  # v'

    def energies(self, s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        """(B, K, S), (B, K, J) -> (B, 1, K, J) v . act(W s_i + U h_j + b)."""
        del previous  # only the content counts
        return self._energies(self.query(s), memory)

    def _energies(
        self, query: Tensor, memory: AttentionMemory, located: Tensor | None = None
    ) -> Tensor:
        """(B, K, A) W s_i, (B, K, J, A) L f_ij -> (B, 1, K, J)."""
        v, keys = self.energy.weight[0], memory.keys
        compared = query[:, :, None, : len(v)] + keys[:, None, :, : len(v)]
        if located is not None:
            compared = compared + located
        found = activated(compared, self.activation) @ v
        if self.block_size:
            blocks = cut_blocks(keys[:, :, len(v) :], memory.valid, self.block_size)
            found = attend_across(
                found,
                query[:, :, len(v) :],
                blocks,
                self.across.weight[0],
                self.activation,
            ).log_weights
        return found[:, None]


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

    def energies(self, s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        """(B, K, S), (B, K, J) -> (B, 1, K, J) v . act(W s_i + U h_j + L f_ij + b)."""
        seen = neighbours(previous, self.filters.size(1)) @ self.filters.t()
        located = self.location(seen).view(*previous.shape, -1)  # (B, K, J, A)
        return self._energies(self.query(s), memory, located)


TOGETHER = 8
"""Steps whose location features come from one row of a product; see `shifted`."""


def shifted(filters: Tensor) -> Tensor:
    """Make of filters a matrix that gives the features of some steps at a time.

    What one row of a product sees is then R - 1 + TOGETHER weights for so many steps,
    in place of R for each.

    Args:
        filters: (F, R).

    Returns:
        (R - 1 + TOGETHER, TOGETHER * F): the filters of each step, a weight further on.
    """
    count, taps = filters.shape
    found = filters.new_zeros(TOGETHER, count, taps - 1 + TOGETHER)
    for step in range(TOGETHER):
        found[step, :, step : step + taps] = filters
    return found.flatten(0, 1).t().contiguous()


def seen_together(weights: Tensor, width: int) -> Tensor:
    """Show `shifted` filters what they see.

    Args:
        weights: (..., J) of the steps.
        width: R - 1 + TOGETHER.

    Returns:
        (..., ceil(J / TOGETHER), width), a view; zeros beyond the steps.
    """
    reach, behind = (width - TOGETHER) // 2, -weights.size(-1) % TOGETHER
    padded = nn.functional.pad(weights, (reach, reach + behind))
    return padded.unfold(-1, width, TOGETHER)


def neighbours(weights: Tensor, width: int) -> Tensor:
    """(..., J) -> (rows of all * J, R) the R weights around each step; zeros beyond."""
    padded = nn.functional.pad(weights, (width // 2, width // 2))
    return padded.unfold(-1, width, 1).reshape(-1, width)


class Blocks(NamedTuple):
    """The steps of a memory in M blocks of G, the last one filled up."""

    keys: Tensor
    """(B, M, G, A) U' h_j + b', zero behind the last step."""
    missing: Tensor
    """(B, 1, M * G) bool, True where there is no step."""
    empty: Tensor
    """(B, 1, M) bool, True where there is none in the whole block."""

    def select(self, rows: Tensor) -> "Blocks":
        """Keep, in this order, the given utterances (B',)."""
        return Blocks(*(part[rows] for part in self))


def cut_blocks(keys: Tensor, valid: Tensor, block_size: int) -> Blocks:
    """Cut (B, J, A) keys and (B, J) what is speech into blocks of G steps."""
    steps = keys.size(1)
    size = min(block_size, steps)
    behind = -steps % size
    keys = nn.functional.pad(keys, (0, 0, 0, behind))
    missing = nn.functional.pad(~valid, (0, behind), value=True)
    empty = missing.view(len(keys), -1, size).all(dim=2)
    keys = keys.view(len(keys), -1, size, keys.size(2))
    return Blocks(keys, missing[:, None], empty[:, None])


class Across(NamedTuple):
    """A look inside M blocks and across them."""

    log_weights: Tensor
    """(B, K, J) log(alpha_ij beta_im)."""
    inside: Tensor
    """(B, K, M, G) alpha_ij."""
    active: Tensor
    """(B, K, M, A) act(W' s_i + U' c_im + b')."""


def attend_across(
    energies: Tensor, query: Tensor, blocks: Blocks, v: Tensor, activation: str
) -> Across:
    """Look inside blocks by energies that are known, and then across them.

    Args:
        energies: (B, K, J) e_ij.
        query: (B, K, A) W' s_i.
        blocks: of the keys for across.
        v: (A,) v'.
        activation: tanh or relu.
    """
    batch, width, steps = energies.shape
    keys = blocks.keys
    energies = nn.functional.pad(energies, (0, blocks.missing.size(2) - steps))
    lowest = torch.finfo(energies.dtype).min  # -inf alone would have no softmax
    energies = energies.masked_fill(blocks.missing, lowest)
    log_inside = energies.view(batch, width, -1, keys.size(2)).log_softmax(dim=3)
    inside = log_inside.exp()
    contexts = (inside.transpose(1, 2) @ keys).transpose(1, 2)  # (B, K, M, A)
    active = activated(query[:, :, None] + contexts, activation)
    across = (active @ v).masked_fill(blocks.empty, -torch.inf).log_softmax(dim=2)
    log_weights = (log_inside + across[..., None]).flatten(2)[:, :, :steps]
    return Across(log_weights, inside, active)


def activated(x: Tensor, activation: str) -> Tensor:
    """Tanh or relu, by its name."""
    return x.tanh() if activation == "tanh" else x.relu()


class DotAttention(Attention):
    """Content-based attention by a scaled dot product, with one head or several."""

    def __init__(
        self, config: AttentionConfig, listener_size: int, speller_size: int
    ) -> None:
        super().__init__(config, listener_size, speller_size)
        if self.heads > 1:
            self.value = nn.Linear(listener_size, listener_size, bias=False)  # V

    def precompute(
        self, h: Tensor, num_steps: Tensor, *, detach_keys: bool = False
    ) -> AttentionMemory:
        """Prepare utterances for being looked at, once for all their characters."""
        memory = super().precompute(h, num_steps, detach_keys=detach_keys)
        return memory._replace(h=self.value(h)) if self.heads > 1 else memory

    def energies(self, s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        """(B, K, S), (B, K, J) -> (B, N, K, J) (W s_i) . (U h_j + b) / sqrt(A / N)."""
        del previous  # only the content counts
        queries = split_heads(self.query(s), self.heads)
        keys = split_heads(memory.keys, self.heads)
        return queries @ keys.transpose(2, 3) / math.sqrt(keys.size(-1))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, J, X) -> (B, N, J, X / N): to each head its own part."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


BUILT_IN: dict[str, type[Attention]] = {
    "location": LocationAwareAttention,
    "additive": AdditiveAttention,
    "dot": DotAttention,
}
"""The attention of each `AttentionConfig.kind`."""


def build_attention(
    config: AttentionConfig,
    listener_size: int,
    speller_size: int,
    own: type[Attention] | None = None,
) -> Attention:
    """Build the attention that the settings name, or one of the user's own.

    Raises:
        ValueError: `own` is built in, and not what the settings name.
    """
    named = BUILT_IN[config.kind]
    chosen = own or named
    if chosen.has_fast_path() and chosen is not named:
        raise ValueError(
            f"{chosen.__name__} is built in, and attention.kind is {config.kind} "
            "(set the kind in place of handing over the class)"
        )
    return chosen(config, listener_size, speller_size)


def own_attention_name(attention: type[Attention] | None) -> str | None:
    """Return the name of an attention that is not built in; None for any other."""
    own = attention is not None and not attention.has_fast_path()
    return attention.__name__ if attention and own else None


def note_plain_path(attention: type[Attention] | None) -> None:
    """Print to stderr that an attention is slower, if it is.

    Only the first process of a program prints it, not each of those that it starts.
    """
    name = own_attention_name(attention)
    if name and parent_process() is None:
        print(
            f"asr: the attention {name} has no fast path: training and decoding take "
            "the plain formula, which is slower",
            file=sys.stderr,
            flush=True,
        )
