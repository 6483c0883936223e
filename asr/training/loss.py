"""What training makes small.

    loss = (1 - w) CE(speller) + w CTC(head) + g guide

CE      cross entropy of each character, with label smoothing
CTC     -log P(all characters) by the CTC head
guide   sum_ij alpha_ij (1 - exp(-((i / I) - (j / J))^2 / (2 s^2)))
        attention far from the diagonal; only at the start of training

All are sums over the characters of a batch, divided by their number.

Shapes: B utterances, I tokens with <eos>, J listener steps, J' steps of the CTC head,
        V vocabulary size.

Source: label smoothing: Szegedy et al. (2016), arXiv:1512.00567; CTC: Graves et al.
(2006), ICML; both losses together: Watanabe et al. (2017), IEEE JSTSP 11(8); guided
attention: Tachibana et al. (2018), arXiv:1710.08969, section 4.1.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.data.batching import Batch
from asr.model.las import LAS
from asr.model.speller import Spelling
from asr.padding import valid_mask
from asr.text import CharTokenizer

GUIDE_WIDTH = 0.2
"""s: how far from the diagonal attention may go for free, as a share of the whole."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss."""

    ctc_weight: float = 0.5
    """w: share of CTC in the loss, from 0 to 1."""
    label_smoothing: float = 0.1
    """Probability that is spread over all tokens."""
    guide_weight: float = 1.0
    """g at the start of training; it falls to 0 in a line."""
    guide_until: float = 0.2
    """Share of training after which there is no guide."""

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        for name in ("ctc_weight", "label_smoothing", "guide_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"loss.{name} is a share from 0 to 1, not {getattr(self, name)}"
                )
        if self.guide_weight < 0:
            raise ValueError(
                f"loss.guide_weight must be at least 0, not {self.guide_weight}"
            )


class Losses(NamedTuple):
    """The parts of the loss, per character, each a scalar."""

    total: Tensor
    spelling: Tensor
    ctc: Tensor
    guide: Tensor


def teacher_inputs(batch: Batch, tokenizer: CharTokenizer) -> tuple[Tensor, Tensor]:
    """Tell what the speller is fed and what it shall answer.

    Returns:
        (B, I) <sos> and the characters, and (B, I) the characters and <eos>; padding
        holds <pad>.
    """
    inputs = nn.functional.pad(batch.tokens, (1, 0), value=tokenizer.sos)
    targets = nn.functional.pad(batch.tokens, (0, 1), value=tokenizer.pad)
    rows = torch.arange(len(batch.num_tokens))
    targets[rows, batch.num_tokens] = tokenizer.eos
    return inputs, targets


def losses(
    las: LAS,
    batch: Batch,
    tokenizer: CharTokenizer,
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
    spelling, ctc_log_probs, heard = las(
        batch.features, batch.num_frames, inputs, sampling
    )
    num_characters = int(batch.num_tokens.sum()) + len(batch.ids)
    spelled = nn.functional.cross_entropy(
        spelling.logits.flatten(0, 1),
        targets.flatten(),
        ignore_index=tokenizer.pad,
        label_smoothing=config.label_smoothing,
        reduction="sum",
    )
    ctc = nn.functional.ctc_loss(
        ctc_log_probs.transpose(0, 1),  # (B, J', V) -> (J', B, V)
        batch.tokens,
        heard.num_ctc_steps,
        batch.num_tokens,
        blank=tokenizer.pad,
        reduction="sum",
        zero_infinity=True,  # too dense an utterance teaches the speller only
    )
    astray = (
        off_diagonal(spelling.weights, batch.num_tokens + 1, heard.num_steps)
        if guide
        else spelling.weights.new_zeros(())
    )
    spelled, ctc, astray = (x / num_characters for x in (spelled, ctc, astray))
    weight = config.ctc_weight
    total = (1 - weight) * spelled + weight * ctc + guide * astray
    return Losses(total, spelled, ctc, astray), spelling


def off_diagonal(weights: Tensor, num_tokens: Tensor, num_steps: Tensor) -> Tensor:
    """Sum up how far attention is from the diagonal.

    Args:
        weights: (B, I, J) alpha.
        num_tokens: (B,) real tokens.
        num_steps: (B,) real steps.
    """
    _, tokens, steps = weights.shape
    token = (torch.arange(tokens) + 0.5) / num_tokens[:, None]  # (B, I), 0 to 1
    step = (torch.arange(steps) + 0.5) / num_steps[:, None]  # (B, J), 0 to 1
    distance = token[:, :, None] - step[:, None, :]
    penalty = 1 - torch.exp(-distance.square() / (2 * GUIDE_WIDTH**2))
    penalty = penalty * valid_mask(num_tokens, tokens)[:, :, None]
    return (weights * penalty.to(weights.device)).sum()
