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

import numpy as np
import numpy.typing as npt

from asr.errors import CheckpointError
from asr.foreign import number_in, parse_table

FEATURES = (
    *("ctc", "ctc_worst", "speller", "speller_worst"),
    *("support", "support_squared", "characters"),
)
"""The D features, in their order."""
_SUPPORT = FEATURES.index("support")
_FLOOR = -10.0  # least log P: what is impossible is not worse than very unlikely
_RIDGE = 1e-3
_LARGEST = 1e6  # of a weight; those of the bundled model are below 10

Floats = npt.NDArray[np.floating]


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

    def __call__(self, features: npt.ArrayLike) -> Floats:
        """(W, D) -> (W,) confidence."""
        return _sigmoid(np.asarray(features) @ np.array(self.weights) + self.bias)

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


def read_calibration(content: bytes, place: Path) -> Calibration:
    """Read a calibration as a model folder holds it.

    Args:
        content: of the file.
        place: the file, for errors.

    Raises:
        CheckpointError: it is damaged, or of other features.
    """
    try:
        return Calibration.from_dict(parse_table(content))
    except ValueError as error:
        raise CheckpointError(f"{place}: {error}") from error


def word_features(
    places: Sequence[slice],
    ctc: npt.ArrayLike,
    speller: npt.ArrayLike,
    support: Sequence[float],
) -> Floats:
    """Gather what is known of the words of a text.

    Args:
        places: of the words among the I tokens.
        ctc: (I,) log P of each token by the CTC head.
        speller: (I,) the same by the speller.
        support: (W,) see `support`.

    Returns:
        (W, D).
    """
    by_ctc, by_speller = (np.asarray(one, np.float64) for one in (ctc, speller))
    rows = [
        [
            *(by_ctc[place].mean(), by_ctc[place].min()),
            *(by_speller[place].mean(), by_speller[place].min()),
            *(share, share**2, math.log(place.stop - place.start)),
        ]
        for place, share in zip(places, support, strict=True)
    ]
    return np.maximum(np.array(rows).reshape(-1, len(FEATURES)), _FLOOR)


def confidence(features: npt.ArrayLike, calibration: Calibration | None) -> list[float]:
    """Return how likely each word is right: (W, D) -> (W,)."""
    known = np.asarray(features)
    found = calibration(known) if calibration else known[:, _SUPPORT]
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
    below = np.array(log_probs, dtype=np.float64) - max(log_probs)
    shares = (np.exp(below) / np.exp(below).sum()).tolist()
    found = [0.0] * len(best)
    for text, share in zip(texts, shares, strict=True):
        matcher = SequenceMatcher(None, best, text.split(), autojunk=False)
        for start, _, size in matcher.get_matching_blocks():
            for place in range(start, start + size):
                found[place] += share
    return [min(1.0, share) for share in found]


def fit(
    features: npt.ArrayLike, right: npt.ArrayLike, speech: float = 0.0
) -> Calibration:
    """Fit a calibration to words of which is known whether they are right.

    Args:
        features: (W, D).
        right: (W,) bool.
        speech: see `Calibration`.
    """
    x, y = np.asarray(features, np.float64), np.asarray(right, np.float64)
    mean, std = x.mean(axis=0), np.maximum(x.std(axis=0, ddof=1), 1e-6)
    x = np.concatenate(((x - mean) / std, np.ones((len(x), 1))), axis=1)
    weights = np.zeros(x.shape[1])
    ridge = _RIDGE * len(x) * np.eye(x.shape[1])
    for _ in range(50):  # Newton's method; it converges in less than ten steps
        p = _sigmoid(x @ weights)
        gradient = x.T @ (y - p) - ridge @ weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        weights += np.linalg.solve(hessian, gradient)
    scaled = weights[:-1] / std
    bias = float(weights[-1] - scaled @ mean)
    return Calibration(tuple(scaled.tolist()), bias, speech)


def _sigmoid(x: Floats) -> Floats:
    found: Floats = 0.5 * np.tanh(0.5 * x) + 0.5
    return found


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
    x, y = np.array(confidences, np.float32), np.array(right, np.float32)
    place = np.minimum((x * num_bins).astype(np.int64), num_bins - 1)
    return [
        Bin(
            round(float(x[place == k].mean()), 4),
            round(float(y[place == k].mean()), 4),
            int((place == k).sum()),
        )
        for k in range(num_bins)
        if (place == k).any()
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
    x, y = np.array(confidences, np.float32), np.array(right, dtype=bool)
    good, bad = x[y], np.sort(x[~y])
    below = np.searchsorted(bad, good)
    ties = np.searchsorted(bad, good, side="right") - below
    pairs = max(1, len(good) * len(bad))
    return float((below + ties / 2).sum() / pairs)
