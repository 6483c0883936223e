"""When was each character said, by the CTC head's own account?

The most likely path of the CTC head through the listener's steps that spells a given
text (forced alignment) tells a step for each character. Early in training it shows the
speller where to look (see `loss`): the head finds the characters long before attention
does, because its alignments can only go forward.

Shapes: B utterances, I tokens with <eos>, J' steps of the CTC head, V vocabulary size.

Source: Graves et al. (2006), ICML, section 4 (the paths); as a guide for attention,
compare Kim, Hori and Watanabe (2017), arXiv:1609.06773, who share only the listener.
"""

import torch
from torch import Tensor
from torchaudio.functional import forced_align

from asr.data.batching import Batch


@torch.no_grad()
def character_steps(
    log_probs: Tensor, num_steps: Tensor, batch: Batch, blank: int
) -> Tensor:
    """Tell at which step of the CTC head each character begins.

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
        tokens = batch.tokens[row : row + 1, :count].cpu()
        steps[row, :count] = _begins(log_probs[row : row + 1, :length], tokens, blank)
        steps[row, count] = length - 1
    return steps


def _begins(log_probs: Tensor, tokens: Tensor, blank: int) -> Tensor:
    """(1, J', V), (1, I) -> (I,) step at which each token begins."""
    num_steps, num_tokens = log_probs.size(1), tokens.size(1)
    evenly = torch.linspace(0, num_steps - 1, num_tokens)
    repeats = int((tokens[0, 1:] == tokens[0, :-1]).sum())
    if not num_tokens or num_tokens + repeats > num_steps:
        return evenly
    path: Tensor = forced_align(log_probs, tokens.int(), blank=blank)[0][0]
    before = torch.cat((path.new_full((1,), blank), path[:-1]))
    begins = ((path != blank) & (path != before)).nonzero()[:, 0].float()
    # Where log P is not finite there is no path; the trainer leaves such a step out.
    return begins if len(begins) == num_tokens else evenly
