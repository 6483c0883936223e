"""What several commands share: options, and what becomes of them."""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from asr.errors import ConfigError
from asr.errors import one_line as one_line  # for all commands

if TYPE_CHECKING:
    from asr.audio import Channel
    from asr.inference.cluster import Cluster
    from asr.inference.recognizer import Recognizer
    from asr.inference.shards import Shard
    from asr.output import SubtitleConfig

Settings = TypeVar("Settings")

_MANY = ("paths", "names", "overrides")
"""Arguments of any number, which may stand behind options, too."""

_SECTION = "decoding."
"""How the settings of a search begin on the command line."""


class Parser(argparse.ArgumentParser):
    """A parser that takes arguments behind options, too: `a.wav --nbest 2 b.wav`."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parse arguments; argparse itself leaves over what comes behind an option."""
        parsed, left = self.parse_known_args(args, namespace)
        found: argparse.Namespace = parsed
        if "settings" in found:
            late = [one for one in left if is_setting(one)]
            found.settings = [*found.settings, *late]
            left = [one for one in left if not is_setting(one)]
        unknown = any(one.startswith("-") and one != "-" for one in left)
        for name in _MANY:
            if name in found and not unknown:
                setattr(found, name, [*getattr(found, name), *left])
                left = []
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the arguments, in one line, and exit."""
        super().error(one_line(message))


def is_setting(argument: str) -> bool:
    """Return whether an argument is a setting of the search, right or wrong.

    >>> is_setting("decoding.beam_size=4"), is_setting("decoding.wav")
    (True, False)
    """
    return argument.startswith(_SECTION) and "=" in argument


def add_command(
    commands: Any,
    name: str,
    run: Callable[..., int | None] | None,
    about: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command, with an example in its help.

    Args:
        commands: where it is added.
        name: of the command.
        run: what it does; None where it has commands of its own that do something.
        about: for its help, in one sentence without an end.
        example: for its help, too.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def add_settings(parser: argparse.ArgumentParser, about: str) -> None:
    """Add arguments such as decoding.beam_size=4, behind all other positional ones."""
    parser.add_argument(
        "settings", nargs="*", metavar="decoding.key=value", help=about, default=[]
    )


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add `--version`."""
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="print the version and exit"
    )


class _ShowVersion(argparse.Action):
    """Print the version; it is looked up only here, as that takes 20 ms."""

    def __call__(
        self, parser: argparse.ArgumentParser, *given: Any, **others: Any
    ) -> None:
        from asr.version import version

        print(f"{parser.prog} {version()}")
        parser.exit()


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add which model it is, and how its weights are used."""
    parser.add_argument(
        "--model",
        type=Path,
        help="a model's or a run's folder, or hf:USER/NAME@REVISION for one on the "
        "Hugging Face Hub (default: the bundled)",
    )
    parser.add_argument(
        "--precision",
        default="float32",
        help="of the weights: float32, or int8, which is faster on a CPU",
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add what the network runs in."""
    parser.add_argument(
        "--backend",
        choices=("torch", "onnx"),
        help="what the network runs in: torch, or onnx for a folder of asr export "
        "--onnx, in onnxruntime (default: what the model is for)",
    )


def runs_in_onnx(args: argparse.Namespace) -> bool:
    """Return whether the model is for onnxruntime, and torch is not needed.

    Raises:
        ConfigError: the model is not for the backend that was asked for, or torch,
            which it needs, is not installed.
    """
    from asr.onnx import is_onnx

    exported, backend = is_onnx(args.model), args.backend
    if exported and backend == "torch":
        raise ConfigError(f"{args.model}: is for --backend onnx only")
    if not exported and backend == "onnx":
        raise ConfigError(
            f"{args.model or 'the bundled model'}: is no ONNX export (asr export "
            f"{args.model or 'bundled'} FOLDER --onnx makes one)"
        )
    if not exported and find_spec("torch") is None:
        raise ConfigError(
            "torch is not installed, so that only models for onnxruntime run (asr "
            "export RUN FOLDER --onnx makes one where torch is; --model FOLDER)"
        )
    if exported:
        _check_for_onnx(args)
    return exported


