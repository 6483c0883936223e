"""How likely is it that a word is right?

    confidence = sigmoid(w . x + b)

with what is known of the word once a whole text is found:

ctc, ctc_worst          log P of its tokens by the CTC head, mean and least
speller, speller_worst  log P of its tokens by the speller, mean and least
support                 share of the n-best list, by P, that has the word in this place
support_squared         its square
characters              log of how many tokens it has (characters, in most models)

The few weights are fitted to words of which is known whether they are right
(`asr calibrate`), and are kept in the model's folder: they belong to
the model and the search that they were fitted to. Without them the
confidence is the support alone, which is far too sure of itself.

Shapes: W words, I tokens, D = 7 features.

Source: logistic regression over decoder features: Evermann and Woodland (2000), ICASSP,
who take the posterior of a lattice; expected calibration error: Guo et al. (2017),
arXiv:1706.04599, section 3.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.foreign import number_in, parse_table
from asr.model.storage import CALIBRATION, read_further

FEATURES = (
    *("ctc", "ctc_worst", "speller", "speller_worst"),
    *("support", "support_squared", "characters"),
)
"""The D features, in their order."""
_SUPPORT = FEATURES.index("support")
_FLOOR = -10.0  # least log P: what is impossible is not worse than very unlikely
_RIDGE = 1e-3
_LARGEST = 1e6  # of a weight; those of the bundled model are below 10


@dataclass(frozen=True)
class Calibration:
    """The weights of the features."""

    weights: tuple[float, ...]
    """(D,)."""
    bias: float
    speech: float
    """Least share of the tokens of a text that the CTC head must have found: in
    noise the speller and a language model still find words, the head does not."""

    def __post_init__(self) -> None:
        """Refuse weights of other features."""
        numbers = (*self.weights, self.bias, self.speech)
        if len(self.weights) != len(FEATURES) or not all(map(math.isfinite, numbers)):
            raise ValueError(f"{len(FEATURES)} weights and two numbers were needed")

    def __call__(self, features: Tensor) -> Tensor:
        """(W, D) -> (W,) confidence."""
        return torch.sigmoid(features @ torch.tensor(self.weights) + self.bias)

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, ready for JSON."""
        weights = dict(zip(FEATURES, self.weights, strict=True))
        return {"weights": weights, "bias": self.bias, "speech": self.speech}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Calibration":
        """Read what `to_dict` returned.

        Raises:
            ValueError: it is not of this kind.
        """
        try:
            given = [tree["weights"][name] for name in FEATURES]
            weights = (number_in(one, -_LARGEST, _LARGEST) for one in given)
            bias = number_in(tree["bias"], -_LARGEST, _LARGEST)
            return cls(tuple(weights), bias, number_in(tree["speech"], 0, 1))
        except (KeyError, TypeError) as error:
            raise ValueError(f"is no calibration ({error!r})") from error


def load_calibration(folder: Path) -> Calibration | None:
    """Read the calibration of a model folder, if it has one.

    Raises:
        CheckpointError: it is damaged, or of other features.
    """
    content = read_further(folder, CALIBRATION)
    if content is None:
        return None
    try:
        return Calibration.from_dict(parse_table(content))
    except ValueError as error:
        raise CheckpointError(f"{folder / CALIBRATION}: {error}") from error


def word_features(
    places: Sequence[slice],
    ctc: Tensor,
    speller: Tensor,
    support: Sequence[float],
) -> Tensor:
    """Gather what is known of the words of a text.

    Args:
        places: of the words among the I tokens.
        ctc: (I,) log P of each token by the CTC head.
        speller: (I,) the same by the speller.
        support: (W,) see `support`.

    Returns:
        (W, D).
    """
    rows = [
        [
            *(float(reduce(ctc[place])) for reduce in (torch.mean, torch.amin)),
            *(float(reduce(speller[place])) for reduce in (torch.mean, torch.amin)),
            *(share, share**2, math.log(place.stop - place.start)),
        ]
        for place, share in zip(places, support, strict=True)
    ]
    return torch.tensor(rows).view(-1, len(FEATURES)).clamp_min(_FLOOR)


