"""What training makes small.

    loss = (1 - w) CE(speller) + w CTC(head) + g guide + m WER

CE      cross entropy of each character, with label smoothing
CTC     -log P(all characters) by the CTC head
guide   -log sum_j alpha_ij exp(-(j - t_i)^2 / (2 s^2))
        attention far from t_i, where the CTC head finds character i; only for a while
WER     the word error rate expected of what a beam search finds, see `minimum_wer`

All but the last are sums over the characters of a batch, divided by their number.

Shapes: B utterances, I tokens with <eos>, J listener steps, J' steps of the CTC head,
        V vocabulary size, s = 4 steps.

Source: label smoothing: Szegedy et al. (2016), arXiv:1512.00567; CTC: Graves et al.
(2006), ICML; both losses together: Watanabe et al. (2017), IEEE JSTSP 11(8). The guide
is guided attention (Tachibana et al., 2018, arXiv:1710.08969, section 4.1) with CTC's
alignment in place of the diagonal: a penalty for being far from the diagonal moved
nothing here in 400 updates, since its gradient for a flat attention is nearly zero. The
guide comes from what the listener has understood, so it is not to teach it: as long as
there is one, no gradient goes from the keys that attention compares to the listener.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.data.batching import Batch
from asr.model.las import LAS
from asr.model.speller import Spelling
from asr.padding import valid_mask
from asr.text import Tokenizer
from asr.training.alignment import character_steps
from asr.training.minimum_wer import expected_wer

GUIDE_WIDTH = 4.0
"""s, in listener steps: how far from CTC's step attention may look at little cost."""


MEASURED = ("ctc_weight", "label_smoothing", "mwer_weight", "mwer_beam")
"""Settings of `LossConfig` that the loss on dev depends on, too: it has no guide."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss."""

    ctc_weight: float = 0.5
    """w: share of CTC in the loss, from 0 to 1."""
    label_smoothing: float = 0.1
    """Probability that is spread over all tokens."""
    guide_weight: float = 0.3
    """g, once it is switched on; from there it falls to 0 in a line."""
    guide_from: float = 0.1
    """Progress before which the CTC head knows too little to guide."""
    guide_until: float = 0.5
    """Progress from which there is no guide."""
    mwer_weight: float = 0.0
    """m: of the expected word error rate. For the end of a training, beside the rest:
    20 is as much as cross entropy's weight of 0.01 in the paper."""
    mwer_beam: int = 4
    """K: hypotheses of each utterance that the expectation is over."""

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        for name in ("ctc_weight", "label_smoothing", "guide_from", "guide_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"loss.{name} is a share from 0 to 1, not {getattr(self, name)}"
                )
        for name in ("guide_weight", "mwer_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"loss.{name} must be at least 0, not {getattr(self, name)}"
                )
        if self.mwer_beam < 2:
            raise ValueError(
                f"loss.mwer_beam must be at least 2, not {self.mwer_beam} (of one "
                "hypothesis alone nothing becomes more likely)"
            )
        if self.guide_until < self.guide_from:
            raise ValueError("loss.guide_until must not be before guide_from")

    def guide(self, progress: float) -> float:
        """Return g at some progress, 0 to 1.

        >>> LossConfig(guide_weight=2.0, guide_from=0.1, guide_until=0.5).guide(0.3)
        1.0
        """
        if not self.guide_from <= progress < self.guide_until:
            return 0.0
        left = (self.guide_until - progress) / (self.guide_until - self.guide_from)
        return self.guide_weight * left


class Losses(NamedTuple):
    """The parts of the loss, each a scalar."""

    total: Tensor
    spelling: Tensor
    """Per character, as the next two."""
    ctc: Tensor
    guide: Tensor
    expected_wer: Tensor
    """Word errors per word of the references; 0 where it has no weight."""


