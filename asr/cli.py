"""The `asr` command. Each subcommand is one function that calls the Python API."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from asr.errors import AsrError, ConfigError

# What is heavy (torch, and all that stands on it) is imported inside the subcommands:
# `asr --help` answers in a tenth of a second.
if TYPE_CHECKING:
    from asr.audio import Channel
    from asr.recognizer import DecodingConfig, Recognizer
    from asr.recording import Recording
    from asr.sources import Source
    from asr.transcript import Transcript

Settings = TypeVar("Settings")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after telling the user what to mend."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except AsrError as error:
        print(f"asr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("asr: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, say) has had enough
        return 1


STANDARD_INPUT = "standard input"
"""What is called so, as it has no path."""
PARTIAL = 3
"""Exit status where some of the recordings were transcribed, but not all."""


def _transcribe(args: argparse.Namespace) -> int:
    from asr.audio import spooled
    from asr.sources import Source, find_sources

    with ExitStack() as stack:
        sources = find_sources([path for path in args.paths if path != "-"])
        if "-" in args.paths:
            path = stack.enter_context(spooled(sys.stdin.buffer))
            sources.append(Source(path, STANDARD_INPUT))
        faults = [source for source in sources if isinstance(source, AsrError)]
        wanted = [source for source in sources if isinstance(source, Source)]
        for fault in faults:
            print(f"asr: {fault}", file=sys.stderr)
        return _transcribe_all(wanted, len(faults), args)


def _transcribe_all(
    sources: "list[Source]", num_unfound: int, args: argparse.Namespace
) -> int:
    """Transcribe what was found, and write or print it."""
    from asr.progress import progress_bar
    from asr.recording import Recording

    output = _Output(args)
    channels: tuple[Channel, ...] = (args.channel,)
    if args.channel == "split":
        channels = ("left", "right")
    clip = _clip(args.clip)
    names, recordings = list[str](), list[Recording]()
    for path, name in sources:
        called = name if name == STANDARD_INPUT else None
        for channel in channels:
            full = f"{name}.{channel}" if args.channel == "split" else name
            if args.skip_existing and output.has(full):
                print(f"asr: {called or path}: is done already", file=sys.stderr)
                continue
            names.append(full)
            recordings.append(Recording.of_file(path, channel, clip, called))
    output.expect(len(recordings))
    num_failed = num_unfound
    seconds = sum(_seconds(path, clip) for path, _ in sources) * len(channels)
    with progress_bar(round(seconds), "transcribe", "s of audio") as bar:
        found = _transcripts(recordings, seconds, bar.update, args)
        for name, transcript in zip(names, found, strict=True):
            bar.clear()  # it comes back with the next update
            if isinstance(transcript, AsrError):
                print(f"asr: {transcript}", file=sys.stderr)
                num_failed += 1
            else:
                output.take(name, transcript)
    num_wanted = len(sources) * len(channels) + num_unfound
    if not num_failed:
        return 0
    return PARTIAL if num_failed < num_wanted else 1


class _Output:
    """Where transcripts go: to standard output, or into files."""

    def __init__(self, args: argparse.Namespace) -> None:
        from asr.writers import FORMATS, SubtitleConfig

        self.folder: Path | None = args.output_dir
        asked = args.output_format.split(",") if args.output_format else ["txt"]
        self.formats = FORMATS if asked == ["all"] else tuple(asked)
        self.num_best, self.print_words = args.nbest, args.print_words
        self.prefixed = False
        for name in self.formats:
            if name not in FORMATS:
                raise ConfigError(
                    f"output format {name}: is not known (use {', '.join(FORMATS)} "
                    "or all)"
                )
        if self.folder is None and len(self.formats) > 1:
            raise ConfigError("several formats need a folder: give --output-dir")
        if self.folder is None and args.skip_existing:
            raise ConfigError("--skip-existing needs --output-dir")
        self.layout = _checked(
            SubtitleConfig,
            line_length=args.subtitle_length,
            words=args.subtitle_words,
        )

    def has(self, name: str) -> bool:
        """Tell whether everything is written about a recording already."""
        assert self.folder is not None
        files = [self.folder / f"{name}.{format}" for format in self.formats]
        return all(file.exists() for file in files)

    def expect(self, number: int) -> None:
        """Prepare for so many recordings."""
        self.prefixed = number > 1
        if self.folder is None and self.formats != ("txt",) and number > 1:
            raise ConfigError("several recordings need a folder: give --output-dir")

    def take(self, name: str, transcript: "Transcript") -> None:
        """Print or write one transcript."""
        from asr.writers import render, write

        if self.folder is not None:
            place = self.folder / name
            write(transcript, place.parent, place.name, self.formats, self.layout)
            print(f"asr: wrote {place}.{{{','.join(self.formats)}}}", file=sys.stderr)
        elif self.formats != ("txt",):
            print(render(transcript, self.formats[0], self.layout), end="", flush=True)
        else:
            prefix = _prefix(transcript) if self.prefixed else ""
            self._print(prefix, transcript)
        for line in _cautions(transcript):
            print(f"asr: {_prefix(transcript)}{line}", file=sys.stderr)

    def _print(self, prefix: str, transcript: "Transcript") -> None:
        print(prefix + transcript.text, flush=True)
        for segment in transcript.segments:
            if self.print_words:
                for word in segment.words:
                    times = f"{word.start:8.2f} {word.end:8.2f}"
                    print(f"  {times}  {word.confidence:4.2f}  {word.text}")
            for alternative in segment.nbest[: self.num_best]:
                print(f"  {alternative.score:8.4f}  {alternative.text}")


def _prefix(transcript: "Transcript") -> str:
    channel = f" ({transcript.channel})" if transcript.channel != "mix" else ""
    return f"{transcript.audio or 'recording'}{channel}: "


def _cautions(transcript: "Transcript") -> "Iterator[str]":
    """Say which parts of a transcript one should not rely on."""
    about = {
        "noise": "no speech was heard",
        "loop": "the text goes in circles",
        "unfinished": "the end may be invented",
    }
    if all("silence" in segment.flags for segment in transcript.segments):
        yield "nothing was heard"
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
    """Have recordings transcribed: on a CPU in several processes."""
    from asr.corpus import transcribe_files

    device, decoding = _device(args.device), _decoding(args)
    if device.type == "cpu":
        yield from transcribe_files(
            args.model,
            recordings,
            decoding,
            precision=args.precision,
            language_model=args.language_model,
            seconds=seconds,
            progress=progress,
        )
        return
    recognizer = _recognizer(args)
    yield from recognizer.transcribe_recordings(recordings, progress=progress)


def _seconds(path: Path, clip: tuple[float, float | None]) -> float:
    """Tell how much of a recording there is to transcribe, as far as one can tell."""
    from asr.audio import duration

    start, end = clip
    try:
        whole = duration(path)
    except AsrError:
        return 0.0  # will be told when its turn comes
    return max(0.0, (whole if end is None else min(whole, end)) - start)


def _clip(text: str | None) -> tuple[float, float | None]:
    from asr.sources import parse_clip

    try:
        return parse_clip(text or ":")
    except ValueError as error:
        raise ConfigError(f"--clip {error}") from error


def _explain(args: argparse.Namespace) -> None:
    from asr.explain import write_page

    page = args.output or Path(args.audio.with_suffix(".html").name)
    transcript = _recognizer(args).transcribe(args.audio, alignment=True)
    write_page(page, args.audio, transcript)
    print(f"asr: wrote {page}", file=sys.stderr)


def _demo(args: argparse.Namespace) -> None:
    import json
    from importlib.resources import files

    from asr.device import use_one_thread
    from asr.explain import write_page
    from asr.recognizer import Recognizer
    from asr.scoring import word_error_rate

    use_one_thread()

    assets = Path(str(files("asr") / "assets"))
    sample = json.loads((assets / "sample.json").read_text(encoding="utf-8"))
    recognizer = Recognizer.load()
    transcript = recognizer.transcribe(assets / "sample.opus", alignment=True)
    print(f"recording   {assets / 'sample.opus'} ({transcript.duration:.1f} s)")
    print(f"            {sample['source']}")
    print(f"transcript  {transcript.text}")
    print(f"reference   {sample['text']}")
    print(f"%WER        {word_error_rate([sample['text']], [transcript.text])}")
    print(f"            {sample['note']}")
    write_page(args.page, assets / "sample.opus", transcript)
    print(f"page        {args.page.resolve()}")


def _train(args: argparse.Namespace) -> None:
    from asr.config import load_config
    from asr.experiment import train

    train(load_config(args.config, args.overrides), args.folder)


def _decode(args: argparse.Namespace) -> int:
    from asr.corpus import decode

    decoded = decode(
        args.model,
        args.manifest,
        args.folder,
        _decoding(args),
        precision=args.precision,
        processes=args.processes,
        language_model=args.language_model,
    )
    for fault in decoded.faults:
        print(f"asr: {fault}", file=sys.stderr)
    print(decoded)
    return 1 if decoded.faults else 0


def _score(args: argparse.Namespace) -> None:
    from asr.data.manifest import read_paired
    from asr.scoring import (
        aligned_text,
        by_group,
        by_length,
        char_error_rate,
        confidence_interval,
        confusions,
        word_error_rate,
    )

    said, heard = read_paired(args.references, args.hypotheses)
    references, hypotheses = [u.text for u in said], [u.text for u in heard]
    speakers = [u.speaker for u in said]
    if args.aligned:
        for utterance, hypothesis in zip(said, hypotheses, strict=True):
            print(utterance.id, aligned_text(utterance.text, hypothesis), "", sep="\n")
    print(f"%WER {word_error_rate(references, hypotheses)}")
    print(f"%CER {char_error_rate(references, hypotheses)}")
    groups = speakers if len(set(speakers)) > 1 else None
    low, high = confidence_interval(references, hypotheses, groups=groups)
    resampled = "speakers" if groups else "utterances"
    print(
        f"95 % interval of the WER: {100 * low:.2f} to {100 * high:.2f} "
        f"(bootstrap over {resampled})"
    )
    if args.details:
        durations = [u.duration for u in said]
        print("\nby length")
        _print_rates(by_length(references, hypotheses, durations))
        print("\nby speaker")
        _print_rates(by_group(references, hypotheses, speakers))
        print("\nmost frequent confusions (said -> heard)")
        for found in confusions(references, hypotheses):
            print(f"{found.count:5d}  {found.reference_word or '-'} -> ", end="")
            print(found.hypothesis_word or "-")


def _report(args: argparse.Namespace) -> None:
    from asr.evaluation.page import write_report

    page = args.output or args.hypotheses.parent / "report.html"
    write_report(page, args.references, args.hypotheses, run=args.run_folder)
    print(f"asr: wrote {page}", file=sys.stderr)


def _export(args: argparse.Namespace) -> None:
    from asr.model.folder import load_model, save_model
    from asr.recognizer import find_model

    model = load_model(find_model(args.run_folder))
    save_model(args.folder, model.las, model.tokenizer, model.facts, half=True)
    print(f"asr: wrote {args.folder}", file=sys.stderr)


def _print_rates(rates: dict[str, Any]) -> None:
    for name, rate in rates.items():
        print(f"{name or '-':>10}  %WER {rate}")


def _recognizer(args: argparse.Namespace) -> "Recognizer":
    """Load what the options of the search name."""
    from asr.device import use_one_thread
    from asr.recognizer import Recognizer

    use_one_thread()
    return Recognizer.load(
        args.model,
        decoding=_decoding(args),
        device=_device(args.device),
        precision=args.precision,
        language_model=args.language_model,
    )


def _decoding(args: argparse.Namespace) -> "DecodingConfig":
    """Turn the options of the search into its settings."""
    from asr.recognizer import DecodingConfig

    given = {
        "beam_size": args.beam,
        "ctc_weight": args.ctc_weight,
        "lm_weight": args.lm_weight,
        "word_bonus": args.word_bonus,
    }
    return _checked(DecodingConfig, **given)


def _checked(kind: "Callable[..., Settings]", **given: Any) -> "Settings":
    """Make settings of those options that were given."""
    try:
        return kind(**{k: v for k, v in given.items() if v is not None})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _device(name: str) -> Any:
    from asr.device import pick_device

    return pick_device(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asr",
        description="Listen, Attend and Spell: speech recognition from audio to text.",
        epilog="`asr COMMAND --help` shows an example of each command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_transcribe(commands)
    _add_explain(commands)
    _add_train(commands)
    _add_decode(commands)
    _add_score(commands)
    _add_report(commands)
    _add_export(commands)
    _add_demo(commands)
    return parser


def _command(
    commands: Any, name: str, run: Callable[..., int | None], about: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_transcribe(commands: Any) -> None:
    parser = _command(
        *(commands, "transcribe", _transcribe),
        "write down what is said in recordings of any length",
        "asr transcribe talk.mp3 interviews/ --output-dir out --output-format txt,srt",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, a folder, a pattern such as 'talks/*.mp3', or - for what comes "
        "on standard input",
    )
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
        "all (default: txt)",
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out recordings whose files are there: a broken run goes on",
    )
    parser.add_argument(
        "--channel",
        choices=("mix", "left", "right", "split"),
        default="mix",
        help="mix all channels (default), take one, or transcribe both apart",
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
        *("--nbest", "-n"), **_number(0, "print the N best texts of each segment too")
    )
    parser.add_argument(
        "--subtitle-length", **_number(None, "most characters a line (default: 42)")
    )
    parser.add_argument(
        "--subtitle-words", **_number(None, "most words a subtitle (default: no limit)")
    )
    _add_search(parser)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")


def _add_explain(commands: Any) -> None:
    parser = _command(
        *(commands, "explain", _explain),
        "write a page that shows and plays what was heard, how surely, when and where",
        "asr explain talk.flac --output talk.html",
    )
    parser.add_argument("audio", type=Path, metavar="FILE")
    parser.add_argument(
        *("--output", "-o"),
        type=Path,
        metavar="PAGE",
        help="HTML file (default: named as FILE is, in this folder)",
    )
    _add_search(parser)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")


def _add_train(commands: Any) -> None:
    parser = _command(
        *(commands, "train", _train),
        "train a model; a run that was stopped goes on where it was",
        "asr train recipes/toy/las.yaml exp/toy/run training.epochs=12",
    )
    parser.add_argument("config", type=Path, help="YAML file with the settings")
    parser.add_argument("folder", type=Path, help="of the run; made if missing")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that win"
    )


def _add_decode(commands: Any) -> None:
    parser = _command(
        *(commands, "decode", _decode),
        "transcribe all utterances of a manifest, in several processes",
        "asr decode data/test-clean.jsonl exp/decoded --model exp/run",
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path, help="for the hypotheses")
    _add_search(parser)
    parser.add_argument("--processes", **_number(None, "default: one a core"))


def _add_score(commands: Any) -> None:
    parser = _command(
        *(commands, "score", _score),
        "compare hypotheses with references: WER, CER, and where the errors are",
        "asr score data/test-clean.jsonl exp/decoded/hypotheses.jsonl --details",
    )
    parser.add_argument("references", type=Path, help="manifest with what was said")
    parser.add_argument("hypotheses", type=Path, help="manifest with what was heard")
    parser.add_argument(
        "--details", action="store_true", help="by length, by speaker, confusions"
    )
    parser.add_argument(
        "--aligned", action="store_true", help="show each utterance word by word"
    )


def _add_report(commands: Any) -> None:
    parser = _command(
        *(commands, "report", _report),
        "write a page about hypotheses: error rates, charts, utterances to listen to",
        "asr report data/test-clean.jsonl exp/decoded/hypotheses.jsonl --run exp/run",
    )
    parser.add_argument("references", type=Path, help="manifest with what was said")
    parser.add_argument("hypotheses", type=Path, help="manifest with what was heard")
    parser.add_argument(
        *("--run", "-r"),
        type=Path,
        dest="run_folder",
        metavar="RUN",
        help="folder of the training, to show its learning curves too",
    )
    parser.add_argument(
        *("--output", "-o"),
        type=Path,
        metavar="PAGE",
        help="HTML file (default: report.html beside the hypotheses)",
    )


def _add_export(commands: Any) -> None:
    parser = _command(
        *(commands, "export", _export),
        "pack the best model of a run into a folder, at half the size",
        "asr export exp/run my-model",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    parser.add_argument("folder", type=Path)


def _add_demo(commands: Any) -> None:
    parser = _command(
        *(commands, "demo", _demo),
        "transcribe the bundled recording and write its page, as explain does",
        "asr demo demo.html",
    )
    parser.add_argument("page", type=Path, help="the HTML page that is written")


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, help="a model's or a run's folder (default: the bundled)"
    )
    parser.add_argument("--beam", **_number(None, "hypotheses followed (default: 8)"))
    parser.add_argument(
        "--ctc-weight",
        type=float,
        metavar="W",
        help="share of the CTC head in the score (default: 0.3)",
    )
    parser.add_argument(
        "--precision",
        default="float32",
        help="of the weights: float32, or int8, which is faster on a CPU",
    )
    parser.add_argument(
        "--language-model",
        type=Path,
        metavar="FOLDER",
        help="of a word n-gram (default: the bundled one)",
    )
    parser.add_argument(
        "--lm-weight",
        type=float,
        metavar="W",
        help="weight of the language model (default: 0.5; 0 does without)",
    )
    parser.add_argument(
        "--word-bonus",
        type=float,
        metavar="X",
        help="added for each word where there is a language model (default: -2)",
    )


def _number(default: int | None, about: str) -> dict[str, Any]:
    return {"type": int, "default": default, "metavar": "N", "help": about}


if __name__ == "__main__":
    sys.exit(main())
