"""`asr transcribe`: recordings in, text and files out."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asr.cli.labels import ManifestOutput
from asr.cli.live import add_pause
from asr.cli.options import (
    add_backend,
    add_command,
    add_device,
    add_machines,
    add_search,
    add_subtitles,
    channel_of,
    check_output_folder,
    checked,
    cluster_of,
    decoding_of,
    device_of,
    formats_of,
    is_setting,
    layout_of,
    load_recognizer,
    number,
    one_line,
    own_process,
    runs_in_onnx,
    shard_of,
)
from asr.cli.scripts import is_full
from asr.errors import AsrError, ConfigError
from asr.files import errors_of
from asr.imports import lasting

if TYPE_CHECKING:
    from asr.audio import Channel
    from asr.cli.inputs import Source
    from asr.inference.long_audio import Recording
    from asr.transcript import Segment, Transcript, Word

PARTIAL = 3
"""Exit status where some of the recordings were transcribed, but not all."""


def add(commands: Any) -> None:
    """Add `asr transcribe`."""
    parser = add_command(
        *(commands, "transcribe", run),
        "transcribe recordings of any length",
        "asr transcribe talk.mp3 interviews/ --output-dir out --output-format txt,srt",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, a folder, a pattern such as 'talks/*.mp3', or - for what comes "
        "on standard input; decoding.key=value is a setting of the search (a file of "
        "such a name: ./decoding.key=value)",
    )
    parser.set_defaults(settings=[])
    parser.add_argument(
        *("--output-dir", "-o"),
        type=Path,
        metavar="FOLDER",
        help="write files there (default: print the text)",
    )
    parser.add_argument(
        *("--output-format", "-f"),
        metavar="LIST",
        help="txt, json, srt, vtt, tsv, trn, ctm, TextGrid, several with commas, or "
        "all (default: txt); and manifest, one of all recordings, to train on",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="P",
        help="of segments in the manifest, 0 to 1 (default: 0, all)",
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out recordings whose files are there, to go on after a stop",
    )
    parser.add_argument(
        "--channel",
        type=_channel,
        default="mix",
        metavar="CHANNEL",
        help="mix all channels (default); take one: left, right, or a number from 1 "
        "on; or split: transcribe each by itself",
    )
    parser.add_argument(
        "--clip", metavar="START:END", help="only from this second to that (90:120.5)"
    )
    parser.add_argument(
        "--print-words",
        action="store_true",
        help="print each word's start, end (seconds) and confidence too",
    )
    parser.add_argument(
        *("--nbest", "-n"), **number(0, "print the N best texts of each segment too")
    )
    follow = parser.add_argument_group("a pipe that goes on")
    follow.add_argument(
        "--follow",
        action="store_true",
        help="read raw PCM (16-bit little-endian, one channel) from standard input, "
        "and print each text at its pause (-f json: a segment a line)",
    )
    follow.add_argument("--pcm-rate", **number(None, "of raw PCM (default: 16000 Hz)"))
    add_pause(follow)
    add_subtitles(parser)
    add_search(parser)
    add_backend(parser)
    add_device(parser)
    add_machines(parser, "recordings")
    defaults = {name: parser.get_default(name) for name in _NOT_FOLLOWED}
    parser.set_defaults(unset=defaults)


def run(args: argparse.Namespace) -> int:
    """Transcribe what the command line asks for; return the exit status."""
    args.onnx = runs_in_onnx(args)
    if args.onnx:  # as with torch, one core; read where numpy is imported
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with lasting():
        from asr.audio import STANDARD_INPUT, spooled
        from asr.cli.inputs import Source, find_sources

    settings = [path for path in args.paths if is_setting(path)]
    args.settings = [*settings, *args.settings]
    args.paths = [path for path in args.paths if not is_setting(path)]
    if not args.paths:
        raise ConfigError("no recording is given (asr transcribe PATH …)")
    if args.follow:
        return _follow(args)
    for name in ("pcm_rate", "pause"):
        if getattr(args, name) is not None:
            raise ConfigError(f"{_option(name)} needs --follow")
    shard = shard_of(args)
    if "-" in args.paths and (shard or args.engine == "ray"):
        raise ConfigError("standard input is of this process alone (give it a name)")
    with ExitStack() as stack:
        paths = [path for path in args.paths if path != "-"]
        sources = find_sources(paths, split=args.channel == "split")
        if "-" in args.paths:
            path = stack.enter_context(spooled(sys.stdin.buffer))
            sources.append(Source(path, STANDARD_INPUT))
        errors = [source for source in sources if isinstance(source, AsrError)]
        wanted = [source for source in sources if isinstance(source, Source)]
        if shard:  # by their names, which no two have in common
            wanted = [source for source in wanted if shard.has(source.name)]
        for error in errors:
            print(one_line(f"asr: {error}"), file=sys.stderr)
        return _transcribe_all(wanted, len(errors), args)


_NOT_FOLLOWED = (
    *("output_dir", "min_confidence", "skip_existing", "channel", "clip", "nbest"),
    *("subtitle_length", "subtitle_words", "processes", "shard", "engine", "address"),
)


def _follow(args: argparse.Namespace) -> int:
    """Transcribe raw PCM from standard input as it comes."""
    if args.onnx:
        raise ConfigError(
            f"{args.model}: --follow needs torch, and a model for it (give the model "
            "that this was exported from)"
        )
    from asr.audio import STANDARD_INPUT, PCMStream
    from asr.cli.listening import Lines, listen, pipe
    from asr.inference.live import LiveConfig

    _check_followed(args)
    stream = checked(PCMStream, rate=args.pcm_rate)
    config = replace(checked(LiveConfig, pause=args.pause), interval=None)
    as_json = args.output_format == "json"
    lines = Lines(_json_line if as_json else partial(_followed_lines, args.print_words))
    blocks = pipe(0, STANDARD_INPUT)
    recognizer = load_recognizer(args)
    listen(blocks, stream, recognizer, config, lines.show)
    if stream.was_cut_off:
        print(
            f"asr: {STANDARD_INPUT}: ends within a sample (is it 16-bit PCM?)",
            file=sys.stderr,
        )
    if not lines.has_text:
        print(f"asr: {STANDARD_INPUT}: silence, no text", file=sys.stderr)
    return 0


def _check_followed(args: argparse.Namespace) -> None:
    """Refuse what is not possible with --follow."""
    if args.paths != ["-"]:
        raise ConfigError("--follow reads standard input (asr transcribe --follow -)")
    for name in _NOT_FOLLOWED:
        if getattr(args, name) != args.unset[name]:
            raise ConfigError(f"{_option(name)} is not possible with --follow")
    if args.output_format not in (None, "txt", "json"):
        raise ConfigError(
            f"output format {args.output_format}: is not possible with --follow (use "
            "txt or json)"
        )
    if args.print_words and args.output_format == "json":
        raise ConfigError(_not_printed("print_words"))


def _not_printed(name: str) -> str:
    """Say what is wrong with an option that adds to printed text where none is."""
    return f"{_option(name)} adds to printed text (leave it out: json has all of it)"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _followed_lines(with_words: bool, segment: "Segment") -> str:
    words = segment.words if with_words else ()
    return "\n".join([one_line(segment.text), *map(_word_line, words)])


def _json_line(segment: "Segment") -> str:
    from asr.transcript import Transcript

    alone = replace(segment, nbest=())
    (tree,) = Transcript((alone,), segment.end).to_dict()["segments"]
    return json.dumps(tree, ensure_ascii=False)


def _transcribe_all(
    sources: "list[Source]", num_unfound: int, args: argparse.Namespace
) -> int:
    """Transcribe what was found, and write or print it."""
    with lasting():
        from asr.audio import STANDARD_INPUT, read_arrays, read_blocks
        from asr.inference.long_audio import Recording
    from asr.progress import progress_bar

    manifest = ManifestOutput(args)
    output = _Output(args)
    clip = clip_of(args.clip)
    read = read_arrays if args.onnx else read_blocks
    names, recordings, seconds = list[str](), list[Recording](), 0.0
    num_wanted = num_unfound
    for path, name in sources:
        called = name if name == STANDARD_INPUT else None
        channels = _channels(path, args.channel)
        num_wanted += len(channels)
        for channel in channels:
            full = f"{name}.{channel}" if len(channels) > 1 else name
            if args.skip_existing and output.has(full):
                done = f"channel {channel} is done" if len(channels) > 1 else "is done"
                note = f"asr: {called or path}: {done}"
                print(one_line(note), file=sys.stderr)
                continue
            names.append(full)
            recordings.append(Recording.of_file(path, channel, clip, called, read))
            seconds += _seconds(path, clip)
    output.expect(len(recordings))
    num_failed = num_unfound
    with progress_bar(round(seconds), "transcribe", "s of audio") as bar:
        found = _transcripts(recordings, seconds, bar.update, args)
        for name, transcript in zip(names, found, strict=True):
            bar.clear()  # it comes back with the next update
            errors = list(_taken(name, transcript, manifest, output))
            for error in errors:
                print(one_line(f"asr: {error}"), file=sys.stderr)
            num_failed += bool(errors)
    if recordings and manifest.write():  # a share may have none
        return 1
    if not num_failed:
        return 0
    return PARTIAL if num_failed < num_wanted else 1


def _taken(
    name: str,
    transcript: "Transcript | AsrError",
    manifest: ManifestOutput,
    output: "_Output",
) -> Iterator[AsrError]:
    """Write or print a transcript; yield what is wrong with it, or with writing it."""
    if isinstance(transcript, AsrError):
        yield transcript
        return
    if not manifest.is_alone and (error := output.take(name, transcript)):
        yield error
    if error := manifest.take(name, transcript):
        yield error


class _Output:
    """Where transcripts go: to standard output, or into files."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder: Path | None = args.output_dir
        if args.nbest < 0:
            raise ConfigError(f"--nbest must be zero or more, not {args.nbest}")
        if self.folder:
            check_output_folder(self.folder)
        self.num_best, self.print_words = args.nbest, args.print_words
        self.prefixed = False
        self.formats = formats_of(args.output_format or "txt", self.folder)
        if self.folder is None and args.skip_existing:
            raise ConfigError("--skip-existing needs --output-dir")
        is_printed = self.folder is None and self.formats == ("txt",)
        for name in ("print_words", "nbest"):
            if getattr(args, name) and not is_printed:
                raise ConfigError(_not_printed(name))
        self.layout = layout_of(args)

    def has(self, name: str) -> bool:
        """Return whether everything is written about a recording already."""
        assert self.folder is not None
        files = [self.folder / f"{name}.{format}" for format in self.formats]
        return all(os.path.exists(file) for file in files)

    def expect(self, number: int) -> None:
        """Prepare for so many recordings."""
        self.prefixed = number > 1
        if self.folder is None and self.formats != ("txt",) and number > 1:
            raise ConfigError("several recordings need a folder: give --output-dir")

    def take(self, name: str, transcript: "Transcript") -> AsrError | None:
        """Print or write one transcript; return what keeps this one from being written.

        Raises:
            AsrError: the disk is full, which keeps all from being written.
        """
        from asr.output import render

        if self.folder is not None:
            if error := self._write(self.folder / name, transcript):
                return error
        elif self.formats != ("txt",):
            print(render(transcript, self.formats[0], self.layout), end="", flush=True)
        else:
            prefix = _prefix(transcript) if self.prefixed else ""
            self._print(prefix, transcript)
        for line in _cautions(transcript):
            print(f"asr: {_prefix(transcript)}{line}", file=sys.stderr)
        return None

    def _write(self, place: Path, transcript: "Transcript") -> AsrError | None:
        from asr.output import write

        try:
            write(transcript, place.parent, place.name, self.formats, self.layout)
        except AsrError as error:
            if is_full(error.__cause__):
                raise
            return error
        print(
            one_line(f"asr: wrote {place}.{{{','.join(self.formats)}}}"),
            file=sys.stderr,
        )
        return None

    def _print(self, prefix: str, transcript: "Transcript") -> None:
        print(prefix + transcript.text, flush=True)
        for segment in transcript.segments:
            if self.print_words:
                for word in segment.words:
                    print(_word_line(word))
            for alternative in segment.nbest[: self.num_best]:
                print(f"  {alternative.score:8.4f}  {alternative.text}")


