"""LibriSpeech, and whatever has its layout.

A subset is a folder such as dev-clean; a chapter is a folder in it: the audio of its
utterances and a transcript of them all, <speaker>-<chapter>.trans.txt, with a line
`<speaker>-<chapter>-<number> TEXT` each.

Source: Panayotov, Chen, Povey and Khudanpur (2015), "Librispeech: an ASR corpus based
on public domain audio books"; https://www.openslr.org/12 and /31 (Mini LibriSpeech).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from asr.data.corpora.entries import ALL, Entry, Kind, Problem, Subset
from asr.errors import CorpusError
from asr.real_folders import walk

SUBSETS = (
    *("train-clean-5", "dev-clean-2", "train-clean-100", "train-clean-360"),
    *("train-other-500", "dev-clean", "dev-other", "test-clean", "test-other"),
)
"""Those that were published."""

AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3")
"""In order of preference, where an utterance has several files."""

TRANSCRIPT_SUFFIX = ".trans.txt"


def read(corpus: Path, wanted: Sequence[str] | None = None) -> list[Subset]:
    """List the utterances of the subsets.

    Args:
        corpus: the folder of the subsets, its parent, or a folder of chapters.
        wanted: names of subsets; all known ones that are there where it is None.

    Raises:
        CorpusError: see `find_subsets`; or one cannot be read.
    """
    folders = find_subsets(corpus, wanted)
    chapters = {name: find_chapters(folder) for name, folder in folders.items()}
    return [_subset(name, folders[name], found) for name, found in chapters.items()]


def has_subsets(folder: Path) -> bool:
    """Return whether a folder holds one of the published subsets, or seems to."""
    return any((folder / name).is_dir() for name in (*SUBSETS, "LibriSpeech"))


def has_its_layout(folder: Path) -> bool:
    """Return whether a folder holds transcripts as LibriSpeech has them."""
    names = (name for _, names in walk(folder) for name in names)
    return any(name.endswith(TRANSCRIPT_SUFFIX) and name[0] != "." for name in names)


def read_chapters(folder: Path) -> list[Subset]:
    """List the utterances of a folder of chapters that is no published subset."""
    return [_subset(ALL, folder, find_chapters(folder))]


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
        for name in wanted or SUBSETS
        if (root / name).is_dir()
    }
    missing = [name for name in wanted or () if name not in found]
    if missing:
        raise CorpusError(f"{corpus}: holds no folder {missing[0]}")
    if not found and corpus.resolve().name in SUBSETS:
        parent = corpus.resolve().parent
        raise CorpusError(f"{corpus}: is a subset ({parent} was expected)")
    if not found:
        known = ", ".join(SUBSETS)
        raise CorpusError(f"{corpus}: holds no subset (one of {known} was expected)")
    return {name: found[name] for name in wanted or SUBSETS if name in found}


def find_chapters(subset: Path) -> list[Path]:
    """List the folders of a subset that hold transcripts or audio, in order.

    Raises:
        CorpusError: there are none, or a folder cannot be read.
    """
    folders = walk(subset, onerror=_refuse)
    chapters = sorted(folder for folder, names in folders if any(map(_belongs, names)))
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


def _subset(name: str, folder: Path, chapters: Iterable[Path]) -> Subset:
    entries, problems = list[Entry](), list[Problem]()
    for chapter in chapters:
        _read_chapter(chapter, entries, problems)
    return Subset(name, entries, problems, folder)


def _read_chapter(folder: Path, entries: list[Entry], problems: list[Problem]) -> None:
    """Join the transcripts in a folder with the audio beside them."""
    try:
        paths = sorted(path for path in folder.iterdir() if _belongs(path.name))
        texts = _read_texts(paths, problems)
    except OSError as error:
        _refuse(error)
    audio = _sort_audio(paths, problems)
    problems += [
        Problem(Kind.NO_AUDIO, f"{folder}: {id_} has no audio")
        for id_ in texts.keys() - audio.keys()
    ]
    problems += [
        Problem(Kind.NO_TEXT, f"{audio[id_]}: has no text")
        for id_ in audio.keys() - texts.keys()
    ]
    entries += [
        Entry(id_, str(audio[id_]), texts[id_], id_.split("-")[0])
        for id_ in sorted(texts.keys() & audio.keys())
    ]


def _read_texts(paths: Iterable[Path], problems: list[Problem]) -> dict[str, str]:
    texts = dict[str, str]()
    for path in paths:
        if not path.name.endswith(TRANSCRIPT_SUFFIX):
            continue
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        for number, line in enumerate(content.split(b"\n"), 1):
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
    return texts


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


def _sort_audio(paths: Iterable[Path], problems: list[Problem]) -> dict[str, Path]:
    audio = dict[str, Path]()
    for suffix in AUDIO_SUFFIXES:
        for path in paths:
            if path.suffix.lower() != suffix:
                continue
            kept = audio.setdefault(path.stem, path)
            if kept is not path:
                what = f"{path}: is the same utterance as {kept.name}"
                problems.append(Problem(Kind.DUPLICATE, what))
    return audio
