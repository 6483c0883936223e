"""Recordings inside of a page: as many as fit, the others by a link to their file."""

import base64
import os
from pathlib import Path
from urllib.parse import quote

from asr.reports.markup import Html, markup

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


class Players:
    """Makes the players of one page.

    Args:
        folder: of the page, where links start.
        most_bytes: that may be embedded, all recordings together.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.num_embedded = self.num_linked = self.num_missing = 0
        self._folder, self._bytes_left = folder, most_bytes

    def player(self, path: Path) -> Html:
        """Make a player of a file, or a note that there is none."""
        kind = _KINDS.get(path.suffix.lower())
        try:
            if kind is None or not path.is_file():
                raise FileNotFoundError(path)
            source = self._embedded(path, kind) or self._link(path)
        except OSError:
            self.num_missing += 1
            return Html("<p class='no-audio'>No recording to play.</p>")
        return markup("<audio controls preload='metadata' src='{}'></audio>", source)

    def _embedded(self, path: Path, kind: str) -> str | None:
        size = (path.stat().st_size + 2) // 3 * 4  # in base64
        if size > self._bytes_left:
            return None
        content = base64.b64encode(path.read_bytes()).decode()
        self._bytes_left -= size
        self.num_embedded += 1
        return f"data:{kind};base64,{content}"

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
