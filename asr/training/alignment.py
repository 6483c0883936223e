"""Where should attention look? Where the CTC head finds the character.

Early in training the CTC head's alignment of what was said shows the speller where to
look (see `loss`): the head finds the characters long before attention does, because its
paths can only go forward.

Shapes: B utterances, I tokens with <eos>, J' steps of the CTC head, V vocabulary size.

Source: as a guide for attention, compare Kim, Hori and Watanabe (2017),
arXiv:1609.06773, who share only the listener.
"""

import torch
from torch import Tensor

from asr.data.batching import Batch
from asr.decoding.ctc_alignment import align


@torch.no_grad()
def character_steps(
    log_probs: Tensor, num_steps: Tensor, batch: Batch, blank: int
) -> Tensor:
    """Return the step of the CTC head at which each character begins.

    Args:
        log_probs: (B, J', V) of the CTC head.
        num_steps: (B,) how many of the J' steps are real.
        batch: with the tokens that were said.
        blank: of CTC.

    Returns:
        (B, I) steps on the CPU, as floats; <eos> stands at the last step. An utterance
        that is too dense for CTC has its characters spread evenly.
    """
    log_probs = log_probs.float().cpu()
    steps = torch.zeros(len(batch.ids), batch.tokens.size(1) + 1)
    for row, (length, count) in enumerate(
        zip(num_steps.tolist(), batch.num_tokens.tolist(), strict=True)
    ):
        tokens = batch.tokens[row, :count].cpu()
        steps[row, :count] = align(log_probs[row, :length], tokens, blank).begins
        steps[row, count] = length - 1
    return steps
