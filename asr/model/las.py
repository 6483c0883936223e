"""Listen, Attend and Spell: the whole network, and the CTC head beside the speller.

    h      = Listener(FeatureNorm(features))
    logits = Speller(h, tokens so far)            log P(y_i | y_<i, x)
    ctc    = Linear(h' of the highest layer with 25 steps a second)

Shapes: B utterances, T frames, F mel bands, I tokens, J listener steps, J' steps of the
        CTC head, V vocabulary size, R rows (K hypotheses of each utterance).

Source: Chan et al. (2015), arXiv:1508.01211; the CTC head: Watanabe et al. (2017),
IEEE JSTSP 11(8), "Hybrid CTC/attention architecture"; the coverage bonus: Chorowski and
Jaitly (2017), arXiv:1612.02695, section 4.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.features import NUM_MELS, FeatureNorm
from asr.model.attention import AttentionConfig, Memory
from asr.model.listener import Heard, Listener, ListenerConfig
from asr.model.speller import Speller, SpellerConfig, SpellerState, Spelling

COVERED = 0.5
"""Attention, summed over characters, from which a step counts as covered."""


@dataclass(frozen=True)
class LASConfig:
    """Settings of the network."""

    listener: ListenerConfig = field(default_factory=ListenerConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    speller: SpellerConfig = field(default_factory=SpellerConfig)


class LAS(nn.Module):
    """Listener, attention, speller and CTC head."""

    def __init__(self, config: LASConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        listener_size = 2 * config.listener.size
        self.norm = FeatureNorm()
        self.listener = Listener(config.listener, NUM_MELS)
        self.speller = Speller(
            config.speller, config.attention, listener_size, vocab_size
        )
        self.ctc = nn.Linear(listener_size, vocab_size)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.ctc.out_features

    def listen(self, features: Tensor, num_frames: Tensor) -> Heard:
        """(B, T, F) features of (B,) frames -> what the listener made of them."""
        heard: Heard = self.listener(self.norm(features), num_frames)
        return heard

    def remember(self, heard: Heard) -> Memory:
        """Prepare what was heard for being looked at."""
        return self.speller.attention.remember(heard.h, heard.num_steps)

    def ctc_log_probs(self, heard: Heard) -> Tensor:
        """(B, J', V) log P of a token or blank at each step, in float32."""
        log_probs: Tensor = self.ctc(heard.ctc_h).float().log_softmax(dim=-1)
        return log_probs

    def forward(
        self, features: Tensor, num_frames: Tensor, inputs: Tensor, sampling: float = 0
    ) -> tuple[Spelling, Tensor, Heard]:
        """Do all that training needs.

        Args:
            features: (B, T, F) padded.
            num_frames: (B,).
            inputs: (B, I) <sos> and the targets without their last token.
            sampling: chance of an input to be the speller's own guess.

        Returns:
            The speller's word on the targets, (B, J', V) the CTC head's, and what was
            heard.
        """
        heard = self.listen(features, num_frames)
        ctc_log_probs = self.ctc_log_probs(heard)
        with torch.autocast(features.device.type, enabled=False):
            heard = Heard(heard.h.float(), *heard[1:])
            memory = self.remember(heard)
            spelling = self.speller.spell_sampled(memory, inputs, sampling)
        return spelling, ctc_log_probs, heard

    def steps(self, heard: Heard, coverage: float = 0.0) -> "LASSteps":
        """Turn what was heard into a `StepModel` that a search can ask."""
        return LASSteps(self.speller, self.remember(heard), coverage)


class StepsState(NamedTuple):
    """State of `LASSteps`: the speller's, and what of the memory it still needs."""

    speller: SpellerState
    memory: Memory
    attended: Tensor
    """(R, J) attention summed over the characters so far."""


class LASSteps:
    """The speller as a search sees it: scores of the next token, row by row.

    Args:
        speller: the network.
        memory: of B utterances.
        coverage: bonus for each listener step that a hypothesis has looked at for more
            than half a character; 0 leaves log P as it is.
    """

    def __init__(self, speller: Speller, memory: Memory, coverage: float) -> None:
        self.speller, self.memory, self.coverage = speller, memory, coverage

    def start(self) -> StepsState:
        """State of B rows that hold nothing but <sos>."""
        attended = torch.zeros_like(self.memory.h[:, :, 0])
        return StepsState(self.speller.start(self.memory), self.memory, attended)

    def step(self, tokens: Tensor, state: StepsState) -> tuple[Tensor, StepsState]:
        """(R,) last tokens -> (R, V) log P of the next, and the new state."""
        logits, speller = self.speller.step(tokens, state.speller, state.memory)
        scores, attended = logits.log_softmax(dim=-1), state.attended
        if self.coverage:
            attended = attended + speller.weights
            newly = (attended > COVERED) & (state.attended <= COVERED)
            scores = scores + self.coverage * newly.sum(dim=-1, keepdim=True)
        return scores, StepsState(speller, state.memory, attended)

    def select(self, state: StepsState, rows: Tensor) -> StepsState:
        """Keep the rows (B', K') of the B' utterances that they belong to."""
        batch = state.memory.h.size(0)
        memory = state.memory
        if rows.size(0) != batch:
            hypotheses = state.attended.size(0) // batch
            memory = memory.select(rows[:, 0] // hypotheses)
        flat = rows.flatten()
        return StepsState(state.speller.select(flat), memory, state.attended[flat])
