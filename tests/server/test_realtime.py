"""Live transcription by the official client, against a real server.

What recognises is a fake that understands beeps: what is tested is the protocol.
"""

import asyncio
import base64
import contextlib
import json
import re
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    MutableMapping,
    Sequence,
)
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

pytest.importorskip("fastapi")
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from asr.audio import resample
from asr.decoding.hotwords import spell_hotwords
from asr.errors import ConfigError
from asr.inference.live import DRAFT_BEAM
from asr.server import realtime
from asr.server.errors import OverloadError
from asr.server.settings import ServerSettings
from asr.server.transcriptions import names_in
from asr.text import CharTokenizer
from asr.transcript import Segment
from tests.beeps import beeps, read_beeps

PATIENCE = 60.0
PREFIX = "conversation.item.input_audio_transcription"
TEN_WORDS = "ALPHA BRAVO CHARLIE DELTA ECHO FOXTROT GOLF HOTEL ALPHA BRAVO"


class BeepEngine:
    """Has the signatures of `asr.server.engine.Engine`, and understands beeps."""

    model = "las_beeps"
    words = frozenset({"ALPHA", "BRAVO"})

    def __init__(self) -> None:
        self.hotwords: Sequence[str] = ()
        self.final_hotwords = list[list[str]]()
        self.beams: set[int | None] = set()
        self.errors: list[Exception] = []
        self.num_cancelled = 0
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.is_stuck = False
        self.is_full = False

    def overload(self, num_requests: int = 0) -> OverloadError | None:
        return OverloadError(3) if self.is_full else None

    def check_hotwords(self, hotwords: Sequence[str]) -> None:
        spell_hotwords(hotwords, CharTokenizer())

    async def recognize(
        self,
        waveform: npt.NDArray[np.float32],
        *,
        hotwords: Sequence[str] = (),
        return_alignment: bool = False,
        beam_size: int | None = None,
    ) -> Segment:
        self.hotwords = hotwords
        if beam_size is None:
            self.final_hotwords.append(list(hotwords))
        self.beams.add(beam_size)
        try:
            await asyncio.sleep(3600 if self.is_stuck else 0.001)
            while not self.may_finish.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self.errors:
            raise self.errors.pop()
        return read_beeps(torch.from_numpy(waveform))


def application(engine: BeepEngine, settings: ServerSettings) -> FastAPI:
    app = FastAPI()
    app.state.engine, app.state.settings = engine, settings
    app.state.open_sessions = set[Any]()
    app.state.draining = asyncio.Event()
    app.include_router(realtime.router)
    return app


class Server:
    """A server in a thread of this process."""

    def __init__(self, settings: ServerSettings | None = None) -> None:
        self.engine = BeepEngine()
        app = application(self.engine, settings or ServerSettings(idle_timeout=2.0))
        self.open = app.state.open_sessions
        config = uvicorn.Config(app, port=0, log_level="error", lifespan="off")
        config.ws_max_size = realtime.MAX_MESSAGE
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> "Server":
        self._thread.start()
        wait_for(lambda: self._server.started)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)

    @property
    def url(self) -> str:
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"ws://127.0.0.1:{port}/v1"


