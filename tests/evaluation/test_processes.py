from functools import partial
from pathlib import Path

import pytest

from asr.data.manifest import Utterance
from asr.errors import ConfigError
from asr.evaluation.processes import (
    batches,
    number_of_processes,
    recognizer_map,
    spread,
)
from asr.inference.recognizer import Recognizer


def named(recognizer: Recognizer, number: int) -> str:
    return f"{Path(recognizer.name).name} {recognizer.decoding.beam_size} {number}"


@pytest.mark.parametrize(
    "processes", [1, pytest.param(2, marks=pytest.mark.slow)], ids=str
)
def test_a_function_runs_with_the_recognizer_of_its_process(
    processes: int, model_folder: Path
) -> None:
    load = partial(
        Recognizer.load, model_folder, decoding={"beam_size": 3, "lm_weight": 0}
    )

    with recognizer_map(load, processes) as run:
        first, second = list(run(named, [1, 2, 3])), list(run(named, [4]))

    assert first == ["model 3 1", "model 3 2", "model 3 3"]
    assert second == ["model 3 4"]


def test_the_longest_utterances_come_first() -> None:
    durations = [1.0, 3.0, 2.0] * 9
    utterances = [Utterance(str(i), "a", d, "") for i, d in enumerate(durations)]

    parts = batches(utterances)

    flat = [utterance.duration for part in parts for utterance in part]
    assert flat == sorted(durations, reverse=True)
    assert len(parts) > 1


@pytest.mark.parametrize(("number", "expected"), [(1, [0]), (4, [0, 2, 5, 7])])
def test_a_part_is_spread_evenly(number: int, expected: list[int]) -> None:
    assert spread(range(10), number) == expected


def test_more_than_there_are_is_all_of_them() -> None:
    assert spread(range(3), 130) == [0, 1, 2]


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="utterances must be at least 1, not 0"):
        spread(range(3), 0)
    with pytest.raises(ConfigError, match="processes must be at least 1, not 0"):
        number_of_processes(0)
    assert number_of_processes(3) == 3
    assert number_of_processes(None) >= 1
