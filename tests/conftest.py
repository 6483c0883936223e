"""What tests share: one thread, a seed, a model; no GPU test without a GPU."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.model.storage import Model, save_model
from asr.text import CharTokenizer, Tokenizer
from asr.tokenizers import Subwords
from tests.fake_hub import Hub, forget, serve, use

torch.set_num_threads(1)
# Whoever runs the tests in the background, or by nohup, has them ignore signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if not torch.cuda.is_available():  # read when Triton is first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")
# On a busy machine any example may take long.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def model() -> Model:
    """A network that knows nothing, small enough to be asked at once."""
    return _model(CharTokenizer())


@pytest.fixture
def subword_model() -> Model:
    """Another that writes subwords."""
    texts = ["THE CAT SAT ON THE MAT", "A DOG SAT ON THE CAT", "A MAT IS NOT A HAT"]
    return _model(Subwords.make(texts, 20))


def _model(tokenizer: Tokenizer) -> Model:
    config = LASConfig(
        ListenerConfig(size=8, reductions=[2, 2], dropout=0.0),
        AttentionConfig(size=8),
        SpellerConfig(size=8, embedding_size=4, dropout=0.0),
    )
    return Model(LAS(config, tokenizer.size).eval(), tokenizer, {"step": 7})


@pytest.fixture
def model_folder(model: Model, tmp_path: Path) -> Path:
    """The same, on disk."""
    save_model(tmp_path / "model", model.las, model.tokenizer, model.metadata)
    return tmp_path / "model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hugging Face Hub, with an empty cache and no token on our side."""
    with serve() as hub:
        use(hub, tmp_path, monkeypatch)
        forget()
        yield hub


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
