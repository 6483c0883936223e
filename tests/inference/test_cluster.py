"""Recognizers on a Ray cluster; a cluster of two nodes on this machine is slow."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from asr.cli import main
from asr.data.manifest import Utterance, write_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import AudioError, CheckpointError, ConfigError
from asr.inference.cluster import Cluster, in_order
from asr.inference.long_audio import Recording
from asr.inference.parallel import decode, transcribe_files
from asr.inference.recognizer import Recognizer
from asr.inference.shards import Shard, merge
from asr.transcript import Transcript

ROOT = Path(__file__).parents[2]
QUICK = DecodingConfig(beam_size=4, lm_weight=0.0)
BATCHES = 24

with_ray = pytest.mark.filterwarnings("ignore")  # Ray has warnings of its own


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    utterances = []
    for number in range(8 * BATCHES):
        path = tmp_path / f"{number}.wav"
        samples = 0.1 * torch.randn(24_000 + 10 * number)
        soundfile.write(path, samples.numpy(), 16_000)
        seconds = len(samples) / 16_000
        utterances.append(Utterance(f"u{number}", str(path), seconds, "GO", "s1"))
    write_manifest(tmp_path / "set.jsonl", utterances)
    (tmp_path / "5.wav").write_bytes(b"")
    return tmp_path / "set.jsonl"


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one core each; the second can be killed."""
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # its workers have the same code
    from ray.cluster_utils import Cluster as Nodes

    memory = {"object_store_memory": 80 * 2**20, "num_cpus": 1}
    head = {**memory, "include_dashboard": False}
    cluster = Nodes(initialize_head=True, head_node_args=head)
    cluster.add_node(**memory)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
@with_ray
def test_a_node_that_is_killed_costs_no_hypothesis(
    nodes: Any, model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    whole, spread, shard = tmp_path / "a" / "one", tmp_path / "a" / "ray", Shard(0, 1)
    decode(model_folder, manifest, whole, QUICK, processes=1)
    done_before = list[int]()

    def kill_one() -> None:
        while done_before != [-1]:
            path = shard.path(spread)
            lines = path.read_bytes().count(b"\n") if path.exists() else 0
            if lines > 3:
                done_before.append(lines - 1)
                nodes.remove_node(nodes.list_all_nodes()[1], allow_graceful=False)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        cluster = Cluster(nodes.address)
        decode(model_folder, manifest, spread, QUICK, shard=shard, cluster=cluster)
    finally:
        done_before = done_before or [-1]
        killer.join()
    merge(spread)

    assert 3 <= done_before[0] < BATCHES // 2
    assert len(nodes.list_all_nodes()) == 1
    for name in ("hypotheses.jsonl", "decode.json", "hyp.trn", "ref.trn"):
        assert (spread / name).read_bytes() == (whole / name).read_bytes(), name


def broken(recognizer: Recognizer, item: int) -> int:
    raise RuntimeError("three legs")


class Unreadable:
    """Cannot be unpickled, as what is not installed on the other machine."""

    def __call__(self) -> Recognizer:
        raise AssertionError

    def __reduce__(self) -> tuple[object, ...]:
        return unreadable, ()


def unreadable() -> None:
    raise ModuleNotFoundError("no such module there")


def counted(recognizer: Recognizer, item: int) -> int:
    return item * torch.get_num_threads()


@pytest.mark.slow
@with_ray
def test_the_commands_write_what_they_write_without_ray(
    nodes: Any,
    model_folder: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths mean the same to the workers
    (tmp_path / "few").mkdir()
    for number in range(3):
        (tmp_path / f"{number}.wav").rename(tmp_path / "few" / f"{number}.wav")
    write_manifest("few.jsonl", [Utterance("u1", "few/1.wav", 1.5, "")])
    options = ["--model", "model", "--beam-size", "2", "--lm-weight", "0"]
    with_ray = ["--engine", "ray", "--address", nodes.address, "--processes", "2"]

    for folder, engine in (("here", ["--processes", "1"]), ("there", with_ray)):
        decode = ["decode", "few.jsonl", f"{folder}/decoded", *options, *engine]
        transcribe = ["transcribe", "few", "-o", f"{folder}/texts", "-f", "json"]
        assert main(decode) == 0
        assert main([*transcribe, *options, *engine]) == 0

    for path in sorted(Path("here").rglob("*.*")):
        there = Path("there") / path.relative_to("here")
        assert there.read_bytes() == path.read_bytes(), path
    assert len(list(Path("there/texts").iterdir())) == 3


@pytest.mark.slow
@with_ray
def test_workers_do_what_a_process_does_and_errors_are_of_one_line(
    nodes: Any, model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    import ray

    load = partial(Recognizer.load, model_folder, decoding=QUICK)
    cluster = Cluster(nodes.address)
    paths = [tmp_path / name for name in ("4.wav", "gone.wav", "7.wav", "5.wav")]
    recordings = [Recording.of_file(path) for path in paths]
    here = list(transcribe_files(model_folder, recordings, QUICK, processes=1))

    ray.init(nodes.address, log_to_driver=False)  # it is used, and left alone
    found = list(cluster.recognize(load, counted, range(20), workers=2))
    seconds = list[float]()
    there = list(
        transcribe_files(
            *(model_folder, recordings, QUICK),
            cluster=cluster,
            progress=seconds.append,
        )
    )
    with pytest.raises(CheckpointError, match="none: holds no model"):
        list(
            cluster.recognize(
                partial(Recognizer.load, tmp_path / "none"), counted, [1], workers=2
            )
        )
    with pytest.raises(RuntimeError, match=r"^three legs$"):
        list(cluster.recognize(load, broken, [1], workers=2))
    with pytest.raises(ConfigError, match="device cuda: the Ray cluster has no GPU"):
        list(cluster.recognize(load, counted, [1], workers=2, gpu=True))
    assert list(cluster.recognize(load, counted, [], workers=2)) == []
    with pytest.raises(ConfigError, match=r"^ray: a worker failed \(.*no such mod"):
        list(cluster.recognize(Unreadable(), counted, [1], workers=2))
    was_left_alone = ray.is_initialized()
    ray.shutdown()

    assert was_left_alone
    assert sorted(found) == [(number, number) for number in range(20)]
    assert [type(one) for one in there] == [
        *(Transcript, AudioError, Transcript, AudioError)
    ]
    assert [str(one) for one in there] == [str(one) for one in here]
    assert len(seconds) == 2


def test_without_ray_the_error_names_the_extra(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(
        ConfigError,
        match=r"^ray: cannot be imported \(.*pip install 'listen-attend-spell\[ray\]'",
    ):
        list(Cluster().recognize(Recognizer.load, counted, [1], workers=1))


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
@with_ray
def test_a_cluster_that_is_not_there_is_an_error_of_one_line(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = form.format(f"127.0.0.1:{unused.getsockname()[1]}")

        with pytest.raises(ConfigError, match=f"^ray: no cluster at {address} "):
            list(Cluster(address).recognize(Recognizer.load, counted, [1], workers=1))
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=f"^ray: no cluster at {address} "):
            list(Cluster().recognize(Recognizer.load, counted, [1], workers=1))


@with_ray
def test_an_address_that_is_none_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    with pytest.raises(ConfigError, match=r"^ray: no cluster at nonsense \("):
        list(Cluster("nonsense").recognize(Recognizer.load, counted, [1], workers=1))


def test_results_come_in_their_order() -> None:
    given = iter([(2, "c"), (0, "a"), (1, "b"), (3, "d")])
    ordered = in_order(given)

    assert next(ordered) == "a"
    assert next(given) == (1, "b")  # no more was taken than was needed
