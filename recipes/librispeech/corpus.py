"""The corpus on disk: its subsets, its chapters, what was said, and what is wrong.

A chapter is a folder: the audio of its utterances and a transcript of them all,
<speaker>-<chapter>.trans.txt, with a line `<speaker>-<chapter>-<number> TEXT` each.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, NoReturn

from tqdm import tqdm

from asr.audio import duration
from asr.data.manifest import Utterance
from asr.errors import AudioError, CorpusError
from asr.processes import worker_pool
from asr.text import normalize
from recipes.librispeech.published import PUBLISHED

AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3")
"""In order of preference, where an utterance has several files."""

TRANSCRIPT_SUFFIX = ".trans.txt"


class Kind(StrEnum):
    """What can be wrong with an utterance. All but the dense ones are left out."""

    MALFORMED = "malformed transcript line"
    NO_AUDIO = "text without audio"
    NO_TEXT = "audio without text"
    UNREADABLE = "unreadable audio"
    DUPLICATE = "duplicate"
    DENSE = "too dense for CTC, kept"


class Problem(NamedTuple):
    """Something wrong with one utterance."""

    kind: Kind
    what: str
    """`place: what is wrong`, for the user to read."""


class Prepared(NamedTuple):
    """What was found in a folder, or in a whole subset."""

    utterances: list[Utterance]
    problems: list[Problem]


# Finding


def find_subsets(corpus: Path, wanted: Sequence[str] | None = None) -> dict[str, Path]:
    """Find the folders of the subsets.

    Args:
        corpus: the folder of the subsets, or its parent.
        wanted: names of subsets; all known ones that are there where it is None.

    Raises:
        CorpusError: there is no such folder, it holds no subset, or not a wanted one.
    """
    if not corpus.is_dir():
        what = "is not a folder" if corpus.exists() else "does not exist"
        raise CorpusError(f"{corpus}: {what} (the folder of LibriSpeech was expected)")
    roots = (corpus, corpus / "LibriSpeech")
    found = {
        name: root / name
        for root in reversed(roots)
        for name in wanted or PUBLISHED
        if (root / name).is_dir()
    }
    missing = [name for name in wanted or () if name not in found]
    if missing:
        raise CorpusError(f"{corpus}: holds no folder {missing[0]}")
    if not found and corpus.resolve().name in PUBLISHED:
        parent = corpus.resolve().parent
        raise CorpusError(f"{corpus}: is a subset ({parent} was expected)")
    if not found:
        known = ", ".join(PUBLISHED)
        raise CorpusError(f"{corpus}: holds no subset (one of {known} was expected)")
    return {name: found[name] for name in wanted or PUBLISHED if name in found}


def find_chapters(subset: Path) -> list[Path]:
    """List the folders of a subset that hold transcripts or audio, in order.

    Raises:
        CorpusError: there are none, or a folder cannot be read.
    """
    walk = os.walk(subset, onerror=_refuse, followlinks=True)
    chapters = sorted(
        Path(folder) for folder, _, names in walk if any(map(_belongs, names))
    )
    if not chapters:
        raise CorpusError(
            f"{subset}: holds no speech (speaker/chapter/*.trans.txt was expected)"
        )
    return chapters


def _refuse(error: OSError) -> NoReturn:
    raise CorpusError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _belongs(name: str) -> bool:
    known = name.endswith(TRANSCRIPT_SUFFIX) or name.lower().endswith(AUDIO_SUFFIXES)
    return known and not name.startswith(".")


# Reading


MapChapters = Callable[[Sequence[Path]], Iterable[Prepared]]
"""Does `read_chapter` for each of many folders, and keeps their order."""


@contextmanager
def readers(processes: int) -> Iterator[MapChapters]:
    """Keep some processes ready for `read_chapters`; one alone is this one."""
    if processes == 1:
        yield partial(map, read_chapter)
        return
    with worker_pool(_keep_nothing, processes) as workers:
        yield partial(workers.in_order, _read_chapter)


def _keep_nothing() -> None:
    """Begin a worker: it needs nothing."""


def _read_chapter(kept: None, folder: Path) -> Prepared:
    return read_chapter(folder)


def read_chapters(
    paths: Sequence[Path], map_chapters: MapChapters, label: str
) -> Prepared:
    """Read the chapters of a subset.

    Args:
        paths: what `find_chapters` found.
        map_chapters: what `readers` gave.
        label: name of the subset, for the progress bar.

    Returns:
        The utterances, sorted by id and each id once, and the problems.
    """
    first, problems = dict[str, Utterance](), list[Problem]()
    chapters = map_chapters(paths)
    for chapter in tqdm(
        chapters, label, len(paths), leave=False, unit=" chapters", disable=None
    ):
        problems.extend(chapter.problems)
        for utterance in chapter.utterances:
            kept = first.setdefault(utterance.id, utterance)
            if kept is not utterance:
                what = f"{utterance.audio}: has the id of {kept.audio}"
                problems.append(Problem(Kind.DUPLICATE, what))
    return Prepared([first[id_] for id_ in sorted(first)], problems)


def read_chapter(folder: Path) -> Prepared:
    """Join the transcripts in a folder with the audio beside them.

    Raises:
        CorpusError: the folder, or a transcript in it, cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if _belongs(path.name))
        texts, problems = _read_texts(paths)
    except OSError as error:
        _refuse(error)
    audio, duplicates = _sort_audio(paths)
    problems += duplicates
    problems += [
        Problem(Kind.NO_AUDIO, f"{folder}: {id_} has no audio")
        for id_ in texts.keys() - audio.keys()
    ]
    problems += [
        Problem(Kind.NO_TEXT, f"{audio[id_]}: has no text")
        for id_ in audio.keys() - texts.keys()
    ]
    utterances = []
    for id_ in texts.keys() & audio.keys():
        try:
            seconds = duration(audio[id_])
        except AudioError as error:
            problems.append(Problem(Kind.UNREADABLE, str(error)))
        else:
            speaker = id_.split("-")[0]
            utterances.append(
                Utterance(id_, str(audio[id_]), seconds, texts[id_], speaker)
            )
    return Prepared(utterances, problems)