def _check_for_onnx(args: argparse.Namespace) -> None:
    """Refuse options that need torch.

    Raises:
        ConfigError: one was given.
    """
    given = {
        "--device": args.device == "cuda",
        "--engine": args.engine != "processes",
        "--processes": (args.processes or 1) != 1,
        "--precision": args.precision != "float32",
    }
    for option in (name for name, is_given in given.items() if is_given):
        raise ConfigError(
            f"{option}: is for --backend torch (a model for onnxruntime runs in one "
            "process on a CPU, in the precision it was exported with)"
        )


def add_subtitles(parser: argparse.ArgumentParser) -> None:
    """Add how long subtitles are."""
    parser.add_argument(
        "--subtitle-length", **number(None, "most characters a line (default: 42)")
    )
    parser.add_argument(
        "--subtitle-words", **number(None, "most words a subtitle (default: no limit)")
    )


def layout_of(args: argparse.Namespace, **given: Any) -> "SubtitleConfig":
    """Return the layout of subtitles.

    Raises:
        ConfigError: it is impossible.
    """
    from asr.output import SubtitleConfig

    return checked(
        SubtitleConfig,
        line_length=args.subtitle_length,
        words=args.subtitle_words,
        **given,
    )


def formats_of(asked: str, folder: Path | None) -> tuple[str, ...]:
    """Read a list of output formats.

    Args:
        asked: names with commas between, or all.
        folder: for files of them; None to print one.

    Raises:
        ConfigError: one is unknown, or there are several and no folder.
    """
    from asr.output import FORMATS

    names = [name.strip() for name in asked.split(",")]
    formats = tuple(FORMATS if "all" in names else dict.fromkeys(names))
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(
                f"output format {name}: is not known (use {', '.join(FORMATS)} or all)"
            )
    if folder is None and len(formats) > 1:
        raise ConfigError("several formats need a folder: give --output-dir")
    return formats


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options of models and of the search."""
    add_model(parser)
    parser.add_argument(
        "--language-model",
        type=Path,
        metavar="FOLDER",
        help="of a word n-gram, an LSTM beside it or not (default: the bundled one)",
    )
    search = parser.add_argument_group(
        "search",
        "The defaults are the model's own: see decoding.json in its folder. Any\n"
        "setting of the search can be given as decoding.key=value, too. The keys:\n"
        "attention_window, beam_size, coverage, ctc_weight, eos_threshold,\n"
        "hotword_weight, hotwords, ilm_weight, length_norm, lm_weight, word_bonus.",
    )
    search.add_argument("--beam-size", **number(None, "hypotheses followed"))
    for name, letter, about in (
        ("--ctc-weight", "W", "share of the CTC head in the score, 0 to 1"),
        ("--lm-weight", "W", "weight of the language model; 0 does without"),
        ("--word-bonus", "X", "added for each word, with a language model"),
        (
            *("--ilm-weight", "W"),
            "how much of the speller's own language model is taken off, with another",
        ),
        ("--hotword-weight", "W", "added for each letter of a hot word that is found"),
    ):
        search.add_argument(name, type=float, metavar=letter, help=about)
    search.add_argument(
        "--hotwords",
        metavar='FILE|"A,B"',
        help="names and terms to favour: a text file with one word or phrase a line, "
        "or phrases with commas between them",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add where the network runs."""
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or auto (default: cpu)"
    )


def add_machines(parser: argparse.ArgumentParser, of: str) -> None:
    """Add the options for work that several processes or machines share.

    Args:
        parser: of the command.
        of: what is divided into shards, for the help.
    """
    machines = parser.add_argument_group("several processes and machines")
    machines.add_argument(
        "--processes",
        **number(
            None,
            "worker processes, or actors of Ray (default: one a core; one for a GPU, "
            "which several share; with Ray one a GPU)",
        ),
    )
    machines.add_argument(
        "--shard",
        metavar="K/N",
        help=f"do one of N parts of the {of}, 0/N to N-1/N; in a SLURM array: "
        "--shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT",
    )
    machines.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="processes of this machine (default), or actors of Ray",
    )
    machines.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of a Ray cluster, or auto (default: $RAY_ADDRESS, or else this machine)",
    )


def cluster_of(args: argparse.Namespace) -> "Cluster | None":
    """Return the cluster that is to do the work, if one is.

    Raises:
        ConfigError: the options do not go together.
    """
    from asr.inference.cluster import Cluster

    if args.engine == "ray":
        if args.device == "auto":
            raise ConfigError(
                "device auto: the machines of a cluster may differ (use cpu or cuda)"
            )
        return Cluster(args.address)
    if args.address is not None:
        raise ConfigError("--address needs --engine ray")
    return None


