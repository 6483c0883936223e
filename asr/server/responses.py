"""Transcripts as OpenAI's API has them: JSON, texts, and events of a stream."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from asr.output import render
from asr.output.speech import spoken
from asr.server.request_options import RequestOptions, language_name
from asr.transcript import Segment, Transcript, Word

_DIGITS = 3
_MEDIA = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
_HUNDREDTHS = 100
"""Of a second: the clock of `seek`, Whisper's frames."""


def response(
    transcript: Transcript, options: RequestOptions, language: str
) -> Response:
    """Write a transcript in the format of a request.

    Args:
        transcript: what was said.
        options: of the request.
        language: of the model, in two letters.
    """
    if options.format == "json":
        content = {"text": transcript.text, "usage": usage(transcript)}
        return JSONResponse(content)
    if options.format == "verbose_json":
        return JSONResponse(verbose(transcript, options.granularities, language))
    if options.format == "text":
        return PlainTextResponse(f"{transcript.text}\n")
    text = render(transcript, options.format)
    return Response(text, media_type=f"{_MEDIA[options.format]}; charset=utf-8")


def usage(transcript: Transcript) -> dict[str, Any]:
    """Return what was used: seconds of audio."""
    return {"type": "duration", "seconds": round(transcript.duration, _DIGITS)}


def verbose(
    transcript: Transcript, granularities: frozenset[str], language: str
) -> dict[str, Any]:
    """Return what verbose_json has.

    Args:
        transcript: what was said.
        granularities: word, segment or both: which times are there.
        language: of the model, in two letters.
    """
    found: dict[str, Any] = {
        "task": "transcribe",
        "language": language_name(language),
        "duration": round(transcript.duration, _DIGITS),
        "text": transcript.text,
    }
    segments = spoken(transcript)
    if "segment" in granularities:
        found["segments"] = [
            _segment(number, segment) for number, segment in enumerate(segments)
        ]
    if "word" in granularities:
        found["words"] = [_word(word) for one in segments for word in one.words]
    return found | {"usage": usage(transcript), "model": transcript.model}


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """Return what clients of Whisper read, and what is known here beside it."""
    size = len(segment.text.encode())
    return {
        "id": number,
        "seek": round(segment.start * _HUNDREDTHS),
        "start": round(segment.start, _DIGITS),
        "end": round(segment.end, _DIGITS),
        "text": f" {segment.text}",  # as Whisper's: joined, they are the whole text
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": segment.nbest[0].score if segment.nbest else 0.0,
        "compression_ratio": size / len(zlib.compress(segment.text.encode())),
        "no_speech_prob": 0.0,
        "confidence": round(segment.confidence, _DIGITS),
        "flags": [str(flag) for flag in segment.flags],
    }


def _word(word: Word) -> dict[str, Any]:
    return {
        "word": word.text,
        "start": round(word.start, _DIGITS),
        "end": round(word.end, _DIGITS),
        "confidence": round(word.confidence, _DIGITS),
    }


def event(content: Mapping[str, Any]) -> bytes:
    """Write an event of a stream."""
    return f"data: {json.dumps(content)}\n\n".encode()


END = b"data: [DONE]\n\n"
"""The last event."""