def _word_line(word: "Word") -> str:
    times = f"{word.start:8.2f} {word.end:8.2f}"
    return f"  {times}  {word.confidence:4.2f}  {word.text}"


def _prefix(transcript: "Transcript") -> str:
    channel = transcript.channel
    if channel.isdecimal():
        channel = f"channel {channel}"
    shown = f" ({channel})" if channel != "mix" else ""
    return one_line(f"{transcript.audio}{shown}: ")


def _cautions(transcript: "Transcript") -> "Iterator[str]":
    """Yield which parts of a transcript one should not rely on."""
    about = {
        "noise": "no speech was found",
        "loop": "the text repeats itself",
        "unfinished": "the end may be invented",
    }
    if all("silence" in segment.flags for segment in transcript.segments):
        yield "silence, no text"
    for segment in transcript.segments:
        for flag in segment.flags:
            if flag in about:
                yield f"{segment.start:.1f} to {segment.end:.1f} s: {about[flag]}"


def _transcripts(
    recordings: "list[Recording]",
    seconds: float,
    progress: "Callable[[float], object]",
    args: argparse.Namespace,
) -> "Iterator[Transcript | AsrError]":
    """Have recordings transcribed, here or elsewhere."""
    if args.onnx:
        return _transcripts_by_onnx(recordings, progress, args)
    with lasting():
        from asr.inference.parallel import transcribe_files

    own_process()
    cluster = cluster_of(args)
    return transcribe_files(
        args.model,
        recordings,
        decoding_of(args),
        precision=args.precision,
        processes=args.processes,
        language_model=args.language_model,
        device=args.device if cluster else device_of(args.device).type,
        cluster=cluster,
        seconds=seconds,
        progress=progress,
    )


