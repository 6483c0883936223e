"""`asr score`: error rates."""

import argparse
from pathlib import Path
from typing import Any

from asr.cli.options import add_command


def add(commands: Any) -> None:
    """Add `asr score`."""
    parser = add_command(
        *(commands, "score", _score),
        "compare hypotheses with references: WER, CER, and where the errors are",
        "asr score data/test-clean.jsonl exp/decoded/hypotheses.jsonl --details",
    )
    parser.add_argument("references", type=Path, help="manifest with the references")
    parser.add_argument("hypotheses", type=Path, help="manifest with the hypotheses")
    parser.add_argument(
        "--details", action="store_true", help="by length, by speaker, confusions"
    )
    parser.add_argument(
        "--aligned", action="store_true", help="show each utterance word by word"
    )


def _score(args: argparse.Namespace) -> None:
    from asr.data.manifest import read_paired
    from asr.scoring import (
        aligned_text,
        by_group,
        by_length,
        char_error_rate,
        confidence_interval,
        confusions,
        word_error_rate,
    )

    said, decoded = read_paired(args.references, args.hypotheses)
    references, hypotheses = [u.text for u in said], [u.text for u in decoded]
    speakers = [u.speaker for u in said]
    if args.aligned:
        for utterance, hypothesis in zip(said, hypotheses, strict=True):
            print(utterance.id, aligned_text(utterance.text, hypothesis), "", sep="\n")
    print(f"%WER {word_error_rate(references, hypotheses)}")
    print(f"%CER {char_error_rate(references, hypotheses)}")
    groups = speakers if len(set(speakers)) > 1 else None
    low, high = confidence_interval(references, hypotheses, groups=groups)
    resampled = "speakers" if groups else "utterances"
    print(
        f"95 % interval of the WER: {100 * low:.2f} to {100 * high:.2f} "
        f"(bootstrap over {resampled})"
    )
    if args.details:
        durations = [u.duration for u in said]
        print("\nby length")
        _print_rates(by_length(references, hypotheses, durations))
        print("\nby speaker")
        _print_rates(by_group(references, hypotheses, speakers))
        print("\nmost frequent confusions (reference -> hypothesis)")
        for found in confusions(references, hypotheses):
            print(f"{found.count:5d}  {found.reference_word or '-'} -> ", end="")
            print(found.hypothesis_word or "-")


def _print_rates(rates: dict[str, Any]) -> None:
    for name, rate in rates.items():
        print(f"{name or '-':>10}  %WER {rate}")
