"""Settings of a live session, as clients of OpenAI's realtime API send and read them.

There are two forms: that of `session.update`, and the older, flat one of
`transcription_session.update`, which is turned into the first. What this server cannot
do is refused with a reason; nothing is ignored silently.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from asr.audio import PCMStream
from asr.audio.pcm import Encoding
from asr.inference.live import LiveConfig
from asr.server.errors import ApiError
from asr.server.request_options import (
    LONGEST_WORD,
    MOST_LETTERS,
    MOST_WORDS,
    check_model,
    language_name,
)

_FORMATS: dict[str, tuple[int, Encoding]] = {
    "audio/pcm": (24_000, "s16le"),
    "audio/pcmu": (8_000, "mulaw"),
    "audio/pcma": (8_000, "alaw"),
}
"""Rate and encoding of each format."""
_FLAT = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_RISE = 12.0
"""dB above the noise of a room at a threshold of 1."""
_READ_ONLY = {"id", "object", "expires_at"}
_LONGEST_PROMPT = 2**16
"""Letters, as many as the field of a form may have."""
KEYWORDS = "session.audio.input.transcription.keywords"
"""What errors call the keywords, in either form."""
_NO_RESPONSES = {"create_response", "interrupt_response", "idle_timeout_ms"}


@dataclass(frozen=True)
class Detection:
    """How the server finds out that somebody speaks."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500


