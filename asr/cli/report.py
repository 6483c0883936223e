"""`asr report`: the page of a decoded test set."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import add_command, check_output


def add(commands: Any) -> None:
    """Add `asr report`."""
    parser = add_command(
        *(commands, "report", _report),
        "write a page about hypotheses: error rates, charts, utterances to listen to",
        "asr report data/test-clean.jsonl exp/decoded/hypotheses.jsonl --run exp/run",
    )
    parser.add_argument("references", type=Path, help="manifest with the references")
    parser.add_argument("hypotheses", type=Path, help="manifest with the hypotheses")
    parser.add_argument(
        *("--run", "-r"),
        type=Path,
        dest="run_folder",
        metavar="RUN",
        help="folder of the training, to show its learning curves too",
    )
    parser.add_argument(
        *("--output", "-o"),
        type=Path,
        metavar="PAGE",
        help="HTML file (default: report.html beside the hypotheses)",
    )


def _report(args: argparse.Namespace) -> None:
    from asr.reports.test_set_page import write_report

    page = args.output or args.hypotheses.parent / "report.html"
    check_output(page, args.references, args.hypotheses)
    write_report(page, args.references, args.hypotheses, run=args.run_folder)
    print(f"asr: wrote {page}", file=sys.stderr)
