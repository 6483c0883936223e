"""Parts of an earlier split, which would hold what a new one learns from.

Whoever trains reads train, dev and test of a folder together. A split in two parts
where there were three would leave the old test beside them, and with it the speakers
that are learned from now. It is moved aside: its texts may have been corrected by hand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from asr.data.manifest import Utterance, read_manifest
from asr.data.splits import NAMES
from asr.errors import CorpusError, ManifestError


def move_aside(data: Path, parts: Mapping[str, Sequence[Utterance]]) -> list[str]:
    """Rename the manifests of parts that a split does not have, if they overlap it.

    A manifest that shares no recording and no speaker with the split stays: it may be a
    test set from elsewhere. One that cannot be read is moved aside, too.

    Args:
        data: folder of the manifests.
        parts: of the split that is about to be written, by their names.

    Returns:
        What became of each, in a line.

    Raises:
        CorpusError: a manifest cannot be renamed.
    """
    new = [utterance for part in parts.values() for utterance in part]
    names = sorted({name for known in NAMES.values() for name in known} - parts.keys())
    paths = [data / f"{name}.jsonl" for name in names]
    reasons = {path: _reason(path, new) for path in paths if path.exists()}
    return [
        _moved(path, reason) if reason else _kept(path)
        for path, reason in reasons.items()
    ]


def _reason(path: Path, new: Sequence[Utterance]) -> str:
    """Return why a manifest cannot stay beside these utterances; empty where it can."""
    try:
        old = read_manifest(path)
    except ManifestError:
        return "it cannot be read, to compare it with the new split"
    if _traces(old) & _traces(new):
        return "the new split has recordings or speakers of it"
    return ""


def _traces(utterances: Sequence[Utterance]) -> set[tuple[str, str]]:
    """Return what shows that utterances are of the same recording or speaker."""
    files = {("audio", str(Path(one.audio).resolve())) for one in utterances}
    return files | {("speaker", one.speaker) for one in utterances if one.speaker}


def _kept(path: Path) -> str:
    return f"{path}: stays (it shares no recording and no speaker with the new split)"


def _moved(path: Path, why: str) -> str:
    aside, number = path.with_name(f"{path.name}.old"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.old{number}")
    try:
        path.rename(aside)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be renamed ({error.strerror})") from error
    return f"{path}: is of an earlier split, and is {aside.name} now ({why})"