def _transcripts_by_onnx(
    recordings: "list[Recording]",
    progress: "Callable[[float], object]",
    args: argparse.Namespace,
) -> "Iterator[Transcript | AsrError]":
    from asr.memory import keep_freed_memory
    from asr.onnx.recognizer import OnnxRecognizer

    keep_freed_memory()
    recognizer = OnnxRecognizer.load(
        args.model, decoding=decoding_of(args), language_model=args.language_model
    )
    return recognizer.transcribe_recordings(recordings, progress=progress)


def _seconds(path: Path, clip: tuple[float, float | None]) -> float:
    """Return the seconds to transcribe of a recording; 0 where it cannot be read."""
    from asr.audio import duration

    start, end = clip
    try:
        with errors_of(path):
            whole = duration(path)
    except AsrError:
        return 0.0  # is reported when its turn comes
    return max(0.0, (whole if end is None else min(whole, end)) - start)


def _channel(text: str) -> "Channel | Literal['split']":
    """Read what --channel is given."""
    return "split" if text == "split" else channel_of(text, "split, ")


def _channels(
    path: Path, wanted: "Channel | Literal['split']"
) -> "tuple[Channel, ...]":
    """Return which channels of a recording to transcribe, each by itself."""
    from asr.audio import num_channels

    if wanted != "split":
        return (wanted,)
    try:
        number = num_channels(path)
    except AsrError:
        return ("mix",)  # what is wrong is reported when its turn comes
    if number <= 2:
        return ("left", "right") if number == 2 else ("mix",)
    return tuple(range(1, number + 1))


def clip_of(text: str | None) -> tuple[float, float | None]:
    """Read the option `--clip`.

    Raises:
        ConfigError: it is no START:END.
    """
    from asr.cli.inputs import parse_clip

    try:
        return parse_clip(text or ":")
    except ValueError as error:
        raise ConfigError(f"--clip {error}") from error
