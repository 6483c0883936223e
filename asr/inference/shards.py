"""Shards: a manifest that several machines decode, each its part, and how it is merged.

Shard k of n is a file of the folder for the hypotheses, shards/K-of-N.jsonl: a line
with what is decoded by what, a line for each batch that is done, and a last line that
marks the shard as complete. A process that is stopped leaves a file without that mark;
started again it goes on behind the last whole line.

A batch of utterances is the same whatever the number of shards, so that no text depends
on it: a network's rounding differs a little with what else is in its batch. The batch
belongs to the shard that a hash of the id of its first utterance names.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from asr.data.manifest import Utterance, read_manifest
from asr.errors import ConfigError, ManifestError
from asr.foreign import parse_json
from asr.inference.hypotheses import Decoded, DecodedBatch, write_decoded

SHARDS = "shards"
"""The folder of the files, in that for the hypotheses."""
_MARK = {"complete": True}
_MANIFEST = "manifest"


@dataclass(frozen=True)
class Shard:
    """One of several equal parts, which needs no knowledge of the others."""

    index: int
    """From 0."""
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read INDEX/COUNT.

        >>> Shard.parse("3/64")
        Shard(index=3, count=64)

        Raises:
            ConfigError: it is not of this form, or there is no such shard.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ConfigError(
                f"shard {text}: is not INDEX/COUNT with an index from 0 on (of four "
                "shards the first is 0/4 and the last 3/4)"
            )
        return cls(int(index), int(count))

    @classmethod
    def of_file(cls, path: Path) -> "Shard":
        """Return the shard whose file it is, by its name.

        Raises:
            ManifestError: it is none.
        """
        try:
            return cls.parse(path.stem.replace("-of-", "/"))
        except ConfigError as error:
            raise ManifestError(f"{path}: is not named as a shard's file") from error

    def __str__(self) -> str:
        """Write INDEX/COUNT."""
        return f"{self.index}/{self.count}"

    def has(self, id: str) -> bool:
        """Return whether an id belongs to this shard: the same in every process.

        >>> [k for k in range(4) if Shard(k, 4).has("84-121123-0000")]
        [1]
        """
        digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    def path(self, folder: Path) -> Path:
        """Return the file of this shard."""
        return folder / SHARDS / f"{self.index}-of-{self.count}.jsonl"


class _Content(NamedTuple):
    """What a shard's file holds."""

    settings: dict[str, Any]
    batches: list[DecodedBatch]
    complete: bool
    size: int
    """Bytes up to the end of the last whole line."""


class ShardFile:
    """The file of a shard that is being decoded."""

    def __init__(self, file: BinaryIO, done: Sequence[DecodedBatch]) -> None:
        self._file, self.done = file, list(done)

    def left(self, batches: Iterable[list[Utterance]]) -> list[list[Utterance]]:
        """Return the batches that are still to be decoded."""
        ids = {id for batch in self.done for id in batch.ids}
        return [batch for batch in batches if batch[0].id not in ids]

    def append(self, batch: DecodedBatch) -> None:
        """Write what came of a batch."""
        self.done.append(batch)
        _write_line(self._file, batch._asdict())


@contextmanager
def shard_file(
    folder: Path, shard: Shard, settings: Mapping[str, Any]
) -> Iterator[ShardFile]:
    """Open the file of a shard; where the block ends without an error, it is complete.

    Args:
        folder: for the hypotheses.
        shard: which one.
        settings: what decides the texts; see `settings_of`.

    Raises:
        ManifestError: the folder has a shard of another manifest, model or settings, or
            of another number of shards; or the file cannot be written, or is damaged,
            or another process writes it.
    """
    path = shard.path(folder)
    try:
        path.parent.mkdir(exist_ok=True)
        for other in _files(folder):
            content = _read(other)
            if content:
                count = Shard.of_file(other).count
                _refuse_other(other, content.settings, settings, count, shard.count)
        with path.open("ab") as file:
            _lock(file, path)
            content = _read(path)
            file.truncate(content.size if content else 0)
            if content is None:
                _write_line(file, dict(settings))
            yield ShardFile(file, content.batches if content else [])
            if not (content and content.complete):
                _write_line(file, _MARK)
                os.fsync(file.fileno())
    except OSError as error:
        raise ManifestError(f"{path}: cannot be written ({error.strerror})") from error


