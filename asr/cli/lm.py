"""`asr lm`: language models of words, made from text."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.options import add_command, check_output, checked, number, one_line

if TYPE_CHECKING:
    from asr.lm.ngram import WordNGram

_TEXT = "one sentence a line; plain, .xz or .gz"


def add(commands: Any) -> None:
    """Add `asr lm build`, `train`, `convert` and `score`."""
    parser = commands.add_parser(
        "lm",
        help="make, convert and measure a language model: an n-gram, an LSTM beside it",
        description="Make, convert and measure language models of words, for "
        "--language-model.",
        epilog="`asr lm COMMAND --help` shows an example of each command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands)
    _add_train(commands)
    _add_convert(commands)
    _add_score(commands)


def _add_build(commands: Any) -> None:
    parser = add_command(
        *(commands, "build", _build),
        "estimate an n-gram from text (interpolated Kneser-Ney)",
        "asr lm build sentences.txt.xz exp/lm --dev data/dev-clean.jsonl\n"
        "  asr transcribe talk.wav --language-model exp/lm",
    )
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT", help=_TEXT)
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="for the model; made if missing"
    )
    parser.add_argument(
        "--order",
        type=int,
        default=3,
        metavar="N",
        help="words in the longest n-grams: 2 or 3 (default: 3)",
    )
    parser.add_argument(
        "--vocabulary-size",
        **number(60_000, "keep the N most frequent words (default: 60000)"),
    )
    parser.add_argument(
        "--min-counts",
        type=int,
        nargs="+",
        metavar="C",
        help="store a word pair that occurs C times or more, and, with a second C, a "
        "triple; smaller is more accurate and larger on disk (default: 2 3)",
    )
    _add_weights(parser, "count")
    _add_normalize(parser, "a line")
    parser.add_argument(
        "--dev",
        type=Path,
        metavar="MANIFEST",
        help="print the perplexity of the texts of a manifest",
    )


def _add_train(commands: Any) -> None:
    parser = add_command(
        *(commands, "train", _train),
        "train an LSTM that is mixed into an n-gram; a training that was stopped goes "
        "on where it was",
        "asr lm train sentences.txt.xz --language-model exp/lm "
        "--dev data/dev-clean.jsonl",
    )
    add = parser.add_argument
    add("texts", nargs="+", type=Path, metavar="TEXT", help=_TEXT)
    add(
        "--language-model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder that `asr lm build` wrote; the LSTM is written into it",
    )
    add(
        "--dev",
        type=Path,
        required=True,
        metavar="MANIFEST",
        help="its texts decide which weights are kept",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes", type=float, metavar="X", help="time to train (default: 40)"
    )
    length.add_argument(
        "--updates",
        **number(
            None,
            "updates to train, in place of --minutes: the result can be reproduced",
        ),
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--warm-start",
        action="store_true",
        help="begin with the weights of the LSTM that is in FOLDER; it is replaced "
        "when the new one is better on dev",
    )
    begin.add_argument(
        "--start",
        metavar="MODEL",
        help="begin with the weights of the LSTM of another folder, or of `words`, the "
        "bundled one, as far as they know the same words",
    )
    _add_weights(parser, "read")
    _add_normalize(parser, "a line")
    add("--hidden-size", **number(None, "units of the LSTM (default: 512)"))
    add("--embedding-size", **number(None, "dimensions of a word (default: 128)"))
    add("--batch-words", **number(None, "words in an update (default: 4000)"))
    add("--learning-rate", type=float, metavar="X", help="the highest (default: 0.003)")
    add(
        "--dropout",
        type=float,
        metavar="P",
        help="share of the LSTM's inputs and outputs that is left out in training, for "
        "a large one (default: 0)",
    )
    add(
        "--share",
        type=float,
        metavar="P",
        help="of the LSTM in the mixture with the n-gram (default: the one with the "
        "lowest perplexity on dev)",
    )
    add("--validations", **number(None, "how often to measure on dev (default: 8)"))
    add(
        "--checkpoint-minutes",
        type=float,
        metavar="X",
        help="time between checkpoints, which training goes on from after a stop "
        "(default: 5)",
    )
    add("--device", help="cpu, cuda or auto (default: cpu)")
    add("--threads", **number(None, "CPU threads (default: one for each core)"))


def _add_convert(commands: Any) -> None:
    parser = add_command(
        *(commands, "convert", _convert),
        "convert an n-gram from or to ARPA's text format, which KenLM and SRILM have",
        "asr lm convert 3-gram.arpa.gz exp/lm\n  asr lm convert exp/lm lm.arpa",
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="IN",
        help="a file in ARPA's format, plain, .gz or .xz; or a folder of asr lm build",
    )
    parser.add_argument(
        "target",
        type=Path,
        metavar="OUT",
        help="the other of the two: a file whose name ends in .arpa, .arpa.gz or "
        ".arpa.xz, or a folder",
    )
    _add_normalize(parser, "a word of a file")


def _add_score(commands: Any) -> None:
    parser = add_command(
        *(commands, "score", _score),
        "print the perplexity of texts",
        "asr lm score exp/lm sentences.txt data/dev-clean.jsonl",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a folder of asr lm build, with an LSTM or not; a file in ARPA's format; "
        "or `words`, the bundled one",
    )
    parser.add_argument(
        "texts",
        nargs="+",
        type=Path,
        metavar="TEXT",
        help=f"{_TEXT}; or a manifest (.jsonl)",
    )
    _add_normalize(parser, "a line of a text, or a word of an ARPA file,")


def _add_normalize(parser: argparse.ArgumentParser, what: str) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--normalize",
        choices=("english", "none", "lower", "upper", "plain"),
        default="english",
        help=f"how {what} is spelled (default: english, but what is in A-Z, "
        "apostrophe and space stays as it is; see asr prepare)",
    )
    group.add_argument(
        "--alphabet-of",
        metavar="MODEL",
        help="spell it in the alphabet of a model's or a run's folder",
    )


def _normalizer(args: argparse.Namespace) -> Callable[[str], str]:
    from asr.alphabet import fitted, normalizer
    from asr.lm.estimate import keep_english
    from asr.text import ALPHABET

    if args.alphabet_of is None:
        is_english = args.normalize == "english"
        return keep_english if is_english else normalizer(args.normalize)
    from functools import partial

    from asr.model.storage import find_model, load_tokenizer
    from asr.tokenizers import alphabet_written

    alphabet = alphabet_written(load_tokenizer(find_model(args.alphabet_of)))
    if set(alphabet) <= set(ALPHABET):
        return keep_english
    return partial(fitted, alphabet=alphabet)


def _add_weights(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument(
        "--weights",
        type=int,
        nargs="+",
        metavar="N",
        help=f"{verb} the first TEXT N times, and so on (default: each once)",
    )


def _build(args: argparse.Namespace) -> None:
    from asr.data.manifest import read_manifest
    from asr.lm.estimate import NGramConfig, build, measure
    from asr.lm.word_files import FILE
    from asr.text import ALPHABET

    config = checked(
        NGramConfig,
        order=args.order,
        vocabulary_size=args.vocabulary_size,
        min_counts=args.min_counts,
    )
    dev = read_manifest(args.dev) if args.dev else []
    model = build(args.texts, args.folder, config, args.weights, _normalizer(args))
    size = (args.folder / FILE).stat().st_size / 1e6
    print(f"{args.folder}: {size:.1f} MB, n-grams: {_sizes(model)}")
    if model.tokenizer.characters != ALPHABET:
        print(f"{args.folder}: letters: {model.tokenizer.characters[1:]}")
    if dev:
        perplexity, unknown = measure(model, [utterance.text for utterance in dev])
        print(
            f"{args.dev}: perplexity {perplexity:.1f}, "
            f"{100 * unknown:.2f} % of its words are not in the vocabulary"
        )


def _train(args: argparse.Namespace) -> None:
    import torch

    from asr.data.manifest import read_manifest
    from asr.errors import ConfigError
    from asr.lm.estimate import measure
    from asr.lm.ngram import WordNGram
    from asr.lm.train import train
    from asr.lm.trainer import CHECKPOINT, LSTMTrainingConfig
    from asr.lm.word_lstm import FILE

    names = (
        *("minutes", "updates", "hidden_size", "embedding_size", "batch_words"),
        *("learning_rate", "dropout", "validations", "checkpoint_minutes", "device"),
        "share",
    )
    given = {name: getattr(args, name) for name in names}
    begin = {"warm_start": args.warm_start, "start": args.start}
    config = checked(LSTMTrainingConfig, **begin, **given)
    if args.threads is not None:
        if args.threads < 1:
            raise ConfigError(f"threads must be at least 1, not {args.threads}")
        torch.set_num_threads(args.threads)
    try:
        train(
            *(args.texts, args.language_model, args.dev, config, args.weights),
            _normalizer(args),
        )
    except KeyboardInterrupt as stop:
        if str(stop):
            print(one_line(f"asr: {args.language_model}: {stop}"), file=sys.stderr)
        raise
    texts = [utterance.text for utterance in read_manifest(args.dev)]
    # As it is stored, in bytes, it is a little worse than it was in training.
    mixed, unknown = measure(WordNGram.load(args.language_model), texts)
    alone, _ = measure(WordNGram.load(args.language_model, alone=True), texts)
    size = (args.language_model / FILE).stat().st_size / 1e6
    print(f"{args.language_model}: LSTM of {size:.1f} MB")
    place = args.language_model / CHECKPOINT
    print(
        f"{place}: {place.stat().st_size / 1e6:.1f} MB, for training longer only (no "
        "part of the model; delete it before you hand the folder on)"
    )
    print(
        f"{args.dev}: perplexity {mixed:.1f} (n-gram alone: {alone:.1f}), "
        f"{100 * unknown:.2f} % of its words are not in the vocabulary"
    )


def _sizes(model: "WordNGram") -> str:
    return ", ".join(
        f"{len(level.keys)} of order {order}"
        for order, level in enumerate(model.levels, 1)
    )


def _load(path: Path, args: argparse.Namespace) -> "WordNGram":
    """Read an n-gram from a folder or a file in ARPA's format."""
    from asr.lm.arpa import is_arpa, read_arpa
    from asr.lm.ngram import WordNGram
    from asr.lm.word_files import find_language_model

    if is_arpa(path):
        arpa = read_arpa(path, _normalizer(args))
        for notice in arpa.notices():
            print(f"asr: {path}: {notice}", file=sys.stderr)
        return arpa.model
    return WordNGram.load(find_language_model(path))


