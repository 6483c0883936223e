import json
from argparse import Namespace
from io import BytesIO
from pathlib import Path

import pytest

from asr.cli import PARTIAL, main
from asr.data.manifest import read_manifest
from asr.output import FORMATS

Capture = pytest.CaptureFixture[str]
SAMPLE = Path(__file__).parents[2] / "asr" / "assets" / "sample.opus"
SCRIPT = """But something had to be done,

the priests and the rulers said.
The week was going by.
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.txt"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def align(*arguments: object) -> int:
    return main(["align", str(SAMPLE), *map(str, arguments)])


def test_a_table_of_the_lines_is_printed(script: Path, capsys: Capture) -> None:
    assert align(script) == 0

    printed = capsys.readouterr()
    header, *rows = printed.out.splitlines()
    assert header == "start\tend\ttext"
    lines = [line for line in SCRIPT.split("\n") if line]
    assert [row.split("\t")[2] for row in rows] == lines
    assert printed.err == ""


def test_all_formats_are_written(script: Path, tmp_path: Path) -> None:
    assert align(script, "-o", tmp_path / "out", "-f", "all") == 0

    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"sample.{name}" for name in FORMATS
    }
    cues = (tmp_path / "out" / "sample.srt").read_text().split("\n\n")
    assert len(cues) == 3  # a line a subtitle


def test_a_manifest_has_the_lines_in_the_alphabet_of_the_model(
    script: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "m.jsonl"

    assert align(script, "--manifest", path) == 0

    found = read_manifest(path)
    assert [u.id for u in found] == ["sample-0001", "sample-0002", "sample-0003"]
    assert found[1].text == "THE PRIESTS AND THE RULERS SAID"
    assert Path(found[0].audio).samefile(SAMPLE)
    assert "confidence" in json.loads(path.read_text().splitlines()[0])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"asr: wrote {path}: 3 utterances, 0.00 h\n" in printed.err


def test_the_folder_of_a_manifest_is_made(script: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "m.jsonl"

    assert align(script, "--manifest", path) == 0

    assert len(read_manifest(path)) == 3


def test_a_channel_is_taken_by_its_number(
    script: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert align(script, "--channel", "1") == 0
    assert align(script, "--channel", "2") == 1

    assert "has 1 channel (there is no channel 2)\n" in capsys.readouterr().err


@pytest.mark.parametrize("channel", ["0", "split"])
def test_a_channel_that_is_none_is_refused(
    channel: str, script: Path, capsys: Capture
) -> None:
    with pytest.raises(SystemExit):
        align(script, "--channel", channel)

    expected = f"{channel} is no channel (use mix, left, right, or a number from 1 on)"
    assert expected in capsys.readouterr().err


def test_a_manifest_may_keep_the_text_as_it_was_written(
    script: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.jsonl"

    assert align(script, "--manifest", path, "--as-written") == 0

    assert read_manifest(path)[1].text == "the priests and the rulers said."


def test_what_is_only_in_one_of_both_is_reported(
    script: Path, tmp_path: Path, capsys: Capture
) -> None:
    first, _, _, last, _ = SCRIPT.split("\n")
    script.write_text(f"{first}\nNobody said this line.\n{last}\n")

    assert align(script, "--manifest", tmp_path / "m.jsonl") == 0

    reported = capsys.readouterr().err
    assert "sample.opus: 1 of 3 lines not found: line 2\n" in reported
    assert " s of speech are in no line of the text: " in reported
    assert "2 utterances, 0.00 h; left out 2: 1 unsaid, 1 untold\n" in reported


def test_a_text_that_hardly_fits_is_doubted(script: Path, capsys: Capture) -> None:
    script.write_text(f"{SCRIPT}Nobody\nsaid any\nof these\nother lines\n")

    assert align(script) == 0

    assert "(is it the text of this recording?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b" \n", "script.txt: is empty"),
        (b"\xff\xfe\xff", "script.txt: is not UTF-8 text"),
        (b"* * *", "the text has no letter that the model can write"),
        (b"Some other words\nof another talk", "none of the 2 lines was found in it"),
    ],
)
def test_a_text_that_cannot_be_aligned_is_one_line(
    script: Path, text: bytes, message: str, capsys: Capture
) -> None:
    script.write_bytes(text)

    assert align(script) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "doc"], "output format doc: is not known"),
        (["-f", "srt,vtt"], "several formats need a folder"),
        (["--min-confidence", "2"], "--min-confidence 2: is not from 0 to 1"),
        (["--manifest", "m.jsonl", "--channel", "left"], "--manifest: has no channel"),
        (["--clip", "2"], "--clip 2 is not START:END"),
        (["--subtitle-words", "0"], "subtitles.words must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(
    script: Path, arguments: list[str], message: str, capsys: Capture
) -> None:
    assert align(script, *arguments) == 1

    assert message in capsys.readouterr().err


def test_a_missing_text_is_reported(tmp_path: Path, capsys: Capture) -> None:
    assert align(tmp_path / "no.txt") == 1

    assert (
        "no.txt: cannot be read (No such file or directory)" in capsys.readouterr().err
    )


def test_the_manifest_is_not_written_over_the_text(
    script: Path, capsys: Capture
) -> None:
    assert align(script, "--manifest", script) == 1

    assert "would be overwritten" in capsys.readouterr().err
    assert script.read_text(encoding="utf-8") == SCRIPT


@pytest.mark.parametrize("formats", ["txt", "srt,txt", "all"])
def test_a_text_beside_the_files_is_not_replaced_by_one_of_them(
    tmp_path: Path, capsys: Capture, formats: str
) -> None:
    text = tmp_path / "sample.txt"
    text.write_text(SCRIPT, encoding="utf-8")

    assert align(text, "-o", tmp_path, "-f", formats) == 1

    assert f"{text}: would be overwritten" in capsys.readouterr().err
    assert text.read_text(encoding="utf-8") == SCRIPT
    assert [path.name for path in tmp_path.iterdir()] == ["sample.txt"]


def test_a_file_in_place_of_the_folder_is_refused_before_the_work(
    script: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*arguments: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("asr.inference.recognizer.Recognizer.load", work)

    assert align(script, "-o", script) == 1

    assert f"{script}: is no folder" in capsys.readouterr().err


# asr transcribe --output-format manifest


def transcribe(folder: Path, *arguments: object) -> int:
    given = [*map(str, arguments), "--beam-size", "1", "--processes", "1"]
    return main(["transcribe", *given, "-o", str(folder), "--min-confidence", "0.5"])


def test_one_manifest_is_made_of_all_recordings_but_bad_ones(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    (tmp_path / "good.opus").write_bytes(SAMPLE.read_bytes())
    out = tmp_path / "out"

    assert transcribe(out, tmp_path, "-f", "manifest") == PARTIAL

    (utterance,) = read_manifest(out / "manifest.jsonl")
    assert utterance.id.startswith("good-0000")
    assert utterance.text.startswith("BUT SOMETHING HAD TO BE DONE")
    assert {path.name for path in out.iterdir()} == {"manifest.jsonl"}
    reported = capsys.readouterr().err
    assert "bad.wav" in reported
    assert f"wrote {out / 'manifest.jsonl'}: 1 utterance, 0.00 h\n" in reported


def test_a_manifest_goes_with_other_formats_and_with_shards(tmp_path: Path) -> None:
    out = tmp_path / "out"

    assert transcribe(out, SAMPLE, "-f", "txt,manifest", "--shard", "0/1") == 0

    assert {path.name for path in out.iterdir()} == {
        *("sample.txt", "manifest-0-of-1.jsonl")
    }


def test_a_name_that_no_manifest_holds_is_one_recording_s_fault(
    tmp_path: Path, capsys: Capture
) -> None:
    for name in ("a", "b\udcff", "c"):
        (tmp_path / f"{name}.opus").write_bytes(SAMPLE.read_bytes())
    out = tmp_path / "out"

    assert transcribe(out, tmp_path, "-f", "txt,manifest") == PARTIAL

    utterances = read_manifest(out / "manifest.jsonl")
    assert [utterance.id[0] for utterance in utterances] == ["a", "c"]
    assert len(list(out.glob("*.txt"))) == 3
    assert "is left out of the manifest: its id holds a lone surr" in (
        capsys.readouterr().err
    )


def test_a_share_without_a_recording_needs_no_manifest(tmp_path: Path) -> None:
    shares = [
        transcribe(tmp_path / "out", SAMPLE, "-f", "manifest", "--shard", f"{share}/3")
        for share in range(3)
    ]

    assert shares == [0, 0, 0]
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_manifest_without_an_utterance_is_an_error(
    tmp_path: Path, capsys: Capture
) -> None:
    given = ["-o", str(tmp_path / "out"), "-f", "manifest", "--min-confidence", "1"]

    assert main(["transcribe", str(SAMPLE), *given, "--beam-size", "1"]) == 1

    assert "manifest.jsonl: is not written (0 utt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--min-confidence", "0.9"],
            "--min-confidence needs --output-format manifest",
        ),
        (["-f", "manifest"], "a manifest needs a folder: give --output-dir"),
        (
            ["-f", "manifest", "-o", "out", "--skip-existing"],
            "leave --skip-existing out",
        ),
        (["-f", "manifest", "-o", "out", "--channel", "split"], "leave --channel out"),
        (
            ["-f", "manifest", "-o", "out", "--min-confidence", "9"],
            "is not from 0 to 1",
        ),
        (["-f", "manifest", "-o", "out", "-"], "a manifest needs files"),
    ],
)
def test_options_that_do_not_go_with_a_manifest_are_refused(
    arguments: list[str], message: str, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)

    monkeypatch.setattr("sys.stdin", Namespace(buffer=BytesIO(b"sound")))

    assert main(["transcribe", str(SAMPLE), *arguments]) == 1

    assert message in capsys.readouterr().err
