"""Listen, Attend and Spell: the whole network, and the CTC head beside the speller.

    h      = Listener(FeatureNorm(features))
    logits = Speller(h, tokens so far)            log P(y_i | y_<i, x)
    ctc    = Linear(h' of the highest layer with 25 steps a second)

Shapes: B utterances, T frames, F mel bands, I tokens, J listener steps, J' steps of the
        CTC head, V vocabulary size.

Source: Chan et al. (2015), arXiv:1508.01211; the CTC head: Watanabe et al. (2017),
IEEE JSTSP 11(8), "Hybrid CTC/attention architecture".
"""

import math
from copy import copy
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import Tensor, nn

from asr.errors import ConfigError
from asr.features import NUM_MELS, FeatureNorm
from asr.model.attention import Attention, AttentionConfig, AttentionMemory
from asr.model.listener import Listener, ListenerConfig, ListenerOutput, quantize_int8
from asr.model.plain_steps import PlainSteps, SpellerSteps
from asr.model.speller import Speller, SpellerConfig, Spelling
from asr.model.speller_search import InternalLMSteps, LASSteps, StepWeights
from asr.model.windowed_search import WindowedSteps

_MOST = {
    "listener.size": 8192,
    "listener.conv_channels": 1024,
    "attention.size": 8192,
    "attention.filters": 1024,
    "attention.reach": 1000,
    "attention.heads": 128,
    "attention.block_size": 10_000,
    "speller.size": 16_384,
    "speller.layers": 32,
    "speller.embedding_size": 8192,
}
"""What settings are at most: several times what the largest LAS models have, and little
enough for a model that is not to be trusted."""
_MOST_LAYERS, _MOST_REDUCTION = 32, 64  # of the listener


