import pytest

from asr.audio.remarks import remark


def test_a_remark_is_made_once(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("once.wav", "once.wav", "twice.wav"):
        remark(name, "is odd")
    assert [record.getMessage() for record in caplog.records] == [
        "once.wav: is odd",
        "twice.wav: is odd",
    ]


def test_a_remark_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    remark("a\n\x1b[31mb.wav", "is odd")
    (record,) = caplog.records
    assert record.getMessage() == r"a\n\x1b[31mb.wav: is odd"
    assert (record.name, record.levelname) == ("asr.audio", "WARNING")