def shard_of(args: argparse.Namespace) -> "Shard | None":
    """Return the part that is to be done, if it is not all.

    Raises:
        ConfigError: there is no such part.
    """
    if args.shard is None:
        return None
    from asr.inference.shards import Shard

    return Shard.parse(args.shard)


def number(default: int | None, about: str) -> dict[str, Any]:
    """Return the settings of an option that takes a whole number."""
    return {"type": int, "default": default, "metavar": "N", "help": about}


def own_process() -> None:
    """Set threads and memory of this process, which belongs to the command alone."""
    from asr.memory import keep_freed_memory
    from asr.runtime import use_one_thread

    use_one_thread()
    keep_freed_memory()


def load_recognizer(args: argparse.Namespace) -> "Recognizer":
    """Load what the options of the search name."""
    from asr.inference.recognizer import Recognizer

    own_process()
    return Recognizer.load(
        args.model,
        decoding=decoding_of(args),
        device=device_of(args.device),
        precision=args.precision,
        language_model=args.language_model,
    )


def decoding_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the search that were given; key=value wins over options.

    Raises:
        ConfigError: one of them is unknown or impossible.
    """
    from asr.decoding.config import DecodingConfig, replaced
    from asr.decoding.hotwords import read_hotwords

    options = (
        *("beam_size", "ctc_weight", "lm_weight", "word_bonus", "ilm_weight"),
        "hotword_weight",
    )
    given = {name: getattr(args, name) for name in options}
    given = {name: value for name, value in given.items() if value is not None}
    if args.hotwords is not None:
        given["hotwords"] = read_hotwords(args.hotwords)
    if args.settings:
        given |= _parsed(args.settings)
    replaced(DecodingConfig(), given)  # before a model is loaded
    return given


def _parsed(settings: Sequence[str]) -> dict[str, Any]:
    """Read decoding.key=value; where there is no torch, values as JSON has them."""
    if find_spec("torch") is not None:
        from asr.config import parse_settings

        return parse_settings("decoding", settings)
    found = dict[str, Any]()
    for setting in settings:
        name, _, value = setting.removeprefix(_SECTION).partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value.strip("[]")
    return found


def checked(kind: "Callable[..., Settings]", **given: Any) -> "Settings":
    """Make settings of those options that were given."""
    try:
        return kind(**{k: v for k, v in given.items() if v is not None})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def device_of(name: str) -> Any:
    """Turn the option into a torch.device."""
    from asr.runtime import pick_device

    return pick_device(name)


def channel_of(text: str, more: str = "") -> "Channel":
    """Read what --channel is given.

    Args:
        text: of the option.
        more: names that the command takes, too, for the message.

    Raises:
        ArgumentTypeError: it is no channel.
    """
    if text in ("mix", "left", "right"):
        return cast("Channel", text)
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"{text} is no channel (use mix, left, right, {more}or a number from 1 on)"
        )
    return number


def check_output(output: Path, *inputs: Path) -> None:
    """Refuse, before the work, a file that could not be written after it.

    Args:
        output: the file.
        inputs: what it is made of, which it must not replace.

    Raises:
        ConfigError: its folder is missing or cannot be written to, it is a folder
            itself, or one of the inputs.
    """
    folder = output.parent
    try:
        if output.is_dir():
            raise ConfigError(f"{output}: is a folder (name a file)")
        if not folder.is_dir():
            raise ConfigError(f"{output}: cannot be written ({folder} is no folder)")
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"{output}: cannot be written ({folder} is read-only)")
        for path in inputs:
            if output.exists() and path.exists() and output.samefile(path):
                raise ConfigError(f"{output}: would be overwritten (name another file)")
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror})") from error


def check_output_folder(folder: Path) -> None:
    """Refuse, before the work, a folder that could not be written to after it.

    Raises:
        ConfigError: it is a file, or it, or the folder to make it in, is read-only.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder (--output-dir names one)")
    if not _may_write(folder):
        raise ConfigError(f"{folder}: may not be written to (name another)")


def _may_write(folder: Path) -> bool:
    """Return whether this process may write to a folder, or make it."""
    places = (folder, *folder.absolute().parents)
    there = next(place for place in places if os.path.exists(place))
    effective = os.access in os.supports_effective_ids
    return os.access(there, os.W_OK | os.X_OK, effective_ids=effective)
