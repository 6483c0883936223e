"""How good is the network now? Loss, error rates, and how attention behaves.

Attention is described by three figures, all between 0 and 1:

focus       1 - entropy(alpha_i) / log J      1 where each character looks at one step
monotony    share of characters whose steps do not go back
reach       (furthest step looked at) / J     near 1 where the whole utterance is read
"""

from dataclasses import asdict, dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from asr.data.batching import Batch, BatchSampler, load
from asr.data.dataset import Dataset
from asr.decoding.config import length_limits
from asr.decoding.search import greedy_search
from asr.features import FRAMES_PER_SECOND
from asr.model.las import LAS
from asr.model.listener import ListenerOutput
from asr.scoring import ErrorRate, char_error_rate, word_error_rate
from asr.text import Tokenizer, collapse_ctc
from asr.training.distributed import Team
from asr.training.loss import LossConfig, losses


@dataclass(frozen=True)
class Validation:
    """What validation found."""

    loss: float
    spelling_loss: float
    ctc_loss: float
    wer: ErrorRate
    """Of the speller, greedy."""
    cer: ErrorRate
    ctc_cer: ErrorRate
    """Of the CTC head, greedy."""
    focus: float
    monotony: float
    reach: float

    def metrics(self) -> dict[str, float]:
        """Flatten to numbers; error rates as rates."""
        return {
            f"dev/{name}": value
            if isinstance(value, float)
            else getattr(self, name).rate
            for name, value in asdict(self).items()
        }

    def __str__(self) -> str:
        """Write it in one line."""
        return (
            f"dev loss {self.loss:.3f}, WER {100 * self.wer.rate:.1f} %, "
            f"CER {100 * self.cer.rate:.1f} %, "
            f"CTC CER {100 * self.ctc_cer.rate:.1f} %, "
            f"focus {self.focus:.2f}, monotony {self.monotony:.2f}"
        )


class _Sums(NamedTuple):
    """Sums over characters of one batch."""

    values: Tensor
    """(6,) loss, spelling, ctc, focus, monotony, reach."""
    characters: int


class _Found(NamedTuple):
    """What a part of the utterances gave."""

    totals: Tensor
    characters: int
    spelled: dict[str, str]
    """Text of the speller by id."""
    ctc_spelled: dict[str, str]

    def with_more(self, other: "_Found") -> "_Found":
        return _Found(
            self.totals + other.totals,
            self.characters + other.characters,
            self.spelled | other.spelled,
            self.ctc_spelled | other.ctc_spelled,
        )


@torch.no_grad()
def validate(
    las: LAS,
    dataset: Dataset,
    tokenizer: Tokenizer,
    config: LossConfig,
    *,
    batch_seconds: float,
    device: torch.device,
    team: Team | None = None,
) -> Validation:
    """Validate a network, which must be in evaluation mode, on whole utterances.

    Args:
        las: the network.
        dataset: to validate on.
        tokenizer: of its tokens.
        config: of the loss.
        batch_seconds: most audio in a batch, padding counted.
        device: of the network.
        team: the processes that share the work; each takes some of the batches, and
            all return the same.
    """
    team = team or Team()
    durations = [dataset.duration(i, 0) for i in range(len(dataset))]
    sampler = BatchSampler(lambda _: durations, batch_seconds, 32, 0, short_first=True)
    texts = {u.id: u.text for u in dataset.utterances}
    own = _Found(torch.zeros(6), 0, {}, {})
    batches = sampler.batches(0)[team.rank :: team.size]
    for batch in load(dataset, ((indexes, 0.0) for indexes in batches)):
        batch = batch.to(device)
        sums = _measure(las, batch, tokenizer, config)
        listened = las.listen(batch.features, batch.num_frames)
        own = own.with_more(
            _Found(
                *sums,
                _spell(las, listened, batch, tokenizer),
                _ctc_spell(las, listened, batch, tokenizer),
            )
        )
    first, *others = team.gather(own)
    totals, characters, spelled, ctc_spelled = reduce(_Found.with_more, others, first)
    references = [texts[id] for id in spelled]
    hypotheses = list(spelled.values())
    loss, spelling, ctc, focus, monotony, reach = (totals / characters).tolist()
    return Validation(
        loss=loss,
        spelling_loss=spelling,
        ctc_loss=ctc,
        wer=word_error_rate(references, hypotheses),
        cer=char_error_rate(references, hypotheses),
        ctc_cer=char_error_rate(references, [ctc_spelled[id] for id in spelled]),
        focus=focus,
        monotony=monotony,
        reach=reach,
    )


def _measure(las: LAS, batch: Batch, tokenizer: Tokenizer, config: LossConfig) -> _Sums:
    parts, spelling = losses(las, batch, tokenizer, config)
    lengths = zip(batch.num_tokens.tolist(), spelling.weights.cpu(), strict=True)
    habits = torch.stack(
        [attention_habits(alpha[: n + 1]) * (n + 1) for n, alpha in lengths]
    ).sum(dim=0)
    characters = int(batch.num_tokens.sum()) + len(batch.ids)
    scalars = torch.stack((parts.total, parts.spelling, parts.ctc)).cpu() * characters
    return _Sums(torch.cat((scalars, habits)), characters)


def attention_habits(alpha: Tensor) -> Tensor:
    """(I, J) weights of one utterance -> (3,) focus, monotony and reach.

    >>> attention_habits(torch.eye(4)).tolist()
    [1.0, 1.0, 1.0]
    """
    steps = int((alpha > 0).any(dim=0).nonzero().max()) + 1
    alpha = alpha[:, :steps]
    entropy = -(alpha * alpha.clamp_min(1e-20).log()).sum(dim=1).mean()
    focus = 1 - entropy / torch.tensor(max(steps, 2)).log()
    looked_at = alpha.argmax(dim=1)
    monotony = (looked_at.diff() >= 0).float().mean() if len(alpha) > 1 else focus**0
    reach = (looked_at.max() + 1) / steps
    return torch.stack((focus, monotony, reach))


def _spell(
    las: LAS, listened: ListenerOutput, batch: Batch, tokenizer: Tokenizer
) -> dict[str, str]:
    seconds = batch.num_frames / FRAMES_PER_SECOND
    found = greedy_search(
        las.steps(listened),
        sos=tokenizer.sos,
        eos=tokenizer.eos,
        max_lengths=length_limits(seconds).to(batch.features.device),
    )
    texts = [tokenizer.decode(hypothesis.tokens) for hypothesis in found]
    return dict(zip(batch.ids, texts, strict=True))


def _ctc_spell(
    las: LAS, listened: ListenerOutput, batch: Batch, tokenizer: Tokenizer
) -> dict[str, str]:
    best = las.ctc_log_probs(listened).argmax(dim=-1).cpu()
    rows = zip(batch.ids, best.tolist(), listened.num_ctc_steps.tolist(), strict=True)
    return {
        id: tokenizer.decode(collapse_ctc(row[:length], tokenizer.pad))
        for id, row, length in rows
    }
