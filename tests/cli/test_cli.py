import argparse
import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path

import pytest
import soundfile
import torch

import asr
from asr.cli import PARTIAL, main
from asr.cli.completion import SHELLS
from asr.data.manifest import Utterance, write_manifest
from asr.decoding.config import DecodingConfig
from asr.inference.search_settings import save_decoding
from asr.inference.situations import Situation
from asr.output import FORMATS
from asr.scoring import confidence_interval
from asr.transcript import Transcript

Capture = pytest.CaptureFixture[str]
TOY_CONFIG = str(Path(__file__).parents[2] / "recipes" / "toy" / "las.yaml")
SAID = Utterance("a", "a.flac", 1.0, "THE CAT SAT")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "noise.flac"
    stereo = 0.1 * torch.randn(44_100 // 2, 2).numpy()
    soundfile.write(path, stereo, 44_100)
    return path


def test_help_answers_without_torch() -> None:
    code = "import sys, asr.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("command", "status", "pieces"),
    [("transcribe x", 0, []), ("transcribe x", 3, ["to pieces"]),
     ("doctor", 0, ["to pieces"])],
)  # fmt: skip
def test_transcribe_leaves_at_once_where_all_went_well(
    command: str, status: int, pieces: list[str]
) -> None:
    code = (
        "import atexit, asr.cli\n"
        "class Slow:\n"
        "    def __del__(self): print('to pieces')\n"
        "slow = Slow()\n"
        "atexit.register(print, 'at the end')\n"
        f"asr.cli._status = lambda args: print('text') or {status}\n"
        "asr.cli.run()\n"
    )

    program = [sys.executable, "-c", code, *command.split()]
    done = subprocess.run(program, capture_output=True, text=True)

    assert done.returncode == status
    assert done.stdout.split("\n")[:-1] == ["text", "at the end", *pieces]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    code = "import asr.cli; asr.cli._status = lambda args: 0; asr.cli.run()"
    run = f'"$0" -c "$1" transcribe x {closed}'
    done = subprocess.run(["sh", "-c", run, sys.executable, code])
    assert done.returncode == 0


def test_another_error_is_not_taken_for_a_full_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise OSError("no library")

    parsed = argparse.Namespace(run=fail)
    parser = argparse.Namespace(parse_args=lambda _: parsed)
    monkeypatch.setattr("asr.cli._parser", lambda: parser)
    with pytest.raises(OSError, match="no library"):
        main([])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_text_that_finds_no_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ref.jsonl").write_text(
        '{"id": "a", "audio": "a.wav", "duration": 1.0, "text": "A"}\n'
    )
    command = [sys.executable, "-m", "asr", "score", "ref.jsonl", "ref.jsonl"]

    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )

    assert done.returncode == 1
    assert done.stderr == "asr: cannot write what it found: No space left on device\n"