@dataclass(frozen=True)
class SessionSettings:
    """What a client has asked for."""

    model: str
    language: str
    names: tuple[str, ...]
    """Names that the model goes by."""
    format: str = "audio/pcm"
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    detection: Detection | None = field(default_factory=Detection)
    """None where the client commits."""

    @property
    def live(self) -> LiveConfig:
        """Settings of live transcription."""
        if self.detection is None:
            return LiveConfig(pause=None)
        return LiveConfig(
            pause=self.detection.silence_duration_ms / 1000,
            margin=self.detection.prefix_padding_ms / 1000,
            rise=self.detection.threshold * _RISE,
        )

    def stream(self) -> PCMStream:
        """Return what decodes audio in this format."""
        rate, encoding = _FORMATS[self.format]
        return PCMStream(rate, encoding)

    @property
    def bytes_per_second(self) -> int:
        """Of audio in this format."""
        rate, encoding = _FORMATS[self.format]
        return rate * (2 if encoding == "s16le" else 1)

    def updated(self, session: Any) -> "SessionSettings":
        """Return the settings after an update, in either form.

        Args:
            session: what the client sent.

        Raises:
            ApiError: something in it is unknown or impossible.
        """
        session = _table(session, "session", None)
        if not {"type", "audio"} & session.keys():
            session = _nested(session)
        known = {"type", "audio", "include", *_READ_ONLY}
        session = _table(session, "session", known)
        if session.get("type", "transcription") != "transcription":
            raise _refused("session.type", "only transcription is offered here")
        if session.get("include"):
            raise _refused(
                "session.include", "log probabilities of tokens are not to be had"
            )
        audio = _table(session.get("audio") or {}, "session.audio", {"input"})
        return self._with_input(audio.get("input") or {})

    def _with_input(self, given: Any) -> "SessionSettings":
        place = "session.audio.input"
        known = {"format", "transcription", "noise_reduction", "turn_detection"}
        given = _table(given, place, known)
        if given.get("noise_reduction") is not None:
            raise _refused(f"{place}.noise_reduction", "noise is not reduced here")
        found = self
        if given.get("format") is not None:
            found = replace(found, format=_format(given["format"], f"{place}.format"))
        if given.get("transcription") is not None:
            found = found._with_transcription(given["transcription"])
        if "turn_detection" in given:
            detection = given["turn_detection"]
            where = f"{place}.turn_detection"
            found = replace(found, detection=_detection(detection, where))
        return found

    def _with_transcription(self, given: Any) -> "SessionSettings":
        place = "session.audio.input.transcription"
        known = {"model", "language", "languages", "prompt", "keywords", "delay"}
        given = _table(given, place, known)
        model = given.get("model") or self.model
        if not isinstance(model, str):
            raise _refused(f"{place}.model", "must be a text")
        check_model(model, self.names)
        languages = given.get("languages") or [given.get("language") or self.language]
        ours = {self.language, language_name(self.language)}
        if not isinstance(languages, list) or not ours & {
            str(one).lower().partition("-")[0] for one in languages
        }:
            raise _refused(
                f"{place}.language", f"the model writes {self.language} only"
            )
        if given.get("delay") is not None:
            raise _refused(f"{place}.delay", "cannot be chosen here")
        changes: dict[str, Any] = {"model": model}
        if "prompt" in given:
            changes["prompt"] = _prompt(given["prompt"], f"{place}.prompt")
        if "keywords" in given:
            changes["keywords"] = _keywords(given["keywords"])
        return replace(self, **changes)

    def to_dict(self, id: str, expires_at: int) -> dict[str, Any]:
        """Return the session as clients read it."""
        rate, _ = _FORMATS[self.format]
        shown: dict[str, Any] = {"type": self.format}
        if self.format == "audio/pcm":
            shown["rate"] = rate
        return {
            "id": id,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "expires_at": expires_at,
            "audio": {
                "input": {
                    "format": shown,
                    "transcription": self._transcription(),
                    "noise_reduction": None,
                    "turn_detection": self._turn_detection(),
                }
            },
            "include": None,
        }

    def to_flat_dict(self, id: str, expires_at: int) -> dict[str, Any]:
        """Return the session in the older form."""
        name = next(flat for flat, full in _FLAT.items() if full == self.format)
        return {
            "id": id,
            "object": "realtime.transcription_session",
            "expires_at": expires_at,
            "input_audio_format": name,
            "input_audio_transcription": self._transcription(),
            "input_audio_noise_reduction": None,
            "turn_detection": self._turn_detection(),
            "include": None,
        }

    def _transcription(self) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self.model, "language": self.language}
        found["prompt"] = self.prompt
        return found | ({"keywords": list(self.keywords)} if self.keywords else {})

    def _turn_detection(self) -> dict[str, Any] | None:
        if self.detection is None:
            return None
        return {"type": "server_vad", **vars(self.detection)}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the older form of a session into the newer one."""
    names = {
        "input_audio_format": "format",
        "input_audio_transcription": "transcription",
        "input_audio_noise_reduction": "noise_reduction",
        "turn_detection": "turn_detection",
    }
    given = _table(flat, "session", {*names, "include", *_READ_ONLY})
    inner = {names[name]: value for name, value in given.items() if name in names}
    if isinstance(name := inner.get("format"), str):
        inner["format"] = {"type": _FLAT.get(name, name)}
    rest = {name: value for name, value in given.items() if name not in names}
    return {**rest, "audio": {"input": inner}}


def _prompt(given: Any, place: str) -> str:
    if not isinstance(given, str | None):
        raise _refused(place, "must be a text")
    if len(given or "") > _LONGEST_PROMPT:
        raise _refused(place, f"has {_LONGEST_PROMPT} letters at most")
    return given or ""


def _keywords(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list | None):
        raise _refused(KEYWORDS, "must be a list of texts")
    keywords = tuple(given or ())
    if len(keywords) > MOST_WORDS:
        raise _refused(KEYWORDS, f"are {MOST_WORDS} at most")
    if not all(isinstance(one, str) for one in keywords):
        raise _refused(KEYWORDS, "must be a list of texts")
    if max(map(len, keywords), default=0) > LONGEST_WORD:
        raise _refused(KEYWORDS, f"have {LONGEST_WORD} letters each, at most")
    if sum(map(len, keywords)) > MOST_LETTERS:
        raise _refused(KEYWORDS, f"have {MOST_LETTERS} letters together, at most")
    return tuple(word.strip() for word in keywords if word.strip())


def _format(given: Any, place: str) -> str:
    given = _table(given, place, {"type", "rate"})
    name = given.get("type", "audio/pcm")
    if not isinstance(name, str) or name not in _FORMATS:
        raise _refused(
            f"{place}.type", f"{name!r:.40} is not known (use {', '.join(_FORMATS)})"
        )
    rate, _ = _FORMATS[name]
    if given.get("rate", rate) not in (rate, None):
        raise _refused(f"{place}.rate", f"is {rate} Hz for {name}")
    return name


def _detection(given: Any, place: str) -> Detection | None:
    if given is None:
        return None
    names = {"threshold", "prefix_padding_ms", "silence_duration_ms"}
    given = _table(given, place, {"type", "eagerness", *names, *_NO_RESPONSES})
    if given.get("type", "server_vad") != "server_vad":
        raise _refused(f"{place}.type", "only server_vad, or null, is offered here")
    if given.get("idle_timeout_ms") is not None:
        raise _refused(f"{place}.idle_timeout_ms", "there are no responses here")
    limits = {
        "threshold": (0.0, 1.0),
        "prefix_padding_ms": (0, 1_000),
        "silence_duration_ms": (100, 10_000),
    }
    found = dict[str, Any]()
    for name, (least, most) in limits.items():
        value = given.get(name)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise _refused(f"{place}.{name}", f"is {least:g} to {most:g}")
        found[name] = value
    return Detection(**found)


def _table(given: Any, place: str, known: Collection[str] | None) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _refused(place, "must be an object")
    for name in given:
        if known is not None and name not in known:
            raise ApiError(
                400,
                f"{name!r:.80} is no setting of {place} (there are "
                f"{', '.join(sorted(known))})",
                param=f"{place}.{name}"[:160],
                code="unknown_parameter",
            )
    return given


def _refused(param: str, reason: str) -> ApiError:
    name = param.rpartition(".")[2]
    return ApiError(400, f"{name}: {reason}", param=param, code="unsupported_value")
