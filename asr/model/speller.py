"""Spell: one character after the other, looking at the listener's steps for each.

    s_i      = LSTM(s_{i-1}, [y_{i-1} ; c_{i-1}])
    c_i      = attention(s_i, h)                      (see `attention`)
    logits_i = MLP([s_i ; c_i])

Shapes: B utterances, K hypotheses of each, R = B * K rows, I tokens, J listener steps,
        H listener size, S speller size, V vocabulary size.

Source: Chan et al. (2015), arXiv:1508.01211, section 3.2. Scheduled sampling: Bengio et
al. (2015), arXiv:1506.03099, here in one further pass over the whole target (Duckworth
et al., 2019, arXiv:1906.04331) in place of one draw after the other.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.model.attention import (
    Attention,
    AttentionConfig,
    AttentionMemory,
    build_attention,
)
from asr.model.lstm import gates_last
from asr.model.teacher_forcing import Spelled, spell_loop


@dataclass(frozen=True)
class SpellerConfig:
    """Settings of `Speller`."""

    size: int = 256
    """S: units of each LSTM."""
    layers: int = 1
    """LSTMs on top of each other."""
    embedding_size: int = 64
    """Size of the vector that stands for a token."""
    dropout: float = 0.2
    """Share of embedded tokens' and of the MLP's inputs that is dropped in training."""

    def __post_init__(self) -> None:
        """Refuse sizes that no layer can have."""
        for name in ("size", "layers", "embedding_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"speller.{name} must be at least 1, not {getattr(self, name)}"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"speller.dropout is a share from 0 to below 1, not {self.dropout}"
            )


class SpellerState(NamedTuple):
    """What the speller carries from one character to the next, for R rows."""

    hidden: Tensor
    """(layers, R, S) s_i."""
    cell: Tensor
    """(layers, R, S)."""
    context: Tensor
    """(R, H) c_i."""
    weights: Tensor
    """(R, J) alpha_i."""

    def select(self, rows: Tensor) -> "SpellerState":
        """Keep, in this order, the given rows (R',); a row may be kept twice."""
        return SpellerState(
            self.hidden.index_select(1, rows),
            self.cell.index_select(1, rows),
            self.context.index_select(0, rows),
            self.weights.index_select(0, rows),
        )


class Spelling(NamedTuple):
    """The speller's output for a whole target."""

    logits: Tensor
    """(B, I, V)."""
    weights: Tensor
    """(B, I, J) alpha."""


class Speller(nn.Module):
    """An LSTM that looks at the listener's steps and writes characters.

    Args:
        config: of the speller.
        attention: settings of the attention.
        listener_size: H.
        vocab_size: V.
        attention_class: an attention of the user's own, in place of the built-in one
            that the settings name.

    Raises:
        ValueError: the class is a built-in one, and not that of the settings.
    """

    def __init__(
        self,
        config: SpellerConfig,
        attention: AttentionConfig,
        listener_size: int,
        vocab_size: int,
        attention_class: type[Attention] | None = None,
    ) -> None:
        super().__init__()
        size, embedded = config.size, config.embedding_size
        self.embedding = nn.Embedding(vocab_size, embedded)
        widths = [embedded + listener_size] + [size] * (config.layers - 1)
        self.cells = nn.ModuleList(nn.LSTMCell(width, size) for width in widths)
        self.attention = build_attention(
            attention, listener_size, size, attention_class
        )
        self.hidden = nn.Linear(size + listener_size, size)
        self.output = nn.Linear(size, vocab_size)
        self.dropout = nn.Dropout(config.dropout)

    def start(self, memory: AttentionMemory) -> SpellerState:
        """State before the first character, one row an utterance."""
        batch, size = memory.h.size(0), self.hidden.out_features
        zeros = memory.h.new_zeros(len(self.cells), batch, size)
        context = memory.h.new_zeros(batch, memory.h.size(2))
        return SpellerState(zeros, zeros, context, self.attention.start(memory))

    def step(
        self, tokens: Tensor, state: SpellerState, memory: AttentionMemory
    ) -> tuple[Tensor, SpellerState]:
        """Write one character.

        Args:
            tokens: (R,) y_{i-1}, the last token of each row.
            state: of the same rows.
            memory: of B utterances; the R / B rows of an utterance stand together.

        Returns:
            (R, V) logits of the next token, and the new state.
        """
        below = torch.cat((self.dropout(self.embedding(tokens)), state.context), dim=-1)
        hidden, cells = list[Tensor](), list[Tensor]()
        for cell, s, c in zip(self.cells, state.hidden, state.cell, strict=True):
            below, c = cell(below, (s, c))
            hidden.append(below)
            cells.append(c)
        batch = memory.h.size(0)
        grouped = below.view(batch, -1, below.size(1))  # (R, S) -> (B, K, S)
        previous = state.weights.view(batch, -1, state.weights.size(1))
        output = self.attention(grouped, memory, previous)
        context, weights = output.context.flatten(0, 1), output.weights.flatten(0, 1)
        state = SpellerState(torch.stack(hidden), torch.stack(cells), context, weights)
        return self._logits(below, context), state

    def spell(self, memory: AttentionMemory, inputs: Tensor) -> Spelling:
        """Spell a whole target, fed with the right characters (teacher forcing).

        Args:
            memory: of B utterances.
            inputs: (B, I) <sos> and the target without its last token.
        """
        if not self.attention.has_fast_path():
            return self.spell_by_steps(memory, inputs)
        cell = self.cells[0]
        assert isinstance(cell, nn.LSTMCell)
        embedded = self.dropout(self.embedding(inputs.t()))  # (I, B, E)
        share = gates_last(cell.weight_ih[:, : embedded.size(2)])
        bias = gates_last(cell.bias_ih + cell.bias_hh)
        gates = nn.functional.linear(embedded, share, bias)
        cells = [cell for cell in self.cells if isinstance(cell, nn.LSTMCell)]
        return self._spelling(spell_loop(gates, cells, self.attention, memory))

    def spell_by_steps(self, memory: AttentionMemory, inputs: Tensor) -> Spelling:
        """Do what `spell` does with one `step` after the other: the plain formula."""
        state, logits, weights = self.start(memory), list[Tensor](), list[Tensor]()
        for tokens in inputs.unbind(dim=1):
            logits_i, state = self.step(tokens, state, memory)
            logits.append(logits_i)
            weights.append(state.weights)
        return Spelling(torch.stack(logits, dim=1), torch.stack(weights, dim=1))

    def spell_sampled(
        self, memory: AttentionMemory, inputs: Tensor, sampling: float | Tensor
    ) -> Spelling:
        """Spell a target in which some characters are the speller's own.

        A first pass over the right characters finds, without gradients, what the
        speller would have written; a share of the inputs is replaced by draws from it.

        Args:
            memory: of B utterances.
            inputs: (B, I) <sos> and the target without its last token.
            sampling: chance of each input but <sos> to be replaced; a tensor () where
                looking at it would stop a GPU.
        """
        if isinstance(sampling, Tensor) or sampling > 0:
            with torch.no_grad():
                guesses = self.spell(memory, inputs).logits[:, :-1]
                shares = guesses.softmax(dim=-1)
                # As `multinomial` draws, which stops a GPU to check what it is given.
                drawn = (shares / torch.empty_like(shares).exponential_()).argmax(
                    dim=-1
                )
                replaced = torch.rand(drawn.shape, device=drawn.device) < sampling
            mixed = torch.where(replaced, drawn, inputs[:, 1:])
            inputs = torch.cat((inputs[:, :1], mixed), dim=1)
        return self.spell(memory, inputs)

    def _spelling(self, spelled: Spelled) -> Spelling:
        logits = self._logits(spelled.states, spelled.contexts)
        return Spelling(logits.transpose(0, 1), spelled.weights.transpose(0, 1))

    def _logits(self, s: Tensor, context: Tensor) -> Tensor:
        """(..., S), (..., H) -> (..., V)."""
        seen = self.dropout(torch.cat((s, context), dim=-1))
        logits: Tensor = self.output(self.dropout(self.hidden(seen).tanh()))
        return logits
