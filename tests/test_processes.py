import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from select import select
from typing import Any

import pytest

from asr.errors import AudioError, ConfigError
from asr.forking import FORKS, Starter
from asr.processes import Worker, WorkerEndedError, worker_pool
from tests.faults.kills import is_alive, wait_until

ROOT = Path(__file__).parents[1]


def begin() -> str:
    return "kept"


def own_id(kept: str, item: int) -> int:
    return os.getpid()


def joined(kept: str, item: int) -> str:
    return f"{kept} {item}"


def after(kept: str, seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_each_item_is_worked_on_once_and_results_keep_the_order() -> None:
    with worker_pool(begin, 2) as workers:
        found = list(workers.in_order(joined, range(9)))
        again = list(workers.in_order(joined, [9]))
        none = list(workers.in_order(joined, []))
        ids = set(workers.in_order(own_id, range(9)))

    assert found == [f"kept {n}" for n in range(9)]
    assert (again, none) == (["kept 9"], [])
    assert len(ids) == 2
    assert os.getpid() not in ids


def test_what_is_done_first_comes_first_where_no_order_is_asked_for() -> None:
    with worker_pool(begin, 2) as workers:
        list(workers.completed(after, [0.0, 0.0]))  # both are there
        found = list(workers.completed(after, [0.5, 0.0]))

    assert found == [(1, 0.0), (0, 0.5)]


def test_items_are_taken_only_as_they_are_needed() -> None:
    taken = list[int]()

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    with worker_pool(begin, 2) as workers:
        found = workers.in_order(after, (0.2 * (n == 0) for n in items()))
        next(found)
        assert len(taken) <= 4 + 4  # four at a time, and as many when the first is done
        assert len(list(found)) == 49


def unlucky(folder: Path, item: int) -> int:
    """End the process over item 2 once."""
    if item == 2 and not (folder / "ended").exists():
        (folder / "ended").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def path_of(folder: Path) -> Path:
    return folder


@pytest.mark.parametrize("processes", [1, 3])
def test_what_a_killed_worker_had_is_done_by_another_after_one_line(
    processes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker_pool(partial(path_of, tmp_path), processes) as workers:
        found = list(workers.in_order(unlucky, range(6)))

    assert found == list(range(6))
    assert capsys.readouterr().err == (
        "asr: a worker was killed (memory?): its work is tried once more\n"
    )


def end(kept: str, how: str) -> None:
    if how == "status":
        os._exit(3)
    os.kill(os.getpid(), getattr(signal, how))


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("SIGKILL", "was killed (memory?)"),
        ("SIGTERM", "was ended by signal 15"),
        ("status", "ended with status 3"),
    ],
)
def test_work_that_ends_two_workers_is_an_error(
    how: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(ConfigError, match=r"^processes: a worker was killed twice over"),
        worker_pool(begin, 1) as workers,
    ):
        list(workers.in_order(end, [how]))

    printed = capsys.readouterr().err
    assert printed == f"asr: a worker {line}: its work is tried once more\n"


def test_a_worker_that_ends_while_it_waits_is_replaced() -> None:
    with worker_pool(begin, 1) as workers:
        (first,) = workers.in_order(own_id, [0])
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_alive(first))
        (second,) = workers.in_order(own_id, [0])

    assert first != second


def ids(first: int, item: int) -> tuple[int, int]:
    return first, os.getpid()


@pytest.mark.skipif(not FORKS, reason="each worker begins by itself here")
def test_workers_share_what_was_begun_once() -> None:
    with worker_pool(os.getpid, 2) as workers:
        found = set(workers.in_order(ids, range(9)))

    (first,) = {first for first, _ in found}
    assert len(found) == 2
    assert first not in {os.getpid(), *(own for _, own in found)}


@pytest.mark.skipif(not FORKS, reason="each worker begins by itself here")
def test_where_the_process_that_has_begun_is_killed_another_begins() -> None:
    with worker_pool(os.getpid, 1) as workers:
        ((first, own),) = workers.in_order(ids, [0])
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_alive(first))
        assert list(workers.in_order(ids, [0])) == [(first, own)]  # it works on
        os.kill(own, signal.SIGKILL)
        wait_until(lambda: not is_alive(own))
        ((second, other),) = workers.in_order(ids, [0])

    assert len({first, own, second, other}) == 4
    assert not any(map(is_alive, (second, other)))


