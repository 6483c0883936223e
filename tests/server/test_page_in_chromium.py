"""The page at `/` in Chromium, whose microphone plays the bundled recording.

Nothing may be written to the browser's console: it reports there what the page's
Content-Security-Policy forbids, what cannot be loaded, and what a script raises.
"""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import uvicorn

from asr.audio import SAMPLE_RATE, read_waveform
from asr.output import FORMATS
from asr.server.reading import start_forking
from tests.server.fake_engine import WORDS, FakeEngine, app, wav

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

CHROMIUM = shutil.which("chromium")
SAMPLE = Path("asr/assets/sample.opus")
KEY = "open/sesame,=1+"
"""With letters that no subprotocol of a WebSocket may have."""
PATIENCE = 15_000
"""Milliseconds: machines may be busy."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]


@contextmanager
def served(engine: FakeEngine, **settings: Any) -> Iterator[str]:
    """Serve while the block runs; give the address."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app(engine, **settings), lifespan="off", log_config=None, ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://localhost:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    start_forking()
    return FakeEngine()


@pytest.fixture(scope="module")
def address(engine: FakeEngine) -> Iterator[str]:
    with served(engine) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sound = tmp_path_factory.mktemp("microphone") / "sample.wav"
    soundfile.write(sound, read_waveform(SAMPLE, 48_000).numpy(), 48_000)
    options = (
        "--no-sandbox --disable-gpu --disable-background-networking "
        "--use-fake-ui-for-media-stream --use-fake-device-for-media-stream "
        f"--use-file-for-fake-audio-capture={sound}"
    ).split()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    contexts = list[Any]()
    written = list[str]()

    def open_page(
        address: str = address, script: str = "", allowed: str = "", **options: Any
    ) -> Any:
        """Open the page; the console may have lines with `allowed` in them."""
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()

        def take(line: str) -> None:
            if not allowed or allowed not in line:
                written.append(line)

        page.on("console", lambda message: take(message.text))
        page.on("pageerror", lambda error: written.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert written == []


def shown(page: Any) -> Any:
    """Wait for a result; return its words."""
    words = page.locator("#text .word")
    expect(words).to_have_text(list(WORDS), timeout=PATIENCE)
    expect(page.locator("#status")).to_have_text("", timeout=PATIENCE)
    return words


def choose(page: Any, name: str = "a.wav", content: bytes | None = None) -> None:
    file = {"name": name, "mimeType": "audio/wav", "buffer": content or wav()}
    page.locator("#file").set_input_files(file)


def wait(page: Any, is_so: Callable[[], bool]) -> None:
    for _ in range(PATIENCE // 50):
        if is_so():
            return
        page.wait_for_timeout(50)
    pytest.fail("it did not come to that")


# The microphone


def test_what_is_recorded_is_shown_while_it_is_said(
    open_page: Open, engine: FakeEngine
) -> None:
    page = open_page()

    page.get_by_role("button", name="Record", exact=True).click()
    provisional, final = page.locator("#provisional"), page.locator("#final")
    expect(provisional).to_contain_text("ONE TWO", timeout=PATIENCE)
    grey = provisional.evaluate("element => getComputedStyle(element).color")
    expect(final).to_contain_text("ONE TWO THREE", timeout=PATIENCE)  # at a pause
    ink = final.evaluate("element => getComputedStyle(element).color")
    page.get_by_role("button", name="Stop recording").click()

    shown(page)
    assert grey != ink
    expect(page.locator("#name")).to_contain_text("Recording of ")
    expect(page.locator("#live")).to_be_hidden()
    expect(page.get_by_role("button", name="Record", exact=True)).to_be_enabled()
    assert likeness(engine.given[-1]) > 0.9


def likeness(recorded: np.ndarray[Any, Any]) -> float:
    """Correlation of half seconds of what was recorded with the sample, in a loop.

    It is the median: a machine that is busy loses samples of a microphone, now and
    then.
    """
    sample = np.tile(read_waveform(SAMPLE).numpy(), 2)
    size = SAMPLE_RATE // 2
    parts = [
        recorded[start : start + size]
        for start in range(SAMPLE_RATE // 2, len(recorded) - size, size // 2)
    ]
    loud = [part for part in parts if np.square(part).mean() > 1e-4]
    return float(np.median([best_correlation(sample, part) for part in loud]))


def best_correlation(
    whole: np.ndarray[Any, Any], part: np.ndarray[Any, Any]
) -> np.floating[Any]:
    size = 2 ** (len(whole) + len(part)).bit_length()
    spectrum = np.fft.rfft(whole, size) * np.conj(np.fft.rfft(part, size))
    places = np.fft.irfft(spectrum, size)[: len(whole) - len(part)]
    sums = np.cumsum(np.square(whole, dtype=np.float64))
    energies = sums[len(part) :] - sums[: -len(part)]
    norm = np.sqrt(energies.clip(1e-6) * np.square(part).sum())
    found: np.floating[Any] = (places / norm).max()
    return found


def test_a_microphone_with_a_rate_of_its_own_is_resampled(
    open_page: Open, engine: FakeEngine
) -> None:
    script = """const Usual = AudioContext;
    window.AudioContext = function (options) {
      if (options?.sampleRate === 24000) throw new Error("not that rate");
      return new Usual({ sampleRate: 44100 });
    };"""
    page = open_page(script=script)

    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("#elapsed")).to_have_text("0:04", timeout=PATIENCE)
    page.get_by_role("button", name="Stop recording").click()

    shown(page)
    assert 3.9 < len(engine.given[-1]) / SAMPLE_RATE < 10
    assert likeness(engine.given[-1]) > 0.9


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("
         "'no', 'NotAllowedError'); }", "was not allowed to use the microphone"),
        ("navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("
         "'no', 'NotFoundError'); }", "There is no microphone."),
        ("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })",
         "https and of localhost only: choose a file instead."),
    ],
)  # fmt: skip
def test_without_a_microphone_the_page_says_why(
    open_page: Open, script: str, line: str
) -> None:
    page = open_page(script=script)

    page.get_by_role("button", name="Record", exact=True).click()

    expect(page.get_by_role("alert")).to_contain_text(line)
    expect(page.get_by_role("button", name="Record", exact=True)).to_be_enabled()
    expect(page.locator("#again")).to_be_hidden()