def wait_for(state: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not state():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def run(work: Awaitable[Any]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await work

    return asyncio.run(limited())


class Client:
    """The official client, and the events it has received."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.events = list[dict[str, Any]]()

    async def until(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Receive until so many events of a kind are there; return the last."""
        while True:
            found = self.of(kind)
            if len(found) >= count:
                return found[count - 1]
            event = await self.connection.recv()
            assert event.type  # the client has parsed it
            self.events.append(event.to_dict())

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def say(self, text: str, rate: int = 24_000, block: float = 0.1) -> None:
        content = pcm(text, rate)
        size = 2 * round(rate * block)
        for start in range(0, len(content), size):
            audio = base64.b64encode(content[start : start + size]).decode()
            await self.connection.input_audio_buffer.append(audio=audio)

    @property
    def transcripts(self) -> list[str]:
        return [event["transcript"] for event in self.of(f"{PREFIX}.completed")]


def pcm(text: str, rate: int = 24_000) -> bytes:
    wave = resample(beeps(text), 16_000, rate)
    return (wave * 2**15).round().numpy().astype("<i2").tobytes()


@asynccontextmanager
async def session(server: Server, beta: bool = False) -> AsyncIterator[Client]:
    async with AsyncOpenAI(
        api_key="none",
        base_url=server.url.replace("ws", "http"),
        websocket_base_url=server.url,
    ) as openai:
        api: Any = openai.beta.realtime if beta else openai.realtime
        async with api.connect(
            model="whisper-1", extra_query={"intent": "transcription"}
        ) as connection:
            yield Client(connection)


def settings(**given: Any) -> dict[str, Any]:
    return {"type": "transcription", "audio": {"input": given}}


async def update(client: Client, **given: Any) -> dict[str, Any]:
    count = len(client.of("session.updated")) + 1
    await client.connection.session.update(session=settings(**given))
    event = await client.until("session.updated", count)
    found: dict[str, Any] = event["session"]["audio"]["input"]
    return found


# Turns that end at pauses


def test_speech_is_transcribed_turn_by_turn(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            await client.say(", ALPHA BRAVO CHARLIE , DELTA ECHO , ,")
            await client.until(f"{PREFIX}.completed", 2)
            return client

    client = run(work())

    assert client.transcripts == ["ALPHA BRAVO CHARLIE", "DELTA ECHO"]
    first = client.of("input_audio_buffer.committed")[0]["item_id"]
    kinds = [e["type"] for e in client.events if e.get("item_id") == first]
    assert [kind for kind in kinds if kind != "asr.provisional"] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        f"{PREFIX}.delta",
        f"{PREFIX}.completed",
    ]
    (done, _) = client.of(f"{PREFIX}.completed")
    assert done["usage"]["type"] == "duration"
    assert done["usage"]["seconds"] == pytest.approx(3 * 0.35 + 0.65, abs=0.2)
    assert done["words"][0]["start"] == pytest.approx(1.0, abs=0.03)
    assert len({event["event_id"] for event in client.events}) == len(client.events)


def test_items_follow_one_another(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            await client.say(", ALPHA , BRAVO , CHARLIE , ,")
            await client.until(f"{PREFIX}.completed", 3)
            return client

    client = run(work())

    committed = client.of("input_audio_buffer.committed")
    added = client.of("conversation.item.added")
    ids = [event["item_id"] for event in committed]
    assert [event["previous_item_id"] for event in committed] == [None, *ids[:-1]]
    assert [event["item"]["id"] for event in added] == ids
    assert added[0]["item"]["role"] == "user"


def test_deltas_only_append_and_are_together_the_transcript(server: Server) -> None:
    said = " ".join([TEN_WORDS] * 6)  # 21 s without a pause

    async def work() -> Client:
        async with session(server) as client:
            await client.say(f", {said} , ,")
            await client.until(f"{PREFIX}.completed")
            return client

    client = run(work())

    deltas = [event["delta"] for event in client.of(f"{PREFIX}.delta")]
    assert len(deltas) >= 2
    assert "".join(deltas) == said
    assert client.transcripts == [said]


def test_provisional_words_come_while_somebody_speaks(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            await client.say(f", {TEN_WORDS}")
            shown = await client.until("asr.provisional")
            assert not client.of(f"{PREFIX}.delta")
            assert TEN_WORDS.startswith(shown["text"])
            assert shown["words"][0]["word"] == "ALPHA"
            await client.say(", ,")
            await client.until(f"{PREFIX}.completed")
            return client

    server.engine.beams.clear()
    assert run(work()).transcripts == [TEN_WORDS]
    assert server.engine.beams == {DRAFT_BEAM, None}  # None: of the final text


def test_a_whole_recording_in_one_message(server: Server) -> None:
    text = " , ".join([TEN_WORDS] * 12)  # 54 s: more than may wait unread

    async def work() -> Client:
        async with session(server) as client:
            await client.say(f", {text} , ,", block=1000)
            await client.until(f"{PREFIX}.completed", 12)
            return client

    assert run(work()).transcripts == [TEN_WORDS] * 12


def test_the_client_of_the_documentation_is_live_and_ends(
    server: Server, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "live.md").read_text()
    code = re.findall(r"```py\n(.*?)```", page, re.S)[0]
    program = tmp_path / "client.py"
    program.write_text(code.replace("127.0.0.1:8000", server.url.split("/")[2]))

    async def work() -> tuple[bytes, bytes, int]:
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, program), stdin=PIPE, stdout=PIPE
        )
        assert client.stdin
        assert client.stdout
        try:
            client.stdin.write(pcm(", ALPHA BRAVO , ,"))
            first = await client.stdout.readline()  # before its input ends
            client.stdin.write(pcm(", CHARLIE , DELTA"))
            client.stdin.close()
            return first, await client.stdout.read(), await client.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                client.kill()

    assert run(work()) == (b"ALPHA BRAVO\n", b"CHARLIE\nDELTA\n", 0)


# Turns that the client ends


def test_the_client_commits(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            found = await update(client, turn_detection=None)
            assert found["turn_detection"] is None
            await client.say("ALPHA BRAVO , CHARLIE")
            await client.connection.input_audio_buffer.commit()
            await client.until(f"{PREFIX}.completed")
            await client.say("DELTA")
            await client.connection.input_audio_buffer.commit()
            await client.until(f"{PREFIX}.completed", 2)
            return client

    client = run(work())

    assert client.transcripts == ["ALPHA BRAVO CHARLIE", "DELTA"]
    assert not client.of("input_audio_buffer.speech_started")


def test_a_commit_ends_a_turn_that_a_pause_would_have(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            await client.say(", ALPHA BRAVO")
            await client.connection.input_audio_buffer.commit()
            await client.until(f"{PREFIX}.completed")
            return client

    assert run(work()).transcripts == ["ALPHA BRAVO"]


def test_what_was_cleared_is_not_transcribed(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            await update(client, turn_detection=None)
            await client.say("ALPHA BRAVO")
            await client.connection.input_audio_buffer.clear()
            await client.until("input_audio_buffer.cleared")
            await client.say("CHARLIE")
            await client.connection.input_audio_buffer.commit()
            await client.until(f"{PREFIX}.completed")
            return client

    assert run(work()).transcripts == ["CHARLIE"]


def test_a_turn_that_is_cleared_keeps_the_text_that_was_final(server: Server) -> None:
    text = " , ".join([TEN_WORDS] * 5)  # 22 s: more than one piece

    async def work() -> Client:
        async with session(server) as client:
            await update(client, turn_detection=None)
            await client.say(text, block=5)
            await client.until(f"{PREFIX}.delta")
            await client.connection.input_audio_buffer.clear()
            await client.until(f"{PREFIX}.completed")
            return client

    client = run(work())

    (delta,) = client.of(f"{PREFIX}.delta")
    assert delta["delta"].startswith(TEN_WORDS)
    assert client.transcripts == [delta["delta"]]


def test_an_empty_buffer_is_not_committed(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            await client.connection.input_audio_buffer.commit(event_id="mine")
            await client.until("error")
            return client

    (event,) = run(work()).of("error")
    assert event["error"]["code"] == "input_audio_buffer_commit_empty"
    assert event["error"]["event_id"] == "mine"


# Settings


def test_the_session_is_described(server: Server) -> None:
    async def work() -> dict[str, Any]:
        async with session(server) as client:
            return await client.until("session.created")

    found = run(work())["session"]

    assert found["type"] == "transcription"
    assert found["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert found["audio"]["input"]["transcription"]["model"] == "las_beeps"
    assert found["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
    }


def test_names_in_prompt_and_keywords_become_hot_words(server: Server) -> None:
    async def work() -> None:
        async with session(server) as client:
            transcription = {
                "model": "whisper-1",
                "language": "en",
                "prompt": "Alpha meets Zulu",
                "keywords": ["TANGO"],
            }
            await update(client, transcription=transcription)
            await client.say(", ALPHA , ,")
            await client.until(f"{PREFIX}.completed")

    run(work())

    assert list(server.engine.hotwords) == ["TANGO", "Zulu"]


def test_blank_keywords_are_left_out(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            found = await update(
                client, transcription={"keywords": ["", " ", " TANGO "]}
            )
            assert found["transcription"]["keywords"] == ["TANGO"]
            await client.say(", ALPHA , ,")
            await client.until(f"{PREFIX}.completed")
            return client

    assert run(work()).transcripts == ["ALPHA"]
    assert list(server.engine.hotwords) == ["TANGO"]


def test_a_turn_keeps_the_keywords_that_it_ended_with(server: Server) -> None:
    async def work() -> None:
        async with session(server) as client:
            await update(
                client, turn_detection=None, transcription={"keywords": ["TANGO"]}
            )
            for _ in range(2):
                await client.say("ALPHA")
                await client.connection.input_audio_buffer.commit()
            await update(client, transcription={"keywords": ["ZULU"]})
            server.engine.may_finish.set()
            await client.until(f"{PREFIX}.completed", 2)

    server.engine.final_hotwords.clear()
    server.engine.may_finish.clear()
    try:
        run(work())
    finally:
        server.engine.may_finish.set()

    assert server.engine.final_hotwords == [["TANGO"], ["TANGO"]]


def test_names_are_looked_for_once_an_update(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = list[str]()

    def counted(prompt: str, known: frozenset[str]) -> tuple[str, ...]:
        prompts.append(prompt)
        return names_in(prompt, known)

    monkeypatch.setattr(realtime, "names_in", counted)

    async def work() -> None:
        async with session(server) as client:
            await update(client, transcription={"prompt": "Zulu"})
            await client.say(f", {TEN_WORDS} , ,")
            await client.until(f"{PREFIX}.completed")

    run(work())

    assert prompts == ["Zulu"]
    assert list(server.engine.hotwords) == ["Zulu"]


def test_what_an_update_does_not_name_stays(server: Server) -> None:
    async def work() -> list[dict[str, Any]]:
        found = list[dict[str, Any]]()
        async with session(server) as client:
            for given in (
                {"prompt": "Zulu", "keywords": ["TANGO"]},
                {"language": "en"},
                {"prompt": None, "keywords": None},
            ):
                found.append(await update(client, transcription=given))
        return [one["transcription"] for one in found]

    first, second, third = run(work())

    assert first == second
    assert (first["prompt"], first["keywords"]) == ("Zulu", ["TANGO"])
    assert third == {"model": "las_beeps", "language": "en", "prompt": ""}


def test_a_longer_pause_can_be_asked_for(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            detection = {"type": "server_vad", "silence_duration_ms": 1500}
            await update(client, turn_detection=detection)
            await client.say(", ALPHA , BRAVO , , ,")
            await client.until(f"{PREFIX}.completed")
            return client

    assert run(work()).transcripts == ["ALPHA BRAVO"]


@pytest.mark.parametrize("name", ["audio/pcmu", "audio/pcma"])
def test_telephones_are_understood(server: Server, name: str) -> None:
    from asr.audio.pcm import _TABLES

    table = _TABLES["mulaw" if name == "audio/pcmu" else "alaw"]

    async def work() -> Client:
        async with session(server) as client:
            found = await update(client, format={"type": name}, turn_detection=None)
            assert found["format"] == {"type": name}
            wave = resample(beeps("ALPHA HOTEL"), 16_000, 8_000).numpy()
            order = np.argsort(table)
            middle = (table[order][1:] + table[order][:-1]) / 2
            codes = order[np.searchsorted(middle, wave)].astype(np.uint8).tobytes()
            audio = base64.b64encode(codes).decode()
            await client.connection.input_audio_buffer.append(audio=audio)
            await client.connection.input_audio_buffer.commit()
            await client.until(f"{PREFIX}.completed")
            return client

    assert run(work()).transcripts == ["ALPHA HOTEL"]


def test_the_older_protocol_is_spoken_too(server: Server) -> None:
    async def work() -> Client:
        async with session(server, beta=True) as client:
            created = await client.until("transcription_session.created")
            assert created["session"]["input_audio_format"] == "pcm16"
            event = {
                "type": "transcription_session.update",
                "session": {
                    "input_audio_format": "pcm16",
                    "input_audio_transcription": {"model": "whisper-1"},
                    "turn_detection": None,
                },
            }
            await client.connection.send(event)
            updated = await client.until("transcription_session.updated")
            assert updated["session"]["turn_detection"] is None
            await client.say("ALPHA BRAVO")
            await client.connection.input_audio_buffer.commit()
            await client.until(f"{PREFIX}.completed")
            assert client.of("conversation.item.created")
            return client

    assert run(work()).transcripts == ["ALPHA BRAVO"]


IMPOSSIBLE = [
    ({"type": "realtime"}, "session.type", "only transcription"),
    ({"voice": "alloy", "type": "transcription"}, "session.voice", "no setting"),
    (
        {**settings(), "include": ["item.input_audio_transcription.logprobs"]},
        "session.include",
        "not to be had",
    ),
    (
        settings(noise_reduction={"type": "near_field"}),
        "session.audio.input.noise_reduction",
        "not reduced",
    ),
    (
        settings(turn_detection={"type": "semantic_vad"}),
        "session.audio.input.turn_detection.type",
        "only server_vad",
    ),
    (
        settings(turn_detection={"type": "server_vad", "silence_duration_ms": 1}),
        "session.audio.input.turn_detection.silence_duration_ms",
        "is 100 to 10000",
    ),
    (
        settings(turn_detection={"type": "server_vad", "idle_timeout_ms": 5000}),
        "session.audio.input.turn_detection.idle_timeout_ms",
        "no responses",
    ),
    (
        settings(format={"type": "audio/pcm", "rate": 16000}),
        "session.audio.input.format.rate",
        "is 24000 Hz",
    ),
    (
        settings(format={"type": "audio/opus"}),
        "session.audio.input.format.type",
        "is not known",
    ),
    (
        settings(transcription={"model": "whisper-1", "language": "de"}),
        "session.audio.input.transcription.language",
        "writes en only",
    ),
    (settings(transcription={"model": "gpt-9"}), "model", "is not here"),
    (
        settings(transcription={"prompt": 3}),
        "session.audio.input.transcription.prompt",
        "must be a text",
    ),
    (
        settings(transcription={"model": 3}),
        "session.audio.input.transcription.model",
        "must be a text",
    ),
    (
        settings(transcription={"delay": "low"}),
        "session.audio.input.transcription.delay",
        "cannot be chosen",
    ),
    (
        settings(transcription={"keywords": "A,B"}),
        "session.audio.input.transcription.keywords",
        "must be a list",
    ),
    (
        settings(transcription={"keywords": ["A"] * 501}),
        "session.audio.input.transcription.keywords",
        "500 at most",
    ),
    (
        settings(transcription={"keywords": ["A", 3]}),
        "session.audio.input.transcription.keywords",
        "must be a list of texts",
    ),
    (
        settings(transcription={"keywords": ["A" * 101]}),
        "session.audio.input.transcription.keywords",
        "100 letters each, at most",
    ),
    (
        settings(transcription={"keywords": ["A" * 99] * 102}),
        "session.audio.input.transcription.keywords",
        "10000 letters together, at most",
    ),
    (
        settings(transcription={"keywords": ["ANNA", "\u65e5\u672c"]}),
        "session.audio.input.transcription.keywords",
        "hot word '\u65e5\u672c': has no letter that this model writes",
    ),
    (
        settings(transcription={"prompt": "A" * (2**16 + 1)}),
        "session.audio.input.transcription.prompt",
        "65536 letters at most",
    ),
    ({"type": "transcription", "audio": 3}, "session.audio", "must be an object"),
    (3, "session", "must be an object"),
    ({"input_audio_format": "mp3"}, "session.audio.input.format.type", "not known"),
]


def test_what_cannot_be_done_is_refused_and_the_session_goes_on(
    server: Server,
) -> None:
    async def work() -> Client:
        async with session(server) as client:
            for number, (given, _, _) in enumerate(IMPOSSIBLE):
                event = {"type": "session.update", "event_id": f"mine_{number}"}
                await client.connection.send_raw(
                    json.dumps({**event, "session": given})
                )
            await client.until("error", len(IMPOSSIBLE))
            await client.say(", ALPHA , ,")
            await client.until(f"{PREFIX}.completed")
            return client

    client = run(work())

    for number, (event, (_, param, message)) in enumerate(
        zip(client.of("error"), IMPOSSIBLE, strict=True)
    ):
        assert event["error"]["param"] == param
        assert message in event["error"]["message"]
        assert event["error"]["type"] == "invalid_request_error"
        assert event["error"]["event_id"] == f"mine_{number}"
    assert client.transcripts == ["ALPHA"]


# Messages that are none


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("[]", "invalid_json"),
        (b"\0\1\2", "invalid_json"),
        ("{}", "unknown_event"),
        ('{"type": "response.create"}', "unknown_event"),
        ('{"type": ["session.update"]}', "unknown_event"),
        ('{"type": "input_audio_buffer.append"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "%%%"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "\u00e4"}', "invalid_value"),
    ],
    ids=range(10),
)
def test_a_message_that_is_none_is_an_error_event(
    server: Server, message: str | bytes, code: str
) -> None:
    async def work() -> Client:
        async with session(server) as client:
            await client.connection.send_raw(message)
            await client.until("error")
            await client.say(", ALPHA , ,")
            await client.until(f"{PREFIX}.completed")
            return client

    client = run(work())

    assert client.of("error")[0]["error"]["code"] == code
    assert client.transcripts == ["ALPHA"]


def test_too_much_audio_in_one_message_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "MAX_AUDIO", 10_000)

    async def work() -> Client:
        async with session(server) as client:
            await client.say("ALPHA BRAVO CHARLIE DELTA", block=1000)
            await client.until("error")
            return client

    assert run(work()).of("error")[0]["error"]["code"] == "message_too_large"


def test_a_message_may_have_as_much_audio_as_the_protocol_allows(
    server: Server,
) -> None:
    audio = "%" * (realtime.MAX_AUDIO * 4 // 3)  # as long as it may be, and no base64

    async def work() -> Client:
        async with session(server) as client:
            await client.connection.input_audio_buffer.append(audio=audio)
            await client.until("error")
            return client

    assert run(work()).of("error")[0]["error"]["message"] == "audio must be in base64"


# Who may connect


def rejection(url: str, **more: Any) -> tuple[int, dict[str, Any]]:
    async def work() -> InvalidStatus:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, **more):
                pass
        return refused.value

    response = run(work()).response
    return response.status_code, json.loads(response.body)["error"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("intent=conversation", 400, "unsupported_value"),
        ("intent=transcription&model=gpt-9", 404, "model_not_found"),
    ],
)
def test_what_is_not_here_is_refused_at_once(
    server: Server, query: str, status: int, code: str
) -> None:
    found, error = rejection(f"{server.url}/realtime?{query}")

    assert (found, error["code"]) == (status, code)


def test_a_busy_server_refuses_sessions(server: Server) -> None:
    server.engine.is_full = True
    try:
        status, error = rejection(f"{server.url}/realtime")
    finally:
        server.engine.is_full = False

    assert (status, error["code"]) == (429, "server_busy")


def test_further_sessions_than_may_be_open_are_refused() -> None:
    with Server(ServerSettings(max_requests=1, max_sessions=2)) as server:

        async def work() -> InvalidStatus:
            async with session(server), session(server):
                wait_for(lambda: len(server.open) == 2)
                with pytest.raises(InvalidStatus) as refused:
                    async with connect(f"{server.url}/realtime"):
                        pass
            return refused.value

        response = run(work()).response
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "10"
        wait_for(lambda: not server.open)
        with_room = run(opened(server))

    assert with_room == "session.created"


async def opened(server: Server) -> str:
    async with session(server) as client:
        return str((await client.until("session.created"))["type"])


def test_a_session_has_its_place_before_it_is_accepted() -> None:
    app = application(BeepEngine(), ServerSettings(max_sessions=1))
    statuses = list[int]()

    async def ask(accept: Callable[[], Awaitable[Any]]) -> None:
        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "websocket.accept":
                await accept()
            elif message["type"] == "websocket.http.response.start":
                statuses.append(message["status"])

        kinds = iter(("websocket.connect", "websocket.disconnect"))

        async def receive() -> dict[str, Any]:
            return {"type": next(kinds), "code": 1001}

        scope = {
            "type": "websocket",
            "path": "/v1/realtime",
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        await app(scope, receive, send)

    async def work() -> None:
        async def meanwhile() -> None:
            await ask(asyncio.Event().wait)

        await ask(meanwhile)

    run(work())

    assert statuses == [429]
    assert not app.state.open_sessions


def test_a_key_is_needed_where_the_server_has_one() -> None:
    with Server(ServerSettings(api_key="secret")) as server:
        url = f"{server.url}/realtime?intent=transcription"

        status, error = rejection(url)

        assert (status, error["code"]) == (401, "invalid_api_key")

        async def work() -> list[str | None]:
            found = list[str | None]()
            protocols: Any = ["realtime", "openai-insecure-api-key.secret"]
            async with connect(url, subprotocols=protocols) as browser:
                found.append(browser.subprotocol)
                assert "session.created" in str(await browser.recv())
            headers = {"Authorization": "Bearer secret"}
            async with connect(url, additional_headers=headers) as program:
                found.append(program.subprotocol)
                assert "session.created" in str(await program.recv())
            return found

        assert run(work()) == ["realtime", None]


# Trouble


def test_a_reading_that_fails_is_an_event_and_the_next_turn_works(
    server: Server,
) -> None:
    async def work() -> Client:
        async with session(server) as client:
            await update(client, turn_detection=None)
            await client.say("ALPHA")
            server.engine.errors = [ConfigError("hot words: no")]
            await client.connection.input_audio_buffer.commit()
            await client.until(f"{PREFIX}.failed")
            await client.say("BRAVO")
            await client.connection.input_audio_buffer.commit()
            await client.until(f"{PREFIX}.completed")
            return client

    client = run(work())

    error = client.of(f"{PREFIX}.failed")[0]["error"]
    assert (error["message"], error["param"]) == ("hot words: no", None)
    assert client.transcripts == ["BRAVO"]


def test_a_busy_engine_is_asked_again_and_then_reported(server: Server) -> None:
    async def work() -> Client:
        async with session(server) as client:
            await update(client, turn_detection=None)
            for word, number, end in ("ALPHA", 2, "completed"), ("BRAVO", 3, "failed"):
                server.engine.errors = [OverloadError(0) for _ in range(number)]
                await client.say(word)
                await client.connection.input_audio_buffer.commit()
                await client.until(f"{PREFIX}.{end}")
            return client

    client = run(work())

    assert client.transcripts == ["ALPHA"]
    assert client.of(f"{PREFIX}.failed")[0]["error"]["code"] == "server_busy"


def test_a_final_text_does_not_wait_for_a_provisional_one(server: Server) -> None:
    before = server.engine.num_cancelled

    async def work() -> Client:
        async with session(server) as client:
            server.engine.is_stuck = True  # what is begun now takes an hour
            await client.say(", ALPHA BRAVO CHARLIE")
            await client.until("input_audio_buffer.speech_started")
            await client.connection.session.update(session=settings())
            await client.until("session.updated")
            await asyncio.sleep(0.1)
            server.engine.is_stuck = False
            await client.say(", ,")
            await client.until(f"{PREFIX}.completed")
            return client

    assert run(work()).transcripts == ["ALPHA BRAVO CHARLIE"]
    assert server.engine.num_cancelled == before + 1


def test_a_client_that_goes_away_ends_its_work(server: Server) -> None:
    server.engine.is_stuck, before = True, server.engine.num_cancelled

    async def work() -> None:
        async with session(server) as client:
            await client.say(", ALPHA BRAVO , ,")
            await client.until("input_audio_buffer.committed")

    try:
        run(work())
        wait_for(lambda: server.engine.num_cancelled > before)
    finally:
        server.engine.is_stuck = False
    wait_for(lambda: not server.open)


def test_a_client_that_does_not_read_is_left(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "MAX_EVENTS", 3)

    async def work() -> None:
        async with session(server) as client:
            for _ in range(400):  # each is answered, at once
                await client.connection.send_raw("{" + " " * 10)
            while True:
                client.events.append((await client.connection.recv()).to_dict())

    with pytest.raises(ConnectionClosed) as closed:
        run(work())
    assert closed.value.rcvd
    assert closed.value.rcvd.reason == "the client reads too slowly"
    wait_for(lambda: not server.open)


def test_a_session_ends_after_its_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "SESSION_SECONDS", 0)

    async def work() -> None:
        async with session(server) as client:
            while True:
                client.events.append((await client.connection.recv()).to_dict())

    with pytest.raises(ConnectionClosed) as closed:
        run(work())
    assert closed.value.rcvd
    assert closed.value.rcvd.reason == "the session has ended"
