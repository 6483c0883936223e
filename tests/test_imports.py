"""Imports whose objects the collector of garbage leaves alone."""

import gc
from collections.abc import Iterator

import pytest

from asr.imports import lasting


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_nothing_is_collected_meanwhile_nor_are_those_objects_looked_at_later() -> None:
    before = gc.get_freeze_count()
    with lasting():
        assert not gc.isenabled()
        kept = [[number] for number in range(1000)]

    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(kept)
    assert all(kept is not one for one in gc.get_objects())


def test_an_error_leaves_the_collector_as_it_was() -> None:
    with pytest.raises(ImportError, match="no_such_module"), lasting():
        raise ImportError("no_such_module")
    assert gc.isenabled()


def test_where_nothing_is_collected_that_stays_so() -> None:
    gc.disable()
    try:
        with lasting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
