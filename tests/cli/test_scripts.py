"""What a command or script does with the errors of its user."""

import errno
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
