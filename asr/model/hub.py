"""Folders of models on the Hugging Face Hub: `hf:USER/NAME@REVISION`.

A name becomes a folder in the cache of huggingface_hub, an optional extra: `pip install
"listen-attend-spell[hub]"`. Of a repository only the files of a model are fetched: its
description, what that lists, and its card; their sizes are compared with the list and
with bounds before, their checksums by whoever reads the folder. A commit that is in the
cache needs no network. A name without a commit is resolved once a process, and the
commit is printed, so that it can be written into the name.

Tokens are the library's affair (HF_TOKEN, or `hf auth login`), as are HF_ENDPOINT,
HF_HOME and HF_HUB_OFFLINE.

Source: https://huggingface.co/docs/huggingface_hub, version 2.4.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from asr.errors import CheckpointError
from asr.folders import MOST_FILES, is_plain
from asr.foreign import MOST_BYTES, parse_table, read_file
from asr.version import DISTRIBUTION, version

SCHEME = "hf:"
MOST_WEIGHTS = 2**33
"""Bytes of a file that is fetched, other than description and card: the largest model
of the recipes has less than a tenth of that."""
_SECONDS = 10.0  # until the Hub must have answered
_NAME = re.compile(
    r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII
)
_COMMIT = re.compile("[0-9a-f]{40}")
_MAIN = "main"  # the branch that is meant where none is named
_OWN = {".gitattributes", "README.md"}  # the Hub itself puts these into a new one
_RESOLVED = dict[str, str]()
"""The commits of the names that this process has resolved."""


class Parts(NamedTuple):
    """The files of a folder that belong together, by their names."""

    description: str
    """Lists the others, with sizes and checksums, under the key `files`."""
    card: str
    """For people; it may be missing."""


class Pushed(NamedTuple):
    """What was uploaded."""

    url: str
    name: str
    """`hf:USER/NAME@COMMIT`, to load it by."""


@dataclass(frozen=True)
class _Place:
    """A name, taken apart."""

    name: str
    repository: str
    revision: str

    @property
    def is_commit(self) -> bool:
        return _COMMIT.fullmatch(self.revision) is not None

    def error(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.name}: {reason}")


def is_on_hub(name: object) -> bool:
    """Return whether a model's name is one of the Hub.

    >>> is_on_hub("hf:ann/las-german"), is_on_hub("las_mini")
    (True, False)
    """
    return str(name).startswith(SCHEME)


def fetch(name: str, parts: Parts) -> Path:
    """Return the folder of a model on the Hub, fetched unless it is in the cache.

    Args:
        name: `hf:USER/NAME`, with `@` and a commit, tag or branch or without.
        parts: of the folder.

    Raises:
        CheckpointError: there is no such repository or revision, or it may not be read;
            or it holds no model; or the Hub cannot be reached, and the cache has none.
    """
    place, hub = _taken_apart(name), _library(name)
    revision = _RESOLVED.get(name, place.revision)
    if _COMMIT.fullmatch(revision) and (kept := _cached(hub, place, revision, parts)):
        return kept
    try:
        folder = _download(hub, place, parts)
    except _NoAnswerError as error:
        kept = _cached(hub, place, revision, parts)
        if kept is None:
            raise place.error(
                f"{error.reason}, and it is not in the cache (load it once with a "
                "network)"
            ) from error
        folder = kept
        _notice(f"{name}: {error.reason}: {kept.name} of the cache is used")
    else:
        if not place.is_commit and name not in _RESOLVED:
            fixed = pinned(name, folder)
            _notice(f"{name} is {fixed} now (a name with its commit stays the same)")
    _RESOLVED[name] = folder.name
    return folder


def pinned(name: str, folder: Path) -> str:
    """Return a model's name with the commit that `fetch` returned the folder of."""
    return f"{SCHEME}{_taken_apart(name).repository}@{folder.name}"


