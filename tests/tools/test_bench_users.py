import json
import os
import re
import sys
import wave
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile

from asr.data.manifest import Utterance, write_manifest
from asr.errors import ConfigError
from tests.sounds import tone
from tools.bench_users import (
    Recognizer,
    RecognizerError,
    known,
    main,
    one_core,
    other,
    ours,
    run,
    run_all,
    spelled,
    write_recordings,
)
from tools.recognizers.protocol import model_folder

MADE_UP = """
import json, sys, wave
print("a library's word of welcome")
print(json.dumps({"about": "made up 1.0", "model": [sys.argv[0]]}), flush=True)
for line in sys.stdin:
    with wave.open(line.strip()) as file:
        answer = {"text": f"Go, {file.getnframes()}!"}
    print(json.dumps(answer), flush=True)
"""
Make = Callable[..., Recognizer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a script; return the recogniser."""

    def write(code: str, name: str = "made_up") -> Recognizer:
        path = tmp_path / f"{name}.py"
        path.write_text(code)
        return Recognizer(name, [sys.executable, str(path)])

    return write


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write three utterances of one, two and three thousand samples."""
    utterances = []
    for thousand in (1, 2, 3):
        path = tmp_path / f"{thousand}.flac"
        soundfile.write(path, tone()[: 1000 * thousand], 16_000)
        text = f"GO {['ONE', 'TWO', 'THREE'][thousand - 1]} THOUSAND"
        utterances.append(
            Utterance(str(thousand), str(path), thousand / 16, text, str(thousand % 2))
        )
    write_manifest(tmp_path / "three.jsonl", utterances)
    return tmp_path / "three.jsonl"


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Write two WAV files, of 4 and of 5 samples."""
    paths = []
    for count in (4, 5):
        paths.append(tmp_path / f"{count}.wav")
        soundfile.write(paths[-1], tone()[:count], 16_000, "PCM_16")
    return paths


# A recogniser is measured from outside


def test_texts_time_memory_and_size_are_measured(
    make: Make, recordings: list[Path]
) -> None:
    recognizer = make(MADE_UP)

    done = run(recognizer, recordings)

    assert done.texts == ["Go, 4!", "Go, 5!"]
    assert done.errors == []
    assert done.about == "made up 1.0"
    assert done.model_bytes == len(MADE_UP)
    assert 2 < done.mib < 1000
    assert 0 < done.ready < 60
    assert 0 <= done.cpu < 60
    assert 0 < done.wall < 60


def test_what_happens_before_it_is_ready_is_no_time_of_recognition(
    make: Make, recordings: list[Path]
) -> None:
    burn = "import time\nwhile time.process_time() < {}: pass\n"
    early = make(burn.format(0.2) + MADE_UP, "early")
    late = make(MADE_UP.replace("for line", burn.format(0.2) + "for line"), "late")

    early_run, late_run = run(early, recordings), run(late, recordings)

    assert early_run.cpu < 0.1 < late_run.cpu
    assert early_run.ready > 0.2


def test_threads_and_cores_are_one(make: Make, recordings: list[Path]) -> None:
    told = "f\"{os.environ['OMP_NUM_THREADS']} {len(os.sched_getaffinity(0))}\""
    code = MADE_UP.replace('f"Go, {file.getnframes()}!"', told)
    before = os.sched_getaffinity(0)

    with one_core():
        done = run(make("import os\n" + code), recordings[:1])

    assert done.texts == ["1 1"]
    assert os.sched_getaffinity(0) == before


def test_rounds_alternate(make: Make, recordings: list[Path], tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"open({str(log)!r}, 'a').write(__file__[-4]);{MADE_UP.lstrip()}"
    recognizers = [make(code, name) for name in "ABC"]

    found = list(run_all(recognizers, recordings, rounds=3))

    assert log.read_text() == "ABCCBAABC"
    assert [len(runs) for runs in found] == [3, 3, 3]


# What can go wrong


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no memory')", "RuntimeError: no memory"),
        ("import sys; sys.exit(3)", r"ended without a word \(status 3\)"),
        ("print('{')", r"answered { \(about was expected\)"),
        ("print('{\"text\": 1}')", r'answered {"text": 1} \(about was expected\)'),
        (MADE_UP.partition("for")[0], r"ended without a word \(status 0\)"),
        (MADE_UP.replace("answer =", "1 / 0 #"), "ZeroDivisionError: division by zero"),
        (
            MADE_UP.replace('{"text":', '{"words":'),
            r'answered {"words": "Go, 4!"} \(text or error was expected\)',
        ),
    ],
)
def test_a_recogniser_that_does_not_answer_is_reported(
    make: Make, recordings: list[Path], code: str, message: str
) -> None:
    recognizer = make(code)

    with pytest.raises(RecognizerError, match=f"^made_up: {message}$"):
        run(recognizer, recordings)


def test_a_python_that_is_not_there_is_reported(recordings: list[Path]) -> None:
    with pytest.raises(RecognizerError, match=r"^x: /no/python cannot be run \(No suc"):
        run(Recognizer("x", ["/no/python"]), recordings)


def test_a_recogniser_that_crashes_leaves_the_rows_of_others(
    make: Make, manifest: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make(MADE_UP.replace("answer =", "1 / 0 #"), "crashes")
    make(MADE_UP, "works")
    words = [["-r", str(tmp_path / f"{name}.py"), sys.executable] for name in
             ("crashes", "works")]  # fmt: skip

    status = main([str(manifest), "--only-others", *words[0], *words[1]])

    out, err = capsys.readouterr()
    assert status == 1
    assert "bench: crashes: ZeroDivisionError: division by zero (not measured)\n" in err
    (row,) = [line for line in out.split("\n") if line.startswith("| made up 1.0 |")]
    assert row.endswith(" | 0.0 (0.0 to 0.0) |")
    assert "3 utterances, 0.4 s, 1 round(s)" in out


def test_a_file_that_cannot_be_read_is_an_empty_text(
    make: Make, manifest: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = 'answer = {"error": "too long"} if file.getnframes() == 3000 else '
    make(MADE_UP.replace("answer = ", answer))
    path = tmp_path / "all.json"

    words = ["-r", str(tmp_path / "made_up.py"), sys.executable, "--output", str(path)]
    status = main([str(manifest), "--only-others", *words])

    assert status == 0
    assert "| made up 1.0; 1 not read |" in capsys.readouterr().out
    (tree,) = json.loads(path.read_text())
    assert tree["wer"]["deletions"] == 3
    assert tree["wer"]["rate"] == pytest.approx(3 / 9)
    assert tree["runs"][0]["texts"] == ["Go, 1000!", "Go, 2000!", ""]
    assert tree["runs"][0]["errors"] == ["too long"]


@pytest.mark.parametrize("name", known())
def test_a_package_that_is_not_there_is_reported(
    name: str, recordings: list[Path]
) -> None:
    if find_spec(PACKAGES[name]):
        pytest.skip("it is there")
    recognizer = other([name, sys.executable, "/tmp"])

    with pytest.raises(
        RecognizerError, match=rf"^{name}: {PACKAGES[name]} is not inst"
    ):
        run(recognizer, recordings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vosk"], r"^--recognizer vosk: NAME PYTHON \[MODEL\] \[KEY=VALUE …\] was ex"),
        (["vosk", "a=b"], "^--recognizer vosk a=b: NAME PYTHON"),
        (["vosk", "python", "a", "b"], "^--recognizer vosk python a b: NAME PYTHON"),
        (["kaldi", "python"], "^--recognizer kaldi: is none of faster_whisper, moonsh"),
    ],
)
def test_what_names_no_recogniser_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        other(words)


def test_others_only_need_one(manifest: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--only-others needs a --recognizer$"):
        main([str(manifest), "--only-others"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "^needs the folder of a model, behind the Python that runs it$"),
        ({"model": "/no/model"}, "^/no/model: there is no such folder$"),
    ],
)
def test_a_model_that_is_not_there_is_reported(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        model_folder(settings)


# One spelling for all


@pytest.mark.parametrize(
    ("prose", "text"),
    [
        ("Mr. Lee paid $3.", "MISTER LEE PAID THREE DOLLARS"),
        ("Mrs Lee saw Dr. Hon.", "MISSUS LEE SAW DOCTOR HONORABLE"),
        ("a gen of the lt", "A GEN OF THE LT"),
        ("In 1843, in 1905; in 1900.", "IN EIGHTEEN FORTY THREE IN NINETEEN O FIVE IN "
         "NINETEEN HUNDRED"),
        ("The 1850s", "THE EIGHTEEN FIFTIES"),
        ("$1843", "ONE THOUSAND EIGHT HUNDRED AND FORTY THREE DOLLARS"),
        ("1234.5", "ONE THOUSAND TWO HUNDRED AND THIRTY FOUR POINT FIVE"),
        ("[Music] Hello (laughs) there", "HELLO THERE"),
        ("To-morrow, TO MORROW and tomorrow", "TOMORROW TOMORROW AND TOMORROW"),
        ("go to daylight", "GO TO DAYLIGHT"),
        ("Any one, every body, for ever", "ANYONE EVERYBODY FOREVER"),
        ("A dishonourable neighbour", "A DISHONORABLE NEIGHBOR"),
        ("our four hours pour", "OUR FOUR HOURS POUR"),
    ],
)  # fmt: skip
def test_all_texts_are_brought_into_one_spelling(prose: str, text: str) -> None:
    assert spelled(prose) == text
    assert spelled(text) == text


def test_recordings_are_the_utterances(manifest: Path, tmp_path: Path) -> None:
    utterances = [
        Utterance("a", str(tmp_path / "3.flac"), 0.0625, "", start=0.125),
        Utterance("b", str(tmp_path / "3.flac"), 0.1875, ""),
    ]

    paths, seconds = write_recordings(utterances, tmp_path)

    assert seconds == 0.25
    for path, frames in zip(paths, (1000, 3000), strict=True):
        with wave.open(str(path)) as file:
            assert file.getparams()[:4] == (1, 2, 16_000, frames)


# The recognisers, on packages made up

PACKAGES = {
    "faster_whisper": "faster_whisper",
    "moonshine": "moonshine_voice",
    "pocketsphinx": "pocketsphinx",
    "vosk": "vosk",
}
FAKES = {
    "faster_whisper": """
class Segment:
    def __init__(self, text): self.text = text
class WhisperModel:
    def __init__(self, folder, **settings): self.settings = settings
    def transcribe(self, samples, language, beam_size):
        assert abs(samples).max() <= 1
        kind = self.settings["compute_type"]
        return [Segment(f" {len(samples)}"), Segment(f" {kind} {beam_size}")], None
""",
    "moonshine_voice": """
class ModelArch: TINY = 0
class Line:
    def __init__(self, text): self.text = text
class Transcript: pass
def get_model_path(name): return name
class Transcriber:
    def __init__(self, folder, arch): print("loading", folder)
    def transcribe_without_streaming(self, samples, rate):
        transcript = Transcript()
        transcript.lines = [Line(str(len(samples))), Line(str(rate))]
        return transcript
""",
    "pocketsphinx": """
def get_model_path(name): return name
class Hypothesis:
    def __init__(self, text): self.hypstr = text
class Decoder:
    def __init__(self, hmm, lm, dict, loglevel): self.found = None
    def start_utt(self): pass
    def process_raw(self, samples, full_utt):
        self.found = Hypothesis(str(len(samples))) if len(samples) == 8 else None
    def end_utt(self): pass
    def hyp(self): return self.found
""",
    "vosk": """
import json
def SetLogLevel(level): pass
class Model:
    def __init__(self, model_path): pass
class KaldiRecognizer:
    def __init__(self, model, rate): self.rate = rate
    def AcceptWaveform(self, block): self.count = len(block); return True
    def Result(self): return json.dumps({"text": str(self.count)})
    def FinalResult(self): return json.dumps({"text": str(self.rate)})
""",
}
TEXTS = {
    "faster_whisper": ["4 int8 3", "5 int8 3"],
    "moonshine": ["4 16000", "5 16000"],
    "pocketsphinx": ["8", ""],
    "vosk": ["8 16000", "10 16000"],
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have packages of these names, of version 9."""
    folder = tmp_path / "site"
    for name, code in FAKES.items():
        about = folder / f"{name}-9.dist-info" / "METADATA"
        about.parent.mkdir(parents=True)
        about.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9\n")
        (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.mark.parametrize("name", known())
def test_each_recogniser_transcribes(
    name: str, recordings: list[Path], packages: Path, tmp_path: Path
) -> None:
    model = tmp_path / "my-model"
    model.mkdir()
    (model / "encoder.ort").write_bytes(b"123")

    done = run(other([name, sys.executable, str(model), "beam_size=3"]), recordings)

    assert done.texts == TEXTS[name]
    assert done.errors == []
    assert done.model_bytes == 3
    assert " 9, " in done.about


def test_what_a_library_raises_is_of_one_file(
    recordings: list[Path], packages: Path, tmp_path: Path
) -> None:
    recordings[0].write_bytes(b"no WAV at all")

    done = run(other(["vosk", sys.executable, str(tmp_path)]), recordings)

    assert done.texts == ["", "10 16000"]
    (error,) = done.errors
    assert re.match("Error: file does not start with RIFF id", error)


def test_moonshine_without_weights_is_reported(
    recordings: list[Path], packages: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        RecognizerError, match=r"has no weights \(moonshine-voice 0.0.4"
    ):
        run(other(["moonshine", sys.executable, str(packages)]), recordings)


# Ours


@pytest.mark.slow
def test_ours_is_measured_in_three_settings(tmp_path: Path) -> None:
    sample = Path("asr/assets/sample.opus").absolute()
    utterance = Utterance("a", str(sample), 6.8, "")
    recordings, _ = write_recordings([utterance], tmp_path)

    runs = [run(recognizer, recordings) for recognizer in ours(tmp_path)]

    assert [done.about for done in runs] == [
        "asr transcribe",
        "asr transcribe --backend onnx, int8",
        "asr transcribe decoding.beam_size=8",
    ]
    assert all(len(done.texts[0].split()) > 5 and not done.errors for done in runs)
    assert runs[2].cpu < runs[0].cpu
    assert all(done.model_bytes > 40e6 for done in runs)
