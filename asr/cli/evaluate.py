"""`asr evaluate`: how well a model does in noise, and on long speech."""

import argparse
from pathlib import Path
from typing import Any

from asr.cli.options import (
    add_command,
    add_search,
    add_settings,
    check_output,
    load_recognizer,
    number,
)
from asr.errors import ConfigError


def add(commands: Any) -> None:
    """Add `asr evaluate`, which has commands of its own."""
    parser = add_command(
        *(commands, "evaluate", None),
        "measure a model in noise and other conditions, or on a long recording",
        "asr evaluate robustness data/dev.jsonl --model exp/run",
    )
    measurements = parser.add_subparsers(required=True, metavar="MEASUREMENT")
    _add_robustness(measurements)
    _add_long_recordings(measurements)
    _add_long_speech(measurements)
    _add_errors(measurements)


def _add_robustness(commands: Any) -> None:
    parser = add_command(
        *(commands, "robustness", _robustness),
        "decode utterances as they are and with noise, echo and the like",
        "asr evaluate robustness data/dev.jsonl --model exp/run",
    )
    _add_inputs(parser)
    parser.add_argument(
        "--utterances", **number(130, "how many, spread evenly (default: 130)")
    )


def _add_long_recordings(commands: Any) -> None:
    parser = add_command(
        *(commands, "long-recordings", _long_recordings),
        "join utterances to a long recording, and compare it with its parts",
        "asr evaluate long-recordings data/dev.jsonl --model exp/run --minutes 10",
    )
    _add_inputs(parser)
    _add_minutes(parser, 60, "length of the recording")
    parser.add_argument(
        *("--output", "-o"),
        type=Path,
        metavar="FILE",
        help="keep the recording here, as FLAC (default: it is deleted at the end)",
    )


def _add_long_speech(commands: Any) -> None:
    parser = add_command(
        *(commands, "long-speech", _long_speech),
        "join 1, 2, 4, 8 and 16 neighbours, and transcribe them in one piece and cut",
        "asr evaluate long-speech data/dev.jsonl --model exp/run --minutes 10",
    )
    _add_inputs(parser)
    _add_minutes(parser, 10, "speech to use, about")


def _add_errors(commands: Any) -> None:
    parser = add_command(
        *(commands, "errors", _errors),
        "find out which errors are the search's and which the models'",
        "asr evaluate errors data/dev.jsonl --model exp/run --utterances 100",
    )
    _add_inputs(parser)
    parser.add_argument(
        "--utterances", **number(100, "how many, spread evenly (default: 100)")
    )


def _add_minutes(parser: argparse.ArgumentParser, default: int, about: str) -> None:
    parser.add_argument(
        "--minutes",
        type=float,
        default=float(default),
        metavar="N",
        help=f"{about} (default: {default})",
    )


def _seconds(args: argparse.Namespace) -> float:
    """Return --minutes in seconds.

    Raises:
        ConfigError: there are none.
    """
    if not args.minutes > 0:
        raise ConfigError(f"--minutes must be above 0, not {args.minutes:g}")
    return float(60 * args.minutes)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", type=Path, help="the utterances to use")
    add_settings(parser, "settings of the search, in place of the model's")
    add_search(parser)
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or auto (default: cpu)"
    )


def _robustness(args: argparse.Namespace) -> None:
    from asr.data.manifest import read_references, spread
    from asr.evaluation.robustness import under_conditions, without_speech

    utterances = spread(read_references(args.manifest), args.utterances)
    recognizer = load_recognizer(args)
    print(under_conditions(recognizer, utterances), flush=True)
    print(f"\n{without_speech(recognizer)}")


def _long_recordings(args: argparse.Namespace) -> None:
    from tempfile import TemporaryDirectory

    from asr.audio import encode
    from asr.data.manifest import read_references
    from asr.evaluation.long_recordings import join_utterances, report
    from asr.folders import write_bytes

    seconds = _seconds(args)
    utterances = read_references(args.manifest)
    if args.output:
        recordings = (Path(utterance.audio) for utterance in utterances)
        check_output(args.output, args.manifest, *recordings)
    joined = join_utterances(utterances, seconds)
    recognizer = load_recognizer(args)
    with TemporaryDirectory(prefix="asr-", ignore_cleanup_errors=True) as folder:
        path = args.output or Path(folder, "long.flac")
        write_bytes(path, encode(joined.waveform, "flac"))
        print(report(joined, path, recognizer))


def _long_speech(args: argparse.Namespace) -> None:
    from asr.data.manifest import read_references
    from asr.evaluation.long_speech import by_length, table

    seconds = _seconds(args)
    utterances = read_references(args.manifest)
    print(table(by_length(load_recognizer(args), utterances, seconds)))


def _errors(args: argparse.Namespace) -> None:
    from asr.data.manifest import read_references, spread
    from asr.evaluation.search_errors import search_errors

    utterances = spread(read_references(args.manifest), args.utterances)
    print(search_errors(load_recognizer(args), utterances))
