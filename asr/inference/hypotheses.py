"""What comes of a manifest that is decoded: a folder with

hypotheses.jsonl        the manifest, with hypotheses in place of the references
hyp.trn, ref.trn        the same for NIST's sclite, `TEXT (speaker-utterance)` a line
decode.json             which model, which settings, and what could not be read

Nothing in it depends on how long the work took, or on who did which part of it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from asr.data.manifest import Utterance, write_manifest
from asr.errors import ManifestError
from asr.folders import write_bytes
from asr.output import trn_line
from asr.wording import counted

HYPOTHESES = "hypotheses.jsonl"


class DecodedBatch(NamedTuple):
    """The texts of some utterances."""

    ids: list[str]
    texts: list[str]
    errors: list[str]
    """One line for each recording that could not be read; its text is empty."""


@dataclass(frozen=True)
class Decoded:
    """What came of a manifest, or of a shard of it."""

    hypotheses: list[Utterance]
    """In the manifest's order; `text` is the hypothesis."""
    errors: list[str]
    """One line for each recording that could not be read; its text is empty."""
    hours: float
    """Audio that was decoded."""
    seconds: float
    """Time that it took; 0 where that is not known."""

    @classmethod
    def of(
        cls,
        utterances: Sequence[Utterance],
        found: Iterable[DecodedBatch],
        seconds: float = 0.0,
    ) -> "Decoded":
        """Put batches together, in the order of the utterances.

        Raises:
            KeyError: an utterance is in no batch.
        """
        texts, errors = dict[str, str](), list[str]()
        for batch in found:
            texts |= dict(zip(batch.ids, batch.texts, strict=True))
            errors += batch.errors
        return cls(
            [replace(u, text=texts[u.id]) for u in utterances],
            sorted(errors),
            sum(u.duration for u in utterances) / 3600,
            seconds,
        )

    def __str__(self) -> str:
        """Write how much it was, and how fast."""
        number = counted(len(self.hypotheses), "utterance")
        what = f"{number}, {self.hours:.2f} h of audio"
        if not self.seconds:
            return what
        speed = self.hours * 3600 / self.seconds
        return f"{what} in {self.seconds / 60:.1f} min: {speed:.1f} times real time"


def prepare(folder: Path, manifest: Path) -> None:
    """Make the folder for the hypotheses of a manifest.

    Raises:
        ManifestError: it cannot be made, or the manifest would be overwritten.
    """
    path = folder / HYPOTHESES
    if path.exists() and manifest.exists() and path.samefile(manifest):
        raise ManifestError(f"{manifest}: would be overwritten (name another folder)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be made ({error.strerror})") from error


def write_decoded(
    folder: Path,
    metadata: Mapping[str, Any],
    utterances: Sequence[Utterance],
    decoded: Decoded,
) -> None:
    """Write the folder.

    Args:
        folder: is there.
        metadata: of the model and of the search, for decode.json.
        utterances: of the manifest, with their references.
        decoded: what came of them.

    Raises:
        AsrError: it cannot be written.
    """
    write_manifest(folder / HYPOTHESES, decoded.hypotheses)
    write_bytes(folder / "ref.trn", _as_bytes(_trn(utterances)))
    write_bytes(folder / "hyp.trn", _as_bytes(_trn(decoded.hypotheses)))
    about = {
        **metadata,
        "hours": round(decoded.hours, 4),
        "errors": decoded.errors,
    }
    write_bytes(folder / "decode.json", (json.dumps(about, indent=2) + "\n").encode())


def _as_bytes(text: str) -> bytes:
    """Encode a text; what UTF-8 cannot hold (half of a pair) as \\ud800."""
    return text.encode(errors="backslashreplace")


def _trn(utterances: Sequence[Utterance]) -> str:
    """Write what sclite reads: `TEXT (speaker-utterance)`.

    >>> _trn([Utterance("84-1-0", "a.flac", 1.0, "GO", speaker="84")])
    'GO (84-1-0)\\n'
    >>> _trn([Utterance("1-0", "a.flac", 1.0, "GO", speaker="84")])
    'GO (84-1-0)\\n'
    """
    lines = []
    for utterance in utterances:
        speaker = f"{utterance.speaker or 'x'}-"
        id = f"{speaker}{utterance.id.removeprefix(speaker)}"
        lines.append(trn_line(utterance.text, id))
    return "".join(lines)
