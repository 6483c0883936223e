"""What score has a spelling that is given? That which the search would have given it.

Where a reference scores better than what a beam search found, the search has lost it on
the way; where it scores worse, the models prefer something else, and no beam is wide
enough.

Shapes: B utterances, one spelling each, I tokens, V vocabulary size.
"""

from collections.abc import Sequence
from typing import Any

import torch

from asr.decoding.hypothesis import Hypothesis
from asr.decoding.search import StepModel
from asr.padding import pad_rows


def score_given(
    model: StepModel[Any],
    spellings: Sequence[Sequence[int]],
    *,
    sos: int,
    eos: int,
    length_norm: float,
) -> list[Hypothesis]:
    """Score one spelling of each utterance, to its end.

    Args:
        model: as the search asks it.
        spellings: tokens of B texts, without <sos> and <eos>.
        sos: token that starts every hypothesis.
        eos: token that ends it.
        length_norm: of the search.
    """
    targets, num_tokens = pad_rows(
        [torch.tensor([*spelling, eos], dtype=torch.int64) for spelling in spellings]
    )
    total = torch.zeros(len(spellings), dtype=torch.float64)
    tokens, state = torch.full((len(spellings),), sos), model.start()
    rows = torch.arange(len(spellings))[:, None]
    for step, target in enumerate(targets.t()):
        scores, state = model.step(tokens, state)
        found = scores.gather(1, target[:, None].to(scores.device))[:, 0].cpu().double()
        total += torch.where(step < num_tokens, found, 0.0)
        tokens = target.to(scores.device)
        state = model.select(state, rows.to(scores.device))
    return [
        Hypothesis(tuple(spelling), float(log_prob), length_norm, True)
        for spelling, log_prob in zip(spellings, total, strict=True)
    ]
