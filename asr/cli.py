"""The `asr` command. Each subcommand is one function that calls the Python API."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.errors import AsrError, ConfigError, ManifestError

# What is heavy (torch, and all that stands on it) is imported inside the subcommands:
# `asr --help` answers in a tenth of a second.
if TYPE_CHECKING:
    from asr.data.manifest import Utterance
    from asr.recognizer import DecodingConfig
    from asr.transcript import Transcript


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after telling the user what to mend."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except AsrError as error:
        print(f"asr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("asr: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, say) has had enough
        return 1


def _transcribe(args: argparse.Namespace) -> int:
    if args.page is not None and len(args.audio) > 1:
        raise ConfigError(f"{args.page}: a page shows one recording (give one FILE)")
    failed = 0
    for path, transcript in zip(args.audio, _transcripts(args), strict=True):
        if isinstance(transcript, AsrError):
            print(f"asr: {transcript}", file=sys.stderr)
            failed += 1
            continue
        prefix = f"{path}: " if len(args.audio) > 1 else ""
        print(prefix + transcript.text, flush=True)
        for alternative in transcript.segments[0].nbest[: args.nbest]:
            print(f"  {alternative.score:8.4f}  {alternative.text}")
        if args.page is not None:
            from asr.report import write_page

            write_page(args.page, path, transcript)
            print(f"asr: wrote {args.page}", file=sys.stderr)
    return 1 if failed else 0


def _transcripts(args: argparse.Namespace) -> "Iterator[Transcript | AsrError]":
    """Transcribe the files: on a CPU, and without a page, in several processes."""
    from asr.corpus import transcribe_files
    from asr.device import use_one_thread
    from asr.recognizer import Recognizer

    device, decoding = _device(args.device), _decoding(args)
    if device.type == "cpu" and args.page is None:
        yield from transcribe_files(
            args.model,
            args.audio,
            decoding,
            precision=args.precision,
            language_model=args.language_model,
        )
        return
    use_one_thread()
    recognizer = Recognizer.load(
        args.model,
        decoding=decoding,
        device=device,
        precision=args.precision,
        language_model=args.language_model,
    )
    for path in args.audio:
        try:
            yield recognizer.transcribe(path, alignment=args.page is not None)
        except AsrError as error:
            yield error


def _demo(args: argparse.Namespace) -> None:
    import json
    from importlib.resources import files

    from asr.device import use_one_thread
    from asr.recognizer import Recognizer
    from asr.report import write_page
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


def _train(args: argparse.Namespace) -> None:
    from asr.config import load_config
    from asr.experiment import train

    train(load_config(args.config, args.overrides), args.folder)


def _decode(args: argparse.Namespace) -> int:
    from asr.corpus import decode

    decoded = decode(
        args.model,
        args.manifest,
        args.folder,
        _decoding(args),
        precision=args.precision,
        processes=args.processes,
        language_model=args.language_model,
    )
    for fault in decoded.faults:
        print(f"asr: {fault}", file=sys.stderr)
    print(decoded)
    return 1 if decoded.faults else 0


def _score(args: argparse.Namespace) -> None:
    from asr.data.manifest import read_manifest
    from asr.scoring import (
        aligned_text,
        by_group,
        by_length,
        char_error_rate,
        confidence_interval,
        confusions,
        word_error_rate,
    )

    said, heard = _paired(
        read_manifest(args.references), read_manifest(args.hypotheses), args
    )
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


def _export(args: argparse.Namespace) -> None:
    from asr.export import export

    exported = export(args.run_folder, args.folder)
    print(f"asr: wrote {args.folder}: {exported.card}", file=sys.stderr)


def _doctor(args: argparse.Namespace) -> int:
    from asr.doctor import examine

    problems = 0
    for finding in examine():
        print(finding, flush=True)
        problems += bool(finding.remedy)
    print(f"problems: {problems or 'none'}")
    return 1 if problems else 0


def _print_rates(rates: dict[str, Any]) -> None:
    for name, rate in rates.items():
        print(f"{name or '-':>10}  %WER {rate}")


def _paired(
    said: "list[Utterance]", heard: "list[Utterance]", args: argparse.Namespace
) -> "tuple[list[Utterance], list[Utterance]]":
    """Bring hypotheses into the order of the references."""
    by_id = {utterance.id: utterance for utterance in heard}
    missing = [utterance.id for utterance in said if utterance.id not in by_id]
    if missing:
        raise ManifestError(
            f"{args.hypotheses}: {len(missing)} of {len(said)} utterances have no "
            f"hypothesis, the first is {missing[0]}"
        )
    unasked = len(by_id) - len(said)
    if unasked:
        raise ManifestError(
            f"{args.hypotheses}: {unasked} of its utterances are not in "
            f"{args.references}"
        )
    return said, [by_id[utterance.id] for utterance in said]


def _decoding(args: argparse.Namespace) -> "DecodingConfig":
    """Turn the options of the search into its settings."""
    from asr.recognizer import DecodingConfig

    given = {
        "beam_size": args.beam,
        "ctc_weight": args.ctc_weight,
        "lm_weight": args.lm_weight,
        "word_bonus": args.word_bonus,
    }
    try:
        return DecodingConfig(**{k: v for k, v in given.items() if v is not None})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _device(name: str) -> Any:
    from asr.device import pick_device

    return pick_device(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asr",
        description="Listen, Attend and Spell: speech recognition from audio to text.",
        epilog="`asr COMMAND --help` shows an example of each command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_transcribe(commands)
    _add_train(commands)
    _add_decode(commands)
    _add_score(commands)
    _add_export(commands)
    _add_demo(commands)
    _add_doctor(commands)
    return parser


def _command(
    commands: Any, name: str, run: Callable[..., int | None], about: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_transcribe(commands: Any) -> None:
    parser = _command(
        *(commands, "transcribe", _transcribe),
        "write down what is said in audio files",
        "asr transcribe talk.flac --page talk.html",
    )
    parser.add_argument("audio", nargs="+", type=Path, metavar="FILE")
    _add_search(parser)
    parser.add_argument(
        *("--nbest", "-n"),
        **_number(0, "print the N best alternatives of the beginning too"),
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="HTML",
        help="write a page that shows where the model looked (one FILE only)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")


def _add_train(commands: Any) -> None:
    parser = _command(
        *(commands, "train", _train),
        "train a model; a run that was stopped goes on where it was",
        "asr train recipes/toy/las.yaml exp/toy/run training.epochs=12",
    )
    parser.add_argument("config", type=Path, help="YAML file with the settings")
    parser.add_argument("folder", type=Path, help="of the run; made if missing")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that win"
    )


def _add_decode(commands: Any) -> None:
    parser = _command(
        *(commands, "decode", _decode),
        "transcribe all utterances of a manifest, in several processes",
        "asr decode data/test-clean.jsonl exp/decoded --model exp/run",
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path, help="for the hypotheses")
    _add_search(parser)
    parser.add_argument("--processes", **_number(None, "default: one a core"))


def _add_score(commands: Any) -> None:
    parser = _command(
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


def _add_export(commands: Any) -> None:
    parser = _command(
        *(commands, "export", _export),
        "pack the best model of a run into a folder, at half the size",
        "asr export exp/run my-model",
    )
    parser.add_argument(
        "run_folder",
        type=Path,
        metavar="RUN",
        help="folder of a run or of a model",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="for the model; made, or replaced where it holds one (RUN itself, say)",
    )


def _add_demo(commands: Any) -> None:
    parser = _command(
        *(commands, "demo", _demo),
        "transcribe the bundled recording and show where the model looked",
        "asr demo demo.html",
    )
    parser.add_argument("page", type=Path, help="the HTML page that is written")


def _add_doctor(commands: Any) -> None:
    _command(
        *(commands, "doctor", _doctor),
        "look at this machine and installation, and tell what to mend",
        "asr doctor && asr demo demo.html",
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, help="a model's or a run's folder (default: the bundled)"
    )
    parser.add_argument("--beam", **_number(None, "hypotheses followed (default: 8)"))
    parser.add_argument(
        "--ctc-weight",
        type=float,
        metavar="W",
        help="share of the CTC head in the score (default: 0.3)",
    )
    parser.add_argument(
        "--precision",
        default="float32",
        help="of the weights: float32, or int8, which is faster on a CPU",
    )
    parser.add_argument(
        "--language-model",
        type=Path,
        metavar="FOLDER",
        help="of a word n-gram (default: the bundled one)",
    )
    parser.add_argument(
        "--lm-weight",
        type=float,
        metavar="W",
        help="weight of the language model (default: 0.5; 0 does without)",
    )
    parser.add_argument(
        "--word-bonus",
        type=float,
        metavar="X",
        help="added for each word where there is a language model (default: -2)",
    )


def _number(default: int | None, about: str) -> dict[str, Any]:
    return {"type": int, "default": default, "metavar": "N", "help": about}


if __name__ == "__main__":
    sys.exit(main())
