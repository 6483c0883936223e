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
from asr.data.device_corpus import DeviceCorpus
from asr.data.length_classes import ClassSampler, LengthClass
from asr.decoding.ctc_alignment import align, align_batch
from asr.features import FRAMES_PER_SECOND
from asr.model.las import LAS
from asr.padding import pad_rows
from asr.runtime import send
from asr.training.distributed import Team


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
    steps = torch.zeros(len(log_probs), batch.tokens.size(1) + 1)
    for row, (length, count) in enumerate(
        zip(num_steps.tolist(), batch.num_tokens.tolist(), strict=True)
    ):
        if row >= batch.num_real:
            break
        tokens = batch.tokens[row, :count].cpu()
        steps[row, :count] = align(log_probs[row, :length], tokens, blank).begins
        steps[row, count] = length - 1
    return steps


@torch.no_grad()
def align_corpus(
    las: LAS,
    corpus: DeviceCorpus,
    classes: list[LengthClass],
    blank: int,
    team: Team,
) -> list[Tensor]:
    """Find where the CTC head has each token of a corpus, in one pass over it.

    Each process of a team does its share of it.

    Args:
        las: the network, in evaluation mode.
        corpus: whose recordings are read as they are.
        classes: shapes of batches.
        blank: of CTC.
        team: the processes that share the work.

    Returns:
        For each utterance the (I + 1,) seconds, at speed 1, of its tokens and <eos>.
    """
    sampler = ClassSampler(lambda _: corpus.plain_lengths(), classes, 0, True)
    batches = sampler.batches(0)[team.rank :: team.size]
    speed = corpus.plain_speed
    seconds_per_step = las.listener.ctc_reduction / FRAMES_PER_SECOND * speed
    found = dict[int, Tensor]()
    for batch, (features, num_frames) in zip(
        batches, corpus.plain(batches), strict=True
    ):
        listened = las.listen(features, num_frames)
        tokens, num_tokens = pad_rows(
            [corpus.dataset.tokens[index] for index in batch.indexes]
        )
        real, num_steps = len(batch.indexes), listened.num_ctc_steps
        begins = align_batch(
            las.ctc_log_probs(listened)[:real],
            send(num_steps[:real], corpus.device),
            send(tokens, corpus.device),
            send(num_tokens, corpus.device),
            blank,
        ).cpu()
        for row, index in enumerate(batch.indexes):
            steps = begins[row, : num_tokens[row]]
            end = (num_steps[row : row + 1] - 1).float()
            found[index] = torch.cat((steps, end)) * seconds_per_step
    return _joined(found, corpus, team)


def _joined(found: dict[int, Tensor], corpus: DeviceCorpus, team: Team) -> list[Tensor]:
    """Return what all processes found, in the order of the corpus."""
    flat = torch.cat((torch.zeros(0), *found.values()))  # one tensor travels fast
    times: list[Tensor] = [torch.zeros(0)] * len(corpus)
    for indexes, values in team.gather((list(found), flat)):
        sizes = [len(corpus.dataset.tokens[index]) + 1 for index in indexes]
        for index, some in zip(indexes, values.split_with_sizes(sizes), strict=True):
            times[index] = some
    return times
