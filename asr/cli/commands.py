"""The other commands: each is one function that calls the Python API."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import (
    add_command,
    add_search,
    decoding_of,
    load_recognizer,
    number,
    one_line,
)
from asr.errors import ConfigError


def add_explain(commands: Any) -> None:
    """Add `asr explain`."""
    parser = add_command(
        *(commands, "explain", _explain),
        "write a page that shows and plays what was heard, how surely, when and where",
        "asr explain talk.flac --output talk.html",
    )
    parser.add_argument("audio", type=Path, metavar="FILE")
    parser.add_argument(
        *("--output", "-o"),
        type=Path,
        metavar="PAGE",
        help="HTML file (default: named as FILE is, in this folder)",
    )
    add_search(parser)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")


def _spare(page: Path, *inputs: Path) -> None:
    """Refuse to write a page over what it is made of."""
    for path in inputs:
        if page.exists() and path.exists() and page.samefile(path):
            raise ConfigError(f"{page}: would be overwritten (give another --output)")


def _explain(args: argparse.Namespace) -> None:
    from asr.reports.recording_page import write_page

    page = args.output or Path(args.audio.with_suffix(".html").name)
    _spare(page, args.audio)
    transcript = load_recognizer(args).transcribe(args.audio, alignment=True)
    write_page(page, args.audio, transcript)
    print(f"asr: wrote {page}", file=sys.stderr)


def add_train(commands: Any) -> None:
    """Add `asr train`."""
    parser = add_command(
        *(commands, "train", _train),
        "train a model; a run that was stopped goes on where it was",
        "asr train recipes/toy/las.yaml exp/toy/run training.epochs=12",
    )
    parser.add_argument("config", type=Path, help="YAML file with the settings")
    parser.add_argument("folder", type=Path, help="of the run; made if missing")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that win"
    )


def _train(args: argparse.Namespace) -> None:
    from asr.config import load_config
    from asr.train import train

    train(load_config(args.config, args.overrides), args.folder)


def add_decode(commands: Any) -> None:
    """Add `asr decode`."""
    parser = add_command(
        *(commands, "decode", _decode),
        "transcribe all utterances of a manifest, in several processes",
        "asr decode data/test-clean.jsonl exp/decoded --model exp/run",
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path, help="for the hypotheses")
    add_search(parser)
    parser.add_argument("--processes", **number(None, "default: one a core"))


def _decode(args: argparse.Namespace) -> int:
    from asr.inference.parallel import decode

    decoded = decode(
        args.model,
        args.manifest,
        args.folder,
        decoding_of(args),
        precision=args.precision,
        processes=args.processes,
        language_model=args.language_model,
    )
    for fault in decoded.faults:
        print(one_line(f"asr: {fault}"), file=sys.stderr)
    print(decoded)
    return 1 if decoded.faults else 0


def add_score(commands: Any) -> None:
    """Add `asr score`."""
    parser = add_command(
        *(commands, "score", _score),
        "compare hypotheses with references: WER, CER, and where the errors are",
        "asr score data/test-clean.jsonl exp/decoded/hypotheses.jsonl --details",
    )
    parser.add_argument("references", type=Path, help="manifest with what was said")
    parser.add_argument("hypotheses", type=Path, help="manifest with what was heard")
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

    said, heard = read_paired(args.references, args.hypotheses)
    references, hypotheses = [u.text for u in said], [u.text for u in heard]
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
        print("\nmost frequent confusions (said -> heard)")
        for found in confusions(references, hypotheses):
            print(f"{found.count:5d}  {found.reference_word or '-'} -> ", end="")
            print(found.hypothesis_word or "-")


def _print_rates(rates: dict[str, Any]) -> None:
    for name, rate in rates.items():
        print(f"{name or '-':>10}  %WER {rate}")


def add_report(commands: Any) -> None:
    """Add `asr report`."""
    parser = add_command(
        *(commands, "report", _report),
        "write a page about hypotheses: error rates, charts, utterances to listen to",
        "asr report data/test-clean.jsonl exp/decoded/hypotheses.jsonl --run exp/run",
    )
    parser.add_argument("references", type=Path, help="manifest with what was said")
    parser.add_argument("hypotheses", type=Path, help="manifest with what was heard")
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
    _spare(page, args.references, args.hypotheses)
    write_report(page, args.references, args.hypotheses, run=args.run_folder)
    print(f"asr: wrote {page}", file=sys.stderr)


def add_export(commands: Any) -> None:
    """Add `asr export`."""
    parser = add_command(
        *(commands, "export", _export),
        "pack the best model of a run into a folder, at half the size",
        "asr export exp/run my-model",
    )
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="folder of a run or of a model"
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="for the model; made, or replaced where it holds one (RUN itself, say)",
    )


def _export(args: argparse.Namespace) -> None:
    from asr.model.export import export

    exported = export(args.run_folder, args.folder)
    print(f"asr: wrote {args.folder}: {exported.card}", file=sys.stderr)


def add_demo(commands: Any) -> None:
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
    from asr.runtime import use_one_thread
    from asr.scoring import word_error_rate

    use_one_thread()

    assets = Path(str(files("asr") / "assets"))
    sample = json.loads((assets / "sample.json").read_text(encoding="utf-8"))
    recognizer = Recognizer.load()
    transcript = recognizer.transcribe(assets / "sample.opus", alignment=True)
    print(f"recording   {assets / 'sample.opus'} ({transcript.duration:.1f} s)")
    print(f"            {sample['source']}")
    print(f"transcript  {transcript.text}")
    print(f"reference   {sample['text']}")
    print(f"%WER        {word_error_rate([sample['text']], [transcript.text])}")
    print(f"            {sample['note']}")
    write_page(args.page, assets / "sample.opus", transcript)
    print(f"page        {args.page.resolve()}")


def add_doctor(commands: Any) -> None:
    """Add `asr doctor`."""
    add_command(
        *(commands, "doctor", _doctor),
        "look at this machine and installation, and tell what to mend",
        "asr doctor && asr demo demo.html",
    )


def _doctor(args: argparse.Namespace) -> int:
    from asr.doctor import examine

    problems = 0
    for finding in examine():
        print(finding, flush=True)
        problems += bool(finding.remedy)
    print(f"problems: {problems or 'none'}")
    return 1 if problems else 0
