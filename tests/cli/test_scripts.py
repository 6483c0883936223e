"""What a command or script does with the errors of its user."""

import errno
import os
import signal
import warnings

import pytest

from asr.cli.scripts import run_main
from asr.errors import AsrWarning, ConfigError
from asr.training.stopping import Stopped

Capture = pytest.CaptureFixture[str]


def failing(error: BaseException) -> None:
    raise error


def test_the_status_is_that_of_the_work(capsys: Capture) -> None:
    assert run_main("toy", lambda: None) == 0
    assert run_main("toy", lambda: 3) == 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("x.yaml: is\nempty"), 1, "toy: x.yaml: is\\nempty\n"),
        (KeyboardInterrupt(), 130, "toy: stopped\n"),
        (Stopped(signal.SIGTERM, "after update 7"), 143, "toy: stopped\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "toy: cannot write what it found: No space left on device\n",
        ),
    ],
)
def test_an_error_of_the_user_is_one_line(
    error: BaseException, status: int, line: str, capsys: Capture
) -> None:
    assert run_main("toy", lambda: failing(error)) == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EIO, "x")])
def test_an_error_of_the_program_is_raised(error: Exception) -> None:
    with pytest.raises(type(error), match="x"):
        run_main("toy", lambda: failing(error))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_has_what_was_begun_cleaned_up(
    number: signal.Signals, capsys: Capture
) -> None:
    cleaned = list[str]()

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # they often come in pairs
            cleaned.append("up")

    assert run_main("toy", work) == 128 + number
    assert cleaned == ["up"]
    assert capsys.readouterr().err == "toy: stopped\n"
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_main("nohup", lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_torchrun_ends_its_processes_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    found = list[object]()

    run_main("toy", lambda: found.append(signal.getsignal(signal.SIGTERM)))

    assert found == [signal.SIG_DFL]


def test_what_is_called_otherwise_now_is_one_line() -> None:
    shown = list[str]()

    def warned(category: type[Warning]) -> None:
        text = warnings.formatwarning("a is called b now", category, "c.py", 1, "d()")
        shown.append(text)

    before = warnings.formatwarning
    run_main("toy", lambda: warned(FutureWarning))
    run_main("toy", lambda: warned(UserWarning))
    run_main("toy", lambda: warned(AsrWarning))

    assert shown == [
        "toy: a is called b now\n",
        "c.py:1: UserWarning: a is called b now\n  d()\n",
        "toy: a is called b now\n",
    ]
    assert warnings.formatwarning is before
