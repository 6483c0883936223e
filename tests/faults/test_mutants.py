"""No damaged recording is believed that is shorter, longer or shifted."""

import random
from pathlib import Path

import numpy as np
import pytest

from tests.faults.mutants import (
    KINDS,
    Verdict,
    is_shifted,
    judge_mutants,
    mutant,
    speech,
)
from tests.sounds import noise

WITHOUT_CHECKS = ("headerless mp3", "aac", "amr", "wma")
"""Formats of frames that nothing counts: where whole frames are missing, or what is
left of two fits together, nobody can see it."""


@pytest.mark.parametrize("number", [8, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITHOUT_CHECKS])
def test_no_damaged_recording_is_believed(
    tmp_path: Path, kind: str, number: int
) -> None:
    believed = list[str]()

    judge_mutants(kind, tmp_path, number, silent=lambda what, _: believed.append(what))

    assert believed == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITHOUT_CHECKS)
def test_few_damaged_recordings_without_checks_are_believed(
    tmp_path: Path, kind: str
) -> None:
    assert judge_mutants(kind, tmp_path, 100)[Verdict.SILENT] <= 10


# The harness itself


def test_what_has_moved_is_noticed() -> None:
    whole = noise(3)[:, 0]
    spoilt = whole.copy()
    spoilt[20_000:30_000] = 0
    assert not is_shifted(whole, whole)
    assert not is_shifted(spoilt, whole)
    assert is_shifted(np.concatenate([whole[:20_000], whole[20_500:]]), whole)
    assert is_shifted(np.concatenate([whole[:500], whole]), whole)


def test_mutants_are_those_of_their_seed() -> None:
    whole = speech("wav")
    one, same = (mutant(whole, random.Random(3)) for _ in range(2))
    assert one == same
    assert one != mutant(whole, random.Random(4))
