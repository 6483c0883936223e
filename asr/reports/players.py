"""Recordings inside of a page: as many as fit, the others by a link to their file."""

import base64
import os
from pathlib import Path
from urllib.parse import quote

from asr.audio import encode
from asr.data.manifest import Utterance
from asr.data.recordings import read_utterance
from asr.errors import AudioError

MOST_BYTES = 6_000_000
"""Of all recordings of a page, as they stand in it."""
_KINDS = {
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
}
"""What browsers play."""


def _in_base64(size: int) -> int:
    return (size + 2) // 3 * 4


class Players:
    """Makes the players of one page.

    Args:
        folder: of the page, where links start.
        most_bytes: that may be embedded, all recordings together.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.num_embedded = self.num_linked = self.num_missing = 0
        self._folder, self._bytes_left = folder, most_bytes

    def source(self, utterance: Utterance) -> str | None:
        """Return the address of what was recorded; None if there is nothing to play.

        A part of a long recording is cut out of it, where there is room for it.
        """
        path = Path(utterance.audio)
        kind = _KINDS.get(path.suffix.lower())
        try:
            if utterance.start is not None:
                return self._part(utterance)
            if kind is None or not path.is_file():
                raise FileNotFoundError(path)
            return self._file(path, kind) or self._link(path)
        except (OSError, AudioError):
            self.num_missing += 1
            return None

    def _part(self, utterance: Utterance) -> str:
        content = encode(read_utterance(utterance), "ogg")
        path, start = Path(utterance.audio), utterance.start or 0.0
        end = start + utterance.duration
        part = f"#t={start:.2f},{end:.2f}"
        return self._embedded(content, "audio/ogg") or self._link(path) + part

    def _file(self, path: Path, kind: str) -> str | None:
        if _in_base64(path.stat().st_size) > self._bytes_left:
            return None
        return self._embedded(path.read_bytes(), kind)

    def _embedded(self, content: bytes, kind: str) -> str | None:
        size = _in_base64(len(content))
        if size > self._bytes_left:
            return None
        self._bytes_left -= size
        self.num_embedded += 1
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    def _link(self, path: Path) -> str:
        self.num_linked += 1
        relative = os.path.relpath(path.resolve(), self._folder.resolve())
        return quote(relative.replace(os.sep, "/"))

    def __str__(self) -> str:
        """Describe which recordings are embedded."""
        said = [f"Recordings inside of this page: {self.num_embedded}"]
        if self.num_linked:
            said.append(f"linked, where their files must be: {self.num_linked}")
        if self.num_missing:
            said.append(f"not found: {self.num_missing}")
        return "; ".join(said) + "."