def settings_of(
    manifest: Path, files: Iterable[Path], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe what decides the texts of a manifest.

    Args:
        manifest: to be decoded.
        files: of the models.
        metadata: of the models and of the search.

    Raises:
        ManifestError: a file cannot be read.
    """
    return {
        _MANIFEST: {"path": os.path.abspath(manifest), "sha256": _digest(manifest)},
        "models": {path.name: _digest(path) for path in files if path.exists()},
        "metadata": dict(metadata),
    }


def merge(folder: Path) -> Decoded:
    """Make of complete shards what decoding in one run would have written.

    The files of the shards are removed when all is written.

    Raises:
        ManifestError: there are no shards, or some are missing, incomplete or damaged,
            or not of one run; or the manifest is no longer the one that was decoded.
    """
    paths = _files(folder)
    if not paths:
        raise ManifestError(
            f"{folder}: holds no shards (asr decode MANIFEST {folder} --shard 0/2 "
            "writes the first of two)"
        )
    contents = _same_run(paths)
    settings = next(iter(contents.values())).settings
    manifest = Path(settings[_MANIFEST]["path"])
    if _digest(manifest) != settings[_MANIFEST]["sha256"]:
        raise ManifestError(
            f"{manifest}: is not what was decoded into {folder} (it was changed since)"
        )
    utterances = read_manifest(manifest)
    batches = (batch for content in contents.values() for batch in content.batches)
    try:
        decoded = Decoded.of(utterances, batches)
    except KeyError as error:
        raise ManifestError(
            f"{folder / SHARDS}: is damaged: no shard has {error} (delete it, and "
            "decode again)"
        ) from error
    write_decoded(folder, settings["metadata"], utterances, decoded)
    merged = folder / f".{SHARDS}.merged"
    shutil.rmtree(merged, ignore_errors=True)
    (folder / SHARDS).rename(merged)  # at once: never some of them without the others
    shutil.rmtree(merged, ignore_errors=True)
    return decoded


def _files(folder: Path) -> list[Path]:
    return sorted((folder / SHARDS).glob("*.jsonl"))


def _same_run(paths: Sequence[Path]) -> dict[int, _Content]:
    """Read all shards, by their index.

    Raises:
        ManifestError: some are missing, incomplete or damaged, or not of one run.
    """
    contents, count, first = dict[int, _Content](), 0, None
    incomplete = list[int]()
    for path in paths:
        shard = Shard.of_file(path)
        content = _read(path)
        if content is None or not content.complete:
            incomplete.append(shard.index)
        if content is None:
            count = count or shard.count
            continue
        if first:
            _refuse_other(path, content.settings, first, shard.count, count)
        first, count = content.settings, shard.count
        contents[shard.index] = content
    missing = sorted({*range(count)} - {*contents, *incomplete})
    lacking = [
        f"{what}: {_ranges(indices)}"
        for what, indices in (("missing", missing), ("incomplete", sorted(incomplete)))
        if indices
    ]
    if lacking:
        raise ManifestError(
            f"{paths[0].parents[1]}: not all of {count} shards are done "
            f"({'; '.join(lacking)})"
        )
    return contents


def _refuse_other(
    path: Path,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    count: int,
    wanted_count: int,
) -> None:
    """Refuse a shard that is not of the same run.

    Raises:
        ManifestError: it is of another manifest, model, or number, or other settings.
    """
    advice = "name another folder, or delete it"
    if count != wanted_count:
        raise ManifestError(
            f"{path}: is one of {count} shards, not of {wanted_count} ({advice})"
        )
    for key, what in (
        (_MANIFEST, "another manifest"),
        ("models", "another model"),
        ("metadata", "other settings"),
    ):
        if found.get(key) != wanted[key]:
            differing = _differing(found.get(key), wanted[key])
            raise ManifestError(f"{path}: is of {what} ({differing}; {advice})")


def _differing(found: object, wanted: Mapping[str, Any]) -> str:
    """Name the first thing that differs."""
    if not isinstance(found, dict):
        return "it has none"
    for key in wanted:
        one, other = found.get(key), wanted[key]
        if one != other:
            if isinstance(one, dict) and isinstance(other, dict):
                return _differing(one, other)
            return f"{key} {one!s:.60}, not {other!s:.60}"
    return "it has more"


def _ranges(numbers: Sequence[int]) -> str:
    """Write rising numbers.

    >>> _ranges([0, 2, 3, 4, 9])
    '0, 2-4, 9'
    """
    runs = []
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        runs.append(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(runs)


def _read(path: Path) -> _Content | None:
    """Read a shard's file; None where not even its first line was written.

    Raises:
        ManifestError: it cannot be read, or is damaged.
    """
    try:
        data = path.read_bytes() if path.exists() else b""
        size = data.rfind(b"\n") + 1
        content = data[:size].split(b"\n")[:-1]
        lines = [parse_json(line, finite=False) for line in content]
        if not lines:
            return None
        complete = lines[-1] == _MARK
        batches = [DecodedBatch(**line) for line in lines[1:] if line != _MARK]
        return _Content(dict(lines[0]), batches, complete, size)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise ManifestError(
            f"{path}: is damaged (delete it, and decode this shard again)"
        ) from error


def _write_line(file: BinaryIO, tree: Mapping[str, Any]) -> None:
    file.write(json.dumps(tree).encode() + b"\n")
    file.flush()


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other processes from writing the same shard, where the disk knows locks.

    Raises:
        ManifestError: one does so already.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ManifestError(f"{path}: another process decodes this shard") from error
    except OSError:
        return


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