def _read_texts(paths: Iterable[Path]) -> tuple[dict[str, str], list[Problem]]:
    texts, problems = dict[str, str](), []
    for path in paths:
        if not path.name.endswith(TRANSCRIPT_SUFFIX):
            continue
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                id_, text = _parse_line(line, path.name.removesuffix(TRANSCRIPT_SUFFIX))
            except ValueError as error:
                what = f"{path}:{number}: {error}"
                problems.append(Problem(Kind.MALFORMED, what))
                continue
            if id_ in texts:
                what = f"{path}:{number}: {id_} has a text already"
                problems.append(Problem(Kind.DUPLICATE, what))
                continue
            texts[id_] = text
    return texts, problems


def _parse_line(line: bytes, chapter: str) -> tuple[str, str]:
    try:
        id_, *text = line.decode("utf-8").split() or [""]
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error
    number = id_.removeprefix(f"{chapter}-")
    if not (number.isdigit() and id_ != number):
        raise ValueError(f"starts with {id_!r} ({chapter}-NNNN was expected)")
    if not text:
        raise ValueError(f"{id_} has no words")
    return id_, " ".join(text)


def _sort_audio(paths: Iterable[Path]) -> tuple[dict[str, Path], list[Problem]]:
    audio, problems = dict[str, Path](), []
    for suffix in AUDIO_SUFFIXES:
        for path in paths:
            if path.suffix.lower() != suffix:
                continue
            kept = audio.setdefault(path.stem, path)
            if kept is not path:
                what = f"{path}: is the same utterance as {kept.name}"
                problems.append(Problem(Kind.DUPLICATE, what))
    return audio, problems


# Judging


def dense(utterances: Iterable[Utterance], rate: int) -> Iterator[Problem]:
    """Return the utterances with more to spell than CTC has steps for.

    Args:
        utterances: what to look at.
        rate: steps of the model a second.
    """
    for utterance in utterances:
        steps = math.floor(round(rate * utterance.duration, 6))
        needed = steps_needed(normalize(utterance.text))
        if needed > steps:
            what = f"{utterance.audio}: needs {needed} steps, has {steps}"
            yield Problem(Kind.DENSE, what)


def steps_needed(text: str) -> int:
    """Count the CTC steps of a text: one a character, and a blank between two equal.

    >>> steps_needed("HELLO")
    6
    """
    return len(text) + sum(a == b for a, b in pairwise(text))