def confidence(features: Tensor, calibration: Calibration | None) -> list[float]:
    """Return how likely each word is right: (W, D) -> (W,)."""
    found = calibration(features) if calibration else features[:, _SUPPORT]
    return [float(value) for value in found]


def support(texts: Sequence[str], log_probs: Sequence[float]) -> list[float]:
    """Return how much of an n-best list has each word of its first text in this place.

    Args:
        texts: the list, best first.
        log_probs: of each.

    >>> [round(share, 2) for share in support(["GO ON", "GO IN"], [-1.0, -1.0])]
    [1.0, 0.5]
    """
    best = texts[0].split()
    shares = torch.tensor(log_probs, dtype=torch.float64).softmax(dim=0).tolist()
    found = [0.0] * len(best)
    for text, share in zip(texts, shares, strict=True):
        matcher = SequenceMatcher(None, best, text.split(), autojunk=False)
        for start, _, size in matcher.get_matching_blocks():
            for place in range(start, start + size):
                found[place] += share
    return [min(1.0, share) for share in found]


def fit(features: Tensor, right: Tensor, speech: float = 0.0) -> Calibration:
    """Fit a calibration to words of which is known whether they are right.

    Args:
        features: (W, D).
        right: (W,) bool.
        speech: see `Calibration`.
    """
    x, y = features.double(), right.double()
    mean, std = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x = torch.cat(((x - mean) / std, torch.ones(len(x), 1)), dim=1)
    weights = torch.zeros(x.size(1), dtype=torch.float64)
    ridge = _RIDGE * len(x) * torch.eye(x.size(1), dtype=torch.float64)
    for _ in range(50):  # Newton's method; it converges in less than ten steps
        p = torch.sigmoid(x @ weights)
        gradient = x.t() @ (y - p) - ridge @ weights
        hessian = (x * (p * (1 - p))[:, None]).t() @ x + ridge
        weights += torch.linalg.solve(hessian, gradient)
    scaled = weights[:-1] / std
    bias = float(weights[-1] - scaled @ mean)
    return Calibration(tuple(scaled.tolist()), bias, speech)


class Bin(NamedTuple):
    """The words whose confidence is about the same."""

    confidence: float
    """Their mean."""
    right: float
    """The share of them that is right."""
    num_words: int


def reliability(
    confidences: Sequence[float], right: Sequence[bool], num_bins: int = 10
) -> list[Bin]:
    """Compare what was promised with what came, in bins of equal width.

    >>> [tuple(one) for one in reliability([0.1, 0.9, 0.8], [False, True, False], 2)]
    [(0.1, 0.0, 1), (0.85, 0.5, 2)]
    """
    x, y = torch.tensor(confidences), torch.tensor(right, dtype=torch.float32)
    place = (x * num_bins).long().clamp(max=num_bins - 1)
    return [
        Bin(
            round(float(x[place == k].mean()), 4),
            round(float(y[place == k].mean()), 4),
            int((place == k).sum()),
        )
        for k in range(num_bins)
        if bool((place == k).any())
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean gap between promise and truth, by words.

    >>> calibration_error([Bin(0.2, 0.1, 3), Bin(0.8, 0.9, 1)])
    0.1
    """
    total = sum(one.num_words for one in bins)
    gaps = (one.num_words * abs(one.confidence - one.right) for one in bins)
    return round(sum(gaps) / max(1, total), 6)


def area_under_curve(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Chance that a right word has more confidence than a wrong one; a tie counts half.

    >>> area_under_curve([0.9, 0.4, 0.6], [True, False, False])
    1.0
    """
    x, y = torch.tensor(confidences), torch.tensor(right)
    good, bad = x[y], x[~y].sort().values
    below = torch.searchsorted(bad, good).double()
    ties = torch.searchsorted(bad, good, right=True).double() - below
    pairs = max(1, len(good) * len(bad))
    return float((below + ties / 2).sum() / pairs)
