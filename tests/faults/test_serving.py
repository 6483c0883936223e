"""A server under attack, under load, and with its processes killed."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.faults.mutants import mutant, speech
from tests.server.conftest import ROOT, Server, children_of, start
from tests.sounds import encoded

pytestmark = pytest.mark.slow

SAMPLE = Path(str(files("asr") / "assets" / "sample.opus")).read_bytes()
_PATIENCE = 300.0


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server for one test, with two workers."""
    server = start(tmp_path, "--processes=2", "--max-upload=8")
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def post(server: Server, contents: bytes = SAMPLE, **fields: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": ("talk", contents)},
        data=fields,
        timeout=_PATIENCE,
    )


def wait_until(state: Callable[[], object]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not state():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def long_recording(seconds: int) -> bytes:
    noise = np.random.default_rng(0).normal(0, 0.1, (seconds * 16_000, 1))
    coarse = np.round(noise * 32) / 32  # so that it can be compressed
    return encoded("flac", coarse.astype(np.float32))


def metric(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=_PATIENCE).text
    return float(
        next(x for x in text.splitlines() if x.startswith(f"{name} "))[len(name) :]
    )


def memory(pid: int) -> int:
    """Return the bytes that a process has to itself."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGESIZE")


def test_damaged_uploads_are_refused_or_transcribed(own: Server) -> None:
    draws, statuses = random.Random(0), dict[int, int]()
    before = memory(own.process.pid)
    for kind in ("opus", "mp3", "m4a", "wav", "flac"):
        whole = speech(kind)
        for _ in range(40):
            what, contents = mutant(whole, draws)
            status = post(own, contents).status_code
            statuses[status] = statuses.get(status, 0) + 1
            assert status in (200, 400), what
    assert statuses.keys() == {200, 400}
    assert memory(own.process.pid) < before + 50 * 2**20
    assert post(own).status_code == 200


def test_a_killed_worker_is_replaced_and_its_request_answered(own: Server) -> None:
    with ThreadPoolExecutor() as pool:
        found = pool.submit(post, own, long_recording(900))
        wait_until(lambda: metric(own, "asr_pieces_total") > 0)
        _, workers = recognizing(own)
        assert len(workers) == 2
        for pid in workers:  # one of them may have nothing to do
            os.kill(pid, signal.SIGKILL)
        assert found.result().status_code == 200
    own.wait_for(r"was killed .*: its work is tried once more")
    assert post(own).status_code == 200
    assert metric(own, "asr_workers_replaced_total") in (1, 2)


def test_workers_are_replaced_though_what_they_share_was_killed_too(
    own: Server,
) -> None:
    with ThreadPoolExecutor() as pool:
        found = pool.submit(post, own, long_recording(900))
        wait_until(lambda: metric(own, "asr_pieces_total") > 0)
        firsts, workers = recognizing(own)
        for pid in (*firsts, *workers):
            os.kill(pid, signal.SIGKILL)
        assert found.result().status_code == 200
    own.wait_for(r"has ended: its work is tried once more")
    assert post(own).status_code == 200
    again = recognizing(own)
    assert len(again[0]) == 1
    assert not {*firsts, *workers} & {*again[0], *again[1]}
    assert own.stop() == 0
    wait_until(lambda: not any(map(is_running, (*again[0], *again[1]))))


def test_a_killed_reader_costs_its_request_only(own: Server) -> None:
    with ThreadPoolExecutor() as pool, frozen_workers(own):
        found = pool.submit(post, own, long_recording(900))
        wait_until(lambda: readers(own))
        os.kill(readers(own)[0], signal.SIGKILL)
        response = found.result()
    assert response.status_code == 400
    assert "decoding it ended in signal 9" in response.json()["error"]["message"]
    assert post(own).status_code == 200


def test_a_client_that_goes_away_stops_its_work(own: Server) -> None:
    recording = long_recording(900)
    form = httpx.Request("POST", own.url, files={"file": recording})
    with frozen_workers(own):
        with socket.create_connection(("127.0.0.1", own.port), _PATIENCE) as client:
            client.sendall(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
                + f"Content-Type: {form.headers['content-type']}\r\n"
                f"Content-Length: {form.headers['content-length']}\r\n\r\n".encode()
                + form.read()
            )
            wait_until(lambda: metric(own, "asr_pieces_waiting") > 8)
            assert readers(own)
        wait_until(lambda: not readers(own))
        wait_until(lambda: metric(own, "asr_pieces_waiting") == 0)
        assert metric(own, "asr_recordings") == 0


def test_sigterm_finishes_what_is_running(own: Server) -> None:
    with ThreadPoolExecutor() as pool:
        with frozen_workers(own):
            found = pool.submit(post, own, long_recording(60))
            wait_until(lambda: metric(own, "asr_recordings") == 1)
            children = own.children()
            own.process.send_signal(signal.SIGTERM)
        assert own.process.wait(_PATIENCE) == 0
        assert found.result().status_code == 200
    wait_until(lambda: not any(is_running(pid) for pid in children))
    with pytest.raises(httpx.ConnectError):
        post(own)


def test_sigterm_for_all_processes_of_a_group_finishes_too(tmp_path: Path) -> None:
    server = start(tmp_path, "--processes=1")
    with ThreadPoolExecutor() as pool:
        with frozen_workers(server):
            found = pool.submit(post, server, long_recording(60))
            wait_until(lambda: metric(server, "asr_recordings") == 1)
            for pid in (*server.children(), server.process.pid):
                os.kill(pid, signal.SIGTERM)
        assert server.process.wait(_PATIENCE) == 0
        assert found.result().status_code == 200


def test_a_killed_server_leaves_no_process(own: Server) -> None:
    children = own.children()
    assert len(children) >= 3
    with ThreadPoolExecutor() as pool:
        with frozen_workers(own):
            found = pool.submit(post, own, long_recording(200))
            wait_until(lambda: metric(own, "asr_recordings") == 1)
            children |= own.children()
            own.process.kill()
        with pytest.raises(httpx.HTTPError):
            found.result()
    wait_until(lambda: not any(is_running(pid) for pid in children))


def test_slow_senders_lose_their_connection(own: Server) -> None:
    with socket.create_connection(("127.0.0.1", own.port), 60) as head:
        head.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        assert head.recv(1) == b""  # header_timeout
    with socket.create_connection(("127.0.0.1", own.port), 60) as body:
        body.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 1000\r\n\r\n--x\r\n"
        )
        assert b"408" in body.recv(100)  # idle_timeout


def test_idle_connections_are_bounded(own: Server) -> None:
    idle = [socket.create_connection(("127.0.0.1", own.port), 60) for _ in range(512)]
    try:
        with socket.create_connection(("127.0.0.1", own.port), 60) as one:
            assert b"503" in one.recv(100)
        wait_until(lambda: idle[-1].recv(1) == b"")  # header_timeout
    finally:
        for one in idle:
            one.close()
    assert httpx.get(f"{own.url}/health").status_code == 200


def test_too_large_uploads_are_refused_while_they_come(own: Server) -> None:
    large = bytes(9 * 2**20)
    assert post(own, large).status_code == 413
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n"
        while True:
            sent += 2**16
            yield bytes(2**16)

    response = httpx.post(
        f"{own.url}/v1/audio/transcriptions",
        content=endless(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        timeout=_PATIENCE,
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "file_too_large"
    assert sent < 96 * 2**20  # 8 MiB that may come, 64 that are forgotten, and buffers


def test_more_requests_than_there_are_places_are_told_when_to_come_again(
    tmp_path: Path,
) -> None:
    server = start(tmp_path, "--processes=1", "--max-requests=2")
    try:
        with ThreadPoolExecutor() as pool:
            long = long_recording(60)
            with frozen_workers(server):
                running = [pool.submit(post, server, long) for _ in range(2)]
                wait_until(lambda: metric(server, "asr_recordings") == 2)
                response = post(server)
            assert response.status_code == 429
            assert 1 <= int(response.headers["retry-after"]) <= 60
            assert response.json()["error"]["code"] == "server_busy"
            assert [one.result().status_code for one in running] == [200, 200]
        assert post(server).status_code == 200
    finally:
        server.stop()


def test_a_short_request_is_not_stuck_behind_a_long_one(own: Server) -> None:
    with ThreadPoolExecutor() as pool:
        with frozen_workers(own):
            long = pool.submit(post, own, long_recording(900))
            wait_until(lambda: metric(own, "asr_pieces_waiting") > 8)
            short = pool.submit(post, own)
            wait_until(lambda: metric(own, "asr_recordings") == 2)
        assert short.result().status_code == 200
        assert not long.done()
        assert long.result().status_code == 200


def test_many_clients_get_the_texts_of_the_command_line(tmp_path: Path) -> None:
    waveform_files = []
    for number in range(4):
        path = tmp_path / f"{number}.opus"
        path.write_bytes(SAMPLE)
        waveform_files.append(path)
    options = ("--beam-size", "4")
    done = subprocess.run(
        [sys.executable, "-m", "asr", "transcribe", str(waveform_files[0]), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    server = start(tmp_path, "--model", "las_mini", *options)
    try:
        with ThreadPoolExecutor(20) as pool:
            found = list(pool.map(lambda _: post(server).json()["text"], range(20)))
    finally:
        server.stop()
    assert set(found) == {done.stdout.strip()}


@contextmanager
def frozen_workers(server: Server) -> Iterator[list[int]]:
    """Have the workers stand still: nothing ends before a test has seen it run.

    Once some pieces wait, each worker has got others.
    """
    _, workers = recognizing(server)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield workers
    finally:
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def recognizing(server: Server) -> tuple[list[int], list[int]]:
    """Return the process that has loaded the model, and those that it has forked."""
    spawned = {pid for pid in server.children() if "spawn_main" in command(pid)}
    below = {pid for first in spawned for pid in children_of(first)} & spawned
    return sorted(spawned - below), sorted(below)


def readers(server: Server) -> list[int]:
    """Return the processes that read uploads: those that were forked."""
    forking = [pid for pid in server.children() if "forkserver" in command(pid)]
    return sorted(forking)[1:]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
