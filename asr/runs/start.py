"""What a run begins with: its tokenizer, and the weights of a model before."""

from collections.abc import Collection
from pathlib import Path

from asr.config import Config
from asr.errors import ConfigError
from asr.model.attention import Attention
from asr.model.las import LAS
from asr.model.storage import Model, find_model, load_model, load_tokenizer
from asr.runs.material import chosen
from asr.text import Tokenizer
from asr.tokenizers import SUBWORDS, Subwords
from asr.training.checkpoint import CHECKPOINT
from asr.training.growth import grow
from asr.training.token_rows import TokenRows, match_tokens


def tokenizer_of(config: Config, folder: Path) -> Tokenizer:
    """Return the tokenizer of a run; a vocabulary is made as the run begins.

    A run goes on with the vocabulary in its folder, whatever became of the texts, and
    one that starts from another model takes that model's.
    """
    kept = folder / SUBWORDS
    if config.tokenizer.kind == "subwords":
        if kept.exists() and (folder / CHECKPOINT).exists():
            return Subwords.read(kept)
        if config.training.start:
            before = load_tokenizer(find_model(config.training.start))
            return tokenizer_after(config, before)
    return _new_tokenizer(config)


def tokenizer_after(config: Config, before: Tokenizer) -> Tokenizer:
    """Return the tokenizer of a run that starts from a model with another."""
    if isinstance(before, Subwords) and before.size == config.tokenizer.size:
        return before
    return _new_tokenizer(config)


def _new_tokenizer(config: Config) -> Tokenizer:
    settings = config.tokenizer
    if not settings.needs_texts:
        return settings.make(())
    return settings.make(utterance.text for utterance in chosen(config.data))


def start_from(
    folder: Path, las: LAS, tokenizer: Tokenizer, attention: type[Attention] | None
) -> tuple[Collection[str], TokenRows | None]:
    """Take over the weights of a model, and with them its statistics of features.

    Returns:
        Names of the weights that were taken over whole, and where the characters of
        another alphabet start.

    Raises:
        CheckpointError: it is damaged, or has another class of attention.
        ConfigError: it is another network, not one with a narrower listener, another
            attention or another alphabet, or writes other subwords.
    """
    return take_over(
        load_model(folder, attention), las, tokenizer, f"training.start: {folder}"
    )


def take_over(
    model: Model, las: LAS, tokenizer: Tokenizer, name: str
) -> tuple[Collection[str], TokenRows | None]:
    """Take over the weights of a model that messages call by a name; `start_from`.

    Raises:
        ConfigError: as there.
    """
    matched = None
    if model.tokenizer.to_dict() != tokenizer.to_dict():
        try:
            matched = match_tokens(model.tokenizer, tokenizer)
        except ValueError as error:
            raise ConfigError(
                f"{name} has another tokenizer than these settings "
                f"({model.tokenizer.size} tokens, {model.tokenizer.to_dict()['kind']}; "
                f"{error})"
            ) from error
    try:
        return grow(las, model.las, matched and matched.rows), matched
    except ValueError as error:
        raise ConfigError(
            f"{name} holds another network than these settings describe ({error})"
        ) from error
