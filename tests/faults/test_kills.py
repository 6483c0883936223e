"""Whatever ends a command, at whatever moment: no process is left, and no work lost."""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile
import torch

from asr.cli import main
from asr.data.manifest import Utterance, write_manifest
from asr.inference import parallel
from asr.inference.hypotheses import DecodedBatch
from asr.model.storage import Model, save_model
from tests.faults.kills import ROOT, is_alive, started, wait_until

pytestmark = pytest.mark.slow
KILLS = 20
SIGNALS = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
"""What ends a process, and the status that it ends with."""
KINDS = ("txt", "json", "srt")
SEARCH = ["--beam-size", "2", "--lm-weight", "0"]


class Place(NamedTuple):
    """A model, a corpus, and a folder for what comes of them."""

    model: Path
    manifest: Path
    out: Path

    def decode(self, out: Path, processes: int = 2) -> list[str]:
        """Return the arguments that decode the corpus."""
        model = ["--model", str(self.model), "--processes", str(processes)]
        return ["decode", str(self.manifest), str(out), *model, *SEARCH]

    def transcribe(self, out: Path, processes: int = 2) -> list[str]:
        """Return the arguments that transcribe its recordings."""
        model = ["--model", str(self.model), "--processes", str(processes)]
        audio = str(self.manifest.parent / "audio")
        return ["transcribe", audio, "-o", str(out), *model, *SEARCH]


@pytest.fixture
def place(model: Model, tmp_path: Path) -> Place:
    """Forty batches of a second or two of audio each."""
    save_model(tmp_path / "model", *model)
    (tmp_path / "audio").mkdir()
    utterances = []
    for number in range(320):
        path = tmp_path / "audio" / f"{number:03}.wav"
        seconds = 0.15 + 0.0003 * number
        samples = 0.1 * torch.randn(round(seconds * 16_000))
        soundfile.write(path, samples.numpy(), 16_000)
        utterances.append(Utterance(f"u{number}", str(path), seconds, "GO NOW", "s1"))
    write_manifest(tmp_path / "set.jsonl", utterances)
    return Place(tmp_path / "model", tmp_path / "set.jsonl", tmp_path / "out")


def contents(folder: Path) -> dict[str, bytes]:
    """All files in a folder and below."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# No process is left


def tune(place: Place) -> list[str]:
    """Try many settings."""
    plan = ["decoding.beam_size=2,3,4,5,6,7,8", "decoding.lm_weight=0"]
    plan += ["--utterances", "320"]
    model = [str(place.manifest), str(place.model), "--processes", "2"]
    return ["-m", "asr", "tune", *model, *plan]


def calibrate(place: Place) -> list[str]:
    model = [str(place.manifest), str(place.model), "--processes", "2"]
    return ["-m", "asr", "calibrate", *model]


def prepare(place: Place) -> list[str]:
    """Prepare a corpus of many chapters."""
    corpus = place.manifest.parent / "LibriSpeech"
    sound = (place.manifest.parent / "audio" / "000.wav").read_bytes()
    for number in range(300):
        chapter = corpus / "dev-clean" / "1" / str(number)
        chapter.mkdir(parents=True)
        ids = [f"1-{number}-{k:04}" for k in range(20)]
        for id in ids:
            (chapter / f"{id}.wav").write_bytes(sound)
        lines = "".join(f"{id} GO NOW\n" for id in ids)
        (chapter / f"1-{number}.trans.txt").write_text(lines)
    script = str(ROOT / "recipes" / "librispeech" / "prepare.py")
    return [script, str(corpus), str(place.out), "--processes", "2"]


COMMANDS: dict[str, Callable[[Place], list[str]]] = {
    "decode": lambda place: ["-m", "asr", *place.decode(place.out)],
    "decode --shard": lambda place: [
        *("-m", "asr", *place.decode(place.out), "--shard", "0/1")
    ],
    "transcribe": lambda place: ["-m", "asr", *place.transcribe(place.out)],
    "tune": tune,
    "calibrate": calibrate,
    "prepare": prepare,
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_signal_leaves_a_process(
    command: str, number: signal.Signals, place: Place
) -> None:
    with started(COMMANDS[command](place)) as running:
        wait_until(
            lambda: len(running.workers()) == 2 or running.process.poll() is not None,
            "there are two workers",
        )
        assert running.process.poll() is None

        status, printed = running.end(number)
        running.wait_for_nobody()

    assert status == SIGNALS[number]
    if number != signal.SIGKILL:  # a worker that just starts has a word to that
        assert "Traceback" not in printed
        assert printed.endswith(": stopped\n")
    assert not list(place.out.rglob(".*.partial"))


# A worker that the system kills


def test_a_worker_that_is_killed_costs_nothing(place: Place, tmp_path: Path) -> None:
    assert main(place.decode(tmp_path / "whole", 1)) == 0
    lines = tmp_path / "out" / "shards" / "0-of-1.jsonl"

    with started(["-m", "asr", *place.decode(place.out)]) as running:
        wait_until(lambda: lines.exists() and lines.read_bytes().count(b"\n") > 3)
        os.kill(running.workers()[0], signal.SIGKILL)
        printed = running.process.communicate(timeout=120)[0]

    assert running.process.returncode == 0
    first, second, *_ = printed.splitlines()
    assert first == "asr: a worker was killed (memory?): its work is tried once more"
    assert second.startswith("320 utterances")
    assert contents(place.out) == contents(tmp_path / "whole")


# No work is lost


def forked(work: Callable[[], object]) -> int:
    """Have a process of its own do some work."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        work()
    finally:
        os._exit(0)


