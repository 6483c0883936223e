"""`asr serve` before it serves: keys, addresses, and what is missing."""

import socket
from pathlib import Path

import pytest

from asr.cli import main, serve
from asr.server.settings import MIB, ServerSettings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """Settings of the servers that were started, in place of starting them."""
    found = list[ServerSettings]()
    monkeypatch.setattr(
        "asr.server.serving.serve",
        lambda recognizer, settings, processes: found.append(settings),
    )
    monkeypatch.delenv(serve.API_KEY, raising=False)
    return found


def test_by_default_this_machine_alone_may_ask(
    served: list[ServerSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve"]) == 0
    assert served == [ServerSettings()]
    assert served[0].host == "127.0.0.1"
    assert capsys.readouterr().err == ""


def test_limits_are_those_that_were_given(served: list[ServerSettings]) -> None:
    main(["serve", "--max-upload=0.5", "--max-seconds=60", "--max-requests=3"])
    main(["serve", "--max-sessions=4"])
    main(["serve", "--language=DE", "--allow-host=a.example", "--allow-host=b.example"])
    assert served[0].max_upload == MIB // 2
    assert (served[0].max_seconds, served[0].max_requests) == (60, 3)
    assert (served[1].max_sessions, served[1].max_requests) == (4, 32)
    assert served[2].language == "de"
    assert served[2].allowed_hosts == ("a.example", "b.example")


def test_a_key_comes_from_an_option_a_file_or_the_environment(
    served: list[ServerSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv(serve.API_KEY, "from-environment")
    main(["serve"])
    main(["serve", "--api-key=from-option"])
    main(["serve", "--api-key-file", str(tmp_path / "key")])
    keys = [one.api_key for one in served]
    assert keys == ["from-environment", "from-option", "from-file"]


def test_other_machines_without_a_key_are_a_warning(
    served: list[ServerSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["serve", "--host=0.0.0.0"])
    assert "anybody who can reach 0.0.0.0 can use" in capsys.readouterr().err
    main(["serve", "--host=0.0.0.0", "--api-key=sesame"])
    assert capsys.readouterr().err == ""
    assert len(served) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api-key=a", "--api-key-file=b"], "--api-key and --api-key-file: give one"),
        (["--api-key-file=missing"], "missing: cannot be read"),
        (["--api-key=two words"], "API key: must be printable ASCII"),
        (["--port=70000"], "port must be 0 to 65535, not 70000"),
        (["--max-upload=0"], "max-upload must be above 0, not 0"),
        (["--max-upload=nan"], "--max-upload must be a number of MiB, not nan"),
        (["--model=nowhere"], "nowhere"),
        (["--beam-size=0"], "beam_size"),
        (["--processes=0"], "processes must be at least 1, not 0"),
        (
            ["--host=nowhere.invalid", "--api-key=sesame"],
            "nowhere.invalid:8000: cannot be listened on",
        ),
    ],
)
def test_what_is_impossible_is_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_address_that_is_taken_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", f"--port={port}"]) == 1
    assert f"127.0.0.1:{port}: cannot be listened on" in capsys.readouterr().err


def test_without_the_extra_its_name_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert main(["serve"]) == 1
    assert 'pip install "listen-attend-spell[serve]"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fastapi", "jinja2", "websockets"])
def test_a_library_that_is_missing_is_named(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda one: None if one == name else one)
    assert main(["serve"]) == 1
    assert f"asr serve needs {name} (pip install" in capsys.readouterr().err


def test_a_system_without_proc_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_DESCRIPTORS", tmp_path / "fd")
    assert main(["serve"]) == 1
    error = capsys.readouterr().err
    assert f"asr serve needs {tmp_path / 'fd'}, which this system lacks" in error
    assert error.count("\n") == 1