def push(
    name: str,
    contents: Mapping[str, Path | bytes],
    parts: Parts,
    *,
    private: bool,
    message: str,
) -> Pushed:
    """Upload files into a repository in one commit; it is made if there is none.

    Args:
        name: `hf:USER/NAME`.
        contents: files, or what they hold, by their names there.
        parts: of the folder.
        private: whether a new repository is to be.
        message: of the commit.

    Raises:
        CheckpointError: it may not be written, or holds other things than a model, or
            is public and should be private; or the Hub cannot be reached.
    """
    place, hub = _taken_apart(name), _library(name)
    if "@" in name:
        raise place.error("names a revision (models are pushed to hf:USER/NAME)")
    api = _api(hub)
    with _errors(hub, place):
        _check_target(hub, api, place, parts, private)
        api.create_repo(place.repository, private=private or None, exist_ok=True)
        commit = api.create_commit(
            place.repository,
            [
                hub.CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
                for path, content in contents.items()
            ],
            commit_message=message,
        )
    url = f"{api.endpoint}/{place.repository}"
    return Pushed(url, f"{SCHEME}{place.repository}@{commit.oid}")


def _check_target(
    hub: Any, api: Any, place: _Place, parts: Parts, private: bool
) -> None:
    """Refuse a repository of something else, and one that more people can read."""
    try:
        info = api.model_info(place.repository, timeout=_SECONDS)
    except hub.errors.RepositoryNotFoundError:
        return  # or one that may not be read; making it fails then
    names = {one.rfilename for one in info.siblings or ()}
    if parts.description not in names and names - _OWN:
        raise place.error(
            f"holds other things than a model, {min(names - _OWN)} for example (push "
            "to a new repository)"
        )
    if private and not info.private:
        raise place.error("is public (make it private in its settings on the Hub)")


# Fetching


def _download(hub: Any, place: _Place, parts: Parts) -> Path:
    """Fetch a model into the cache.

    Raises:
        _NoAnswerError: the Hub cannot be reached.
        CheckpointError: as `fetch`.
    """

    api = _api(hub)

    def get(file: str, revision: str) -> Path:
        return Path(api.hf_hub_download(place.repository, file, revision=revision))

    with _errors(hub, place):
        info = api.model_info(
            place.repository,
            revision=place.revision,
            files_metadata=True,
            timeout=_SECONDS,
        )
        there = {one.rfilename: one.size for one in info.siblings or ()}
        if parts.description not in there:
            raise place.error(f"is no model of asr (it has no {parts.description})")
        _check_size(place, parts.description, there, MOST_BYTES)
        # By its branch, which the cache then knows without a network, too.
        description = get(parts.description, place.revision)
        folder = description.parent
        listed = _listed(place, description)
        for file, size in listed.items():
            _check_listed(place, file, size, there)
        for file in listed:
            get(file, folder.name)
        if parts.card in there:
            _check_size(place, parts.card, there, MOST_BYTES)
            get(parts.card, folder.name)
    return folder


