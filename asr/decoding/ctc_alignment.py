"""When was each token said, by the CTC head's own account?

The most likely path of the CTC head through the listener's steps that spells a given
text (forced alignment) gives for each token where it begins and ends, and how sure
the head was of it. The paths can only go forward, so that the times are in order.

A CTC head marks a token by a spike of a step or two somewhere in its sound, and has
blanks between the spikes. A head on a listener that reads both ways has the spikes of
characters a little early. A subword has one spike for all its characters, so that a
word which is one subword is that spike alone: its time lies inside the word, and is
shorter. (Attention gives less exact times: `asr evaluate long-recordings`.)

Shapes: I tokens, J' steps of the CTC head, V vocabulary size.

Source: Graves et al. (2006), ICML, section 4 (the paths); word times from them:
Kürzinger et al. (2020), arXiv:2007.09127.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchaudio.functional import forced_align


class CTCAlignment(NamedTuple):
    """Where the CTC head finds each token of a text."""

    begins: Tensor
    """(I,) first step, as floats."""
    ends: Tensor
    """(I,) step behind the last."""
    log_probs: Tensor
    """(I,) log P of the token at its best step; -inf where there is no path."""


def align(log_probs: Tensor, tokens: Tensor, blank: int) -> CTCAlignment:
    """Find the most likely path of the CTC head that spells a text.

    Args:
        log_probs: (J', V) of the CTC head, on the CPU, in float32.
        tokens: (I,) of the text, without <eos>.
        blank: of CTC.

    Returns:
        The path. Where no path is possible (a text too dense for CTC, log P
        that is not finite) the tokens are spread evenly.
    """
    num_steps, num_tokens = len(log_probs), len(tokens)
    repeats = int((tokens[1:] == tokens[:-1]).sum())
    if not num_tokens or num_tokens + repeats > num_steps:
        return _evenly(num_tokens, num_steps)
    path = forced_align(log_probs[None], tokens[None].int(), blank=blank)[0][0]
    others = path.new_full((1,), -1)
    starts = path != torch.cat((others, path[:-1]))
    stops = path != torch.cat((path[1:], others))
    begins = (starts & (path != blank)).nonzero()[:, 0]
    ends = (stops & (path != blank)).nonzero()[:, 0] + 1
    if len(begins) != num_tokens:
        return _evenly(num_tokens, num_steps)
    along = log_probs.gather(1, path.long()[:, None])[:, 0]
    best = [float(along[b:e].max()) for b, e in zip(begins, ends, strict=True)]
    return CTCAlignment(begins.float(), ends.float(), torch.tensor(best))


def align_batch(
    log_probs: Tensor, num_steps: Tensor, tokens: Tensor, num_tokens: Tensor, blank: int
) -> Tensor:
    """Find the paths of several utterances side by side, on their device.

    Args:
        log_probs: (B, J', V) of the CTC head.
        num_steps: (B,) how many of the J' steps are real, at least one each.
        tokens: (B, I) of the texts, without <eos>.
        num_tokens: (B,) how many of the I tokens are real.
        blank: of CTC.

    Returns:
        (B, I) first step of each token, as floats; zero on padding. Where no path is
        possible the tokens are spread evenly, as `align` does.
    """
    batch, steps, _ = log_probs.shape
    device = log_probs.device
    width = 2 * tokens.size(1) + 1  # blanks before, between and behind the tokens
    labels = tokens.new_full((batch, width), blank)
    labels[:, 1::2] = tokens
    scores = log_probs.gather(2, labels[:, None].expand(-1, steps, -1))  # (B, J', 2I+1)
    places = torch.arange(width, device=device)
    skips = (places % 2 == 1) & (places > 1) & (labels != labels.roll(2, dims=1))
    out_of_reach = scores.new_full((batch, 2), -torch.inf)
    best = torch.where(places < 2, scores[:, 0], -torch.inf)
    came_from = torch.zeros(steps, batch, width, dtype=torch.uint8, device=device)
    for step in range(1, steps):
        padded = torch.cat((out_of_reach, best), dim=1)
        skipped = padded[:, :-2].masked_fill(~skips, -torch.inf)
        found, how = torch.stack((best, padded[:, 1:-1], skipped)).max(dim=0)
        real = (step < num_steps)[:, None]
        came_from[step] = how * real
        best = torch.where(real, found + scores[:, step], best)
    last = 2 * num_tokens[:, None]  # the last blank, or the last token
    ends = best.gather(1, torch.cat((last, (last - 1).clamp_min(0)), dim=1))
    impossible = ~ends.amax(dim=1).isfinite()
    place = last - (ends[:, 1:] > ends[:, :1]).long()
    begins = log_probs.new_zeros(batch, width)
    for step in reversed(range(steps)):
        begins.scatter_(1, place, float(step))
        place = place - came_from[step].gather(1, place).long()
    begins = begins[:, 1::2]
    steps_between = (num_steps - 1) / (num_tokens - 1).clamp_min(1)
    evenly = torch.arange(tokens.size(1), device=device) * steps_between[:, None]
    begins = torch.where(impossible[:, None], evenly, begins)
    return begins * (torch.arange(tokens.size(1), device=device) < num_tokens[:, None])


def _evenly(num_tokens: int, num_steps: int) -> CTCAlignment:
    begins = torch.linspace(0, num_steps - 1, num_tokens)
    ends = torch.cat((begins, torch.tensor([float(num_steps)])))[1:]
    return CTCAlignment(begins, ends, torch.full((num_tokens,), -torch.inf))