@pytest.mark.parametrize("forks", [True, False])
def test_what_cannot_be_shared_is_begun_by_each_worker(
    forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.forking.FORKS", forks and FORKS)
    with worker_pool(os.getpid, 2, shared=False) as workers:
        found = set(workers.in_order(ids, range(9)))

    assert len(found) == 2
    assert all(first == own for first, own in found)


def test_a_spawned_worker_that_is_killed_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.forking.FORKS", False)
    with worker_pool(partial(path_of, tmp_path), 1) as workers:
        found = list(workers.in_order(unlucky, range(4)))

    assert found == list(range(4))
    assert "was killed (memory?)" in capsys.readouterr().err


def large(kept: str, item: bytes) -> bytes:
    return item


def test_large_items_and_results_do_not_wait_for_each_other() -> None:
    items = [bytes(2**24) for _ in range(6)]
    with worker_pool(begin, 2) as workers:
        assert list(workers.in_order(large, items)) == items


def unsendable(kept: str, item: int) -> object:
    return lambda: item


def test_a_result_that_cannot_be_sent_is_an_error() -> None:
    with (
        pytest.raises(Exception, match="pickle"),
        worker_pool(begin, 1) as workers,
    ):
        list(workers.in_order(unsendable, [1]))


def test_what_nobody_asks_for_any_more_is_no_result_of_the_next_work() -> None:
    with worker_pool(begin, 1) as workers:
        first = next(workers.in_order(joined, [1, 2, 3]))
        found = list(workers.in_order(joined, [4, 5]))

    assert (first, found) == ("kept 1", ["kept 4", "kept 5"])


def fail(kept: str, item: int) -> None:
    raise AudioError(f"{item}: is empty")


def test_what_the_work_raises_is_raised() -> None:
    with (
        pytest.raises(AudioError, match=r"^1: is empty$"),
        worker_pool(begin, 2) as workers,
    ):
        list(workers.in_order(fail, [1]))


def refuse() -> str:
    raise ConfigError("no such model")


def test_what_the_beginning_of_a_worker_raises_is_raised() -> None:
    with (
        pytest.raises(ConfigError, match=r"^no such model$"),
        worker_pool(refuse, 2) as workers,
    ):
        list(workers.in_order(joined, [1]))


def test_an_error_ends_the_workers_at_once() -> None:
    ids = list[int]()

    def interrupt() -> None:
        with worker_pool(begin, 2) as workers:
            ids.extend(workers.in_order(own_id, [0, 1]))
            found = workers.completed(after, [600.0, 600.0, 0.0])
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            next(found)

    with pytest.raises(KeyboardInterrupt):
        interrupt()

    assert not any(map(is_alive, ids))


@contextmanager
def two_workers(begin: Callable[[], object]) -> Iterator[list[Worker[Any]]]:
    starter = Starter(pickle.dumps(begin), shared=True)
    workers = [Worker[Any](starter) for _ in range(2)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()
        starter.close()


def test_a_worker_answers_by_futures_and_ends_when_it_is_closed() -> None:
    with two_workers(begin) as (one, other):
        found = [one.submit(joined, n) for n in range(3)]
        pids = [worker.submit(own_id, 0).result() for worker in (one, other, one)]
        assert [future.result() for future in found] == ["kept 0", "kept 1", "kept 2"]
        with pytest.raises(AudioError, match=r"^7: is empty$"):
            one.submit(fail, 7).result()

    assert pids[0] == pids[2] != pids[1]
    assert not any(map(is_alive, pids))


def test_what_the_beginning_of_one_worker_raises_is_raised() -> None:
    with (
        two_workers(refuse) as workers,
        pytest.raises(ConfigError, match=r"^no such model$"),
    ):
        workers[0].submit(joined, 1).result()


@pytest.mark.parametrize("forks", [True, False])
def test_a_worker_that_was_killed_is_replaced_for_the_next_item(
    forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.forking.FORKS", forks and FORKS)
    with two_workers(begin) as (worker, _):
        first = worker.submit(own_id, 0).result()
        kill_whole(first)
        assert worker.submit(own_id, 0).result() != first
        for how, line in (("SIGKILL", r"was killed \(memory"), ("status", "status 3")):
            with pytest.raises(WorkerEndedError, match=line):
                worker.submit(end, how).result()
        assert worker.submit(joined, 1).result() == "kept 1"


@pytest.mark.skipif(not FORKS, reason="each worker begins by itself here")
def test_workers_outlast_the_process_that_they_were_forked_from() -> None:
    with two_workers(os.getpid) as (one, other):
        (first, own), (_, beside) = (x.submit(ids, 0).result() for x in (one, other))
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_alive(first))
        with pytest.raises(WorkerEndedError, match=r"^has ended$"):
            one.submit(end, "SIGKILL").result()
        again, new = one.submit(ids, 0).result()
        assert again != first
        assert new != own
        assert other.submit(ids, 0).result() == (first, beside)
        with pytest.raises(WorkerEndedError):
            other.submit(end, "SIGKILL").result()
        assert other.submit(ids, 0).result()[0] == again  # which they share


def hang(kept: str, begun: Path) -> None:
    begun.touch()
    time.sleep(600)


@pytest.mark.parametrize("forks", [True, False])
def test_a_worker_that_hangs_can_be_killed(
    forks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.forking.FORKS", forks and FORKS)
    with two_workers(begin) as (worker, _):
        hanging = worker.submit(own_id, 0).result()
        future = worker.submit(hang, tmp_path / "begun")
        wait_until((tmp_path / "begun").exists)
        worker.kill()
        assert not is_alive(hanging)
        with pytest.raises(WorkerEndedError, match=r"^was killed"):
            future.result()
        assert worker.submit(own_id, 0).result() != hanging


def test_no_worker_is_started_once_all_were_killed() -> None:
    starter = Starter(pickle.dumps(begin), shared=True)
    worker = Worker[str](starter)
    future = worker.submit(after, 600.0)
    starter.kill()
    with pytest.raises(WorkerEndedError):
        future.result()
    with pytest.raises(WorkerEndedError):
        worker.submit(joined, 1).result()
    with pytest.raises(OSError, match="were killed"):
        starter.start()
    worker.close()
    starter.close()


def kill_whole(pid: int) -> None:
    """Kill a process, and wait for the end of all its threads."""
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select([descriptor], [], [])
    os.close(descriptor)


def ignores_interrupt(kept: str, item: int) -> bool:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return ignored or signal.SIGINT in blocked


@pytest.mark.parametrize("forks", [True, False])
def test_no_ctrl_c_reaches_what_a_thread_has_started(
    forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.forking.FORKS", forks and FORKS)
    with two_workers(begin) as (worker, _):
        assert worker.submit(ignores_interrupt, 0).result()


PROGRAM = """
import os, sys, time
from pathlib import Path
from asr.processes import worker_pool

def begin():
    folder = Path(sys.argv[-1])
    (folder / str(os.getpid())).touch()  # of the process that begins for all
    return folder

def work(folder, item):
    (folder / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    os.fork() or time.sleep(600)  # it keeps the parent's pipes open
    with worker_pool(begin, 2) as workers:
        list(workers.in_order(work, range(9)))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_workers_end_with_their_parent_whatever_ends_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.replace("os.fork() or", "0 and"))
    (folder := tmp_path / "ids").mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_until(lambda: len(list(folder.iterdir())) == 3)

    parent.send_signal(number)

    assert parent.wait(60) == -number
    ids = [int(path.name) for path in folder.iterdir()]
    wait_until(lambda: not any(map(is_alive, ids)))


def test_workers_end_with_their_parent_though_it_has_forked_another(
    tmp_path: Path,
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (folder := tmp_path / "ids").mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(list(folder.iterdir())) == 3)

        parent.kill()
        parent.wait(60)

        ids = [int(path.name) for path in folder.iterdir()]
        wait_until(lambda: not any(map(is_alive, ids)))
    finally:
        os.killpg(parent.pid, signal.SIGKILL)  # the forked one, too


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows this")
def test_a_command_that_was_started_ends_with_who_started_it(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "from asr.processes import end_with_starter\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen(command, preexec_fn=end_with_starter)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert starter.stdout
    child = int(starter.stdout.readline())

    starter.kill()
    starter.communicate(timeout=60)

    wait_until(lambda: not is_alive(child))
