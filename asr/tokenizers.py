"""Which units the network writes: characters, or subwords made from the texts.

Characters (`asr.text.CharTokenizer`) need nothing but their alphabet, English or that
of the training texts (`asr.alphabet`). Subwords are the
pieces of words that are worth a token of their own; which ones, is learned from texts
by sentencepiece, an optional extra: `pip install "listen-attend-spell[subwords]"`. A
vocabulary of subwords is a file of its own, beside model.json.

`read_tokenizer` is the one place that decides by kind.

Source: Kudo (2018), arXiv:1804.10959, the unigram model of subwords.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from asr.alphabet import alphabet_of, read_alphabet
from asr.errors import CheckpointError, ConfigError
from asr.foreign import check_name, read_file
from asr.text import CharTokenizer, Tokenizer

SUBWORDS: Final = "subwords.model"
"""The file of a vocabulary of subwords, as sentencepiece writes it."""
MOST_BYTES: Final = 16 * 2**20
"""Of such a file: a vocabulary of 250,000 subwords has a third of that."""
ENGLISH: Final = "english"
"""The alphabet of LibriSpeech."""
AUTO: Final = "auto"
"""The alphabet of the training texts."""
_SPACE = "\u2581"  # how sentencepiece writes the space that begins a word
_EXTRA = 'needs sentencepiece (pip install "listen-attend-spell[subwords]")'

Read = Callable[[str, int], bytes]
"""Returns the content of a file, by its name, that has at most so many bytes; raises
CheckpointError."""


@dataclass(frozen=True)
class TokenizerConfig:
    """Which units the network writes."""

    kind: str = "characters"
    """characters; or subwords, made from the training texts as the run begins."""
    size: int | None = None
    """V: how many subwords, special tokens counted. Characters have their number."""
    alphabet: str = ENGLISH
    """Of characters: english (A to Z, apostrophe, space), auto (what the training
    texts have), or the path of a file that holds them."""

    def __post_init__(self) -> None:
        """Refuse a kind that is not known, and a number that has no use."""
        if self.kind not in _READERS:
            raise ValueError(
                f"tokenizer.kind {self.kind}: is not known "
                f"(use {' or '.join(_READERS)})"
            )
        if self.kind == "characters" and self.size is not None:
            raise ValueError(
                "tokenizer.size: is for tokenizer.kind=subwords only (leave it out)"
            )
        if self.kind == "subwords" and self.size is None:
            raise ValueError(
                "tokenizer.size: tokenizer.kind=subwords needs it (300, say)"
            )
        if self.kind == "subwords" and self.alphabet != ENGLISH:
            raise ValueError(
                "tokenizer.alphabet: is for tokenizer.kind=characters only (subwords "
                "take their characters from the texts)"
            )

    def make(self, texts: Iterable[str]) -> Tokenizer:
        """Make a tokenizer from texts.

        Raises:
            ConfigError: the texts do not give so many subwords, or need more; or there
                is no such alphabet.
        """
        if self.size is not None:
            return Subwords.make(texts, self.size)
        if self.alphabet == ENGLISH:
            return CharTokenizer()
        if self.alphabet == AUTO:
            return CharTokenizer(alphabet_of(texts))
        return CharTokenizer(read_alphabet(Path(self.alphabet)))

    @property
    def needs_texts(self) -> bool:
        """Whether the tokenizer depends on the training texts."""
        return self.kind == "subwords" or self.alphabet == AUTO


@dataclass(frozen=True)
class Subwords:
    """Subwords as tokens: <pad>, <sos>, <eos> and <unk>, then one token per subword.

    It can be compared, and sent to another process.

    Raises:
        ValueError: the content is no vocabulary of sentencepiece, or one whose tokens
            cannot be assigned to words.
        ImportError: sentencepiece is not installed.
    """

    model: bytes = field(repr=False)
    """Content of the file that sentencepiece writes."""
    _processor: Any = field(init=False, repr=False, compare=False)
    _pieces: tuple[str, ...] = field(init=False, repr=False, compare=False)

    pad: ClassVar[int] = 0
    """Fills what is shorter; it is the blank of CTC too."""
    sos: ClassVar[int] = 1
    """Stands before the first subword."""
    eos: ClassVar[int] = 2
    """Stands behind the last subword."""
    unk: ClassVar[int] = 3
    """Stands for a character that no subword has; no text is numbered with it."""
    num_special: ClassVar[int] = 4
    """How many tokens are none of a subword: they come first."""

    def __post_init__(self) -> None:
        """Read the vocabulary, which executes nothing."""
        import sentencepiece

        if not self.model:  # of which the library only complains
            raise ValueError("is empty")
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        except RuntimeError as error:
            raise ValueError("is no vocabulary of sentencepiece") from error
        special = (
            *(processor.pad_id(), processor.bos_id()),
            *(processor.eos_id(), processor.unk_id()),
        )
        if special != (self.pad, self.sos, self.eos, self.unk):
            raise ValueError(f"has other special tokens, {special} (want 0, 1, 2, 3)")
        object.__setattr__(self, "_processor", processor)
        object.__setattr__(self, "_pieces", _spelled(processor, self.num_special))

    @classmethod
    def make(cls, texts: Iterable[str], size: int) -> "Subwords":
        """Make a vocabulary; the same texts give the same.

        Args:
            texts: what to learn from, in the alphabet that is to be written.
            size: V, special tokens counted.

        Raises:
            ConfigError: the texts do not give so many subwords, or need more; or
                sentencepiece is not installed.
        """
        if size <= cls.num_special:
            raise ConfigError(f"tokenizer.size: must be above {cls.num_special}")
        try:
            import sentencepiece
        except ImportError as error:
            raise ConfigError(f"tokenizer.kind=subwords: {_EXTRA}") from error
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=size,
                character_coverage=1.0,
                normalization_rule_name="identity",
                pad_id=cls.pad,
                bos_id=cls.sos,
                eos_id=cls.eos,
                unk_id=cls.unk,
                minloglevel=2,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise ConfigError(f"tokenizer.size: {_no_size(size, error)}") from error
        return cls(model.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Subwords":
        """Read the file of a vocabulary.

        Raises:
            CheckpointError: it cannot be read, or is none; or sentencepiece is not
                installed.
        """
        try:
            return cls(read_file(path, MOST_BYTES))
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error.strerror})"
            ) from error
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except ImportError as error:
            raise CheckpointError(f"{path}: {_EXTRA}") from error

    @property
    def size(self) -> int:
        """V: how many tokens there are, special ones counted."""
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """Number the subwords of a text, without <sos> and <eos>.

        Raises:
            ValueError: no subword has one of its characters.
        """
        tokens = [int(token) for token in self._processor.encode(text)]
        if self.unk in tokens:
            stranger = next(c for c in text if self.unk in self._processor.encode(c))
            raise ValueError(f"{stranger!r} is not among the subwords' characters")
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Spell tokens out; the special ones are skipped.

        Raises:
            ValueError: a token is none of the `size` tokens.
        """
        return "".join(self.pieces(tokens)).removeprefix(" ")

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return what each token writes: a subword, with a space where a word begins.

        Raises:
            ValueError: a token is none of the `size` tokens.
        """
        if strangers := [token for token in tokens if not 0 <= token < self.size]:
            raise ValueError(f"tokens are 0 to {self.size - 1}, got {strangers[0]}")
        return [self._pieces[token] for token in tokens]

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, ready for JSON; the vocabulary is a file."""
        checksum = hashlib.sha256(self.model).hexdigest()
        return {"kind": "subwords", "size": self.size, "sha256": checksum}

    def files(self) -> dict[str, bytes]:
        """Return the content of the file that goes with `to_dict`, by its name."""
        return {SUBWORDS: self.model}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any], read: Read) -> "Subwords":
        """Read what `to_dict` and `files` returned.

        Raises:
            CheckpointError: the file is missing, damaged or another one; or
                sentencepiece is not installed.
        """
        try:
            found = cls(read(SUBWORDS, MOST_BYTES))
        except ValueError as error:
            raise CheckpointError(
                f"{SUBWORDS}: {error} (copy the whole folder again)"
            ) from error
        except ImportError as error:
            raise CheckpointError(f"tokenizer: of subwords {_EXTRA}") from error
        if found.to_dict() != entries:
            raise CheckpointError(
                f"{SUBWORDS}: is not the vocabulary of this model (copy the whole "
                "folder again)"
            )
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as bytes."""
        return Subwords, (self.model,)


def _no_size(size: int, error: Exception) -> str:
    """Return why texts do not give so many subwords: the library has its own words."""
    known = re.search(r"value <= (\d+)|required_chars\. \d+ vs (\d+)", str(error))
    if known and known[1]:
        return f"{size} is too much for these texts (at most {known[1]})"
    if known:
        return (
            f"{size} is too little for these texts (at least {known[2]}: each "
            "character is a token)"
        )
    return f"{size} cannot be made of these texts (are they empty?)"


def alphabet_written(tokenizer: Tokenizer) -> str:
    """Return the alphabet that a tokenizer can write."""
    if isinstance(tokenizer, CharTokenizer):
        return tokenizer.characters
    return alphabet_of(tokenizer.pieces(range(tokenizer.eos + 1, tokenizer.size)))


def _spelled(processor: Any, num_special: int) -> tuple[str, ...]:
    """Return what each token of a vocabulary writes; nothing for the special ones.

    Raises:
        ValueError: there is a token that is no part of one word.
    """
    pieces = [str(processor.id_to_piece(i)) for i in range(processor.get_piece_size())]
    for token, piece in enumerate(pieces[num_special:], num_special):
        plain = not (processor.is_byte(token) or processor.is_control(token))
        if not plain or _SPACE in piece[1:] or any(c.isspace() for c in piece):
            raise ValueError(f"has a token that is no part of one word, {piece!r:.40}")
        check_name(piece, "a token")
    written = (piece.replace(_SPACE, " ") for piece in pieces[num_special:])
    return ("",) * num_special + tuple(written)


def _read_characters(entries: Mapping[str, Any], read: Read) -> CharTokenizer:
    del read  # its few characters stand in model.json
    return CharTokenizer.from_dict(entries)


_READERS: dict[str, Callable[[Mapping[str, Any], Read], Tokenizer]] = {
    "characters": _read_characters,
    "subwords": Subwords.from_dict,
}


def read_tokenizer(entries: Any, read: Read) -> Tokenizer:
    """Rebuild a tokenizer from what its `to_dict` and `files` returned.

    Args:
        entries: what `to_dict` returned, as it came out of JSON.
        read: returns the content of a file that `files` named, and refuses one that
            is too large.

    Raises:
        CheckpointError: it is of no known kind, or its vocabulary is missing, damaged
            or another one.
    """
    kind = entries.get("kind") if isinstance(entries, Mapping) else None
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise CheckpointError(
            f"tokenizer: is of no known kind (want {' or '.join(_READERS)})"
        )
    return reader(entries, read)
