"""What tests of models share: a Hugging Face Hub of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_hub import Hub, forget, serve, use


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, with an empty cache and no token on our side."""
    with serve() as hub:
        use(hub, tmp_path, monkeypatch)
        forget()
        yield hub