@pytest.mark.parametrize(
    "command",
    [
        "transcribe",
        "align",
        "explain",
        "train",
        "adapt",
        "ablate",
        "decode",
        "score",
        "report",
        "tune",
        "calibrate",
        "evaluate",
        "evaluate robustness",
        "evaluate long-recordings",
        "export",
        "demo",
        "doctor",
    ],
)
def test_the_help_of_each_command_shows_an_example(
    command: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--help"])

    assert f"example:\n  asr {command}" in capsys.readouterr().out


def test_transcribe_prints_a_line_for_a_file(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    assert main(["transcribe", str(recording), "--model", str(model_folder)]) == 0

    assert len(capsys.readouterr().out.rstrip("\n").split("\n")) == 1


def test_transcribe_goes_on_after_a_bad_file_and_reports_it(
    model_folder: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()

    status = main(
        ["transcribe", str(empty), str(recording), "--model", str(model_folder)]
    )

    printed = capsys.readouterr()
    assert status == PARTIAL
    assert printed.err.startswith(f"asr: {empty}: ")
    assert printed.out.startswith(f"{recording}: ")


@pytest.mark.parametrize("names", [["gone.wav"], ["gone.wav", "*.mp3"]])
def test_transcribe_without_any_success_fails(
    names: list[str], model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    paths = [str(tmp_path / name) for name in names]

    assert main(["transcribe", *paths, "--model", str(model_folder)]) == 1

    assert capsys.readouterr().err.count("asr: ") == len(names)


def test_transcribe_writes_files_of_all_formats_below_a_folder(
    model_folder: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    talks, out = tmp_path / "talks", tmp_path / "out"
    (talks / "old").mkdir(parents=True)
    recording.rename(talks / "old" / "a.flac")

    options = ["--output-dir", str(out), "--output-format", "all"]
    status = main(["transcribe", str(talks), *options, "--model", str(model_folder)])

    assert status == 0
    endings = {path.name for path in (out / "old").iterdir()}
    assert endings == {f"a.{format}" for format in FORMATS}
    tree = json.loads((out / "old" / "a.json").read_text(encoding="utf-8"))
    assert tree["audio"] == str(talks / "old" / "a.flac")
    assert Transcript.from_dict(tree).duration == 0.5
    assert capsys.readouterr().out == ""


def test_a_run_that_broke_goes_on_where_it_was(
    model_folder: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "noise.txt").write_text("DONE", encoding="utf-8")
    other = recording.with_name("other.flac")
    other.write_bytes(recording.read_bytes())
    paths = [str(recording), str(other)]

    options = ["--output-dir", str(out), "--skip-existing"]
    assert main(["transcribe", *paths, *options, "--model", str(model_folder)]) == 0

    assert (out / "noise.txt").read_text(encoding="utf-8") == "DONE"
    assert (out / "other.txt").exists()
    assert f"{recording}: is done" in capsys.readouterr().err


def test_one_format_may_go_to_standard_output(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    options = ["--output-format", "vtt", "--model", str(model_folder)]

    assert main(["transcribe", str(recording), *options]) == 0

    assert capsys.readouterr().out.startswith("WEBVTT\n")


def test_words_and_alternatives_are_printed_where_asked_for(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    options = ["--print-words", "--nbest", "2", "--model", str(model_folder)]

    assert main(["transcribe", str(recording), *options]) == 0

    text, *rest = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len(rest) == len(text.split()) + 2
    word = re.fullmatch(r" +(\d\.\d\d) +(\d\.\d\d)  (\d\.\d\d)  (\S+)", rest[0])
    assert word is not None
    assert word[4] == text.split()[0]
    assert 0 <= float(word[1]) <= float(word[2]) <= 0.5


def test_a_recording_may_come_on_standard_input(
    model_folder: Path,
    recording: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main(["transcribe", str(recording), "--model", str(model_folder)])
    expected = capsys.readouterr().out

    class Piped:
        buffer = BytesIO(recording.read_bytes())

    monkeypatch.setattr("sys.stdin", Piped)
    assert main(["transcribe", "-", "--model", str(model_folder)]) == 0

    assert capsys.readouterr().out == expected


def test_what_is_wrong_on_standard_input_is_reported_by_that_name(
    model_folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Piped:
        buffer = BytesIO(b"no audio at all, but some bytes")

    monkeypatch.setattr("sys.stdin", Piped)
    assert main(["transcribe", "-", "--model", str(model_folder)]) == 1

    assert capsys.readouterr().err.startswith("asr: standard input: is no audio")


def test_the_channels_of_a_stereo_file_may_be_apart(
    model_folder: Path, recording: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--channel", "split", "--output-dir", str(out)]

    assert (
        main(["transcribe", str(recording), *options, "--model", str(model_folder)])
        == 0
    )

    assert {path.name for path in out.iterdir()} == {
        "noise.left.txt",
        "noise.right.txt",
    }


@pytest.mark.parametrize(
    ("num_channels", "names"),
    [
        (1, {"talk"}),
        (2, {"talk.left", "talk.right"}),
        (3, {f"talk.{n}" for n in "123"}),
    ],
)
def test_every_channel_is_transcribed_by_itself(
    model_folder: Path, tmp_path: Path, num_channels: int, names: set[str]
) -> None:
    path, out = tmp_path / "talk.wav", tmp_path / "out"
    samples = 0.1 * torch.randn(8_000, num_channels)
    soundfile.write(path, samples.numpy(), 16_000)
    options = ["--channel", "split", "-o", str(out), "--model", str(model_folder)]

    assert main(["transcribe", str(path), *options]) == 0

    assert {path.stem for path in out.iterdir()} == names


def test_the_channels_that_are_done_are_named(
    model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    path, out = tmp_path / "talk.wav", tmp_path / "out"
    soundfile.write(path, 0.1 * torch.randn(8_000, 2).numpy(), 16_000)
    out.mkdir()
    (out / "talk.left.txt").write_text("DONE", encoding="utf-8")
    options = ["--channel", "split", "-o", str(out), "--model", str(model_folder)]

    assert main(["transcribe", str(path), *options, "--skip-existing"]) == 0

    error = capsys.readouterr().err
    assert f"{path}: channel left is done" in error
    assert "right is done" not in error


def test_a_channel_is_taken_by_its_number(
    model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "talk.wav"
    soundfile.write(path, 0.1 * torch.randn(8_000, 3).numpy(), 16_000)
    options = ["--output-format", "json", "--model", str(model_folder)]

    assert main(["transcribe", str(path), "--channel", "3", *options]) == 0
    assert json.loads(capsys.readouterr().out)["channel"] == "3"
    assert main(["transcribe", str(path), "--channel", "4", *options]) == 1
    assert "has 3 channels (there is no channel 4)" in capsys.readouterr().err


@pytest.mark.parametrize("channel", ["0", "-1", "bogus", "1.5"])
def test_what_is_no_channel_is_refused(channel: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["transcribe", "a.wav", f"--channel={channel}"])
    assert f"{channel} is no channel (use mix, left" in capsys.readouterr().err


def test_a_remark_is_one_line_and_stops_nothing(
    model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "talk.wav"
    samples = 0.1 * torch.randn(8_000, 1).repeat(1, 2) * torch.tensor([1.0, -1.0])
    soundfile.write(path, samples.numpy(), 16_000)

    assert main(["transcribe", str(path), "--model", str(model_folder)]) == 0

    assert capsys.readouterr().err.splitlines()[0] == (
        f"asr: {path}: the channels cancel each other, so their mean is next to silent "
        "(take one of them: --channel left)"
    )


def test_a_clip_of_a_recording(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    options = ["--clip", "0.1:0.3", "--output-format", "json"]

    assert (
        main(["transcribe", str(recording), *options, "--model", str(model_folder)])
        == 0
    )

    tree = json.loads(capsys.readouterr().out)
    assert tree["duration"] == 0.2
    assert tree["segments"][0]["start"] == 0.1


def test_silence_is_reported(
    model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "silence.wav"
    soundfile.write(path, torch.zeros(16_000).numpy(), 16_000)

    assert main(["transcribe", str(path), "--model", str(model_folder)]) == 0

    printed = capsys.readouterr()
    assert printed.out == "\n"
    assert printed.err == f"asr: {path}: silence, no text\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output-format", "doc"], "output format doc: is not known (use txt, json"),
        (["--output-format", "txt,srt"], "several formats need a folder"),
        (["--skip-existing"], "--skip-existing needs --output-dir"),
        (["--clip", "5"], "--clip 5 is not START:END in seconds"),
        (["--clip", "9:"], "noise.flac: "),
        (["--clip", "2:1"], "(it ends too early)"),
        (["--nbest", "-1"], "--nbest must be zero or more, not -1"),
        (["--nbest", "2", "-f", "json"], "--nbest adds to printed text"),
        (["--print-words", "-f", "srt"], "--print-words adds to printed text"),
        (["--print-words", "-o", "no"], "--print-words adds to printed text"),
        (["--output-dir", __file__], "test_cli.py: is no folder"),
        (["--subtitle-length", "0"], "subtitles.line_length must be at least 1"),
        (["--device", "tpu"], "device tpu: is not known"),
        (["--lm-weight", "-1"], "decoding.lm_weight must be zero or more"),
        (["--ilm-weight", "-1"], "decoding.ilm_weight must be zero or more"),
        (["--ctc-weight", "2"], "decoding.ctc_weight is a share"),
        (["--precision", "int4"], "precision int4: is not known"),
        (["--language-model", "/none"], "/none: holds no language model (asr lm build"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(
    options: list[str],
    message: str,
    model_folder: Path,
    recording: Path,
    capsys: Capture,
) -> None:
    arguments = ["transcribe", str(recording), "--model", str(model_folder), *options]

    assert main(arguments) == 1

    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("asr: ")
    assert error.count("\n") == 1


def test_several_recordings_of_another_format_need_a_folder(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    other = recording.with_name("other.flac")
    other.write_bytes(recording.read_bytes())
    options = ["--output-format", "srt", "--model", str(model_folder)]

    assert main(["transcribe", str(recording), str(other), *options]) == 1

    assert "several recordings need a folder" in capsys.readouterr().err


def test_explain_writes_a_page_named_as_the_recording_is(
    model_folder: Path,
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    assert main(["explain", str(recording), "--model", str(model_folder)]) == 0

    page = (here / "noise.html").read_text(encoding="utf-8")
    assert "<h1>noise.flac</h1>" in page
    assert '"attention": {' in page
    assert capsys.readouterr().err == "asr: wrote noise.html\n"


def test_explain_writes_where_the_option_says(
    model_folder: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    page = tmp_path / "page.html"

    options = ["--model", str(model_folder), "--beam", "1", "--output", str(page)]
    assert main(["explain", str(recording), *options]) == 0

    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().err == f"asr: wrote {page}\n"


@pytest.mark.parametrize("path", [".", "", "/"])
def test_a_folder_has_no_page(
    path: str,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["explain", path, "--model", str(model_folder)]) == 1

    error = capsys.readouterr().err
    assert error == f"asr: {path or '.'}: is a folder (a file was expected)\n"
    assert not list(tmp_path.glob("*.html"))


def test_a_page_does_not_replace_its_recording(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    before = recording.read_bytes()
    options = ["--output", str(recording), "--model", str(model_folder)]

    assert main(["explain", str(recording), *options]) == 1

    assert "would be overwritten" in capsys.readouterr().err
    assert recording.read_bytes() == before


def test_a_name_of_two_lines_is_printed_in_one(tmp_path: Path, capsys: Capture) -> None:
    assert main(["transcribe", str(tmp_path / "a\nb.wav")]) == 1

    assert "a\\nb.wav: cannot be read" in capsys.readouterr().err


def test_an_impossible_beam_is_one_line(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    options = ["--model", str(model_folder), "--beam", "0"]

    assert main(["transcribe", str(recording), *options]) == 1

    message = "asr: decoding.beam_size must be at least 1, not 0\n"
    assert capsys.readouterr().err == message


def test_score_prints_the_word_error_rate(tmp_path: Path, capsys: Capture) -> None:
    said, decoded = tmp_path / "said.jsonl", tmp_path / "decoded.jsonl"
    write_manifest(said, [SAID])
    write_manifest(decoded, [replace(SAID, text="THE BAT")])

    assert main(["score", str(said), str(decoded), "--details", "--aligned"]) == 0

    printed = capsys.readouterr().out
    assert "%WER 66.67 [ 2 / 3, 0 ins, 1 del, 1 sub ]\n" in printed
    assert "CAT -> BAT" in printed
    aligned = printed[: printed.index("%WER")]
    assert printed.endswith(f"most word errors\n{aligned}")
    assert "bootstrap over utterances" in printed


def scored(tmp_path: Path, said: str, decoded: str, *options: str) -> None:
    for name, text in (("said", said), ("decoded", decoded)):
        write_manifest(tmp_path / f"{name}.jsonl", [replace(SAID, text=text)])
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("said", "decoded")]
    assert main(["score", *paths, *options]) == 0


def test_score_takes_unknown_speakers_for_nobody(
    tmp_path: Path, capsys: Capture
) -> None:
    texts = {"A": "", "B": "", "C": "", "D": "", "E": "1", "F": "1"}
    said = [replace(SAID, id=id, speaker=who) for id, who in texts.items()]
    paths = [str(tmp_path / "said.jsonl"), str(tmp_path / "decoded.jsonl")]
    write_manifest(paths[0], said)
    write_manifest(paths[1], [replace(u, text="") if u.speaker else u for u in said])

    assert main(["score", *paths]) == 0
    assert "bootstrap over utterances" in capsys.readouterr().out

    write_manifest(paths[0], [*said[:-1], replace(said[-1], speaker="2")])
    assert main(["score", *paths]) == 0
    low, high = confidence_interval(
        [u.text for u in said], [SAID.text] * 4 + [""] * 2, groups=list("ABCD12")
    )
    printed = capsys.readouterr().out
    assert f"{100 * low:.2f} to {100 * high:.2f} (bootstrap over speakers)" in printed


def test_score_needs_a_text_to_compare_with(tmp_path: Path, capsys: Capture) -> None:
    said, decoded = tmp_path / "said.jsonl", tmp_path / "decoded.jsonl"
    write_manifest(said, [replace(SAID, text="")])
    write_manifest(decoded, [replace(SAID, text="THE BAT")])

    assert main(["score", str(said), str(decoded)]) == 1

    captured = capsys.readouterr()
    assert "none of its utterances has a text" in captured.err
    assert "(2 words found in them)" in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    ("said", "decoded", "remark"),
    [
        ("Go on, then.", "GO ON THEN", "3 of 3 word errors are case and punctuation"),
        ("Go on, then.", "GO IN THEM", ""),
        ("GO ON", "GO ON", ""),
        ("", "", ""),
    ],
)
def test_score_remarks_on_errors_of_spelling(
    said: str, decoded: str, remark: str, tmp_path: Path, capsys: Capture
) -> None:
    scored(tmp_path, said, decoded)

    error = capsys.readouterr().err
    assert error.startswith(f"asr: {remark}" if remark else "")
    assert error.count("\n") == bool(remark)


def test_score_compares_in_another_spelling(tmp_path: Path, capsys: Capture) -> None:
    scored(tmp_path, "Go on, then.", "GO ON THEM", "--normalize", "plain")

    printed = capsys.readouterr()
    assert "%WER 33.33 [ 1 / 3, 0 ins, 0 del, 1 sub ]\n" in printed.out
    assert printed.err == ""


def test_score_shows_no_control_character(tmp_path: Path, capsys: Capture) -> None:
    scored(tmp_path, "GO \x1b[2J", "GO \x9b2J", "--aligned", "--details")

    printed = capsys.readouterr().out
    assert "\\x1b[2J -> \\x9b2J" in printed
    assert not set("\x1b\x9b") & set(printed)


@pytest.mark.parametrize(
    ("said", "decoded", "message"),
    [
        (
            "ab",
            "a",
            "decoded.jsonl: 1 of 2 utterances have no hypothesis, the first is b",
        ),
        ("a", "ab", "decoded.jsonl: 1 of its utterances are not in"),
    ],
)
def test_score_wants_the_same_utterances_in_both(
    said: str, decoded: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    for name, ids in (("said", said), ("decoded", decoded)):
        path = tmp_path / f"{name}.jsonl"
        write_manifest(path, [replace(SAID, id=id) for id in ids])

    arguments = [str(tmp_path / "said.jsonl"), str(tmp_path / "decoded.jsonl")]
    assert main(["score", *arguments]) == 1

    assert message in capsys.readouterr().err


def test_report_writes_a_page_beside_the_hypotheses(
    tmp_path: Path, capsys: Capture
) -> None:
    said, decoded = tmp_path / "said.jsonl", tmp_path / "decoded" / "decoded.jsonl"
    write_manifest(said, [SAID])
    write_manifest(decoded, [replace(SAID, text="THE BAT")])
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')

    assert main(["report", str(said), str(decoded)]) == 0
    chosen = str(tmp_path / "p.html")
    assert (
        main(["report", str(said), str(decoded), "--run", str(run), "-o", chosen]) == 0
    )

    page = (tmp_path / "decoded" / "report.html").read_text(encoding="utf-8")
    assert "66.7 %" in page
    assert "id='training'" not in page.replace('"', "'")
    assert 'id="training"' in Path(chosen).read_text(encoding="utf-8")
    assert capsys.readouterr().err.endswith(f"asr: wrote {chosen}\n")


def test_a_report_of_what_does_not_match_is_the_line_of_score(
    tmp_path: Path, capsys: Capture
) -> None:
    said, decoded = tmp_path / "said.jsonl", tmp_path / "decoded.jsonl"
    write_manifest(said, [SAID, replace(SAID, id="b")])
    write_manifest(decoded, [SAID])

    assert main(["report", str(said), str(decoded)]) == 1
    error = capsys.readouterr().err
    assert main(["score", str(said), str(decoded)]) == 1

    assert error == capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_an_error_is_one_line_and_no_traceback(tmp_path: Path, capsys: Capture) -> None:
    missing = tmp_path / "missing.jsonl"

    assert main(["score", str(missing), str(missing)]) == 1

    message = f"asr: {missing}: cannot be read (No such file or directory)\n"
    assert capsys.readouterr().err == message


def test_export_halves_a_model(
    model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["export", str(model_folder), str(tmp_path / "half")]) == 0

    whole = (model_folder / "model.safetensors").stat().st_size
    half = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert half < 0.6 * whole
    assert '"step": 7' in (tmp_path / "half" / "model.json").read_text()
    capsys.readouterr()


def test_export_brings_a_model_to_bytes_that_all_commands_read(
    model_folder: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = str(tmp_path / "bytes")
    assert main(["export", str(model_folder), folder, "--weights", "int8"]) == 0
    assert '"format": 4' in (tmp_path / "bytes" / "model.json").read_text()

    for more in ([], ["--precision", "int8"]):
        assert main(["transcribe", str(recording), "--model", folder, *more]) == 0
    page = str(tmp_path / "page.html")
    explained = ["explain", str(recording), "--model", folder, "--output", page]
    assert main(explained) == 0
    capsys.readouterr()


def test_export_refuses_weights_that_it_does_not_know(
    model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(model_folder), str(tmp_path / "x"), "--weights", "int4"])

    assert "--weights: invalid choice: 'int4'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["transcribe", "explain", "decode"])
def test_the_help_names_all_settings_of_the_search(
    command: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])

    printed = capsys.readouterr().out
    assert "decoding.json" in printed
    for field in fields(DecodingConfig):
        assert field.name in printed


def settings_of(arguments: list[str], capsys: Capture) -> dict[str, object]:
    """Transcribe the sample, and return the settings that were used."""
    assert main(["transcribe", *arguments, "--output-format", "json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    settings: dict[str, object] = tree["settings"]
    return settings


def test_later_settings_win(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    own = DecodingConfig(beam_size=2, length_norm=0.5, ctc_weight=0.5, coverage=0.125)
    save_decoding(model_folder, Situation.BUNDLED, own)
    options = ["--model", str(model_folder), "--beam", "3", "--ctc-weight", "0.25"]
    given = ["decoding.beam_size=1", "decoding.length_norm=0.9"]

    used = settings_of([str(recording), *options, *given], capsys)

    names = ("beam_size", "length_norm", "ctc_weight", "coverage", "eos_threshold")
    assert [used[name] for name in names] == [1, 0.9, 0.25, 0.125, 1.5]


@pytest.mark.parametrize("place", range(4))
def test_a_setting_may_stand_anywhere(
    place: int, model_folder: Path, recording: Path, capsys: Capture
) -> None:
    arguments = [str(recording), "--model", str(model_folder), "decoding.lm_weight=0"]
    where = [0, 1, 3, 4][place]
    arguments.insert(where, "decoding.beam_size=1")

    assert settings_of(arguments, capsys)["beam_size"] == 1


def test_transcribe_and_decode_take_hot_words(
    model_folder: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    names, manifest = tmp_path / "names.txt", tmp_path / "set.jsonl"
    names.write_text("Zoë\nNew York\n", encoding="utf-8")
    write_manifest(manifest, [Utterance("a", str(recording), 0.5, "A")])
    given = ["--hotwords", str(names), "--hotword-weight", "2"]
    quick = ["--beam-size", "2", "--model", str(model_folder), "--processes", "1"]

    used = settings_of([str(recording), *quick, *given], capsys)
    typed = settings_of([str(recording), *quick, "--hotwords", "Zoe,Ann"], capsys)
    assert main(["decode", str(manifest), str(tmp_path / "out"), *quick, *given]) == 0

    decoded = json.loads((tmp_path / "out" / "decode.json").read_text())["decoding"]
    for one in (used, decoded):
        assert (one["hotwords"], one["hotword_weight"]) == (["ZOE", "NEW YORK"], 2.0)
    assert typed["hotwords"] == ["ZOE", "ANN"]


@pytest.mark.parametrize("text", ["A B", ""])
def test_decode_prints_the_error_rate_where_it_is_known_what_was_said(
    text: str,
    model_folder: Path,
    recording: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    manifest, out = tmp_path / "my set.jsonl", tmp_path / "out"
    write_manifest(manifest, [Utterance("a", str(recording), 0.5, text)])
    quick = ["--beam-size", "2", "--model", str(model_folder), "--processes", "1"]

    assert main(["decode", str(manifest), str(out), *quick]) == 0

    first, *more = capsys.readouterr().out.splitlines()
    assert first.startswith("1 utterance, 0.00 h of audio")
    assert len(more) == (2 if text else 0)
    if text:
        assert re.match(r"%WER [\d.]+ \[ \d / 2, ", more[0])
        assert main(shlex.split(more[1])[2:]) == 0  # behind `next: asr`


def test_hot_words_that_cannot_be_are_one_line(
    recording: Path, capsys: Capture
) -> None:
    assert main(["transcribe", str(recording), "--hotwords", "ANNA,北京"]) == 1
    printed = capsys.readouterr().err

    assert printed.startswith("asr: hot word '北京': has no letter that this model wri")
    assert printed.count("\n") == 1


def test_decode_and_explain_take_settings_behind_options(
    model_folder: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    manifest, out = tmp_path / "set.jsonl", tmp_path / "out"
    write_manifest(manifest, [Utterance("a", str(recording), 0.5, "A")])
    model = ["--model", str(model_folder)]
    given = ["decoding.beam_size=2", "decoding.length_norm=0.9"]

    decode = ["decode", str(manifest), str(out), "--processes", "1"]
    assert main([*decode, *model, *given]) == 0
    page = ["--output", str(tmp_path / "page.html")]
    assert main(["explain", str(recording), *model, *page, *given]) == 0

    used = json.loads((out / "decode.json").read_text())["decoding"]
    assert (used["beam_size"], used["length_norm"]) == (2, 0.9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "decoding.beam=2",
            "decoding.beam: is not a setting (did you mean beam_size?)",
        ),
        ("decoding.ctc_weight=2", "decoding.ctc_weight is a share from 0 to 1, not 2"),
        ("decoding.beam_size=x", "decoding.beam_size must be a whole number, not 'x'"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(
    given: str, message: str, recording: Path, capsys: Capture
) -> None:
    assert main(["transcribe", str(recording), given]) == 1

    error = capsys.readouterr().err
    assert error.startswith(f"asr: {message}")
    assert error.count("\n") == 1


def test_settings_alone_are_no_recording(capsys: Capture) -> None:
    assert main(["transcribe", "decoding.beam_size=1"]) == 1
    assert "no recording is given" in capsys.readouterr().err


def test_what_is_left_over_is_refused(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["decode", "a", "b", "--beam", "2", "decoding.beam_size=1", "more"])

    assert "unrecognized arguments: more" in capsys.readouterr().err


def test_recordings_may_stand_behind_options(tmp_path: Path, capsys: Capture) -> None:
    names = [str(tmp_path / name) for name in ("a.wav", "b.wav")]

    main(["transcribe", names[0], "--beam-size", "2", names[1]])

    printed = capsys.readouterr().err
    assert all(f"asr: {name}: cannot be read" in printed for name in names)


def test_an_unknown_option_is_refused_before_recordings(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["transcribe", "a.wav", "--bean-size", "2"])

    assert "unrecognized arguments: --bean-size 2" in capsys.readouterr().err


def test_tuning_the_bundled_model_in_its_place_is_refused(capsys: Capture) -> None:
    assert main(["tune", "dev.jsonl", "las_mini", "--write"]) == 1

    assert "asr: las_mini: is bundled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        ([], "holds no checkpoint yet, the same command begins anew"),
        (["checkpoint.safetensors"], "the same command goes on from the last check"),
    ],
)
def test_an_interrupted_training_shows_from_where_it_will_go_on(
    files: list[str],
    hint: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(config: object, folder: Path) -> None:
        for name in files:
            (folder / name).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("asr.train.train", interrupted)

    assert main(["train", TOY_CONFIG, str(tmp_path)]) == 130

    note, end = capsys.readouterr().err.splitlines()
    assert note.startswith(f"asr: {tmp_path}: {hint}")
    assert end == "asr: stopped"


def test_a_finished_training_is_named_so(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.train.train", lambda config, folder: None)
    monkeypatch.setattr("asr.runs.claim.is_finished", lambda config, folder: True)

    assert main(["train", TOY_CONFIG, str(tmp_path)]) == 0

    assert f"asr: {tmp_path}: was finished before" in capsys.readouterr().err


# What the whole command prints of itself


def test_the_version_is_printed(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])

    assert capsys.readouterr().out == f"asr {asr.__version__}\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_gets_a_script_that_knows_the_commands(
    capsys: Capture, shell: str
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--print-completion", shell])

    script = capsys.readouterr().out
    assert {"transcribe", "explain", "train", "doctor"} <= set(
        re.findall(r"\w+", script)
    )
    assert "beam" in script


def test_bash_completes_commands_options_and_files(tmp_path: Path) -> None:
    (tmp_path / "talk.flac").touch()
    with_script = (
        'source <("$0" -m asr --print-completion bash); cd "$1"; shift; '
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_asr; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )

    def completed(*words: str) -> set[str]:
        line = ["bash", "-c", with_script, sys.executable, str(tmp_path), *words]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert {"transcribe", "train"} <= completed("asr", "tra")
    assert completed("asr", "transcribe", "--bea") == {"--beam-size"}
    assert completed("asr", "export", "--weights", "") == {"float16", "int8"}
    assert "talk.flac" in completed("asr", "transcribe", "ta")


def test_another_shell_is_refused(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--print-completion", "powershell"])

    assert "invalid choice: 'powershell'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train", "a"], ["adapt", "a", "b"]])
def test_settings_are_not_called_required(command: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(command)

    assert "required" in (error := capsys.readouterr().err)
    assert "key=value" not in error.splitlines()[-1]
