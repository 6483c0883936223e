"""`asr align`: when was each line of a known text said?"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.options import (
    add_command,
    add_device,
    add_model,
    add_subtitles,
    channel_of,
    check_output,
    check_output_folder,
    device_of,
    formats_of,
    layout_of,
    one_line,
    own_process,
)
from asr.errors import ConfigError
from asr.wording import counted

if TYPE_CHECKING:
    from asr.inference.recognizer import Recognizer
    from asr.output import SubtitleConfig
    from asr.transcript import Segment, Transcript

_MOST_NAMED = 5
"""Lines or stretches that a notice names."""


def add(commands: Any) -> None:
    """Add `asr align`."""
    parser = add_command(
        *(commands, "align", _align),
        "find when each line of a known text was said in a recording of any length",
        "asr align talk.mp3 script.txt --output-dir out --output-format srt,json",
    )
    parser.add_argument("audio", type=Path, help="the recording")
    parser.add_argument(
        "text",
        type=Path,
        help="what was said, in UTF-8: a line a subtitle or utterance",
    )
    parser.add_argument(
        *("--output-dir", "-o"),
        type=Path,
        metavar="FOLDER",
        help="write files there, named as the recording (default: print)",
    )
    parser.add_argument(
        *("--output-format", "-f"),
        metavar="LIST",
        help="txt, json, srt, vtt, tsv, trn, ctm, TextGrid, several with commas, or "
        "all (default: tsv)",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE.jsonl",
        help="write the lines as utterances to train on, long ones split at pauses",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=0.0,
        metavar="P",
        help="of lines in the manifest, 0 to 1 (default: 0, all that were found)",
    )
    parser.add_argument(
        "--as-written",
        action="store_true",
        help="leave the manifest's text as it is, in place of the model's alphabet",
    )
    parser.add_argument(
        "--channel",
        type=channel_of,
        default="mix",
        metavar="CHANNEL",
        help="mix all channels (default); or take one: left, right, or a number from 1 "
        "on",
    )
    parser.add_argument(
        "--clip", metavar="START:END", help="only from this second to that (90:120.5)"
    )
    add_subtitles(parser)
    add_model(parser)
    add_device(parser)


def _align(args: argparse.Namespace) -> int:
    from asr.audio import duration
    from asr.cli.transcribe import clip_of
    from asr.data.labels import Labels
    from asr.inference.recognizer import Recognizer
    from asr.progress import progress_bar

    labels = Labels(args.min_confidence)
    formats = _formats(args)
    layout = layout_of(args, join=False)
    lines = _read_lines(args.text)
    _check_files(formats, args)
    clip = clip_of(args.clip)
    if args.manifest:
        _check_manifest(args)
        if args.channel != "mix":
            raise ConfigError("--manifest: has no channel (leave --channel out)")
    seconds = duration(args.audio)
    own_process()
    recognizer = Recognizer.load(
        args.model,
        decoding={"lm_weight": 0.0},
        device=device_of(args.device),
        precision=args.precision,
    )
    with progress_bar(round(seconds), "align", "s of audio") as bar:
        found = recognizer.align(
            args.audio, lines, channel=args.channel, clip=clip, progress=bar.update
        )
    _write(found, formats, layout, args)
    for notice in _notices(found, lines):
        print(one_line(f"asr: {args.audio}: {notice}"), file=sys.stderr)
    if args.manifest:
        _write_manifest(found, labels, recognizer, args)
    return 0


def _check_files(formats: Sequence[str], args: argparse.Namespace) -> None:
    """Refuse a folder that is read-only, or where the text would be replaced."""
    if args.output_dir is None:
        return
    check_output_folder(args.output_dir)
    if args.output_dir.is_dir():
        for format in formats:
            path = args.output_dir / f"{args.audio.stem}.{format}"
            check_output(path, args.text, args.audio)


def _check_manifest(args: argparse.Namespace) -> None:
    """Make the folder of the manifest; refuse one that could not be written."""
    with suppress(OSError):  # check_output reports a folder that is not there then
        args.manifest.parent.mkdir(parents=True, exist_ok=True)
    check_output(args.manifest, args.text, args.audio)


def _formats(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the formats that are asked for; none where a manifest is enough."""
    if args.output_format is None and args.output_dir is None and args.manifest:
        return ()
    return formats_of(args.output_format or "tsv", args.output_dir)


def _read_lines(path: Path) -> list[str]:
    """Read the lines of a text, blank ones too, which count.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    if not text.strip():
        raise ConfigError(f"{path}: is empty (a text, a line a unit, was expected)")
    return text.split("\n")


def _write(
    found: "Transcript",
    formats: tuple[str, ...],
    layout: "SubtitleConfig",
    args: argparse.Namespace,
) -> None:
    from asr.output import render, write

    if args.output_dir is not None:
        name = args.audio.stem
        write(found, args.output_dir, name, formats, layout)
        place = args.output_dir / name
        names = formats[0] if len(formats) == 1 else f"{{{','.join(formats)}}}"
        print(one_line(f"asr: wrote {place}.{names}"), file=sys.stderr)
    elif formats:
        print(render(found, formats[0], layout), end="", flush=True)


def _notices(found: "Transcript", lines: Sequence[str]) -> Iterator[str]:
    """Yield what of the text is not in the audio, and the other way round."""
    numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    of_text = [segment for segment in found.segments if segment.text]
    unsaid = [
        number
        for number, segment in zip(numbers, of_text, strict=True)
        if "unsaid" in segment.flags
    ]
    if unsaid:
        named = ", ".join(map(str, unsaid[:_MOST_NAMED]))
        more = ", …" if len(unsaid) > _MOST_NAMED else ""
        yield (
            f"{len(unsaid)} of {counted(len(numbers), 'line')} not found: "
            f"line{'s' if len(unsaid) > 1 else ''} {named}{more}"
            + (
                " (is it the text of this recording?)"
                if _is_most(unsaid, numbers)
                else ""
            )
        )
    untold = [segment for segment in found.segments if "untold" in segment.flags]
    if untold:
        named = ", ".join(map(_stretch, untold[:_MOST_NAMED]))
        more = ", …" if len(untold) > _MOST_NAMED else ""
        seconds = sum(segment.end - segment.start for segment in untold)
        yield (f"{seconds:.1f} s of speech are in no line of the text: {named}{more} s")


def _is_most(some: Sequence[int], all: Sequence[int]) -> bool:
    return 2 * len(some) > len(all)


def _stretch(segment: "Segment") -> str:
    return f"{segment.start:.1f} to {segment.end:.1f}"


def _write_manifest(
    found: "Transcript",
    labels: Any,
    recognizer: "Recognizer",
    args: argparse.Namespace,
) -> None:
    from asr.alphabet import fitted
    from asr.tokenizers import alphabet_written

    alphabet = alphabet_written(recognizer.tokenizer)

    def spelled(text: str) -> str:
        return text if args.as_written else fitted(text, alphabet)

    stem = args.audio.stem
    labels.add(found, lambda number, _: f"{stem}-{number:04}", spelled)
    labels.write(args.manifest)
    print(one_line(f"asr: wrote {args.manifest}: {labels}"), file=sys.stderr)