def killed_after(seconds: float, pid: int) -> bool:
    """Kill a process after some time; return whether it had not ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and is_alive(pid):
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def started_batches(log: Path) -> list[str]:
    """Return the first id of each batch that was begun, in their order."""
    return log.read_text().split()


def test_decoding_that_is_killed_at_any_moment_loses_at_most_the_batch_in_hand(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(place.decode(tmp_path / "whole", 1)) == 0
    log, lines = tmp_path / "log", place.out / "shards" / "0-of-1.jsonl"
    log.touch()
    decode_batch = parallel._decode_waveforms

    def noted(recognizer: object, read: parallel._Read) -> DecodedBatch:
        with log.open("a") as file:
            file.write(f"{next(iter(read.waveforms))}\n")
        time.sleep(0.3)  # so that a kill meets one, and all are not done too soon
        return decode_batch(recognizer, read)  # type: ignore[arg-type]

    monkeypatch.setattr(parallel, "_decode_waveforms", noted)
    rng, kills, lost = random.Random(15), 0, 0
    while kills < KILLS:
        pid = forked(lambda: main(place.decode(place.out, 1)))
        if not killed_after(rng.uniform(0.0, 0.6), pid):
            break
        kills += 1
        done = _done(lines)
        lost_now = len(started_batches(log)) - len(done) - lost
        assert lost_now in (0, 1), f"kill {kills} cost {lost_now} batches"
        lost += lost_now

    assert kills == KILLS
    assert main(place.decode(place.out, 1)) == 0
    assert contents(place.out) == contents(tmp_path / "whole")
    assert len(started_batches(log)) == 40 + lost
    print(f"{kills} kills cost {lost} batches of 40")


def _done(lines: Path) -> list[str]:
    """Return the first id of each batch that is written."""
    if not lines.exists():
        return []
    whole = lines.read_bytes().split(b"\n")[1:-1]
    return [json.loads(line)["ids"][0] for line in whole]


def test_transcribing_that_is_killed_at_any_moment_leaves_whole_files(
    place: Place,
) -> None:
    command = [*place.transcribe(place.out, 1), "-f", "txt,json", "--skip-existing"]
    rng, kills = random.Random(15), 0
    while kills < KILLS:
        pid = forked(lambda: main(command))
        if not killed_after(rng.uniform(0.0, 1.0), pid):  # all was done before
            shutil.rmtree(place.out)
            continue
        kills += 1
        found = contents(place.out) if place.out.exists() else {}
        for name, content in found.items():
            if name.endswith(".json"):
                assert json.loads(content)["audio"]
            elif name.endswith(".txt"):
                assert content.endswith(b"\n")
        assert sum(name.endswith(".partial") for name in found) <= 1

    assert main([*command, "-f", "srt"]) == 0  # writes, and so tidies up
    assert main(command) == 0
    names = {f"{number:03}.{kind}" for number in range(320) for kind in KINDS}
    assert contents(place.out).keys() == names


def test_two_commands_may_write_to_one_folder(place: Place) -> None:
    for path in sorted((place.manifest.parent / "audio").iterdir())[40:]:
        path.unlink()
    command = ["-m", "asr", *place.transcribe(place.out, 1), "-f", "all"]
    with started(command) as one, started(command) as other:
        printed = [
            running.process.communicate(timeout=240)[0] for running in (one, other)
        ]

    assert [one.process.returncode, other.process.returncode] == [0, 0]
    assert all("cannot" not in text for text in printed)
    assert len(contents(place.out)) == 40 * 8


# Standard input


@pytest.mark.parametrize("number", SIGNALS)
def test_the_copy_of_standard_input_is_gone_whatever_ends_the_command(
    number: signal.Signals, tmp_path: Path
) -> None:
    (spool := tmp_path / "spool").mkdir()

    with started(["-m", "asr", "transcribe", "-"], TMPDIR=str(spool)) as running:
        assert running.process.stdin
        running.process.stdin.write("RIFF" * 2**20)
        running.process.stdin.flush()
        wait_until(lambda: _has_open(running.process.pid, spool), "it copies")
        status, _ = running.end(number)

    assert status == SIGNALS[number]
    assert not list(spool.iterdir())


def _has_open(pid: int, folder: Path) -> bool:
    try:
        files = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(file.startswith(str(folder)) for file in files)
