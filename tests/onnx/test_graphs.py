"""The graphs work out what the network does, of any length, batch and beam."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.features import NUM_MELS
from asr.model.attention import Attention, AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.onnx_graphs import listener_graph, step_graph
from asr.model.speller import SpellerConfig
from asr.model.speller_search import LASSteps
from asr.onnx.sessions import Session
from asr.onnx.speller import Memory, SpellerSteps, internal_lm

KINDS: dict[str, dict[str, Any]] = {
    "additive": {"kind": "additive"},
    "relu": {"kind": "additive", "activation": "relu"},
    "location": {"kind": "location", "reach": 3, "filters": 4},
    "dot": {"kind": "dot"},
    "heads": {"kind": "dot", "heads": 4},
    "hierarchical": {"kind": "additive", "block_size": 5},
    "hierarchical location": {"kind": "location", "block_size": 4, "reach": 2},
}
VOCABULARY = 31


def network(kind: str, layers: int = 1, conv_channels: int = 0) -> LAS:
    config = LASConfig(
        ListenerConfig(16, [2, 2, 1], conv_channels=conv_channels),
        AttentionConfig(size=8, **KINDS[kind]),
        SpellerConfig(size=12, layers=layers, embedding_size=6),
    )
    las = LAS(config, VOCABULARY).eval()
    las.norm.mean.normal_()
    las.norm.std.uniform_(0.5, 2.0)
    return las


def session(content: bytes, tmp_path: Path) -> Session:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
    path.write_bytes(content)
    return Session(path)


def batch(size: int, longest: int) -> tuple[Tensor, Tensor]:
    """Features of utterances that get shorter, with anything in the padding."""
    lengths = [max(1, longest - 5 * row) for row in range(size)]
    return torch.randn(size, longest, NUM_MELS), torch.tensor(lengths)


NAMES = ["h", "num_steps", "keys", "memory", "ctc_log_probs", "num_ctc_steps"]


def listened(
    graph: Session, features: Tensor, num_frames: Tensor
) -> dict[str, npt.NDArray[Any]]:
    given = {"features": features.numpy(), "num_frames": num_frames.numpy()}
    return dict(zip(NAMES, graph.run(NAMES, given), strict=True))


def memory_of(found: dict[str, npt.NDArray[Any]]) -> Memory:
    steps = found["keys"].shape[1]
    valid = np.arange(steps) < found["num_steps"][:, None]
    return Memory(found["memory"], found["keys"], valid)


def close(found: npt.NDArray[Any], expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("longest", [1, 50, 133])
@pytest.mark.parametrize("conv_channels", [0, 3])
def test_the_listener_reads_any_batch_of_any_length(
    size: int, longest: int, conv_channels: int, tmp_path: Path
) -> None:
    las = network("location", conv_channels=conv_channels)
    features, num_frames = batch(size, longest)
    with torch.no_grad():
        expected = las.listen(features, num_frames)
        log_probs = las.ctc_log_probs(expected)

    found = listened(session(listener_graph(las), tmp_path), features, num_frames)

    close(found["h"], expected.h)
    assert found["num_steps"].tolist() == expected.num_steps.tolist()
    assert found["num_ctc_steps"].tolist() == expected.num_ctc_steps.tolist()
    for row, steps in enumerate(expected.num_ctc_steps.tolist()):
        close(found["ctc_log_probs"][row, :steps], log_probs[row, :steps])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_the_speller_gives_the_same_scores(
    kind: str, layers: int, tmp_path: Path
) -> None:
    las = network(kind, layers)
    listener = session(listener_graph(las), tmp_path)
    graph = session(step_graph(las), tmp_path)
    for size, longest in ((1, 7), (8, 50), (3, 133)):
        features, num_frames = batch(size, longest)
        with torch.no_grad():
            expected = las.steps(las.listen(features, num_frames), coverage=0.1)
        memory = memory_of(listened(listener, features, num_frames))
        steps = SpellerSteps(graph, memory, coverage=0.1)

        compare(steps, expected, size)


def compare(steps: SpellerSteps, expected: Any, size: int) -> None:
    """Walk both along random hypotheses; one utterance leaves on the way."""
    state, other = steps.start(), expected.start()
    tokens = torch.ones(size, dtype=torch.int64)
    for step in range(6):
        scores, state = steps.step(tokens.numpy(), state)
        wanted, other = expected.step(tokens, other)
        close(scores, wanted)
        if isinstance(expected, LASSteps):  # it looks at speech
            close(state.weights, other.weights)
        kept = range(1, size) if step == 3 and size > 1 else range(size)
        size, width = len(kept), len(tokens) // size
        rows = torch.stack([torch.randint(width, (3,)) + k * width for k in kept])
        state = steps.select(state, rows.numpy())
        other = expected.select(other, rows)
        tokens = torch.randint(3, VOCABULARY, (rows.numel(),))


@pytest.mark.parametrize("at_once", [1, 1000, 2000])
def test_a_step_is_cut_into_runs_of_any_size(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.onnx.speller._AT_ONCE", at_once)

    test_step_by_step_the_speller_gives_the_same_scores("location", 1, tmp_path)


@pytest.mark.parametrize("kind", ["location", "heads"])
def test_the_internal_language_model_is_that_of_the_speller(
    kind: str, tmp_path: Path
) -> None:
    las = network(kind)
    graph = session(step_graph(las), tmp_path)

    own = internal_lm(graph, 3, las.speller.attention.heads)

    compare(own, las.internal_lm(3), 3)


def test_weights_as_bytes_are_smaller_and_about_the_same(tmp_path: Path) -> None:
    las = network("location")
    features, num_frames = batch(3, 50)
    whole, small = listener_graph(las), listener_graph(las, "int8")
    found, expected = (
        listened(session(graph, tmp_path), features, num_frames)["ctc_log_probs"]
        for graph in (whole, small)
    )
    steps = [len(step_graph(las, precision)) for precision in ("float32", "int8")]

    assert len(small) < 0.6 * len(whole)
    assert steps[1] != steps[0]
    assert 0 < np.abs(found - expected).max() < 0.2


def test_the_graphs_are_of_an_opset_that_old_runtimes_know() -> None:
    for content in (listener_graph(network("dot")), step_graph(network("dot"))):
        model = onnx.load_from_string(content)

        assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]


def test_an_attention_of_ones_own_has_no_graph() -> None:
    class Own(Attention):
        pass

    config = LASConfig(ListenerConfig(size=4, reductions=[2]))
    las = LAS(config, VOCABULARY, Own)

    with pytest.raises(CheckpointError, match="attention Own: has no ONNX graph"):
        step_graph(las)


def test_what_is_no_graph_cannot_be_run(tmp_path: Path) -> None:
    path = tmp_path / "listener.onnx"
    path.write_bytes(b"no graph")

    with pytest.raises(CheckpointError, match=r"listener.onnx: cannot be run by onnx"):
        Session(path)