def test_a_microphone_that_cannot_be_read_is_switched_off(open_page: Open) -> None:
    page = open_page(
        script="""const ask = navigator.mediaDevices.getUserMedia;
        navigator.mediaDevices.getUserMedia = async function (...given) {
            return (window.given = await ask.apply(this, given));
        };
        AudioWorklet.prototype.addModule = async () => {
            throw new Error('No worklet.');
        };"""
    )

    page.get_by_role("button", name="Record", exact=True).click()

    expect(page.get_by_role("alert")).to_have_text("No worklet.")
    states = "window.given.getTracks().map((track) => track.readyState)"
    assert page.evaluate(states) == ["ended"]


def test_a_recording_goes_on_where_there_can_be_no_live_text(open_page: Open) -> None:
    page = open_page(
        script="""window.WebSocket = class extends WebSocket {
            constructor() { throw new DOMException('Not here.'); }
        };"""
    )

    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("#status")).to_have_text(
        "There is no live text: Not here. The recording goes on."
    )
    expect(page.locator("#elapsed")).to_have_text("0:01", timeout=PATIENCE)
    page.get_by_role("button", name="Stop recording").click()

    shown(page)


def test_a_recording_ends_where_the_server_takes_no_more(
    browser: Any, open_page: Open, engine: FakeEngine
) -> None:
    with served(engine, max_upload=150_000) as address:  # 3.1 s at 24 kHz
        page = open_page(address)
        page.get_by_role("button", name="Record", exact=True).click()

        shown_words = page.locator("#text .word")
        expect(shown_words).to_have_text(list(WORDS), timeout=PATIENCE)

        expect(page.locator("#status")).to_contain_text("as large as the server takes")
        assert len(engine.given[-1]) / SAMPLE_RATE < 3.2
        page.context.close()


# Files


def test_a_file_can_be_dropped_anywhere(open_page: Open, engine: FakeEngine) -> None:
    page = open_page()
    content = list(wav(2.0))

    dropped = page.evaluate_handle(
        """bytes => {
        const files = new DataTransfer();
        files.items.add(new File([new Uint8Array(bytes)], "talk <b>.wav"));
        return files;
    }""",
        content,
    )
    page.dispatch_event("main", "drop", {"dataTransfer": dropped})

    shown(page)
    expect(page.locator("#name")).to_have_text("talk <b>.wav")
    assert len(engine.given[-1]) == 2 * SAMPLE_RATE


def test_the_example_is_the_bundled_recording(
    open_page: Open, engine: FakeEngine
) -> None:
    page = open_page()

    page.get_by_role("button", name="Try an example").click()

    shown(page)
    assert np.array_equal(engine.given[-1], read_waveform(SAMPLE).numpy())


def test_words_are_played_and_looked_up(open_page: Open) -> None:
    page = open_page()
    choose(page)
    words = shown(page)

    words.nth(1).click()

    expect(page.locator("#player")).to_have_class("playing")
    expect(page.locator("#card")).to_contain_text("ON")
    expect(page.locator("#card")).to_contain_text("IN")  # what else it may be
    expect(page.locator("#clock")).to_have_text("0:00.6", timeout=PATIENCE)  # its end
    page.keyboard.press("ArrowRight")
    expect(words.nth(2)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#card")).to_be_hidden()
    assert page.locator("#strips .strip").count() == 1


def test_each_format_can_be_downloaded(open_page: Open) -> None:
    page = open_page(accept_downloads=True)
    choose(page, "a talk.wav")
    shown(page)

    for format in FORMATS:
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"Download {format}", exact=True).click()
        assert waiting.value.suggested_filename == f"a talk.{format}"
        text = Path(waiting.value.path()).read_text(encoding="utf-8")
        assert "GO" in text
        assert text.endswith("\n")


# Keys, screens


