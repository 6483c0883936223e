"""The official client of OpenAI's API, against a server of our own."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import srt
import webvtt
from openai.types.audio import TranscriptionVerbose

from tests.server.conftest import Server
from tests.sounds import encoded

SAMPLE = Path(str(files("asr") / "assets" / "sample.opus"))
SECONDS = 6.78
DIAGNOSES: list[tuple[dict[str, Any], str]] = [
    ({"language": "de"}, "language: the model writes en only, not 'de'"),
    ({"temperature": 0.5}, "temperature: only 0 is possible, not '0.5'"),
    ({"response_format": "diarized_json"}, "speakers are not told apart here"),
    ({"response_format": "docx"}, "response_format: 'docx' is not known"),
    ({"include": ["logprobs"]}, "include: log probabilities of tokens"),
    ({"chunking_strategy": {"type": "server_vad"}}, "'chunking_strategy\\[type\\]' is"),
    ({"known_speaker_names": ["a"]}, "known_speaker_names: speakers"),
    ({"timestamp_granularities": ["word"]}, "needs response_format=verbose_json"),
    ({"stream": True, "response_format": "srt"}, "stream: srt is not streamed"),
    ({"extra_body": {"best_of": 2}}, "'best_of' is no parameter of a transcription"),
    ({"extra_body": {"hotwords": "ANNA,日本"}}, "hot word .*: has no letter"),
]


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    """The official client."""
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=180
    )


def transcribed(client: openai.OpenAI, **options: Any) -> Any:
    """Transcribe the bundled recording."""
    return client.audio.transcriptions.create(
        **{"file": SAMPLE, "model": "whisper-1", **options}
    )


def test_json_has_the_text_and_what_was_used(client: openai.OpenAI) -> None:
    found = transcribed(client)
    assert isinstance(found.text, str)
    assert found.usage.type == "duration"
    assert found.usage.seconds == pytest.approx(SECONDS, abs=0.01)


def test_text_is_the_text_alone(client: openai.OpenAI) -> None:
    found = transcribed(client, response_format="text")
    assert found.strip() == transcribed(client).text


def test_verbose_json_has_all_that_clients_read(client: openai.OpenAI) -> None:
    found = transcribed(
        client,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert isinstance(found, TranscriptionVerbose)
    TranscriptionVerbose.model_validate(found.model_dump(), strict=True)
    assert found.language == "english"
    assert found.duration == pytest.approx(SECONDS, abs=0.01)
    assert found.segments is not None
    assert found.words is not None
    assert " ".join(word.word for word in found.words) == found.text
    assert "".join(segment.text for segment in found.segments).strip() == found.text
    assert all(0 <= one.start < one.end <= SECONDS for one in found.segments)
    assert found.usage is not None


def test_verbose_json_has_segments_unless_words_are_asked_for(
    client: openai.OpenAI,
) -> None:
    found = transcribed(client, response_format="verbose_json")
    assert (found.segments is None, found.words) == (False, None)
    found = transcribed(
        client, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert (found.segments, found.words is None) == (None, False)


def test_subtitles_are_read_by_other_parsers(client: openai.OpenAI) -> None:
    text = transcribed(client).text
    subtitles = list(srt.parse(transcribed(client, response_format="srt")))
    captions = webvtt.from_string(transcribed(client, response_format="vtt"))
    assert " ".join(one.content for one in subtitles).split() == text.split()
    assert " ".join(one.text for one in captions.captions).split() == text.split()


def test_a_stream_ends_with_the_whole_text(client: openai.OpenAI) -> None:
    events = list(transcribed(client, stream=True))
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text
    assert done.text == transcribed(client).text


def test_a_stream_ends_as_clients_expect(server: Server) -> None:
    response = post(server, stream="true")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


def test_defaults_that_clients_send_are_accepted(client: openai.OpenAI) -> None:
    found = transcribed(
        client,
        language="en",
        prompt="ZyntriQix, Digique Plus",
        temperature=0,
        chunking_strategy="auto",
        keywords=["ANNA", "NEW YORK"],
        extra_body={"hotwords": "ANNA,BERTA"},
    )
    assert isinstance(found.text, str)


@pytest.mark.parametrize(("options", "message"), DIAGNOSES)
def test_what_cannot_be_done_is_refused_with_a_reason(
    client: openai.OpenAI, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        transcribed(client, **options)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'gpt-4o' is not here"):
        transcribed(client, model="gpt-4o")
    with pytest.raises(openai.NotFoundError, match="is not here"):
        client.models.retrieve("gpt-4o")


def test_models_are_listed_and_can_be_asked_for(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["tiny", "whisper-1"]
    for name in names:
        assert client.models.retrieve(name).id == name
        assert transcribed(client, model=name).usage.seconds > 0


def test_translation_is_refused(client: openai.OpenAI) -> None:
    with (
        pytest.warns(DeprecationWarning, match="deprecated"),
        pytest.raises(openai.BadRequestError, match="translation is not possible"),
    ):
        client.audio.translations.create(file=SAMPLE, model="whisper-1")


def test_a_wrong_key_is_refused(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="open", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="missing or wrong") as caught:
        transcribed(client)
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("empty.mp3", b"", "empty.mp3: is empty"),
        ("talk.txt", b"not a recording, a text", "talk.txt: "),
        ("../../etc/passwd", b"RIFF", "passwd: "),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_recording_is_refused(
    client: openai.OpenAI, name: str, contents: bytes, message: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        transcribed(client, file=(name, contents), stream=stream)
    assert caught.value.param == "file"
    assert "/proc" not in str(caught.value)


def test_a_recording_of_too_many_seconds_is_refused(client: openai.OpenAI) -> None:
    import numpy as np

    long = encoded("flac", np.zeros((41 * 16_000, 1), np.float32))
    with pytest.raises(openai.BadRequestError, match="longer than the 40 s that this"):
        transcribed(client, file=("long.flac", long))


def post(server: Server, **fields: str) -> httpx.Response:
    """Send the bundled recording without OpenAI's client."""
    return httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": ("sample.opus", SAMPLE.read_bytes())},
        data=fields,
        headers={"Authorization": f"Bearer {server.key}"},
        timeout=180,
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/audio/transcriptions", 405),
        ("POST", "/v1/audio/transcriptions", 400),
    ],
)
def test_every_error_has_the_form_that_clients_read(
    server: Server, method: str, path: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {server.key}"}
    response = httpx.request(method, server.url + path, headers=headers)
    assert response.status_code == status
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]