def teacher_inputs(batch: Batch, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Return the inputs of the speller and its targets.

    Returns:
        (B, I) <sos> and the characters, and (B, I) the characters and <eos>; padding
        holds <pad>, and so do rows without an utterance.
    """
    fed = batch.tokens if batch.inputs is None else batch.inputs
    inputs = nn.functional.pad(fed, (1, 0), value=tokenizer.sos)
    targets = nn.functional.pad(batch.tokens, (0, 1), value=tokenizer.pad)
    rows = torch.arange(batch.num_real)
    targets[rows, batch.num_tokens[: batch.num_real]] = tokenizer.eos
    return inputs, targets


def losses(
    las: LAS,
    batch: Batch,
    tokenizer: Tokenizer,
    config: LossConfig,
    *,
    guide: float = 0.0,
    sampling: float = 0.0,
) -> tuple[Losses, Spelling]:
    """Compute the loss of a batch.

    Args:
        las: the network.
        batch: on the network's device.
        tokenizer: of its tokens.
        config: how the parts are weighed.
        guide: g, the weight of the guide now.
        sampling: chance of an input to be the speller's own guess.
    """
    inputs, targets = teacher_inputs(batch, tokenizer)
    spelling, ctc_log_probs, listened = las(
        batch.features, batch.num_frames, inputs, sampling, detach_keys=guide > 0
    )
    spelled = spelling_loss(spelling, targets, tokenizer.pad, config)
    ctc = ctc_loss(ctc_log_probs, listened.num_ctc_steps, batch, tokenizer.pad)
    astray = spelling.weights.new_zeros(())
    if guide:
        steps = batch.expected
        if steps is None:
            steps = character_steps(
                ctc_log_probs.detach(), listened.num_ctc_steps, batch, tokenizer.pad
            )
            steps = steps * (las.listener.ctc_reduction / las.listener.reduction)
        num_targets = (targets != tokenizer.pad).sum(dim=1)
        astray = off_path(spelling.weights, steps, num_targets)
    spelled, ctc, astray = (x / batch.num_characters for x in (spelled, ctc, astray))
    weight = config.ctc_weight
    total = (1 - weight) * spelled + weight * ctc + guide * astray
    wer = total.new_zeros(())
    if config.mwer_weight and bool(total.isfinite()):  # or nothing can be searched
        wer = expected_wer(
            las,
            listened._replace(h=listened.h.float()),
            ctc_log_probs,
            batch,
            tokenizer,
            beam_size=config.mwer_beam,
            ctc_weight=weight,
        )
        total = total + config.mwer_weight * wer
    return Losses(total, spelled, ctc, astray, wer), spelling


def spelling_loss(
    spelling: Spelling, targets: Tensor, pad: int, config: LossConfig
) -> Tensor:
    """Sum up the cross entropy of the (B, I) targets."""
    return nn.functional.cross_entropy(
        spelling.logits.flatten(0, 1),
        targets.flatten(),
        ignore_index=pad,
        label_smoothing=config.label_smoothing,
        reduction="sum",
    )


def ctc_loss(log_probs: Tensor, num_steps: Tensor, batch: Batch, blank: int) -> Tensor:
    """Sum up the loss of the CTC head.

    Args:
        log_probs: (B, J', V).
        num_steps: (B,) of them that are real, on the CPU.
        batch: with the tokens that were said, on the device of `log_probs`.
        blank: of CTC.
    """
    real = batch.num_real
    return nn.functional.ctc_loss(
        log_probs[:real].transpose(0, 1),  # (B, J', V) -> (J', B, V)
        batch.tokens[:real],
        num_steps[:real],
        batch.num_tokens[:real],
        blank=blank,
        reduction="sum",
        zero_infinity=True,  # too dense an utterance teaches the speller only
    )


def off_path(weights: Tensor, steps: Tensor, num_tokens: Tensor) -> Tensor:
    """Sum up how far attention is from where it is expected.

    Args:
        weights: (B, I, J) alpha.
        steps: (B, I) the listener step at which each token is expected.
        num_tokens: (B,) real tokens.
    """
    _, tokens, width = weights.shape
    steps, num_tokens = steps.to(weights.device), num_tokens.to(weights.device)
    places = torch.arange(width, device=weights.device)
    distance = places - steps[:, :, None]  # (B, I, J)
    near = torch.exp(-distance.square() / (2 * GUIDE_WIDTH**2))
    found = (weights * near).sum(dim=-1).clamp_min(1e-6)
    return -(found.log() * valid_mask(num_tokens, tokens)).sum()