def test_all_can_be_done_by_keyboard(open_page: Open) -> None:
    page = open_page()

    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Record", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#elapsed")).to_have_text("0:01", timeout=PATIENCE)
    page.keyboard.press("Enter")
    words = shown(page)
    expect(page.locator("#result")).to_be_focused()
    for _ in range(30):
        page.keyboard.press("Tab")
        if words.first.evaluate("word => word === document.activeElement"):
            break
    page.keyboard.press("Enter")

    expect(words.first).to_be_focused()
    expect(page.locator("#player")).to_have_class("playing")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 700})
    choose(page, "a recording with a name that is quite long " + 60 * "x" + ".wav")
    shown(page)
    root = page.locator("html")
    assert root.evaluate("element => element.scrollWidth") <= width


def test_every_control_has_a_name(open_page: Open) -> None:
    page = open_page()
    choose(page)
    shown(page)
    nameless = page.locator("button, input, a, [role]").evaluate_all(
        """elements => elements.filter((element) => element.checkVisibility()
        && !(element.getAttribute("aria-label") || element.textContent.trim()
             || element.labels?.length || element.getAttribute("aria-labelledby")
             || ["status", "alert", "log"].includes(element.getAttribute("role"))))
        .map((element) => element.outerHTML)"""
    )
    assert nameless == []


# History


def test_history_stays_in_the_browser_until_it_is_deleted(open_page: Open) -> None:
    page = open_page()
    for name in ("first.wav", "second.wav"):
        choose(page, name)
        shown(page)
        expect(page.locator("#name")).to_have_text(name)
    page.reload()
    entries = page.locator("#entries li")

    expect(entries).to_have_count(2)
    entries.nth(1).locator(".entry").click()
    shown(page)
    expect(page.locator("#name")).to_have_text("first.wav")
    expect(page.locator("#downloads button")).to_have_count(len(FORMATS) + 1)
    page.get_by_role("button", name="Delete second.wav").click()
    expect(entries).to_have_count(1)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete all").click()
    expect(page.locator("#history")).to_be_hidden()


# Errors, and the key


def test_a_recording_is_not_lost_where_the_server_is_busy(
    open_page: Open, engine: FakeEngine
) -> None:
    page = open_page(allowed="status of 429", accept_downloads=True)
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("#elapsed")).to_have_text("0:01", timeout=PATIENCE)
    engine.is_busy = True

    page.get_by_role("button", name="Stop recording").click()

    alert = page.get_by_role("alert")
    expect(alert).to_have_text("the server is busy (try again in 3 s)")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save the recording").click()
    saved = read_waveform(waiting.value.path())
    engine.is_busy = False
    page.get_by_role("button", name="Try again").click()
    shown(page)
    expect(page.locator("#error")).to_be_hidden()
    assert np.array_equal(engine.given[-1], saved.numpy())


def test_what_is_no_recording_is_reported(open_page: Open) -> None:
    page = open_page(allowed="status of 400")
    choose(page, "notes.wav", b"hello")
    expect(page.get_by_role("alert")).to_contain_text("notes.wav: ", timeout=PATIENCE)


def test_a_file_that_is_too_large_is_not_sent(
    open_page: Open, engine: FakeEngine
) -> None:
    with served(engine, max_upload=1000) as address:
        page = open_page(address)
        choose(page, "long.wav")
        alert = page.get_by_role("alert")
        expect(alert).to_have_text("long.wav is larger than this server takes.")
        page.context.close()


def test_a_server_that_has_gone_is_reported(
    open_page: Open, engine: FakeEngine
) -> None:
    with served(engine) as address:
        page = open_page(address, allowed="ERR_CONNECTION_REFUSED")
    choose(page)
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached.")


def test_what_takes_too_long_can_be_cancelled(
    open_page: Open, engine: FakeEngine
) -> None:
    page = open_page()
    begun, cancelled = engine.begun, engine.cancelled
    engine.may_finish.clear()
    choose(page)
    wait(page, lambda: engine.begun > begun)

    page.get_by_role("button", name="Cancel", exact=True).click()

    expect(page.get_by_role("alert")).to_have_text("Cancelled.")
    wait(page, lambda: engine.cancelled > cancelled)
    engine.may_finish.set()
    page.get_by_role("button", name="Try again").click()
    shown(page)


def test_the_key_is_asked_for_and_kept_for_the_session(
    open_page: Open, engine: FakeEngine
) -> None:
    with served(engine, api_key=KEY) as address:
        page = open_page(address, allowed="status of 401")
        choose(page)
        field = page.get_by_label("API key")
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("missing or wrong")
        choose(page)
        field.fill(KEY)
        page.keyboard.press("Enter")
        shown(page)
        page.get_by_role("button", name="Record", exact=True).click()
        expect(page.locator("#provisional")).to_contain_text("ONE", timeout=PATIENCE)
        page.get_by_role("button", name="Stop recording").click()
        expect(page.locator("#name")).to_contain_text("Recording", timeout=PATIENCE)
        kept = page.evaluate("[localStorage.length, sessionStorage.length]")

        assert kept == [0, 1]
        other = open_page(address)
        choose(other)
        expect(other.get_by_label("API key")).to_be_visible()
        other.get_by_role("button", name="Cancel", exact=True).click()
        page.context.close()
        other.context.close()
