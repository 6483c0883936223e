"""`asr prepare`: from a corpus as it is kept to manifests."""

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.options import add_command, number, one_line

if TYPE_CHECKING:
    from asr.data.prepare import Corpus, Prepared

_FORMATS = """\
formats:
  librispeech   SPEAKER/CHAPTER/*.trans.txt and its audio, below subsets or not
  folder        x.wav and x.txt; or one text file with a line `x TEXT` for each
  table         a .tsv or .csv with a column for the audio and one for the text
  commonvoice   a release of Common Voice: its tables and clips/
  kaldi         wav.scp, text, utt2spk and segments; a command in it is never run
  nemo          JSON lines with audio_filepath, text, offset and duration
  lhotse        cuts, or recordings and supervisions, as .jsonl or .jsonl.gz
  huggingface   a dataset's folder, or its name on the Hub (extra: datasets)
  manifest      what asr prepare writes

spellings (--normalize):
  none          as the texts stand, in Unicode's NFC
  english       A to Z and the apostrophe, numbers in English words (LibriSpeech's)
  lower, upper  in lower or upper case
  plain         in lower case, without punctuation

example:
  asr prepare recordings/ data/ --split 90:5:5
  asr adapt bundled data/ run/
"""


def add(commands: Any) -> None:
    """Add `asr prepare`."""
    parser = add_command(
        *(commands, "prepare", _run),
        "write manifests of a corpus, which everything else reads",
        "",
    )
    parser.epilog = _FORMATS
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a folder, a file, or a dataset's name")
    add("data", type=Path, metavar="DATA", help="folder for the manifests")
    add("--format", default="auto", help="of SOURCE, see below (default: found out)")
    add("--normalize", default="none", metavar="SPELLING", help="of texts, see below")
    add(
        "--alphabet",
        default="auto",
        metavar="auto|FILE",
        help="leave out texts with a character that is not in FILE (default: none)",
    )
    add(
        "--split",
        metavar="90:5:5",
        help="deal out to train, dev and test, no speaker in two of them",
    )
    add(
        "--split-by",
        default="speaker",
        metavar="GROUP",
        help="what no two parts share: speaker (default), or text",
    )
    add("--subsets", nargs="+", metavar="S", help="of a corpus that has several")
    add("--audio-column", metavar="NAME", help="of a table or dataset")
    add("--text-column", metavar="NAME", help="of a table or dataset")
    add("--speaker-column", metavar="NAME", help="of a table or dataset")
    add(
        "--trim",
        type=float,
        metavar="DB",
        help="leave out silence at both ends, so much softer than speech (try 40)",
    )
    add(
        "--max-seconds",
        type=float,
        default=40.0,
        metavar="X",
        help="leave out longer utterances (default: 40)",
    )
    add(
        "--steps-per-second",
        **number(25, "the model's rate, to find what is too dense for CTC"),
    )
    add("--processes", **number(None, "that read audio (default: one a core, up to 8)"))


def _run(args: argparse.Namespace) -> None:
    from asr.data.corpora.entries import Columns
    from asr.data.prepare import PrepareConfig, prepare
    from asr.data.splits import parse_shares

    processes = {} if args.processes is None else {"processes": args.processes}
    config = PrepareConfig(
        format=args.format,
        normalize=args.normalize,
        alphabet=args.alphabet,
        columns=Columns(args.audio_column, args.text_column, args.speaker_column),
        subsets=tuple(args.subsets) if args.subsets else None,
        split=parse_shares(args.split) if args.split else None,
        split_by=args.split_by,
        trim=args.trim,
        most_seconds=args.max_seconds,
        steps_per_second=args.steps_per_second,
        **processes,
    )
    report(prepare(args.source, args.data, config), args.data, config.normalize)


def report(corpus: "Corpus", data: Path, normalize: str) -> None:
    """Print what was written, what was left out, and what comes next."""
    from asr.alphabet import shown
    from asr.data.prepare import count

    for notice in corpus.notices:
        print(one_line(f"asr: {notice}"), file=sys.stderr)
    for subset in corpus.subsets:
        for line in count(subset.problems):
            print(one_line(f"asr: {subset.listing}: {line}"), file=sys.stderr)
    print(f"{'manifest':<28}{'utterances':>12}{'hours':>9}{'speakers':>10}")
    for subset in corpus.subsets:
        print(_row(subset))
    print(f"format: {corpus.format}; characters: {shown(corpus.alphabet)}")
    if normalize == "none" and _could_be_english(corpus):
        print(
            "The bundled model writes A to Z: --normalize english brings the texts "
            "there, if they are English."
        )
    names = [subset.name for subset in corpus.subsets]
    if {"train", "dev"} <= set(names):
        following = ["asr", "adapt", "bundled", str(data), "RUN"]
    else:
        following = ["asr", "data", "info", str(corpus.subsets[0].path)]
    print(one_line(f"next: {shlex.join(following)}"))


def _row(subset: "Prepared") -> str:
    hours = sum(utterance.duration for utterance in subset.utterances) / 3600
    speakers = {utterance.speaker for utterance in subset.utterances} - {""}
    return (
        f"{one_line(str(subset.path)):<28}{len(subset.utterances):>12}{hours:>9.2f}"
        f"{len(speakers) or '-':>10}"
    )


def _could_be_english(corpus: "Corpus") -> bool:
    """Return whether the letters are A to Z, but not spelled as LibriSpeech is."""
    from asr.text import ALPHABET

    if set(corpus.alphabet) <= set(ALPHABET):
        return False
    counts = Counter(
        character
        for subset in corpus.subsets
        for utterance in subset.utterances[:1000]
        for character in utterance.text
        if character.isalpha()
    )
    foreign = sum(n for character, n in counts.items() if not character.isascii())
    return foreign < 0.005 * sum(counts.values())
