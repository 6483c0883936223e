"""How good are pseudo-labels, by the confidence from which on they are kept?

    python recipes/pseudo_labels/quality.py LABELS.jsonl REFERENCES.jsonl

LABELS is what `asr transcribe --output-format manifest --min-confidence 0` wrote about
the recordings of REFERENCES, whose texts nobody used. A row a threshold: the share of
the recordings' words that is kept, and the word error rate of what is kept.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asr.cli.scripts import run_main
from asr.data.manifest import Utterance, read_manifest
from asr.errors import ManifestError
from asr.scoring import word_error_rate

THRESHOLDS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


class _Pair(NamedTuple):
    """A recording: what was said, and what a model made of it."""

    reference: str
    label: str
    confidence: float
    """Of its least sure part; 0 where it has no label."""


def pairs(
    labels: Sequence[Utterance],
    confidences: Mapping[str, float],
    references: Sequence[Utterance],
) -> list[_Pair]:
    """Bring labels and references of the same recordings together.

    Args:
        labels: parts of recordings.
        confidences: of them, by their ids.
        references: whole recordings.
    """
    parts = dict[Path, list[Utterance]]()
    for label in labels:
        parts.setdefault(Path(label.audio).resolve(), []).append(label)
    found = list[_Pair]()
    for reference in references:
        own = parts.get(Path(reference.audio).resolve(), [])
        text = " ".join(part.text for part in own)
        sure = min((confidences[part.id] for part in own), default=0.0)
        found.append(_Pair(reference.text, text, sure))
    return found


def table(found: Sequence[_Pair]) -> str:
    """Write a row for each threshold."""
    total = sum(len(pair.reference.split()) for pair in found)
    rows = ["from  recordings  words kept  WER of what is kept"]
    for threshold in THRESHOLDS:
        kept = [pair for pair in found if pair.label and pair.confidence >= threshold]
        words = sum(len(pair.reference.split()) for pair in kept)
        row = f"{threshold:4.2f}  {len(kept):10}  {100 * words / max(1, total):8.1f} %"
        if kept:
            said = [pair.reference for pair in kept]
            row += f"  %WER {word_error_rate(said, [pair.label for pair in kept])}"
        rows.append(row)
    return "\n".join(rows)


def read_confidences(path: Path) -> dict[str, float]:
    """Read the confidences of a manifest's lines, by their ids.

    Raises:
        ManifestError: a line has none.
    """
    found = dict[str, float]()
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            entries = json.loads(line)
            if not isinstance(entries.get("confidence"), float):
                raise ManifestError(f"{path}:{number}: has no confidence")
            found[entries["id"]] = entries["confidence"]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="quality", description="Judge pseudo-labels by their confidence."
    )
    parser.add_argument("labels", type=Path, help="a manifest with confidences")
    parser.add_argument("references", type=Path, help="the same recordings, with texts")
    options = parser.parse_args(arguments)
    return run_main("quality", lambda: _judge(options.labels, options.references))


def _judge(labels: Path, references: Path) -> None:
    read = read_manifest(labels)
    confidences = read_confidences(labels)
    print(table(pairs(read, confidences, read_manifest(references))))


if __name__ == "__main__":
    sys.exit(main())
