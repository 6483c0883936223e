"""The README's Python runs, its commands exist, its files are there."""

import re
from pathlib import Path

import pytest
import soundfile

from asr.audio import SAMPLE_RATE, read_waveform
from asr.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAMPLE = ROOT / "asr" / "assets" / "sample.opus"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: b.split("\n")[0])
def test_the_python_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "talk.flac", read_waveform(SAMPLE).numpy(), SAMPLE_RATE)
    monkeypatch.chdir(tmp_path)

    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize(
    "command",
    sorted(set(re.findall(r"^asr (\w+)", "\n".join(blocks("console")), re.M))),
)
def test_the_commands_exist(command: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)))
)
def test_the_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


def test_there_is_python_and_there_are_commands() -> None:
    assert blocks("python")
    assert blocks("console")
