"""From a corpus as others keep it to manifests: `asr prepare`.

    SOURCE ── corpora.* ──> Entry …            what was said in which recording
    Entry ── measuring ──> Measured            how long, where from, can it be read
    text ── alphabet.normalizer ──> text       as the model shall write it
    ── Utterance … ── splits ──> DATA/train.jsonl, DATA/train.problems.txt …

Nothing is dropped silently: what is left out, and why, is listed in
DATA/<subset>.problems.txt. The audio stays where it is.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from asr.alphabet import (
    alphabet_of,
    as_file,
    normalizer,
    read_alphabet,
    shown,
    strangers,
)
from asr.data.corpora import (
    folders,
    hugging_face,
    json_lines,
    kaldi,
    lhotse,
    librispeech,
    tables,
)
from asr.data.corpora.entries import Columns, Entry, Kind, Problem, Subset
from asr.data.earlier_parts import move_aside
from asr.data.manifest import Utterance, write_manifest
from asr.data.measuring import Measured, measured
from asr.data.splits import GROUPS, split
from asr.errors import ConfigError, CorpusError, one_line

FORMATS: Final = (
    *("librispeech", "folder", "table", "commonvoice", "kaldi", "nemo", "lhotse"),
    *("huggingface", "manifest"),
)
"""What can be read; manifest is what `asr prepare` itself writes."""
ALPHABET = "alphabet.txt"
"""File of all characters of the texts, for tokenizer.alphabet."""
_JOURNAL = ".prepare.journal"


@dataclass(frozen=True)
class PrepareConfig:
    """How a corpus becomes manifests."""

    format: str = "auto"
    """One of `FORMATS`; or auto, to find out."""
    normalize: str = "none"
    """One of `asr.alphabet.NORMALIZATIONS`."""
    alphabet: str = "auto"
    """A file of the characters that a text may have; auto: all that there are."""
    columns: Columns = field(default_factory=Columns)
    """Of tables and of datasets."""
    subsets: tuple[str, ...] | None = None
    """Of LibriSpeech, Common Voice and datasets; None for all."""
    split: tuple[float, ...] | None = None
    """Shares of train, dev and test; None for the subsets of the corpus."""
    split_by: str = "speaker"
    """What no two parts share: one of `asr.data.splits.GROUPS`."""
    trim: float | None = None
    """Decibels: silence at both ends, softer by so much than speech, is left out."""
    most_seconds: float = 40.0
    """Longer utterances are left out: no batch of a training has room for them."""
    steps_per_second: int = 25
    """The model's rate, to find what is too dense for CTC."""
    processes: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))

    def __post_init__(self) -> None:
        """Refuse what cannot be done, before anything is read."""
        if self.format not in ("auto", *FORMATS):
            raise ConfigError(
                f"--format {self.format}: is not known (use auto, {', '.join(FORMATS)})"
            )
        normalizer(self.normalize)
        if self.split_by not in GROUPS:
            raise ConfigError(f"--split-by {self.split_by}: use {' or '.join(GROUPS)}")
        for name in ("trim", "most_seconds", "steps_per_second", "processes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                option = name.replace("_", "-").replace("most", "max")
                raise ConfigError(f"--{option} must be above 0, not {value:g}")


class Prepared(NamedTuple):
    """The manifest of a subset, as it was written."""

    name: str
    path: Path
    utterances: list[Utterance]
    problems: list[Problem]

    @property
    def listing(self) -> Path:
        """The file that lists the problems, if there are any."""
        return self.path.with_name(f"{self.name}.problems.txt")


class Corpus(NamedTuple):
    """What became of a corpus."""

    format: str
    subsets: list[Prepared]
    notices: list[str]
    """What was guessed, and what was moved aside, a line each."""
    alphabet: str


def prepare(
    source: str | Path, data: str | Path, config: PrepareConfig | None = None
) -> Corpus:
    """Write manifests of a corpus.

    Args:
        source: a folder, a file, or the name of a dataset (huggingface).
        data: folder for the manifests; made if it is missing.
        config: settings.

    Raises:
        CorpusError: the source is missing or cannot be read, holds no usable speech, or
            the data cannot be written.
        ConfigError: a setting is impossible, or the corpus cannot be split so.
    """
    config = config or PrepareConfig()
    data = Path(data)
    allowed = (
        None if config.alphabet == "auto" else read_alphabet(Path(config.alphabet))
    )
    kind = config.format
    if kind == "auto":
        kind = detect(Path(source))
    subsets, notices = _read(str(source), kind, data, config)
    notices += [notice for subset in subsets for notice in subset.notices]
    _make_folder(data)
    journal = data / _JOURNAL
    entries = [entry for subset in subsets for entry in subset.entries]
    found = measured(entries, journal, config.processes, config.trim)
    by_entry = iter(zip(entries, found, strict=True))
    contents = dict[_Content, str]()
    judged = [_judged(one, by_entry, contents, allowed, config) for one in subsets]
    parts = judged if config.split is None else _dealt(judged, config, str(source))
    if config.split is not None:
        notices += move_aside(data, {part.name: part.utterances for part in parts})
    written = [_write(data, part) for part in parts]
    alphabet = alphabet_of(u.text for part in written for u in part.utterances)
    _write_text(data / ALPHABET, as_file(alphabet))
    journal.unlink(missing_ok=True)
    return Corpus(kind, written, notices, alphabet)


# Reading


def detect(source: Path) -> str:
    """Find out the format of a corpus by what is there.

    Raises:
        CorpusError: there is nothing, or nothing that is known.
    """
    if source.is_file():
        return _format_of_file(source)
    if not source.is_dir():
        what = "is not a folder or a file" if source.exists() else "does not exist"
        raise CorpusError(
            f"{source}: {what} (a corpus was expected; the name of a dataset needs "
            "--format huggingface)"
        )
    try:
        return _format_of_folder(source)
    except OSError as error:
        raise CorpusError(f"{source}: cannot be read ({error.strerror})") from error


def _format_of_file(path: Path) -> str:
    if path.suffix.lower() in tables.SUFFIXES:
        return "table"
    known = "a table, or JSON lines of NeMo, Lhotse or asr prepare; see --format"
    try:
        first = json_lines.first_object(path)
    except CorpusError as error:
        raise CorpusError(f"{error}; a corpus is {known}") from error
    if "audio_filepath" in first:
        return "nemo"
    if "supervisions" in first:
        return "lhotse"
    if json_lines.is_own(path):
        return "manifest"
    raise CorpusError(f"{path}: is no corpus that is known ({known})")


def _format_of_folder(folder: Path) -> str:
    if hugging_face.is_dataset(folder):
        return "huggingface"
    if (folder / kaldi.RECORDINGS).exists() or any(folder.glob("*/wav.scp")):
        return "kaldi"
    if tables.is_common_voice(folder):
        return "commonvoice"
    if lhotse.files(folder, "cuts") or lhotse.files(folder, "supervisions"):
        return "lhotse"
    if json_lines.manifests(folder):
        return "nemo"
    if librispeech.has_subsets(folder) or librispeech.has_its_layout(folder):
        return "librispeech"
    if len(tables.tables(folder)) == 1:
        return "table"
    if any(map(json_lines.is_own, sorted(folder.glob("*.jsonl")))):
        return "manifest"
    return "folder"


def _read(
    source: str, kind: str, data: Path, config: PrepareConfig
) -> tuple[list[Subset], list[str]]:
    """List what a corpus has."""
    path, wanted = Path(source), config.subsets
    if wanted is not None and kind not in ("librispeech", "commonvoice", "huggingface"):
        raise ConfigError(f"--subsets: a corpus of format {kind} has none to choose")
    match kind:
        case "librispeech":
            own = wanted is None and not librispeech.has_subsets(path)
            if own and path.is_dir() and librispeech.has_its_layout(path):
                return librispeech.read_chapters(path), []
            return librispeech.read(path, wanted), []
        case "table":
            return tables.read(path, config.columns)
        case "commonvoice":
            return tables.read_common_voice(path, wanted)
        case "kaldi":
            return kaldi.read(path), []
        case "nemo":
            return json_lines.read_nemo(path), []
        case "manifest":
            return json_lines.read_own(path), []
        case "lhotse":
            return lhotse.read(path), []
        case "huggingface":
            audio = data / "audio"
            return hugging_face.read(source, audio, config.columns, wanted), []
    return folders.read(path), []


# Judging


_Content = tuple[str, float | None]
"""Of a recording, and where in it a part begins."""


class _Judged(NamedTuple):
    name: str
    utterances: list[Utterance]
    problems: list[Problem]


def _judged(
    subset: Subset,
    found: Iterator[tuple[Entry, Measured]],
    contents: dict[_Content, str],
    allowed: str | None,
    config: PrepareConfig,
) -> _Judged:
    """Make utterances of the entries of a subset; list what is wrong with others."""
    spell, problems = normalizer(config.normalize), list(subset.problems)
    kept = dict[str, Utterance]()
    for _, (entry, seen) in zip(subset.entries, found, strict=False):
        problem, utterance = _judge(entry, seen, spell(entry.text), allowed, config)
        if utterance is None:
            assert problem is not None
            problems.append(problem)
            continue
        twin = kept.get(utterance.id)
        same = seen.content and contents.get((seen.content, seen.start))
        if twin is not None:
            what = f"{utterance.audio}: has the id of {twin.audio}"
            problems.append(Problem(Kind.DUPLICATE, what))
        elif same:
            what = f"{utterance.audio}: is the same recording as {same}"
            problems.append(Problem(Kind.DUPLICATE, what))
        else:
            kept[utterance.id] = utterance
            contents[seen.content, seen.start] = utterance.audio
            problems += filter(None, [problem])
    if not kept:
        counts = ", ".join(count(problems)) or "there is none"
        raise CorpusError(f"{subset.folder}: holds no usable speech ({counts})")
    return _Judged(subset.name, [kept[id] for id in sorted(kept)], problems)


def _judge(
    entry: Entry, seen: Measured, text: str, allowed: str | None, config: PrepareConfig
) -> tuple[Problem | None, Utterance | None]:
    """Return the utterance of an entry, and what is wrong with it; or only that."""

    def problem(kind: Kind, what: str) -> Problem:
        return Problem(kind, f"{entry.audio}: {what}")

    if seen.error:
        if seen.is_beyond:
            return problem(Kind.BEYOND, f"{entry.id} {seen.error}"), None
        is_missing = not os.path.exists(entry.audio)
        kind = Kind.NO_AUDIO if is_missing else Kind.UNREADABLE
        return Problem(kind, seen.error), None
    if not text:
        what = f"{entry.id} has no words" + (
            f" in {entry.text!r}" if entry.text else ""
        )
        return problem(Kind.EMPTY, what), None
    if allowed is not None and (others := strangers(text, allowed)):
        return problem(Kind.ALPHABET, f"{entry.id} has {shown(others)}"), None
    if seen.seconds > config.most_seconds:
        what = f"{entry.id} is {seen.seconds:.1f} s long"
        return problem(Kind.LONG, what), None
    try:
        utterance = Utterance(
            *(entry.id, entry.audio, seen.seconds, text, entry.speaker, seen.start)
        )
    except ValueError as error:
        return problem(Kind.MALFORMED, str(error)), None
    return next(dense([utterance], config.steps_per_second), None), utterance


def dense(utterances: Iterable[Utterance], rate: int) -> Iterator[Problem]:
    """Return the utterances with more to spell than CTC has steps for.

    Args:
        utterances: what to look at.
        rate: steps of the model a second.
    """
    for utterance in utterances:
        steps = math.floor(round(rate * utterance.duration, 6))
        needed = steps_needed(utterance.text)
        if needed > steps:
            what = f"{utterance.audio}: needs {needed} steps, has {steps}"
            yield Problem(Kind.DENSE, what)


def steps_needed(text: str) -> int:
    """Count the CTC steps of a text: one a character, and a blank between two equal.

    >>> steps_needed("HELLO")
    6
    """
    return len(text) + sum(a == b for a, b in pairwise(text))


def count(problems: Iterable[Problem]) -> list[str]:
    """Count problems by their kind."""
    counts = Counter(problem.kind for problem in problems)
    return [f"{counts[kind]} x {kind}" for kind in Kind if kind in counts]


# Splitting and writing


def _dealt(
    judged: Sequence[_Judged], config: PrepareConfig, source: str
) -> list[_Judged]:
    """Join the subsets, and deal them out anew."""
    assert config.split is not None
    problems = [problem for subset in judged for problem in subset.problems]
    first = dict[str, Utterance]()
    for utterance in (u for subset in judged for u in subset.utterances):
        kept = first.setdefault(utterance.id, utterance)
        if kept is not utterance:
            what = f"{utterance.audio}: has the id of {kept.audio}"
            problems.append(Problem(Kind.DUPLICATE, what))
    ordered = [first[id] for id in sorted(first)]
    parts = split(ordered, config.split, config.split_by)
    listed = defaultdict[str, list[Problem]](list)
    listed[next(iter(parts))] = problems
    return [_Judged(name, part, listed[name]) for name, part in parts.items()]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be made ({error.strerror})") from error


def _write(data: Path, part: _Judged) -> Prepared:
    written = Prepared(part.name, data / f"{part.name}.jsonl", *part[1:])
    write_manifest(written.path, part.utterances)
    lines = sorted(one_line(f"{one.kind}: {one.what}") + "\n" for one in part.problems)
    if lines:
        _write_text(written.listing, "".join(lines))
    else:
        written.listing.unlink(missing_ok=True)
    return written


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be written ({error.strerror})") from error
