"""A folder of recordings, with their texts beside them.

Either each has a text file of its name, `talk.wav` and `talk.txt`; or one text file
has a line for each, its name and then what was said: `talk GO DO YOU HEAR`,
`talk.wav|Go, do you hear?` (LJ Speech) or with a tab between. Recordings in folders of
their own are taken to be of one speaker each.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from asr.audio import AUDIO_SUFFIXES
from asr.data.corpora.entries import ALL, Entry, Kind, Problem, Subset, id_of
from asr.data.corpora.text_files import Text, lines, read_text
from asr.errors import CorpusError
from asr.real_folders import walk
from asr.wording import counted

_TEXTS = (".txt", ".lab", ".transcript")


def read(source: Path) -> list[Subset]:
    """List the utterances of a folder, and of the folders in it.

    Raises:
        CorpusError: it holds no recording, or no text that can be read, or a folder
            cannot be read.
    """
    audio, texts = _files(source)
    if not audio:
        raise CorpusError(f"{source}: holds no recording (wav, flac, mp3, opus …)")
    problems = list[Problem]()
    recordings = _each_once(audio, problems)
    contents = _contents(texts, problems)
    unreadable = {path.with_suffix("") for path in texts if path not in contents}
    said = _said(contents, recordings, problems)
    entries = list[Entry]()
    speakers = _speakers(source, recordings)
    for stem, path in sorted(recordings.items()):
        if stem in said:
            id, speaker = id_of(path, source), speakers.get(stem, "")
            entries.append(Entry(id, str(path), said[stem], speaker))
        elif stem not in unreadable:  # of which the text is listed
            problems.append(Problem(Kind.NO_TEXT, f"{path}: has no text"))
    if not entries:
        for problem in problems:
            if problem.kind is Kind.NO_TEXT_FILE:
                raise CorpusError(problem.what)
        raise CorpusError(
            f"{source}: holds {len(recordings)} recordings and no text of them (x.txt "
            "beside x.wav, or one file with a line `x TEXT` for each, was expected)"
        )
    return [Subset(ALL, entries, problems, source, _guesses(contents))]


def _contents(texts: Iterable[Path], problems: list[Problem]) -> dict[Path, Text]:
    """Read the text files; those that cannot be read are listed."""
    found = dict[Path, Text]()
    for path in texts:
        try:
            found[path] = read_text(path)
        except CorpusError as error:
            problems.append(Problem(Kind.NO_TEXT_FILE, str(error)))
    return found


def _said(
    contents: dict[Path, Text], recordings: dict[Path, Path], problems: list[Problem]
) -> dict[Path, str]:
    """Return the texts of recordings: of their own files, or of files with a list."""
    by_stem = {path.with_suffix(""): path for path in contents}
    alone = {stem: by_stem[stem] for stem in recordings.keys() & by_stem.keys()}
    own = set(alone.values())
    listed = dict[Path, str]()
    for path, text in contents.items():
        if path in own:
            continue
        found = _listing(path, text.content, recordings, problems)
        if alone and not found:
            what = f"{path}: no recording has its name"
            problems.append(Problem(Kind.NO_AUDIO, what))
        listed |= found
    own_texts = {
        stem: " ".join(contents[path].content.split()) for stem, path in alone.items()
    }
    return listed | own_texts


def _guesses(contents: dict[Path, Text]) -> tuple[str, ...]:
    """Name the files whose encoding is a guess, three of them at most."""
    guessed = [path for path, text in contents.items() if text.is_guessed]
    if not guessed:
        return ()
    names = ", ".join(map(str, guessed[:3]))
    more = f" and {counted(len(guessed) - 3, 'more file')}" if guessed[3:] else ""
    return (f"{names}{more}: {contents[guessed[0]].encoding} (a guess)",)


def _files(source: Path) -> tuple[list[Path], list[Path]]:
    """List the recordings and the text files of a folder, hidden ones left out."""

    def refuse(error: OSError) -> None:
        raise CorpusError(
            f"{error.filename}: cannot be read ({error.strerror})"
        ) from error

    audio, texts = list[Path](), list[Path]()
    for folder, names in walk(source, onerror=refuse):
        for name in names:
            path = folder / name
            if name[0] == ".":
                continue
            if path.suffix.lower() in AUDIO_SUFFIXES:
                audio.append(path)
            elif path.suffix.lower() in _TEXTS:
                texts.append(path)
    return audio, texts


def _each_once(audio: Iterable[Path], problems: list[Problem]) -> dict[Path, Path]:
    """Return recordings by their path without its ending."""
    found = dict[Path, Path]()
    for path in audio:
        kept = found.setdefault(path.with_suffix(""), path)
        if kept is not path:
            what = f"{path}: has the name of {kept.name}"
            problems.append(Problem(Kind.DUPLICATE, what))
    return found


def _listing(
    path: Path, content: str, recordings: dict[Path, Path], problems: list[Problem]
) -> dict[Path, str]:
    """Read a text file of lines `name text`; one without a known name is none."""
    by_name = defaultdict[str, list[Path]](list)
    for stem, recording in recordings.items():
        below = recording.is_relative_to(path.parent)
        if below:
            by_name[stem.relative_to(path.parent).as_posix()].append(stem)
            by_name[recording.relative_to(path.parent).as_posix()].append(stem)
        if stem.parent != path.parent:
            by_name[stem.name].append(stem)
            by_name[recording.name].append(stem)
    found, unknown = dict[Path, str](), list[Problem]()
    for number, line in lines(content):
        name, text = _parted(line)
        stems = by_name.get(name, [])
        if not stems:
            what = f"{path}:{number}: {name!r} is no recording here"
            unknown.append(Problem(Kind.NO_AUDIO, what))
        elif len(set(stems)) > 1:
            what = f"{path}:{number}: {name!r} is several recordings (name its folder)"
            unknown.append(Problem(Kind.MALFORMED, what))
        elif stems[0] in found:
            what = f"{path}:{number}: {name!r} has a text already"
            unknown.append(Problem(Kind.DUPLICATE, what))
        else:
            found[stems[0]] = text
    if found:
        problems += unknown
    return found


def _parted(line: str) -> tuple[str, str]:
    """Part a line into a name and a text.

    >>> _parted("LJ001-0001|In the year 1872,|In the year eighteen …")
    ('LJ001-0001', 'In the year eighteen …')
    """
    for delimiter in ("\t", "|"):
        if delimiter in line:
            name, *_, text = line.split(delimiter)
            return name.strip(), text.strip()
    name, *rest = line.split(maxsplit=1)
    return name, "".join(rest).strip()


def _speakers(source: Path, recordings: Iterable[Path]) -> dict[Path, str]:
    """Return the folder of each recording, where they lie in several."""
    folders = {stem: stem.parent for stem in recordings}
    if len(set(folders.values())) < 2:
        return {}
    inner = {stem: folder for stem, folder in folders.items() if folder != source}
    return {stem: id_of(folder, source) for stem, folder in inner.items()}
