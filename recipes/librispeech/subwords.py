"""Train the same network to write subwords in place of characters, to compare them.

    python recipes/librispeech/subwords.py CONFIG.yaml FOLDER --size 300 [KEY=VALUE...]

makes a vocabulary of --size subwords of the training set's texts (needs `pip install
"listen-attend-spell[subwords]"`: sentencepiece), trains as `asr train` does, and leaves
the vocabulary in FOLDER/subwords.model. WER and CER on dev tell what another unit would
give; the model cannot be loaded again, since the search with its language model of
words, word times and confidence are made for characters.

Source: Kudo (2018), arXiv:1804.10959, the unigram model of subwords.
"""

import argparse
import hashlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.config import load_config
from asr.errors import AsrError, ConfigError
from asr.tensor_files import write_bytes
from asr.train import chosen, train
from asr.version import DISTRIBUTION

MODEL = "subwords.model"
LEAST = 4
"""Tokens that are none of a text: <pad>, <sos>, <eos>, <unk>."""


class Subwords:
    """A `Tokenizer` of subwords.

    Args:
        model: what `make` returned.
    """

    pad, sos, eos = 0, 1, 2

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = _sentencepiece().SentencePieceProcessor(model_proto=model)

    @classmethod
    def make(cls, texts: Sequence[str], size: int) -> "Subwords":
        """Make a vocabulary.

        Raises:
            ConfigError: the texts have not so many subwords, or have more characters.
        """
        if size <= LEAST:
            raise ConfigError(f"--size {size}: must be above {LEAST}")
        model = io.BytesIO()
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=size,
                character_coverage=1.0,
                pad_id=cls.pad,
                bos_id=cls.sos,
                eos_id=cls.eos,
                unk_id=3,
                minloglevel=2,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).rpartition("] ")[2]  # before it: where in its source
            raise ConfigError(f"--size {size}: {reason}") from error
        return cls(model.getvalue())

    @property
    def size(self) -> int:
        """V: how many tokens there are, special ones counted."""
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Number a text."""
        return [int(token) for token in self._processor.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Spell tokens out."""
        return str(self._processor.decode(list(tokens)))

    def to_dict(self) -> dict[str, Any]:
        """Tell what it is."""
        vocabulary = hashlib.sha256(self.model).hexdigest()
        return {"kind": "subwords", "size": self.size, "sha256": vocabulary}

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as bytes."""
        return Subwords, (self.model,)


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ConfigError(
            f'sentencepiece is not installed (pip install "{DISTRIBUTION}[subwords]")'
        ) from error
    return sentencepiece


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; tell a fault in one line."""
    parser = argparse.ArgumentParser(
        prog="subwords", description="Train a network that writes subwords."
    )
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG.yaml")
    add("folder", type=Path, metavar="FOLDER")
    add("settings", nargs="*", metavar="KEY=VALUE")
    add("--size", type=int, default=300, metavar="N", help="of the vocabulary")
    options = parser.parse_intermixed_args(arguments)
    try:
        config = load_config(options.config, options.settings)
        texts = [utterance.text for utterance in chosen(config.data)]
        tokenizer = Subwords.make(texts, options.size)
        train(config, options.folder, tokenizer)
        write_bytes(options.folder / MODEL, tokenizer.model)
    except AsrError as error:
        print(f"subwords: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("subwords: stopped (the same command goes on)", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
