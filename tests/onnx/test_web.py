"""The page that recognises in a browser: its folder, and what its scripts work out."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr.audio import read_waveform
from asr.cli import main
from asr.decoding.config import DecodingConfig
from asr.decoding.ctc_window import CTCWindow
from asr.doctor import ASSETS
from asr.errors import CheckpointError, ConfigError
from asr.inference.search_settings import save_decoding
from asr.inference.situations import Situation
from asr.onnx.export import export_onnx
from asr.onnx.features import log_mel, mel_filters
from asr.onnx.recognizer import OnnxRecognizer
from asr.onnx.search import Fusion, beam_search
from asr.onnx.speller import Memory, SpellerSteps
from asr.onnx.web import export_web

WEB = ASSETS / "web"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs node")


def node(script: str, given: Any) -> Any:
    """Run a module's functions on what is given; return what it returns."""
    program = (
        "import { readFileSync } from 'node:fs';\n"
        f"const features = await import('file://{WEB}/features.js');\n"
        f"const search = await import('file://{WEB}/search.js');\n"
        "const given = JSON.parse(readFileSync(0, 'utf8'));\n"
        "const finite = (k, v) => v === -Infinity ? -1e300 : v;\n"
        f"const found = await (async () => {{ {script} }})();\n"
        "process.stdout.write(JSON.stringify(found, finite));"
    )
    done = subprocess.run(
        ["node", "--no-warnings", "--input-type=module", "-e", program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_page_is_one_folder_that_names_no_other_server(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "web"

    export_web(model_folder, folder, "float32")
    export_web(model_folder, folder)  # again, over the first

    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "worker.js", "listener.onnx", "mel.f32"} <= names
    about = json.loads((folder / "model.json").read_text())
    assert about["precision"] == "int8"
    assert about["pieces"][:5] == ["", "", "", " ", "'"]
    assert about["search"]["beam_size"] == 16
    for path in folder.glob("*.[jh][st]*"):
        assert "http" not in path.read_text().replace("package", ""), path


def test_a_page_has_the_settings_of_the_model_or_there_is_none(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "web"
    own = DecodingConfig(beam_size=3, coverage=0.25)
    save_decoding(model_folder, Situation.WITHOUT, own)
    export_web(model_folder, folder)

    found = json.loads((folder / "model.json").read_text())["search"]

    assert (found["beam_size"], found["coverage"]) == (3, 0.25)
    windowed = replace(own, attention_window=4.0)
    save_decoding(model_folder, Situation.WITHOUT, windowed)
    with pytest.raises(ConfigError, match="attention_window: is not possible in a"):
        export_web(model_folder, folder)


def test_other_folders_and_precisions_are_refused(
    model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")

    with pytest.raises(CheckpointError, match="holds other things than a page"):
        export_web(model_folder, tmp_path / "other")
    with pytest.raises(ConfigError, match="precision int4: is not known"):
        export_web(model_folder, tmp_path / "web", "int4")
    with pytest.raises(CheckpointError, match="is on the Hub"):
        export_web(model_folder, Path("hf:me/page"))


def test_a_model_in_torch_is_no_page_though_it_has_a_model_json(
    model_folder: Path,
) -> None:
    before = {path: path.read_bytes() for path in model_folder.iterdir()}

    with pytest.raises(CheckpointError, match="holds other things than a page"):
        export_web(model_folder, model_folder)

    assert {path: path.read_bytes() for path in model_folder.iterdir()} == before


def test_what_a_killed_export_left_is_no_other_thing(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / ".asr-01234567-999999999-0.partial").write_bytes(b"half")

    export_web(model_folder, folder)

    assert (folder / "index.html").is_file()


def test_the_command_prints_what_is_left_to_do(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "web"

    assert main(["export", str(model_folder), str(folder), "--web"]) == 0

    printed = capsys.readouterr().err
    assert f"(cd {folder} && npm install) fetches onnxruntime-web" in printed


@needs_node
def test_features_in_the_page_are_those_of_the_training() -> None:
    waveform = (0.1 * torch.randn(4321)).numpy()
    script = (
        "return [...features.logMel(Float32Array.from(given.samples), "
        "Float32Array.from(given.filters))];"
    )
    given = {"samples": waveform.tolist(), "filters": mel_filters().ravel().tolist()}

    found = np.array(node(script, given)).reshape(-1, 80)

    np.testing.assert_allclose(found, log_mel(waveform), atol=1e-4)


@needs_node
def test_a_tone_stays_as_it_is_from_48_to_16_khz() -> None:
    seconds = np.arange(4800) / 48_000
    tone = np.sin(2 * np.pi * 3000 * seconds)
    high = np.sin(2 * np.pi * 12_000 * seconds)
    script = "return [...features.decimated(Float32Array.from(given))];"

    found, silent = (np.array(node(script, one.tolist())) for one in (tone, high))

    inside = slice(100, -100)
    np.testing.assert_allclose(found[inside], tone[::3][inside], atol=1e-3)
    assert np.abs(silent[inside]).max() < 1e-3


@needs_node
@pytest.mark.parametrize("text", [[], [5], [5, 5, 6], [7, 3, 7, 7]])
def test_prefix_scores_in_the_page_are_those_of_the_search(text: list[int]) -> None:
    log_probs = (3 * torch.randn(1, 12, 9)).log_softmax(dim=-1).numpy()
    prefix = CTCWindow(log_probs, np.array([12]), blank=0, eos=2, never=[1])
    state, expected = prefix.start(), list[Any]()
    for token in (1, *text):
        scores, state = prefix.step(np.array([token]), state)
        expected.append(np.maximum(scores[0], -1e30))
    script = """
        const prefix = new search.CTCPrefix(
          Float32Array.from(given.probs), 12, {pad: 0, sos: 1, eos: 2});
        let state = prefix.start();
        return given.tokens.map((token) => {
          let scores;
          [scores, state] = prefix.step(token, state);
          return [...scores];
        });"""

    given = {"probs": log_probs.ravel().tolist(), "tokens": [1, *text]}
    found = np.maximum(node(script, given), -1e30)

    np.testing.assert_allclose(found, np.array(expected), atol=1e-4)


PAGE = """
    const elements = {};
    globalThis.document = {
      getElementById: (id) => (elements[id] ??= { replaceChildren() {} }),
      body: { dataset: {} },
    };
    let worker;
    globalThis.Worker = class {
      constructor() { worker = this; }
      postMessage() {}
    };
    globalThis.OfflineAudioContext = class {
      decodeAudioData() {
        return { length: 1, numberOfChannels: 1, getChannelData: () => [0] };
      }
    };
    await import(given.page);
    const recording = { arrayBuffer: async () => new ArrayBuffer(1) };
    for (const data of given.before) worker.onmessage({ data });
    await elements.file.onchange({ target: { files: [recording] } });
    worker.onmessage({ data: { type: "error", message: "out of memory" } });
    return [elements.file.disabled, elements.status.textContent];"""
READY = {"type": "ready", "model": {"name": "a", "precision": "int8", "search": {}}}


@needs_node
@pytest.mark.parametrize(("before", "disabled"), [([READY], False), ([], True)])
def test_a_recording_that_fails_leaves_the_page_ready_for_another(
    before: list[Any], disabled: bool
) -> None:
    """But not a model that cannot be loaded."""
    found = node(PAGE, {"page": f"file://{WEB}/page.js", "before": before})

    assert found == [disabled, "out of memory"]


class Table:
    """A speller's graph that reads off tables: by the step and the last token."""

    def __init__(self, log_probs: Any, weights: Any) -> None:
        self.log_probs, self.weights = log_probs, weights
        self.shapes = {"kept": [1, 1, 1]}

    def run(self, names: Sequence[str], given: Mapping[str, Any]) -> list[Any]:
        steps, tokens = given["kept"][..., 0].astype(int), given["tokens"]
        return [
            self.log_probs[steps, tokens],
            given["kept"] + 1,
            self.weights[steps, tokens],
        ]


TABLE_SEARCH = """
    const {logProbs, weights, ctc, tokens, limit, config} = given;
    const flat = (rows) => Float32Array.from(rows.flat());
    const speller = {
      steps: ctc.length,
      start: () => ({ step: 0 }),
      step: async (last, { step }) => [
        flat(last.map((token) => logProbs[step][token])),
        { step: step + 1, weights: flat(last.map((token) => weights[step][token])) },
      ],
      select: ({ step }) => ({ step }),
    };
    const prefix = new search.CTCPrefix(flat(ctc), ctc.length, tokens);
    return search.beamSearch(speller, prefix, config, tokens, limit);"""


@needs_node
@pytest.mark.parametrize("coverage", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_search_in_the_page_finds_what_that_of_numpy_does(
    share: float, coverage: float
) -> None:
    size, limit, steps = 6, 7, 8
    tokens = {"pad": 0, "sos": 1, "eos": 2}
    settings: dict[str, Any] = {"beam_size": 4, "length_norm": 1.0}
    settings |= {"eos_threshold": 1.5, "ctc_weight": share, "coverage": coverage}
    config = DecodingConfig(**settings)
    for _ in range(5):
        log_probs = (2 * torch.randn(limit + 1, size, size)).log_softmax(-1).numpy()
        weights = (3 * torch.randn(limit + 1, size, steps)).softmax(-1).numpy()
        ctc = torch.randn(1, steps, size).log_softmax(dim=-1).numpy()
        none = np.zeros((1, steps, 1), dtype=np.float32)
        memory = Memory(none, none, np.ones((1, steps), dtype=bool))
        session: Any = Table(log_probs, weights)
        speller = SpellerSteps(session, memory, coverage)
        prefix = CTCWindow(ctc, np.array([steps]), blank=0, eos=2, never=[1])
        model = Fusion([(speller, 1 - share), (prefix, share)])
        (expected,) = beam_search(model, config, sos=1, eos=2, max_lengths=[limit])
        given = {
            **{"logProbs": log_probs.tolist(), "weights": weights.tolist()},
            **{"ctc": ctc[0].tolist(), "tokens": tokens, "limit": limit},
            "config": settings,
        }

        found = node(TABLE_SEARCH, given)

        assert tuple(found) == expected[0].tokens


@pytest.mark.slow
@needs_node
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
@pytest.mark.skipif(not find_spec("playwright"), reason="needs playwright")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_browser_finds_the_text_of_the_command_line(
    precision: str, tmp_path: Path
) -> None:
    """Of a file; and of a microphone, which plays it again and again, most words."""
    from playwright.sync_api import sync_playwright

    page_folder, folder = tmp_path / "web", tmp_path / "onnx"
    export_web("bundled", page_folder, precision)
    export_onnx("bundled", folder, precision)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund"], cwd=page_folder, check=True
    )
    settings = json.loads((page_folder / "model.json").read_text())["search"]
    recognizer = OnnxRecognizer.load(folder, decoding={**settings, "lm_weight": 0})
    expected = recognizer.transcribe(ASSETS / "sample.opus").text
    sound = tmp_path / "sample.wav"
    waveform = read_waveform(ASSETS / "sample.opus", 48_000)
    soundfile.write(sound, waveform.numpy(), 48_000)
    microphone = (
        "--use-fake-ui-for-media-stream --use-fake-device-for-media-stream "
        f"--use-file-for-fake-audio-capture={sound}"
    )

    with served(page_folder) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", *microphone.split()],
        )
        page = browser.new_page()
        asked = list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("body[data-state=ready]", timeout=300_000)
        page.set_input_files("#file", ASSETS / "sample.opus")
        page.wait_for_selector("body[data-state=done]", timeout=300_000)
        found = page.inner_text("#text")
        pictures = page.locator("canvas").count()
        page.click("#record")
        page.wait_for_selector("#record:text-is('Stop')")
        page.wait_for_timeout(1000 * len(waveform) / 48_000)
        page.evaluate("document.body.dataset.state = 'recorded'")
        page.click("#record")
        page.wait_for_selector("body[data-state=done]", timeout=300_000)
        recorded = page.inner_text("#text")
        browser.close()

    assert found == expected
    assert pictures == 1
    words = set(expected.split())
    assert len(words & set(recorded.split())) > len(words) / 2, recorded
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder as `python -m http.server` does."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
