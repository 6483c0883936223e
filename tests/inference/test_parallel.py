import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import AudioError, CheckpointError, ConfigError, ManifestError
from asr.inference.long_audio import Recording
from asr.inference.parallel import _read_ahead, decode, transcribe_files
from asr.lm.word_files import find_language_model
from asr.model.storage import Model, save_model
from asr.transcript import Transcript

ROOT = Path(__file__).parents[2]
QUICK = DecodingConfig(beam_size=2)
SAMPLE = ROOT / "asr" / "assets" / "sample.opus"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    utterances = []
    for number in range(11):
        path = tmp_path / f"{number}.wav"
        seconds = 0.2 + 0.03 * number
        samples = 0.1 * torch.randn(round(seconds * 16_000))
        soundfile.write(path, samples.numpy(), 16_000)
        utterances.append(Utterance(f"u{number}", str(path), seconds, "GO", "s1"))
    write_manifest(tmp_path / "set.jsonl", utterances)
    return tmp_path / "set.jsonl"


def test_hypotheses_come_in_the_order_of_the_manifest(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    decoded = decode(model_folder, manifest, tmp_path / "out", QUICK, processes=1)

    said, written = (
        read_manifest(manifest),
        read_manifest(tmp_path / "out/hypotheses.jsonl"),
    )
    assert [u.id for u in written] == [u.id for u in said]
    assert [u.audio for u in written] == [u.audio for u in said]
    assert [u.text for u in written] == [u.text for u in decoded.hypotheses]
    assert (tmp_path / "out/ref.trn").read_text().startswith("GO (s1-u0)\nGO (s1-u1)\n")
    assert len((tmp_path / "out/hyp.trn").read_text().split("\n")) == 12
    metadata = json.loads((tmp_path / "out/decode.json").read_text())
    assert metadata["decoding"]["beam_size"] == 2
    assert metadata["device"] == "cpu"
    assert decoded.seconds > 0.01
    assert str(decoded).startswith("11 utterances, 0.00 h of audio in 0.0 min: ")


@pytest.mark.slow
def test_what_became_of_the_language_model_is_printed_once_and_written_down(
    subword_model: Model, model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "subwords", *subword_model)
    arguments = [sys.executable, "-m", "asr", "decode", str(manifest)]
    arguments += ["--processes", "2", "--beam", "2"]

    printed = [
        subprocess.run(
            [*arguments, "--model", str(folder), str(tmp_path / folder.name)],
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            check=True,
        ).stderr
        for folder in (tmp_path / "subwords", model_folder)
    ]

    notice = "asr: the word language model is left out: it is for characters only"
    assert [text.count(notice) for text in printed] == [1, 0]
    used = [
        json.loads((tmp_path / name / "decode.json").read_text())["language_model"]
        for name in ("subwords", model_folder.name)
    ]
    assert used == [None, str(find_language_model(None))]
    assert len(read_manifest(tmp_path / "subwords" / "hypotheses.jsonl")) == 11


def test_a_language_model_that_does_not_fit_is_refused_before_any_work(
    subword_model: Model, manifest: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "subwords", *subword_model)

    with pytest.raises(CheckpointError, match="is for characters only"):
        decode(
            *(tmp_path / "subwords", manifest, tmp_path / "out", QUICK),
            language_model=find_language_model(None),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_find_what_one_finds(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    one = decode(model_folder, manifest, tmp_path / "one", QUICK, processes=1)
    two = decode(model_folder, manifest, tmp_path / "two", QUICK, processes=2)

    assert [u.text for u in two.hypotheses] == [u.text for u in one.hypotheses]


def test_a_recording_that_cannot_be_read_is_reported_and_the_rest_goes_on(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    (tmp_path / "3.wav").write_bytes(b"")

    decoded = decode(model_folder, manifest, tmp_path / "out", QUICK, processes=1)

    assert len(decoded.errors) == 1
    assert "3.wav" in decoded.errors[0]
    assert decoded.hypotheses[3].text == ""
    assert len(decoded.hypotheses) == 11


def test_errors_are_found_before_the_work_begins(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="holds no model"):
        decode(tmp_path / "none", manifest, tmp_path / "out", QUICK)
    with pytest.raises(ManifestError, match=r"none\.jsonl: cannot be read"):
        decode(model_folder, tmp_path / "none.jsonl", tmp_path / "out", QUICK)
    with pytest.raises(CheckpointError, match="holds no language model"):
        decode(model_folder, manifest, tmp_path / "out", language_model=tmp_path)
    with pytest.raises(ManifestError, match="cannot be made"):
        decode(model_folder, manifest, manifest / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_a_manifest_is_not_overwritten(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    manifest = manifest.rename(tmp_path / "hypotheses.jsonl")
    before = manifest.read_bytes()

    with pytest.raises(ManifestError, match="would be overwritten"):
        decode(model_folder, manifest, tmp_path, QUICK)

    assert manifest.read_bytes() == before


@pytest.mark.parametrize("processes", [0, -1])
def test_no_processes_are_refused(
    processes: int, model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"at least 1, not {processes}"):
        decode(model_folder, manifest, tmp_path / "out", QUICK, processes=processes)


def test_the_next_batch_is_read_while_one_is_worked_on() -> None:
    was_read, more = list[int](), threading.Event()

    def read() -> Iterator[int]:
        for number in range(3):
            was_read.append(number)
            if number == 1:
                more.set()
            yield number

    ahead = _read_ahead(read())

    assert next(ahead) == 0
    assert more.wait(10.0)  # nobody has asked for it
    assert list(ahead) == [1, 2]
    assert was_read == [0, 1, 2]


def test_what_reading_ahead_raises_is_raised_in_its_turn() -> None:
    def read() -> Iterator[int]:
        yield 0
        raise AudioError("a.wav: is empty")

    ahead = _read_ahead(read())

    assert next(ahead) == 0
    with pytest.raises(AudioError, match=r"a\.wav: is empty"):
        next(ahead)


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds(
    model_folder: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", False)

    here = decode(model_folder, manifest, tmp_path / "cpu", QUICK, processes=1)
    there = decode(model_folder, manifest, tmp_path / "cuda", QUICK, device="cuda")

    assert there.hypotheses == here.hypotheses


@pytest.mark.gpu
@pytest.mark.slow
def test_two_processes_share_a_gpu(tmp_path: Path) -> None:
    speech = [Utterance(f"u{n}", str(SAMPLE), 500.0, "") for n in range(3)]
    write_manifest(tmp_path / "speech.jsonl", speech)  # each a batch of its own

    here, there = (
        decode(
            *(None, tmp_path / "speech.jsonl", tmp_path / device),
            processes=2,
            device=device,
        )
        for device in ("cpu", "cuda")
    )

    assert there.hypotheses == here.hypotheses
    assert all(one.text for one in here.hypotheses)


@pytest.mark.gpu
def test_a_gpu_transcribes_what_the_cpu_does() -> None:
    recordings = [Recording.of_file(SAMPLE)]

    (here,) = transcribe_files(None, recordings, processes=1)
    (there,) = transcribe_files(None, recordings, device="cuda")

    assert isinstance(here, Transcript)
    assert isinstance(there, Transcript)
    assert there.text == here.text


def transcribed(
    model_folder: Path, paths: list[Path], processes: int
) -> list[str | None]:
    """The text of each file, None where it has an error."""
    recordings = [Recording.of_file(path) for path in paths]
    found = transcribe_files(
        model_folder, recordings, QUICK, processes=processes, seconds=60.0
    )
    return [one.text if isinstance(one, Transcript) else None for one in found]


def test_files_are_transcribed_in_their_order_and_an_error_keeps_its_place(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.wav" for number in (4, 2, 7)]
    alone = [transcribed(model_folder, [path], 1)[0] for path in paths]
    paths.insert(1, tmp_path / "gone.wav")

    assert transcribed(model_folder, paths, 1) == [alone[0], None, *alone[1:]]
    *_, error = transcribe_files(model_folder, [Recording.of_file(paths[1])])
    assert isinstance(error, AudioError)


@pytest.mark.slow
def test_two_processes_transcribe_what_one_does(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("4.wav", "gone.wav", "7.wav", "1.wav")]

    assert transcribed(model_folder, paths, 2) == transcribed(model_folder, paths, 1)


def test_more_processes_are_started_where_there_is_much_to_do(
    model_folder: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = list[int]()

    class Here:
        def __init__(self, begin: Callable[[], Any]) -> None:
            self.kept = begin()

        def in_order(
            self, work: Callable[[Any, Any], Any], items: Iterable[Any]
        ) -> Iterator[Any]:
            return (work(self.kept, item) for item in items)

    @contextmanager
    def pool(begin: Callable[[], Any], processes: int, shared: bool) -> Iterator[Here]:
        assert shared
        asked.append(processes)
        yield Here(begin)

    monkeypatch.setattr("asr.inference.processes.worker_pool", pool)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    recordings = [Recording.of_file(tmp_path / f"{i}.wav") for i in range(11)]

    few = list(transcribe_files(model_folder, recordings, QUICK, seconds=59.0))
    assert asked == []
    many = list(transcribe_files(model_folder, recordings, QUICK, seconds=61.0))
    assert asked == [4]
    assert [one.text for one in many if isinstance(one, Transcript)] == [
        one.text for one in few if isinstance(one, Transcript)
    ]


@pytest.mark.slow
def test_two_transcriptions_at_a_time_keep_their_own_models_and_the_callers_threads(
    model: Model, model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    save_model(other, model.las, model.tokenizer, {})
    recordings = [Recording.of_file(tmp_path / f"{number}.wav") for number in range(9)]
    torch.set_num_threads(2)

    one = transcribe_files(model_folder, recordings, QUICK, processes=1)
    two = transcribe_files(other, recordings, QUICK, processes=1)
    names = [(t.model, u.model) for t, u in zip(one, two, strict=True)]  # type: ignore[union-attr]
    threads = torch.get_num_threads()

    torch.set_num_threads(1)
    assert set(names) == {(str(model_folder), str(other))}
    assert threads == 2
