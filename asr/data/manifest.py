"""Manifests: a corpus as one JSON object per line, readable by eye and by `jq`.

{"id": "84-121123-0000", "audio": "84-121123-0000.flac", "duration": 4.2,
 "text": "GO DO YOU HEAR", "speaker": "84"}

An utterance that is a part of a long recording has "start", too: the second where it
starts. Other keys may stand on a line; they are not read. Blank lines are left out.
"""

import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from asr.errors import ConfigError, ManifestError
from asr.files import sync_folder, temporary_path
from asr.foreign import (
    MOST_SECONDS,
    check_name,
    check_path,
    check_text,
    parse_table,
    read_lines,
)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Utterance:
    """One stretch of speech by one speaker, and what was said in it."""

    id: str
    audio: str
    """Path of the audio file, or SHARD.tar:OFFSET:SIZE, see `asr.data.shards`. In a
    file, a relative one starts at the manifest's folder; `read_manifest` joins the
    two."""
    duration: float
    """Length in seconds."""
    text: str
    """Reference transcript; empty where it is unknown."""
    speaker: str = ""
    start: float | None = None
    """Second of the recording where the utterance starts; None where it is all of
    the recording."""

    def __post_init__(self) -> None:
        """Refuse an utterance that no later step could use."""
        for name in ("id", "audio", "text", "speaker"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a string")
        if not self.id:
            raise ValueError("an utterance needs an id")
        check_name(self.id, "id")
        check_path(self.audio, "audio")
        check_text(self.text, "text")
        check_name(self.speaker, "speaker")
        if isinstance(self.duration, bool) or not isinstance(
            self.duration, int | float
        ):
            raise ValueError(f"{self.id} has a duration that is no number")
        if not self.duration > 0:
            raise ValueError(f"{self.id} has duration {self.duration}, not above zero")
        if self.duration > MOST_SECONDS:
            raise ValueError(f"{self.id} has an impossible duration, {self.duration:g}")
        if self.start is not None:
            self._check_start(self.start)

    def _check_start(self, start: object) -> None:
        if isinstance(start, bool) or not isinstance(start, int | float):
            raise ValueError(f"{self.id} has a start that is no number")
        if not 0 <= start <= MOST_SECONDS:
            raise ValueError(f"{self.id} starts at {start}, not at a second from 0 on")

    @property
    def clip(self) -> tuple[float, float | None]:
        """From which second of the recording to which; None for its end."""
        if self.start is None:
            return 0.0, None
        return self.start, self.start + self.duration

    def to_dict(self) -> dict[str, Any]:
        """Return its entries in a manifest."""
        entries = asdict(self)
        if self.start is None:
            del entries["start"]
        return entries


_FIELDS = frozenset(field.name for field in fields(Utterance))


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a manifest, in the order of its lines, with the paths of audio resolved.

    Raises:
        ManifestError: there is no such file, a line of it is not an utterance, an id
            occurs twice, or there is no line at all.
    """
    path = Path(path)
    utterances, first_line = list[Utterance](), dict[str, int]()
    try:
        for number, line in enumerate(read_lines(path), 1):
            if line.isspace():
                continue
            utterance = parse_line(line, path, number)
            seen = first_line.setdefault(utterance.id, number)
            if seen != number:
                raise ManifestError(
                    f"{path}:{number}: {utterance.id} is already on line {seen}"
                )
            utterances.append(utterance)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ManifestError(f"{path}: {error}") from error
    if not utterances:
        raise ManifestError(f"{path}: is empty (one utterance a line was expected)")
    return utterances


def read_references(path: str | Path) -> list[Utterance]:
    """Read a manifest that says what was said, at least in some utterances.

    Raises:
        ManifestError: as `read_manifest`, or no utterance has a text.
    """
    utterances = read_manifest(path)
    if not any(utterance.text for utterance in utterances):
        raise ManifestError(
            f"{path}: none of its utterances has a text (what was said is needed here)"
        )
    return utterances


def read_paired(
    references: str | Path, hypotheses: str | Path
) -> tuple[list[Utterance], list[Utterance]]:
    """Read references and hypotheses, both in the order of the references.

    Raises:
        ManifestError: a manifest cannot be read, or they hold different utterances.
    """
    said, decoded = read_manifest(references), read_manifest(hypotheses)
    by_id = {utterance.id: utterance for utterance in decoded}
    missing = [utterance.id for utterance in said if utterance.id not in by_id]
    if missing:
        raise ManifestError(
            f"{hypotheses}: {len(missing)} of {len(said)} utterances have no "
            f"hypothesis, the first is {missing[0]}"
        )
    unasked = len(by_id) - len(said)
    if unasked:
        raise ManifestError(
            f"{hypotheses}: {unasked} of its utterances are not in {references}"
        )
    return said, [by_id[utterance.id] for utterance in said]


def speaker_groups(utterances: Sequence[Utterance]) -> list[str] | None:
    """Name the speaker of each, for an interval over speakers.

    Those whose speaker is unknown are nobody's together: each is its own group. None
    where fewer than two speakers are known.
    """
    if len({utterance.speaker for utterance in utterances} - {""}) < 2:
        return None
    return [utterance.speaker or utterance.id for utterance in utterances]


def parse_line(line: str, path: Path, number: int) -> Utterance:
    """Read one line of a manifest, with the path of its audio resolved.

    Its text is in NFC, as alphabets are and as texts are scored.

    Args:
        line: of the file.
        path: of the file.
        number: of the line, from 1.

    Raises:
        ManifestError: it is no utterance.
    """
    try:
        entries = parse_table(line)
        known = {k: v for k, v in entries.items() if k in _FIELDS}
        if isinstance(known.get("audio"), str):
            known["audio"] = os.path.normpath(
                os.path.join(_folder_of(path), known["audio"])
            )
        if isinstance(known.get("text"), str):
            known["text"] = unicodedata.normalize("NFC", known["text"])
        return Utterance(**known)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{path}:{number}: not an utterance: {error}") from error


def _folder_of(path: Path) -> str:
    """Return a manifest's folder; where links lead to it, the one they lead to.

    What lies beside it (`../audio`) lies beside that one.
    """
    folder = os.path.dirname(path)
    whole = os.path.abspath(folder)
    real = _real_path(whole)
    return folder if real == whole else real


@lru_cache
def _real_path(path: str) -> str:
    return os.path.realpath(path)


def write_manifest(
    path: str | Path,
    utterances: Iterable[Utterance],
    further: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a manifest that `read_manifest` reads back.

    Paths of audio are written relative to the manifest's folder, so that manifest and
    corpus can move together. A manifest that stood there is replaced whole or not at
    all, and the new one is on the disk.

    Args:
        path: of the file.
        utterances: its lines.
        further: other keys of a line, by the id of its utterance.

    Raises:
        ManifestError: the disk is full, or the folder may not be written to; or the
            path of an audio file is not UTF-8.
    """
    path = Path(path)
    folder = path.parent.resolve()
    partial = temporary_path(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as lines:
            for utterance in utterances:
                audio = os.path.relpath(Path(utterance.audio).resolve(), folder)
                entry = {**utterance.to_dict(), "audio": audio}
                entry |= (further or {}).get(utterance.id, {})
                lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        partial.replace(path)
        sync_folder(folder)
    except OSError as error:
        with suppress(OSError):  # the error may be the folder's
            partial.unlink(missing_ok=True)
        raise ManifestError(f"{path}: cannot be written ({error.strerror})") from error
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"{path}: cannot be written ({audio} is a name that is not UTF-8)"
        ) from error


def spread(utterances: Sequence[Item], number: int) -> list[Item]:
    """Take so many, spread evenly over all; all where there are no more.

    Raises:
        ConfigError: the number is below 1.

    >>> spread("ABCDEFG", 3)
    ['A', 'C', 'E']
    """
    if number < 1:
        raise ConfigError(f"the number of utterances must be at least 1, not {number}")
    count = len(utterances)
    number = min(number, count)
    return [utterances[i * count // number] for i in range(number)]