@dataclass(frozen=True)
class LASConfig:
    """Settings of the network."""

    listener: ListenerConfig = field(default_factory=ListenerConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    speller: SpellerConfig = field(default_factory=SpellerConfig)

    def __post_init__(self) -> None:
        """Refuse what nobody has memory for, and parts that do not fit together."""
        for name, most in _MOST.items():
            size = attrgetter(name)(self)
            if size > most:
                raise ValueError(f"{name} must be at most {most}, not {size}")
        reductions = self.listener.reductions
        if len(reductions) > _MOST_LAYERS or math.prod(reductions) > _MOST_REDUCTION:
            raise ValueError(
                f"listener.reductions must be at most {_MOST_LAYERS} numbers that "
                f"multiply to {_MOST_REDUCTION}"
            )
        if 2 * self.listener.size % self.attention.heads:
            raise ValueError(
                f"attention.heads must divide what the listener puts out, "
                f"{2 * self.listener.size}: {self.attention.heads} do not"
            )


class LAS(nn.Module):
    """Listener, attention, speller and CTC head.

    Args:
        config: settings of the network.
        vocab_size: V.
        attention: an attention of the user's own, in place of the built-in one that the
            settings name.

    Raises:
        ValueError: see `Speller`.
    """

    def __init__(
        self,
        config: LASConfig,
        vocab_size: int,
        attention: type[Attention] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        listener_size = 2 * config.listener.size
        self.norm = FeatureNorm()
        self.listener = Listener(config.listener, NUM_MELS)
        self.speller = Speller(
            config.speller, config.attention, listener_size, vocab_size, attention
        )
        self.ctc = nn.Linear(listener_size, vocab_size)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.ctc.out_features

    def listen(self, features: Tensor, num_frames: Tensor) -> ListenerOutput:
        """(B, T, F) features of (B,) frames -> the listener's output."""
        listened: ListenerOutput = self.listener(self.norm(features), num_frames)
        return listened

    def precompute(
        self, listened: ListenerOutput, *, detach_keys: bool = False
    ) -> AttentionMemory:
        """Prepare the listener's output for attention; see `Attention.precompute`."""
        return self.speller.attention.precompute(
            listened.h, listened.num_steps, detach_keys=detach_keys
        )

    def ctc_log_probs(self, listened: ListenerOutput) -> Tensor:
        """(B, J', V) log P of a token or blank at each step, in float32."""
        log_probs: Tensor = self.ctc(listened.ctc_h).float().log_softmax(dim=-1)
        return log_probs

    def forward(
        self,
        features: Tensor,
        num_frames: Tensor,
        inputs: Tensor,
        sampling: float | Tensor = 0,
        *,
        detach_keys: bool = False,
    ) -> tuple[Spelling, Tensor, ListenerOutput]:
        """Do all that training needs.

        Args:
            features: (B, T, F) padded.
            num_frames: (B,).
            inputs: (B, I) <sos> and the targets without their last token.
            sampling: chance of an input to be the speller's own guess.
            detach_keys: see `Attention.precompute`.

        Returns:
            The speller's logits and weights for the targets, (B, J', V) log P of the
            CTC head, and the listener's output.
        """
        listened = self.listen(features, num_frames)
        ctc_log_probs = self.ctc_log_probs(listened)
        with torch.autocast(features.device.type, enabled=False):
            listened = ListenerOutput(listened.h.float(), *listened[1:])
            memory = self.precompute(listened, detach_keys=detach_keys)
            spelling = self.speller.spell_sampled(memory, inputs, sampling)
        return spelling, ctc_log_probs, listened

    def with_int8_listener(self) -> "LAS":
        """Return this network with a quantized listener; all else is shared."""
        other = copy(self)
        other._modules = {**self._modules, "listener": quantize_int8(self.listener)}
        return other

    def step_weights(self, precision: str = "float32") -> StepWeights | None:
        """Prepare the speller's weights for searches; None if its attention has no use.

        Args:
            precision: float32 or int8.

        Raises:
            ConfigError: the precision is int8, and the attention has no fast path.
        """
        attention = self.speller.attention
        if attention.has_fast_path():
            return StepWeights(self.speller, precision)
        if precision == "int8":
            raise ConfigError(
                "precision int8: is for the built-in attentions (the attention "
                f"{type(attention).__name__} needs float32)"
            )
        return None

    @torch.no_grad()
    def steps(
        self,
        listened: ListenerOutput,
        coverage: float = 0.0,
        weights: StepWeights | None = None,
        window: int | None = None,
    ) -> SpellerSteps:
        """Return a `StepModel` of these utterances for a search.

        Args:
            listened: the listener's output for B utterances.
            coverage: see `LASSteps`.
            weights: of the speller, if they were prepared before.
            window: listener steps to each side that the attention may look at; None
                for all of them. See `windowed_search`.

        Raises:
            ConfigError: there is a window, and the attention has no fast path.
        """
        return self._steps(self.precompute(listened), coverage, weights, window)

    @torch.no_grad()
    def internal_lm(
        self, num_utterances: int, weights: StepWeights | None = None
    ) -> SpellerSteps:
        """Return the language model inside the speller, as a `StepModel`.

        All contexts c_i are zero, so that only the texts seen in training count. A
        search subtracts it where it has a better language model.

        Args:
            num_utterances: B.
            weights: of the speller, if they were prepared before.

        Source: Meng et al. (2020), arXiv:2011.01991, section 3.2.
        """
        if weights := weights or self.step_weights():
            return InternalLMSteps(weights, num_utterances)
        attention, device = self.speller.attention, self.ctc.weight.device
        silence = torch.zeros(num_utterances, 1, self.ctc.in_features, device=device)
        memory = attention.precompute(silence, torch.ones(num_utterances).long())
        return PlainSteps(self.speller, memory, 0.0)

    def _steps(
        self,
        memory: AttentionMemory,
        coverage: float,
        weights: StepWeights | None,
        window: int | None = None,
    ) -> SpellerSteps:
        weights = weights or self.step_weights()
        start = self.speller.attention.start(memory)
        if weights is not None and window is not None:
            return WindowedSteps(weights, memory, start, coverage, window)
        if weights is not None:
            return LASSteps(weights, memory, start, coverage)
        if window is not None:
            name = type(self.speller.attention).__name__
            raise ConfigError(
                "decoding.attention_window: is for the built-in attentions (not for "
                f"{name})"
            )
        return PlainSteps(self.speller, memory, coverage)
