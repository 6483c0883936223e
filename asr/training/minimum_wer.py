"""Minimum word error rate: of what the search finds, the better becomes more likely.

    loss  = sum_k P_k W(y_k)              expected word errors of an utterance
    P_k   = exp(s_k) / sum_k' exp(s_k')
    s_k   = (1 - w) log P(y_k | x) + w log P_ctc(y_k | x)

y_1 to y_K  what a beam search by s finds now: the same search that decodes, but for a
            language model, so that training meets the network's own mistakes
W(y)        words to substitute, delete and insert, see `asr.scoring`

Cross entropy only ever sees the right characters before the next one, and takes a wrong
letter of a word that is lost anyway as serious as the first. Here neither is so. What
the loss moves is only the order within the list: a spelling that the search does not
find gains nothing, so cross entropy goes on beside it, and this is for the end of a
training.

Shapes: B utterances, K hypotheses of each, R rows: all hypotheses of all utterances,
        I tokens with <eos>, J listener steps, J' steps of the CTC head, V vocabulary
        size.

Source: Prabhavalkar et al. (2018), arXiv:1712.01818, sections 3.2 and 3.3 (their mean
over the list, which is taken off W, changes no gradient and is left out here); the CTC
head's share of s as in decoding: Hori et al. (2017), doi:10.18653/v1/P17-1048.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.data.batching import Batch
from asr.decoding.config import DecodingConfig, length_limits
from asr.decoding.ctc import search_prefix
from asr.decoding.fusion import Fusion
from asr.decoding.hypothesis import SearchConfig
from asr.decoding.search import beam_search
from asr.features import FRAMES_PER_SECOND
from asr.model.las import LAS
from asr.model.listener import ListenerOutput
from asr.padding import pad_rows, valid_mask
from asr.scoring import error_rates
from asr.text import Tokenizer

EOS_THRESHOLD = DecodingConfig.eos_threshold
"""As in decoding: a hypothesis ends where <eos> is the best token or nearly so."""


class NBest(NamedTuple):
    """What a search found for a batch, and how wrong it is."""

    utterances: Tensor
    """(R,) index of the utterance that each row is a hypothesis of."""
    tokens: Tensor
    """(R, I - 1) without <sos> and <eos>, padded."""
    num_tokens: Tensor
    """(R,)."""
    errors: Tensor
    """(R,) word errors W."""
    num_words: int
    """In the references of these utterances together."""


def expected_wer(
    las: LAS,
    listened: ListenerOutput,
    ctc_log_probs: Tensor,
    batch: Batch,
    tokenizer: Tokenizer,
    *,
    beam_size: int,
    ctc_weight: float,
) -> Tensor:
    """Work out the word error rate that is expected of what the search finds.

    Args:
        las: the network; what is dropped in its speller is not dropped in the search.
        listened: its listener's output for the batch, in float32.
        ctc_log_probs: (B, J', V) of its CTC head.
        batch: with the tokens that were said, on the network's device.
        tokenizer: of the tokens.
        beam_size: K, hypotheses of an utterance.
        ctc_weight: w, the CTC head's share of a hypothesis's score.

    Returns:
        () expected word errors for each word of the references, but of those whose
        search does not end; its gradient flows through the scores of the hypotheses.
    """
    found = find_n_best(
        las,
        listened,
        ctc_log_probs,
        batch,
        tokenizer,
        beam_size=beam_size,
        ctc_weight=ctc_weight,
    )
    scores = listened.h.new_zeros(len(found.utterances))
    if not len(scores):
        return scores.sum()
    with torch.autocast(scores.device.type, enabled=False):
        if ctc_weight < 1:
            spelled = spelling_scores(las, listened, found, tokenizer)
            scores = scores + (1 - ctc_weight) * spelled
        if ctc_weight:
            steps = listened.num_ctc_steps
            collapsed = ctc_scores(ctc_log_probs, steps, found, tokenizer.pad)
            scores = scores + ctc_weight * collapsed
    return expected_errors(scores, found) / max(found.num_words, 1)


def expected_errors(scores: Tensor, found: NBest) -> Tensor:
    """Sum up sum_k P_k W(y_k) over the utterances.

    Args:
        scores: (R,) s.
        found: the hypotheses.
    """
    own = found.utterances == found.utterances[:, None]  # (R, R): of one utterance
    totals = scores.masked_fill(~own, -torch.inf).logsumexp(dim=1)
    return ((scores - totals).exp() * found.errors).sum()


@torch.no_grad()
def find_n_best(
    las: LAS,
    listened: ListenerOutput,
    ctc_log_probs: Tensor,
    batch: Batch,
    tokenizer: Tokenizer,
    *,
    beam_size: int,
    ctc_weight: float,
) -> NBest:
    """Search for the K best spellings of each utterance, and count their errors.

    An utterance of which no hypothesis ends in time has none at all: how likely one
    that was cut is cannot be compared.
    """
    device = ctc_log_probs.device
    ctc = search_prefix(
        ctc_log_probs,
        listened.num_ctc_steps,
        blank=tokenizer.pad,
        eos=tokenizer.eos,
        sos=tokenizer.sos,
    )
    limits = length_limits(batch.num_frames / FRAMES_PER_SECOND).to(device)
    # In float32, as in decoding; the search does not mix numbers of two lengths.
    with _speller_evaluated(las), torch.autocast(device.type, enabled=False):
        lists = beam_search(
            Fusion([las.steps(listened), ctc], [1 - ctc_weight, ctc_weight]),
            SearchConfig(beam_size, eos_threshold=EOS_THRESHOLD),
            sos=tokenizer.sos,
            eos=tokenizer.eos,
            max_lengths=limits,
        )
    rows = [
        (utterance, hypothesis.tokens)
        for utterance, hypotheses in enumerate(lists)
        for hypothesis in hypotheses
        if hypothesis.finished
    ]
    references = [
        tokenizer.decode(tokens[:length])
        for tokens, length in zip(
            batch.tokens.tolist(), batch.num_tokens.tolist(), strict=True
        )
    ]
    counts = error_rates(
        [references[utterance] for utterance, _ in rows],
        [tokenizer.decode(tokens) for _, tokens in rows],
    )
    errors = [count.errors for count in counts]
    spelled = [torch.tensor(tokens, dtype=torch.int64) for _, tokens in rows]
    tokens, num_tokens = pad_rows(spelled or [torch.zeros(0, dtype=torch.int64)])
    return NBest(
        torch.tensor([u for u, _ in rows], dtype=torch.int64, device=device),
        tokens[: len(rows)].to(device),
        num_tokens[: len(rows)],
        torch.tensor(errors, dtype=torch.float32, device=device),
        sum(len(references[u].split()) for u in {u for u, _ in rows}),
    )


def spelling_scores(
    las: LAS, listened: ListenerOutput, found: NBest, tokenizer: Tokenizer
) -> Tensor:
    """Work out (R,) log P(y | x) of the speller, <eos> counted."""
    memory = las.precompute(listened).select(found.utterances)
    inputs = nn.functional.pad(found.tokens, (1, 0), value=tokenizer.sos)
    targets = nn.functional.pad(found.tokens, (0, 1))
    rows = torch.arange(len(targets))
    targets[rows, found.num_tokens] = tokenizer.eos
    logits = las.speller.spell(memory, inputs).logits
    log_probs = logits.float().log_softmax(dim=-1).gather(2, targets[:, :, None])
    real = valid_mask(found.num_tokens + 1, targets.size(1)).to(logits.device)
    return log_probs[:, :, 0].masked_fill(~real, 0.0).sum(dim=1)


def ctc_scores(
    log_probs: Tensor, num_steps: Tensor, found: NBest, blank: int
) -> Tensor:
    """Work out (R,) log P(y | x) of the CTC head, of (B, J', V) log P of its labels."""
    utterances = found.utterances
    return -nn.functional.ctc_loss(
        log_probs[utterances].transpose(0, 1),  # (R, J', V) -> (J', R, V)
        found.tokens,
        num_steps[utterances.cpu()],
        found.num_tokens,
        blank=blank,
        reduction="none",
    )


@contextmanager
def _speller_evaluated(las: LAS) -> Iterator[None]:
    """Drop nothing in the speller for a while."""
    training = las.speller.training
    las.speller.eval()
    try:
        yield
    finally:
        las.speller.train(training)
