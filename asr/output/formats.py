"""The formats that transcripts are written in, and the files that hold them.

Each format is a module here with a function `render` that gets a `Document`; to add
one, write such a module and name it in `FORMATS`.

Segments without text, or flagged as silence or noise, are in the JSON only. Times are
written in milliseconds or seconds with three decimals. What is said begins at zero or
later, lasts at least a millisecond and does not overlap, in whatever order the times of
a transcript that another program made may be.
"""

from collections.abc import Callable, Iterable
from math import isfinite
from pathlib import Path

from asr.errors import CheckpointError
from asr.folders import write_bytes
from asr.output import ctm, json_file, srt, text_grid, trn, tsv, txt, vtt
from asr.output.document import Document
from asr.output.speech import spoken
from asr.output.subtitles import SubtitleConfig
from asr.transcript import Segment, Transcript, Word

FORMATS: dict[str, Callable[[Document], str]] = {
    "txt": txt.render,
    "json": json_file.render,
    "srt": srt.render,
    "vtt": vtt.render,
    "tsv": tsv.render,
    "trn": trn.render,
    "ctm": ctm.render,
    "TextGrid": text_grid.render,
}
"""What writes each format; its name is the ending of the files, too."""
_STANDARD = SubtitleConfig()


def render(
    transcript: Transcript,
    format: str,
    layout: SubtitleConfig = _STANDARD,
    *,
    name: str | None = None,
) -> str:
    """Write a transcript in one of `FORMATS`.

    Args:
        transcript: what is written.
        format: one of `FORMATS`.
        layout: of subtitles.
        name: of the recording in trn and ctm; None for its file's, without the ending.

    Raises:
        ValueError: there is no such format, or a time or confidence is no number.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    _check(transcript)
    if name is None:
        name = Path(transcript.audio).stem or "recording"
    document = Document(transcript, spoken(transcript), name, layout)
    return FORMATS[format](document)


def write(
    transcript: Transcript,
    folder: Path,
    name: str,
    formats: Iterable[str],
    layout: SubtitleConfig = _STANDARD,
) -> list[Path]:
    """Write the files `name.format` into a folder, which is made if there is none.

    All are worked out before the first is written, and each is written whole or not at
    all, in UTF-8.

    Args:
        transcript: what is written.
        folder: where the files go; those of an earlier transcript are replaced.
        name: of the files, and of the recording in trn and ctm.
        formats: some of `FORMATS`.
        layout: of subtitles.

    Returns:
        The files, in the order of `formats`.

    Raises:
        CheckpointError: the disk is full, or the folder may not be written to.
        ValueError: there is no such format, or a time or confidence is no number.
    """
    contents = {
        folder / f"{name}.{format}": render(transcript, format, layout, name=name)
        for format in formats
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from error
    for path, content in contents.items():
        # A file name that is no UTF-8 comes as lone surrogates: as \udcff, JSON has it.
        write_bytes(path, content.encode(errors="backslashreplace"))
    return list(contents)


def _check(transcript: Transcript) -> None:
    parts: list[Segment | Word] = [*transcript.segments, *transcript.words]
    numbers = [n for part in parts for n in (part.start, part.end, part.confidence)]
    for number in (transcript.duration, *numbers):
        if not isfinite(number):
            raise ValueError(f"times and confidence must be finite, got {number}")
