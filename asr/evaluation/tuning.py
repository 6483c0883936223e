"""Find settings of the search for a model: try combinations, count the wrong words.

Each combination decodes the same utterances, spread evenly over a manifest. Which part
of the model's decoding.json the best one belongs in depends on the language model: see
`asr.inference.search_settings`. The manifest must be neither one that the model learned
from nor a test set: its result would look better than it is.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from asr.data.manifest import Utterance, read_references, spread
from asr.data.recordings import read_utterance
from asr.decoding.config import DecodingConfig, replaced
from asr.errors import ConfigError
from asr.inference.processes import (
    batches,
    number_of_processes,
    recognizer_map,
)
from asr.inference.recognizer import Recognizer
from asr.inference.situations import Situation
from asr.model.attention import Attention
from asr.model.storage import find_model
from asr.scoring import ErrorRate, word_error_rate

Choices = Mapping[str, Sequence[Any]]
"""Values to try, by the name of the setting."""

WITH: Choices = {"lm_weight": [0.0, 0.8, 1.0], "word_bonus": [-2.0, -1.0]}
"""What is tried with a language model where nothing else is asked for."""
WITHOUT: Choices = {"ctc_weight": [0.2, 0.3, 0.4]}
"""What is tried without one."""


@dataclass(frozen=True)
class Plan:
    """What is to be tried."""

    folder: Path
    """Of the model."""
    language_model: str | Path | None
    situation: Situation
    """What the settings are for."""
    names: list[str]
    """The settings that differ."""
    combinations: list[DecodingConfig]
    utterances: list[Utterance]
    attention: type[Attention] | None = None
    """The class that the model was trained with, if it is not built in."""


class Trial(NamedTuple):
    """What came of a combination."""

    decoding: DecodingConfig
    errors: ErrorRate
    seconds: float
    """That the searches took, of all processes together."""

    def to_dict(self) -> dict[str, Any]:
        """Return settings and results, ready for JSON."""
        return {
            **self.decoding.to_dict(),
            "wer": self.errors.rate,
            "errors": str(self.errors),
            "seconds": round(self.seconds, 1),
        }


def plan_trials(
    manifest: Path,
    model: str | Path,
    choices: Choices,
    *,
    language_model: str | Path | None = None,
    num_utterances: int = 130,
    attention: type[Attention] | None = None,
) -> Plan:
    """Work out what to try.

    Args:
        manifest: what to try it on.
        model: a model's or a run's folder, or the name of a bundled model.
        choices: all combinations of these are tried; what is not named is the model's
            own. Nothing for `WITH` or `WITHOUT`.
        language_model: folder of a word n-gram; None for the bundled one. A `lm_weight`
            of 0 alone does without.
        num_utterances: of the manifest.
        attention: the class that the model was trained with, if it is not built in.

    Raises:
        AsrError: manifest or a model cannot be read, or a setting is unknown or
            impossible.
    """
    utterances = spread(read_references(manifest), num_utterances)
    given = dict(choices)
    if hot := next((name for name in given if name.startswith("hotword")), None):
        raise ConfigError(
            f"decoding.{hot}: cannot be tuned (hot words are a recording's, what is "
            "tuned is a model's)"
        )
    for combination in _product(given):
        replaced(DecodingConfig(), combination)  # before a model is loaded
    weights = given.get("lm_weight", [])
    first = {"lm_weight": max(weights)} if weights else None
    recognizer = Recognizer.load(
        model, decoding=first, language_model=language_model, attention=attention
    )
    is_there = recognizer.language_model is not None
    given = given or dict(WITH if is_there else WITHOUT)
    own = recognizer.decoding
    combinations = [
        _plain(replaced(own, one), own, is_there) for one in _product(given)
    ]
    return Plan(
        folder=find_model(model),
        language_model=language_model,
        situation=Situation.of(language_model, is_there),
        names=list(given),
        combinations=list(dict.fromkeys(combinations)),
        utterances=utterances,
        attention=attention,
    )


def _product(choices: Choices) -> Iterator[dict[str, Any]]:
    """Combine values: those of the last setting change first.

    >>> list(_product({"a": [1, 2], "b": [3]}))
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    for values in product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def _plain(
    decoding: DecodingConfig, own: DecodingConfig, with_language_model: bool
) -> DecodingConfig:
    """Set to the model's own what means nothing where no language model is used."""
    if with_language_model and decoding.lm_weight:
        return decoding
    return replace(
        decoding, lm_weight=0.0, word_bonus=own.word_bonus, ilm_weight=own.ilm_weight
    )


def trials(plan: Plan, processes: int | None = None) -> Iterator[Trial]:
    """Try the combinations of a plan, one after the other.

    Args:
        plan: what to try.
        processes: one thread each; None for one a core.

    Raises:
        AsrError: a recording cannot be read.
    """
    load = partial(
        Recognizer.load,
        plan.folder,
        decoding=max(plan.combinations, key=lambda one: one.lm_weight),
        language_model=plan.language_model,
        attention=plan.attention,
    )
    parts = batches(plan.utterances)
    said = [utterance.text for part in parts for utterance in part]
    with recognizer_map(load, number_of_processes(processes)) as run:
        for decoding in plan.combinations:
            found = list(run(_recognize, [(decoding, part) for part in parts]))
            texts = [text for part, _ in found for text in part]
            seconds = sum(seconds for _, seconds in found)
            yield Trial(decoding, word_error_rate(said, texts), seconds)


def _recognize(
    recognizer: Recognizer, work: tuple[DecodingConfig, Sequence[Utterance]]
) -> tuple[list[str], float]:
    """Recognise utterances: their texts, and the seconds that it took."""
    recognizer.decoding, utterances = work
    waveforms = [read_utterance(utterance) for utterance in utterances]
    started = time.perf_counter()
    texts = [segment.text for segment in recognizer.recognize(waveforms)]
    return texts, time.perf_counter() - started


def best(tried: Sequence[Trial]) -> Trial:
    """Return the trial with the fewest errors; of several the first."""
    return min(tried, key=lambda trial: trial.errors.errors)
