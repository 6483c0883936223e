import json
import os
from pathlib import Path
from typing import Any

import pytest

from asr.errors import CheckpointError
from asr.training.metrics import METRICS, MetricsLog, read_metrics


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three steps, with a validation after the second."""
    with MetricsLog(tmp_path, step=0) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 1 / step})
            if step == 2:
                log.write(step, {"dev/cer": 0.5})
    return tmp_path


def test_a_step_is_a_line(run: Path) -> None:
    assert read(run) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 2, "dev/cer": 0.5},
        {"step": 3, "loss": 1 / 3},
    ]


def test_a_line_can_be_read_at_once(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, step=0) as log:
        log.write(1, {"loss": 1.0})
        assert read(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_what_was_written_behind_the_checkpoint_is_taken_off(run: Path) -> None:
    with MetricsLog(run, step=2) as log:
        log.write(3, {"loss": 9.0})

    assert [line.get("loss") for line in read(run)] == [1.0, 0.5, None, 9.0]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / METRICS).mkdir()
    message = r"metrics\.jsonl: cannot be written \(Is a directory\)"
    with pytest.raises(CheckpointError, match=message):
        MetricsLog(tmp_path, step=0)


def test_a_run_that_begins_anew_begins_with_no_lines(run: Path) -> None:
    with MetricsLog(run, step=0):
        pass
    assert read(run) == []


@pytest.mark.parametrize("cut", ["{", '{"step": 2, "lo', '{"step": 1, "loss": 1.0}'])
def test_a_last_line_that_was_cut_is_dropped(run: Path, cut: str) -> None:
    with (run / METRICS).open("a") as file:
        file.write(cut)

    with MetricsLog(run, step=3) as log:
        log.write(4, {"loss": 0.25})

    assert [line["step"] for line in read(run)] == [1, 2, 2, 3, 4]


def test_what_is_not_a_number_can_be_written(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, step=0) as log:
        log.write(1, {"loss": float("nan")})
    with MetricsLog(tmp_path, step=1):
        assert str(read(tmp_path)[0]["loss"]) == "nan"


def test_people_can_look_at_it_in_tensorboard(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()

    assert events.Tags()["scalars"] == ["loss", "dev/cer"]
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("dev/cer")] == [0.5]


# Reading it back


def test_what_was_written_is_read(run: Path) -> None:
    history = read_metrics(run)
    assert history.steps == read(run)
    assert history.num_broken == 0


def test_broken_lines_are_counted_and_left_out(run: Path) -> None:
    path = run / METRICS
    broken = [
        '{"loss": 1.0}',
        "[1]",
        '{"step": NaN}',
        '{"step": "4"}',
        "\u00e9\x00",
        "",
        '{"step": 5, "lo',
    ]
    path.write_text("\n".join([path.read_text().rstrip(), *broken]), encoding="latin-1")

    history = read_metrics(run)

    assert [metrics["step"] for metrics in history.steps] == [1, 2, 2, 3]
    assert history.num_broken == 6


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1, "loss": "x", "ok": true, "cer": 0.5}')
    assert read_metrics(tmp_path).steps == [{"step": 1, "cer": 0.5}]


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"metrics\.jsonl: cannot be read \(No such"
    ):
        read_metrics(tmp_path)


@pytest.mark.parametrize("content", ["", "\n", "hello\nworld\n", '{"loss": 1.0}\n'])
def test_a_file_that_holds_no_metrics_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / METRICS).write_text(content)
    with pytest.raises(CheckpointError, match="holds no metrics of a training"):
        read_metrics(tmp_path)


BROKEN = [b"{", b"[]", b'{"step": "x"}', b"\xff\xfe", b'{"step": 1e999}', b"\0\0", b""]


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_keeps_no_run_from_going_on(run: Path, line: bytes) -> None:
    lines = (run / METRICS).read_bytes().splitlines(keepends=True)
    (run / METRICS).write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))

    with MetricsLog(run, step=2) as log:
        log.write(3, {"loss": 9.0})

    now = (run / METRICS).read_bytes().split(b"\n")
    assert now[2] == line  # is left as it is, between others
    assert [step["step"] for step in read_metrics(run).steps] == [1, 2, 2, 3]


@pytest.mark.parametrize("line", [b"{", b"\xff", b'{"step": 4, "loss": 1', b"\0" * 99])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_broken_end_is_dropped(run: Path, line: bytes, end: bytes) -> None:
    whole = (run / METRICS).read_bytes()
    (run / METRICS).write_bytes(whole + line + end)

    with MetricsLog(run, step=3):
        pass

    assert (run / METRICS).read_bytes() == whole


def test_a_stop_while_lines_are_taken_off_loses_none(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (run / METRICS).read_bytes()

    def stop(descriptor: int) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop)
        with pytest.raises(SystemExit):
            MetricsLog(run, step=2)

    assert (run / METRICS).read_bytes() == whole