def test_a_form_without_a_file_is_refused(server: Server) -> None:
    for form in ({"data": {"model": "tiny"}}, {"files": {"other": b"x"}}):
        response = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            headers={"Authorization": f"Bearer {server.key}"},
            **form,
        )
        assert response.status_code in (400, 415)
        assert "error" in response.json()


def test_health_and_readiness_need_no_key(server: Server) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/ready").json()["status"] == "ready"


def test_metrics_need_the_key_and_count(server: Server) -> None:
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    headers = {"Authorization": f"Bearer {server.key}"}
    post(server)
    text = httpx.get(f"{server.url}/metrics", headers=headers).text
    path = 'path="/v1/audio/transcriptions"'
    assert f'asr_requests_total{{{path},status="200"}}' in text
    assert "asr_workers 1.0" in text


def test_the_page_of_docs_loads_nothing(server: Server) -> None:
    page = httpx.get(f"{server.url}/docs").text
    assert "/v1/audio/transcriptions" in page
    assert "timestamp_granularities[]" in page
    assert "src=" not in page
    schema = httpx.get(f"{server.url}/openapi.json").json()
    json.dumps(schema)
    assert "/v1/models" in schema["paths"]


def test_pages_of_other_hosts_are_refused(server: Server) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}):
        response = httpx.get(f"{server.url}/health", headers=headers)
        assert response.status_code == 403
        assert "may not use this server" in response.json()["error"]["message"]
    own = {"Origin": server.url}
    assert httpx.get(f"{server.url}/health", headers=own).status_code == 200
