"""Fit the confidence of words to a model: how often is it right when it is so sure?

A manifest is transcribed, its words are compared with what was said, and the weights of
`asr.inference.confidence` are fitted to them and written into the model's folder. The
figures that come back are of words that the weights were not fitted to: those of each
half of the speakers (of the utterances, where one half would have hardly any words) are
judged by weights fitted to the other half. The manifest must be one that the model did
not learn from.

What is taken for noise is calibrated, too: a text of which the CTC head is sure of less
than halfway from what it is sure of where nobody speaks to what it is at least where
somebody does.

Shapes: W words, D features.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.data.manifest import Utterance, read_references
from asr.data.recordings import read_utterance
from asr.errors import ManifestError
from asr.evaluation.robustness import LENGTHS, clear_without_speech
from asr.inference.confidence import (
    area_under_curve,
    calibration_error,
    confidence,
    fit,
    reliability,
)
from asr.inference.processes import batches, number_of_processes, recognizer_map
from asr.inference.recognizer import Recognizer
from asr.model.attention import Attention
from asr.model.storage import CALIBRATION, add_further, find_model_to_change
from asr.progress import progress_bar
from asr.scoring import align

LEAST_CLEAR = 0.002
"""Quantile of the utterances that is the least of which the head is sure."""
MIN_WORDS = 100
"""With fewer, the figures would be chance."""
_LEAST_HALF = 0.25
"""Share of the words that a half of the speakers has at least."""
_LEAST_WORDS = 2
"""Of a half, whose spread is fitted."""


class Judged(NamedTuple):
    """The words of an utterance."""

    speaker: str
    features: npt.NDArray[np.floating]
    """(W, D)."""
    right: npt.NDArray[np.bool_]
    """(W,) bool."""
    clear: float
    """Share of its characters that the CTC head finds, too."""


def calibrate(
    manifest: Path,
    model: str | Path,
    *,
    language_model: str | Path | None = None,
    processes: int | None = None,
    attention: type[Attention] | None = None,
) -> str:
    """Fit the confidence of words, and write it into the model's folder.

    Args:
        manifest: what the model is tried on.
        model: a model's or a run's folder.
        language_model: folder of a word n-gram; None for the bundled one.
        processes: one thread each; None for one a core.
        attention: the class that the model was trained with, if it is not built in.

    Returns:
        A table in Markdown: how often words are right, by their confidence.

    Raises:
        AsrError: manifest, model or a recording cannot be read, there are too few
            words, or the model's folder cannot be written to.
    """
    utterances = read_references(manifest)
    folder = find_model_to_change(model)
    load = partial(
        Recognizer.load, folder, language_model=language_model, attention=attention
    )
    judged, without_speech = _judge(utterances, load, number_of_processes(processes))
    features = np.concatenate([one.features for one in judged])
    right = np.concatenate([one.right for one in judged])
    if len(right) < MIN_WORDS:
        raise ManifestError(
            f"{manifest}: only {len(right)} words were found in its recordings (at "
            f"least {MIN_WORDS} are needed)"
        )
    first = _of_first_half(judged)
    if min(first.sum(), (~first).sum()) < _LEAST_WORDS:
        raise ManifestError(
            f"{manifest}: words were found in one recording only (at least two with "
            f"{_LEAST_WORDS} words each are needed)"
        )
    predicted = np.empty(len(right))
    for half in (first, ~first):
        found = fit(features[~half], right[~half])
        predicted[half] = confidence(features[half], found)
    least = float(np.quantile([one.clear for one in judged], LEAST_CLEAR))
    speech = round((least + min(least, float(np.median(without_speech)))) / 2, 3)
    text = json.dumps(fit(features, right, speech).to_dict(), indent=2) + "\n"
    add_further(folder, CALIBRATION, text.encode())
    raw = confidence(features, None)
    return _table(predicted.tolist(), raw, right.tolist())


def _of_first_half(judged: Sequence[Judged]) -> npt.NDArray[np.bool_]:
    """(W,) whether a word is of the first half of the speakers, or utterances."""
    with_words = [one for one in judged if len(one.right)]
    speakers = sorted({one.speaker for one in with_words})
    numbers = [len(one.right) for one in with_words]
    first = np.repeat([one.speaker in speakers[::2] for one in with_words], numbers)
    if _LEAST_HALF <= first.mean() <= 1 - _LEAST_HALF:
        return first
    return np.repeat([place % 2 == 0 for place in range(len(with_words))], numbers)


def _judge(
    utterances: Sequence[Utterance], load: "partial[Recognizer]", processes: int
) -> tuple[list[Judged], list[float]]:
    """Judge the words of all utterances; and how clear texts without speech are."""
    found = list[Judged]()
    with (
        progress_bar(len(utterances), "calibrate", "utterances") as bar,
        recognizer_map(load, processes) as run,
    ):
        for judged in run(_judge_batch, batches(utterances)):
            bar.update(len(judged))
            found += judged
        clear = [x for some in run(clear_without_speech, LENGTHS) for x in some]
    return found, clear


def _judge_batch(
    recognizer: Recognizer, utterances: Sequence[Utterance]
) -> list[Judged]:
    waveforms = [read_utterance(utterance) for utterance in utterances]
    found = recognizer.search(waveforms)
    return [
        Judged(
            utterance.speaker,
            result.features,
            np.array(_right(utterance.text, result.texts[0]), dtype=bool),
            result.clear,
        )
        for utterance, result in zip(utterances, found, strict=True)
    ]


def _right(reference: str, hypothesis: str) -> list[bool]:
    """Find out which words of a hypothesis were said.

    >>> _right("GO ON NOW", "GO IN NOW THEN")
    [True, False, True, False]
    """
    (edits,) = align([reference], [hypothesis])
    return [edit.mark == " " for edit in edits if edit.mark != "D"]


def _table(
    predicted: Sequence[float], raw: Sequence[float], right: Sequence[bool]
) -> str:
    """Compare confidence and truth, in Markdown."""
    bins = reliability(predicted, right)
    rows = [
        f"| {one.confidence:.2f} | {one.right:.2f} | {one.num_words} |" for one in bins
    ]
    error, raw_error = (
        calibration_error(some) for some in (bins, reliability(raw, right))
    )
    area, raw_area = (area_under_curve(some, right) for some in (predicted, raw))
    summary = (
        f"{len(right)} words, {100 * sum(right) / len(right):.1f} % right. Expected "
        f"calibration error {error:.3f} (the n-best list alone {raw_error:.3f}), area "
        f"under the curve {area:.3f} ({raw_area:.3f})."
    )
    head = ["| confidence | right | words |", "|---|---|---|"]
    return "\n".join([*head, *rows, "", summary])
