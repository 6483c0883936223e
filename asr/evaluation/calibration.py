"""Find out how sure a model is, and let it tell so: confidence of words.

    python recipes/librispeech/calibrate.py DEV MODEL

transcribes a manifest, looks which words are right, fits the weights of
`asr.inference.confidence` to them and writes them into the model's folder. What is
printed is honest: each word is judged by weights that were fitted to the other half of
the speakers. The manifest must be none that the model learned from.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.audio import read_waveform
from asr.data.manifest import Utterance, read_manifest
from asr.errors import AsrError, ManifestError
from asr.inference.confidence import (
    CALIBRATION,
    area_under_curve,
    calibration_error,
    confidence,
    fit,
    reliability,
)
from asr.inference.long_audio import BATCH
from asr.inference.recognizer import Recognizer
from asr.model.storage import add_further, find_model
from asr.progress import progress_bar
from asr.runtime import use_one_thread
from asr.scoring import align

LOST = 0.002
"""Share of the utterances that may be taken for noise."""
LEAST = 100
"""Words that there must be: fewer say nothing."""


class Judged(NamedTuple):
    """The words of an utterance."""

    speaker: str
    features: Tensor
    """(W, D)."""
    right: Tensor
    """(W,) bool."""
    clear: float
    """Share of its characters that the CTC head heard."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after telling what to mend."""
    parser = argparse.ArgumentParser(prog="calibrate", description="Fit confidence.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("model", type=Path, help="folder of the model; is added to")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args(argv)
    try:
        print(calibrate(args.manifest, args.model, args.processes))
    except AsrError as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 1
    return 0


def calibrate(manifest: Path, model: Path, processes: int = 1) -> str:
    """Fit, write, and tell how well promises are kept.

    Args:
        manifest: what the model is tried on.
        model: its folder.
        processes: one thread each.

    Raises:
        AsrError: manifest, model or a recording cannot be read, there are too few
            words, or the model's folder cannot be written to.
    """
    folder = find_model(model)
    judged = list(_judge(read_manifest(manifest), folder, processes))
    features = torch.cat([one.features for one in judged])
    right = torch.cat([one.right for one in judged])
    if len(right) < LEAST:
        raise ManifestError(f"{manifest}: {len(right)} words were heard, too few")
    first = _half(judged)
    promised = torch.empty(len(right))
    for half in (first, ~first):
        found = fit(features[~half], right[~half])
        promised[half] = torch.tensor(confidence(features[half], found))
    clear = torch.tensor([one.clear for one in judged])
    speech = round(float(clear.quantile(LOST)), 3)
    tree = fit(features, right, speech).to_dict()
    text = json.dumps(tree, indent=2) + "\n"
    add_further(folder, CALIBRATION, text.encode())
    raw = torch.tensor(confidence(features, None))
    return _table(promised.tolist(), raw.tolist(), right.tolist())


def _half(judged: Sequence[Judged]) -> Tensor:
    """Tell which words are of the first half of the speakers."""
    speakers = sorted({one.speaker for one in judged})
    chosen = set(speakers[::2])
    return torch.cat(
        [torch.full((len(one.right),), one.speaker in chosen) for one in judged]
    )


def _judge(
    utterances: Sequence[Utterance], model: Path, processes: int
) -> Iterator[Judged]:
    order = sorted(utterances, key=lambda utterance: -utterance.duration)
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar(len(order), "calibrate", "utterances"))
        run: Any = map
        if processes > 1:
            pool = ProcessPoolExecutor(processes, get_context("spawn"))
            run = stack.enter_context(pool).map
        for judged in run(partial(_judge_batch, model), batches):
            bar.update(len(judged))
            yield from judged


@cache
def _recognizer(model: Path) -> Recognizer:
    use_one_thread()
    return Recognizer.load(model)


def _judge_batch(model: Path, utterances: Sequence[Utterance]) -> list[Judged]:
    waveforms = [read_waveform(utterance.audio) for utterance in utterances]
    found = _recognizer(model).search(waveforms)
    return [
        Judged(
            utterance.speaker,
            result.features,
            torch.tensor(_right(utterance.text, result.texts[0]), dtype=torch.bool),
            result.clear,
        )
        for utterance, result in zip(utterances, found, strict=True)
    ]


def _right(reference: str, hypothesis: str) -> list[bool]:
    """Tell of each word of a hypothesis whether it was said.

    >>> _right("GO ON NOW", "GO IN NOW THEN")
    [True, False, True, False]
    """
    (edits,) = align([reference], [hypothesis])
    return [edit.mark == " " for edit in edits if edit.mark != "D"]


def _table(
    promised: Sequence[float], raw: Sequence[float], right: Sequence[bool]
) -> str:
    """Say in Markdown how promises are kept."""
    bins = reliability(promised, right)
    rows = [
        f"| {one.confidence:.2f} | {one.right:.2f} | {one.num_words} |" for one in bins
    ]
    summary = (
        f"{len(right)} words, {100 * sum(right) / len(right):.1f} % right. Expected "
        f"calibration error {calibration_error(bins):.3f} (the n-best list alone "
        f"{calibration_error(reliability(raw, right)):.3f}), area under the curve "
        f"{area_under_curve(promised, right):.3f} ({area_under_curve(raw, right):.3f})."
    )
    head = ["| confidence | right | words |", "|---|---|---|"]
    return "\n".join([*head, *rows, "", summary])


if __name__ == "__main__":
    sys.exit(main())