def _convert(args: argparse.Namespace) -> None:
    from asr.errors import ConfigError
    from asr.lm.arpa import is_arpa, write_arpa
    from asr.lm.estimate import check_lstm
    from asr.lm.ngram import make_folder
    from asr.lm.word_files import FILE
    from asr.locks import locked

    if is_arpa(args.source) == is_arpa(args.target):
        kind = "files" if is_arpa(args.source) else "folders"
        raise ConfigError(
            f"{args.target}: both are {kind} (one of IN and OUT is a folder, the other "
            "a file whose name ends in .arpa, .arpa.gz or .arpa.xz)"
        )
    if is_arpa(args.target):
        check_output(args.target, args.source)
    model = _load(args.source, args)
    if is_arpa(args.target):
        if model.lstm:
            print(
                f"asr: {args.source}: its LSTM is left out, as ARPA's format has none",
                file=sys.stderr,
            )
        write_arpa(model, args.target)
        size = args.target.stat().st_size / 1e6
    else:
        make_folder(args.target)
        with locked(args.target, "asr lm convert"):
            check_lstm(args.target, model)
            model.save(args.target, {"arpa": args.source.name})
        size = (args.target / FILE).stat().st_size / 1e6
    print(f"{args.target}: {size:.1f} MB, n-grams: {_sizes(model)}")


def _score(args: argparse.Namespace) -> None:
    from asr.data.manifest import read_manifest
    from asr.lm.estimate import perplexity, read_text

    model, normalize = _load(args.model, args), _normalizer(args)
    for path in args.texts:
        if path.suffix == ".jsonl":
            sentences = [utterance.text for utterance in read_manifest(path)]
        else:
            sentences = read_text(path, normalize)
        found = perplexity(model, sentences, alone=True)
        share = found.num_unknown / max(found.num_words, 1)
        print(
            f"{path}: {found.num_sentences} sentences, {found.num_words} words, "
            f"{found.num_unknown} ({100 * share:.2f} %) of them not in the vocabulary"
        )
        print(f"  n-gram alone: {found}")
        if model.lstm:
            print(f"  with its LSTM: {perplexity(model, sentences)}")
