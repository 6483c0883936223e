"""What several commands share: options, and what becomes of them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from asr.errors import ConfigError

if TYPE_CHECKING:
    from asr.decoding.config import DecodingConfig
    from asr.inference.recognizer import Recognizer

Settings = TypeVar("Settings")


def add_command(
    commands: Any, name: str, run: Callable[..., int | None], about: str, example: str
) -> argparse.ArgumentParser:
    """Add a command, which a function runs, with an example in its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options of models and of the search."""
    parser.add_argument(
        "--model", type=Path, help="a model's or a run's folder (default: the bundled)"
    )
    parser.add_argument("--beam", **number(None, "hypotheses followed (default: 64)"))
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
        help="of a word n-gram, an LSTM beside it or not (default: the bundled one)",
    )
    parser.add_argument(
        "--lm-weight",
        type=float,
        metavar="W",
        help="weight of the language model (default: 1.0; 0 does without)",
    )
    parser.add_argument(
        "--word-bonus",
        type=float,
        metavar="X",
        help="added for each word where there is a language model (default: -2)",
    )
    parser.add_argument(
        "--ilm-weight",
        type=float,
        metavar="W",
        help="how much of the speller's own language model is taken off where there is "
        "another (default: 0.4)",
    )


def number(default: int | None, about: str) -> dict[str, Any]:
    """Give the settings of an option that takes a whole number."""
    return {"type": int, "default": default, "metavar": "N", "help": about}


def own_process() -> None:
    """Set threads and memory of this process, which belongs to the command alone."""
    from asr.runtime import keep_freed_memory, use_one_thread

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


def decoding_of(args: argparse.Namespace) -> "DecodingConfig":
    """Turn the options of the search into its settings."""
    from asr.decoding.config import DecodingConfig

    given = {
        "beam_size": args.beam,
        "ctc_weight": args.ctc_weight,
        "lm_weight": args.lm_weight,
        "word_bonus": args.word_bonus,
        "ilm_weight": args.ilm_weight,
    }
    return checked(DecodingConfig, **given)


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


def refuse_overwriting(page: Path, *inputs: Path) -> None:
    """Refuse to write a page over what it is made of."""
    for path in inputs:
        if page.exists() and path.exists() and page.samefile(path):
            raise ConfigError(f"{page}: would be overwritten (give another --output)")


def one_line(text: str) -> str:
    """Show what cannot be printed in a line (a file's name may hold anything).

    >>> one_line("a\\nb.wav: is empty")
    'a\\\\nb.wav: is empty'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
