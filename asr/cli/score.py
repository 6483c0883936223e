"""`asr score`: error rates."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import add_command
from asr.errors import ManifestError, one_line
from asr.wording import counted


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
        "--normalize",
        choices=("none", "english", "lower", "upper", "plain"),
        default="none",
        metavar="SPELLING",
        help="bring all texts into one spelling first: plain is lower case without "
        "punctuation, english is LibriSpeech's (A-Z, numbers in words); or lower, or "
        "upper (default: none, compare them as they stand)",
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="by length, by speaker, confusions, the worst utterances",
    )
    parser.add_argument(
        "--aligned", action="store_true", help="show each utterance word by word"
    )


def _score(args: argparse.Namespace) -> None:
    from asr.alphabet import normalizer
    from asr.data.manifest import read_paired, speaker_groups
    from asr.scoring import (
        aligned_text,
        by_group,
        by_length,
        char_error_rate,
        confidence_interval,
        confusions,
        word_error_rate,
        worst,
    )

    said, decoded = read_paired(args.references, args.hypotheses)
    spelled = str if args.normalize == "none" else normalizer(args.normalize)
    references = [spelled(utterance.text) for utterance in said]
    hypotheses = [spelled(utterance.text) for utterance in decoded]
    if any(hypotheses) and not any(references):
        number = counted(sum(len(text.split()) for text in hypotheses), "word")
        raise ManifestError(
            f"{args.references}: none of its utterances has a text, so that there is "
            f"no error rate ({number} found in them)"
        )

    def show(place: int) -> None:
        reference, hypothesis = map(one_line, (references[place], hypotheses[place]))
        print(said[place].id, aligned_text(reference, hypothesis), "", sep="\n")

    if args.aligned:
        for place in range(len(said)):
            show(place)
    words = word_error_rate(references, hypotheses)
    print(f"%WER {words}")
    print(f"%CER {char_error_rate(references, hypotheses)}")
    if args.normalize == "none" and words.errors:
        _remark(words.errors, references, hypotheses)
    groups = speaker_groups(said)
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
        speakers = [u.speaker for u in said]
        _print_rates(by_group(references, hypotheses, speakers))
        print("\nmost frequent confusions (reference -> hypothesis)")
        for found in confusions(references, hypotheses):
            pair = (found.reference_word or "-", found.hypothesis_word or "-")
            print(one_line(f"{found.count:5d}  {' -> '.join(pair)}"))
        print("\nmost word errors")
        for place in worst(references, hypotheses):
            show(place)


def _remark(errors: int, references: list[str], hypotheses: list[str]) -> None:
    """Remark on errors that are none of the words, where they are most of all."""
    from asr.alphabet import normalizer
    from asr.scoring import spelling_errors

    of_spelling = spelling_errors(references, hypotheses, normalizer("plain"))
    if 2 * of_spelling > errors:
        print(
            f"asr: {of_spelling} of {errors} word errors are case and punctuation only "
            "(--normalize plain compares without them)",
            file=sys.stderr,
        )


def _print_rates(rates: dict[str, Any]) -> None:
    for name, rate in rates.items():
        print(f"{name or '-':>10}  %WER {rate}")