def _listed(place: _Place, description: Path) -> dict[str, object]:
    """Return the sizes of the files that a description lists."""
    try:
        files = parse_table(read_file(description))["files"]
        sizes = {file: about["size"] for file, about in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise place.error(
            f"is no model of asr (its {description.name} has no table of files)"
        ) from error
    if len(sizes) > MOST_FILES or not all(is_plain(file) for file in sizes):
        raise place.error(
            f"its {description.name} names files that no model has (do not trust it)"
        )
    return sizes


def _check_listed(
    place: _Place, file: str, size: object, there: Mapping[str, object]
) -> None:
    if file not in there:
        raise place.error(f"is damaged: {file} is listed, and not there")
    _check_size(place, file, there, MOST_WEIGHTS)
    if there[file] != size:
        raise place.error(
            f"is damaged: {file} has {there[file]} bytes there, not {size!r:.40}"
        )


def _check_size(
    place: _Place, file: str, there: Mapping[str, object], most: int
) -> None:
    size = there[file]
    if not isinstance(size, int) or not 0 <= size <= most:
        raise place.error(f"{file} has {size!r:.40} bytes there, at most {most} can be")


def _cached(hub: Any, place: _Place, revision: str, parts: Parts) -> Path | None:
    """Return the folder of a revision, if the cache has all of its files."""

    def kept(file: str, revision: str) -> Path | None:
        found = hub.try_to_load_from_cache(place.repository, file, revision=revision)
        return Path(found) if isinstance(found, str) else None

    description = kept(parts.description, revision)
    if description is None:
        return None
    try:
        listed = _listed(place, description)
    except CheckpointError:
        return None
    folder = description.parent
    whole = all(kept(file, folder.name) for file in listed)
    return folder if whole else None


def _notice(line: str) -> None:
    logging.getLogger(__name__).warning(f"asr: {line}")


def _taken_apart(name: str) -> _Place:
    found = _NAME.fullmatch(name)
    if found is None or ".." in name:
        raise CheckpointError(
            f"{name}: is no name on the Hub (hf:USER/NAME@REVISION was expected)"
        )
    return _Place(name, found["repository"], found["revision"] or _MAIN)


# The library, and what goes wrong there


class _NoAnswerError(CheckpointError):
    """The Hub cannot be reached."""

    def __init__(self, place: _Place, reason: str) -> None:
        self.reason = f"the Hub cannot be reached ({reason})"
        super().__init__(f"{place.name}: {self.reason}")


def _library(name: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise CheckpointError(
            f'{name}: needs huggingface_hub (pip install "listen-attend-spell[hub]")'
        ) from error
    return huggingface_hub


def _api(hub: Any) -> Any:
    return hub.HfApi(library_name=DISTRIBUTION, library_version=version())


@contextmanager
def _errors(hub: Any, place: _Place) -> Iterator[None]:
    """Make one line of what the library raises."""
    errors = hub.errors
    try:
        yield
    except CheckpointError:
        raise
    except errors.HfHubHTTPError as error:
        raise _refusal(errors, place, error) from error
    except errors.OfflineModeIsEnabled as error:
        raise _NoAnswerError(place, "HF_HUB_OFFLINE is set") from error
    except errors.LocalEntryNotFoundError as error:
        raise _NoAnswerError(place, "the connection was lost") from error
    # The base of all errors of a connection; its library changed with a version.
    except errors.HfHubHTTPError.__bases__[0] as error:
        raise _NoAnswerError(place, _reason(hub, error)) from error
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise place.error(f"failed on the Hub ({_reason(hub, error)})") from error


def _refusal(errors: Any, place: _Place, error: Any) -> CheckpointError:
    """Return what it means that the Hub refuses a request."""
    status = error.response.status_code
    if isinstance(error, errors.RevisionNotFoundError):
        return place.error(f"there is no revision {place.revision} of it")
    if isinstance(error, errors.GatedRepoError):
        return place.error(
            "its owners ask for an agreement first (give it on the model's page, then "
            "log in: hf auth login)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return place.error(
            "there is no such repository, or it is private and you are not logged in "
            "as somebody who may read it (hf auth login, or HF_TOKEN)"
        )
    if status in (401, 403):
        return place.error(
            f"the Hub refuses that, with status {status} (log in with a token that may "
            "do it: hf auth login, or HF_TOKEN)"
        )
    if status == 429 or status >= 500:
        return _NoAnswerError(place, f"it answers with status {status}")
    return place.error(f"the Hub refuses that, with status {status}")


def _reason(hub: Any, error: Exception) -> str:
    """Return what an error is and what caused it, but no token that it may quote."""
    line = _first_line(error)
    if isinstance(error, RuntimeError) and error.__cause__:  # of an upload
        line = f"{line.rstrip('.')}: {_first_line(error.__cause__)}"
    token = hub.get_token() or ""
    quoted = "Bearer" in line or (token and token in line)
    if quoted or isinstance(error, UnicodeEncodeError):
        return "the token cannot be sent: HF_TOKEN, or log in again: hf auth login"
    return line


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
