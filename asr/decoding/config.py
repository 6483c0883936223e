"""Settings of a search, and of the models that it asks together.

Shapes: B utterances.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from math import inf
from typing import TYPE_CHECKING, Any

from asr.decoding.hypothesis import SearchConfig
from asr.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

MOST_CHARACTERS = 25
"""A second: more than anybody says. The search stops there."""

LARGEST = 1e4
"""Of weights and bonuses: what is larger leaves no other part of a score a say."""
_WEIGHTS = ("coverage", "lm_weight", "word_bonus", "ilm_weight")


@dataclass(frozen=True)
class DecodingConfig(SearchConfig):
    """Settings of the search, and of what it asks."""

    beam_size: int = 64
    """K: how many hypotheses are followed. With a language model a narrow beam loses
    what a word's end would have proven right."""
    eos_threshold: float | None = 1.5
    ctc_weight: float = 0.3
    """Share of the CTC head's prefix scores in the score; the rest is the speller's."""
    coverage: float = 0.0
    """Bonus for each listener step that a hypothesis has looked at."""
    attention_window: float | None = None
    """Seconds to each side of where a hypothesis looked for the character before, in
    which it may look for the next; None for the whole piece. In one long piece the time
    for a character then no longer grows with its length."""
    lm_weight: float = 1.0
    """Weight of the language model, where there is one, beside the rest."""
    word_bonus: float = -2.0
    """Added for each finished word, where there is a language model."""
    ilm_weight: float = 0.4
    """Weight with which the language model inside the speller is taken off, where there
    is a better one."""
    hotwords: tuple[str, ...] = ()
    """Words and phrases that are favoured where they can be; see `hotwords`."""
    hotword_weight: float = 1.0
    """Added for each letter of a whole hot word or phrase."""

    def __post_init__(self) -> None:
        """Refuse a search that could find nothing."""
        super().__post_init__()
        for name in ("length_norm", "eos_threshold", *_WEIGHTS):
            value = getattr(self, name)
            if value is not None and LARGEST < abs(value) < inf:
                raise ValueError(
                    f"decoding.{name} must be at most {LARGEST:g}, not {value:g}"
                )
        if isinstance(self.hotwords, str) or not all(
            isinstance(phrase, str) for phrase in self.hotwords
        ):
            raise ValueError(
                f"decoding.hotwords are texts in a list, not {self.hotwords!r:.40}"
            )
        object.__setattr__(self, "hotwords", tuple(self.hotwords))  # given as a list
        if not 0 <= self.hotword_weight < inf:
            raise ValueError(
                f"decoding.hotword_weight must be zero or more, "
                f"not {self.hotword_weight}"
            )
        if not 0 <= self.ctc_weight <= 1:
            raise ValueError(
                f"decoding.ctc_weight is a share from 0 to 1, not {self.ctc_weight}"
            )
        if not 0 <= self.coverage < inf:
            raise ValueError(
                f"decoding.coverage must be at least 0, not {self.coverage}"
            )
        window = self.attention_window
        if window is not None and not 0 < window < inf:
            raise ValueError(f"decoding.attention_window must be above 0, not {window}")
        if not 0 <= self.lm_weight < inf:
            raise ValueError(
                f"decoding.lm_weight must be zero or more, not {self.lm_weight}"
            )
        if not 0 <= self.ilm_weight < inf:
            raise ValueError(
                f"decoding.ilm_weight must be zero or more, not {self.ilm_weight}"
            )
        if not -inf < self.word_bonus < inf:
            raise ValueError(
                f"decoding.word_bonus must be a number, not {self.word_bonus}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all settings by name, as JSON reads them back."""
        return {**asdict(self), "hotwords": list(self.hotwords)}


def replaced(decoding: DecodingConfig, given: Mapping[str, Any]) -> DecodingConfig:
    """Replace some settings by others, whose names and types are checked.

    Args:
        decoding: stays as it is.
        given: settings by name; null and whole numbers as JSON and YAML have them.

    Raises:
        ConfigError: a name is unknown, or a value is of the wrong type or impossible.

    >>> replaced(DecodingConfig(), {"beam_size": 4, "length_norm": 1}).beam_size
    4
    """
    try:
        checked = {name: _converted(name, value) for name, value in given.items()}
        return replace(decoding, **checked)
    except (ValueError, OverflowError) as error:
        raise ConfigError(str(error)) from error


def _converted(name: str, value: Any) -> Any:
    """Return a value as the type of its setting: a whole number may stand for 1.0."""
    types = {field.name: field.type for field in fields(DecodingConfig)}
    if name not in types:
        near = get_close_matches(str(name), types, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(types)}"
        raise ConfigError(f"decoding.{name}: is not a setting ({hint})")
    kind: Any = types[name]
    if value is None and kind == float | None:
        return None
    if kind == tuple[str, ...]:
        given = value.split(",") if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            raise ConfigError(f"decoding.{name} must be texts, not {value!r:.40}")
        return tuple(given)
    wanted, is_number = "a number", isinstance(value, int | float)
    if kind is int:
        wanted, is_number = "a whole number", isinstance(value, int)
    if isinstance(value, bool) or not is_number:
        raise ConfigError(f"decoding.{name} must be {wanted}, not {value!r:.40}")
    return value if kind is int else float(value)


def length_limits(seconds: "Tensor") -> "Tensor":
    """(B,) seconds of speech -> (B,) the most tokens that a search may write.

    >>> import torch
    >>> length_limits(torch.tensor([0.1, 2.0])).tolist()
    [7, 55]
    """
    return (seconds * MOST_CHARACTERS).long() + 5
