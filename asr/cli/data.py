"""`asr data`: what is done with a corpus before anything learns from it."""

import argparse
from pathlib import Path
from typing import Any

from asr.cli.options import add_command, check_output, number


def add(commands: Any) -> None:
    """Add `asr data info`, `export`, `shard` and `join`."""
    parser = commands.add_parser(
        "data",
        help="look at a corpus, write it for other toolkits, or as shards",
        description="Look at a corpus that was prepared, or write it otherwise.",
        epilog="`asr data COMMAND --help` shows an example of each command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_info(commands)
    _add_export(commands)
    _add_shard(commands)
    _add_join(commands)


def _add_info(commands: Any) -> None:
    parser = add_command(
        *(commands, "info", _info),
        "show hours, speakers, lengths, characters, words, problems and how it sounds",
        "asr data info data/train.jsonl --page train.html",
    )
    parser.add_argument("data", type=Path, help="a manifest, or a folder of manifests")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write a page, too, with ten utterances to listen to (one manifest only)",
    )
    parser.add_argument(
        "--measure",
        **number(60, "recordings that librosa measures, 0 for none (default: 60)"),
    )


def _add_export(commands: Any) -> None:
    parser = add_command(
        *(commands, "export", _export),
        "write a manifest in the format of another toolkit",
        "asr data export data/train.jsonl kaldi/train --format kaldi",
    )
    parser.add_argument("manifest", type=Path, help="the corpus")
    parser.add_argument("folder", type=Path, help="for what is written")
    parser.add_argument(
        "--format",
        required=True,
        help="kaldi, nemo, lhotse or huggingface (which needs the extra datasets)",
    )


def _add_shard(commands: Any) -> None:
    parser = add_command(
        *(commands, "shard", _shard),
        "write a corpus as shards: tar files of its audio that are read front to back",
        "asr data shard data/train.jsonl data/train-shards\n"
        "  asr train CONFIG RUN data.train=[data/train-shards/manifest.jsonl]",
    )
    parser.add_argument("manifest", type=Path, help="the corpus")
    parser.add_argument(
        "folder", type=Path, help="for shards and their manifest; must not exist"
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=1.0,
        metavar="X",
        help="speech in a shard, about, at most (default: 1)",
    )


def _add_join(commands: Any) -> None:
    parser = add_command(
        *(commands, "join", _join),
        "join neighbouring utterances into longer recordings",
        "asr data join data/train.jsonl data/train-joined --seconds 40\n"
        "  asr data join data/dev.jsonl data/dev-eights --utterances 8",
    )
    parser.add_argument("manifest", type=Path, help="the corpus")
    parser.add_argument(
        "folder", type=Path, help="for recordings and their manifest; must not exist"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="X",
        help="to train on: each as long as is drawn, from a single utterance up to X",
    )
    parser.add_argument(
        "--utterances", **number(None, "to try a model on: N in each recording")
    )


def _info(args: argparse.Namespace) -> None:
    from asr.data.info import describe, inspect, manifests
    from asr.errors import ConfigError

    found = manifests(args.data)
    if args.page:
        if len(found) > 1:
            raise ConfigError(
                f"--page: is about one manifest ({args.data} holds {len(found)})"
            )
        check_output(args.page, *found)
    for path in found:
        info = inspect(path, args.measure)
        print(describe(info), flush=True)
        if args.page:
            from asr.reports.corpus_page import write_corpus_page

            write_corpus_page(args.page, info)
            print(args.page)


def _export(args: argparse.Namespace) -> None:
    from asr.data.exports import export

    for path in export(args.manifest, args.folder, args.format):
        print(path)


def _shard(args: argparse.Namespace) -> None:
    from asr.data.shards import write_shards

    print(write_shards(args.manifest, args.folder, args.hours))


def _join(args: argparse.Namespace) -> None:
    from asr.data.joining import join

    joined = join(
        args.manifest, args.folder, seconds=args.seconds, utterances=args.utterances
    )
    print(joined)
