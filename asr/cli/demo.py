"""`asr demo`: the bundled recording and its page."""

import argparse
from pathlib import Path
from typing import Any

from asr.cli.options import add_command, check_output, own_process


def add(commands: Any) -> None:
    """Add `asr demo`."""
    parser = add_command(
        *(commands, "demo", _demo),
        "transcribe the bundled recording and write its page, as explain does",
        "asr demo demo.html",
    )
    parser.add_argument("page", type=Path, help="the HTML page that is written")


def _demo(args: argparse.Namespace) -> None:
    import json
    from importlib.resources import files

    from asr.inference.recognizer import Recognizer
    from asr.reports.recording_page import write_page
    from asr.scoring import word_error_rate

    check_output(args.page)
    own_process()

    assets = Path(str(files("asr") / "assets"))
    sample = json.loads((assets / "sample.json").read_text(encoding="utf-8"))
    recognizer = Recognizer.load()
    transcript = recognizer.transcribe(assets / "sample.opus", return_alignment=True)
    print(f"recording   {assets / 'sample.opus'} ({transcript.duration:.1f} s)")
    print(f"            {sample['source']}")
    print(f"transcript  {transcript.text}")
    print(f"reference   {sample['text']}")
    print(f"%WER        {word_error_rate([sample['text']], [transcript.text])}")
    print(f"            {sample['note']}")
    write_page(args.page, assets / "sample.opus", transcript)
    print(f"page        {args.page.resolve()}")
