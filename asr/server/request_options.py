"""Options of a request for a transcription: fields of OpenAI's API, checked.

What this server cannot do is refused with a reason; nothing is ignored silently.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from asr.server.errors import ApiError

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
"""Those that a response can have."""
_LISTS = {"timestamp_granularities", "include", "keywords", "hotwords", "languages"}
_KNOWN = {
    *("model", "language", "prompt", "temperature", "response_format", "stream"),
    *("chunking_strategy", *_LISTS),
}
_SPEAKERS = {"known_speaker_names", "known_speaker_references"}
MOST_WORDS = 500
"""Hot words of a request."""
LONGEST_WORD = 100
"""Letters of a hot word, or a phrase."""
MOST_LETTERS = 10_000
"""Of all hot words of a request."""
_NAMES = {"en": "english", "de": "german", "fr": "french", "es": "spanish"}
"""Names of languages, as OpenAI writes them, by their two letters."""


@dataclass(frozen=True)
class RequestOptions:
    """What a client has set."""

    format: str
    """One of `FORMATS`."""
    stream: bool
    """Whether text is sent as it is found."""
    granularities: frozenset[str]
    """word and segment: which times verbose_json has."""
    hotwords: tuple[str, ...]
    """Words and phrases to favour."""
    prompt: str
    """Text that may hold names."""


def read_options(
    fields: Iterable[tuple[str, str]], models: Iterable[str], language: str
) -> RequestOptions:
    """Read the fields of a request.

    Args:
        fields: names and values.
        models: names that the model goes by.
        language: of the model, in two letters.

    Raises:
        ApiError: one is unknown, impossible, or asks for what cannot be done.
    """
    single, lists = _sorted(fields)
    check_model(single.get("model", ""), models)
    _check_language(single, lists, language)
    _check_temperature(single.get("temperature", ""))
    _check_chunking(single.get("chunking_strategy", ""))
    if lists["include"]:
        raise _refused(
            "include",
            "log probabilities of tokens are not to be had (verbose_json has the "
            "confidence of each word)",
        )
    format = _format(single.get("response_format") or "json")
    stream = _flag("stream", single.get("stream", ""))
    if stream and format not in ("json", "text"):
        raise _refused("stream", f"{format} is not streamed (use json or text)")
    return RequestOptions(
        format,
        stream,
        _granularities(lists["timestamp_granularities"], format),
        _hotwords(lists),
        single.get("prompt", ""),
    )


def check_address(names: Iterable[str]) -> None:
    """Refuse fields that stand in the address of a request, where nobody reads them.

    Raises:
        ApiError: one does.
    """
    for name in names:
        if name.removesuffix("[]") in _KNOWN:
            raise ApiError(
                400,
                f"{name!r:.80} stands in the address (send it as a field of the form)",
                param=name[:80],
                code="unknown_parameter",
            )


def check_model(name: str, models: Iterable[str]) -> None:
    """Refuse a model that is not there; no name stands for the one that is.

    Raises:
        ApiError: 404.
    """
    known = list(models)
    if name and name not in known:
        raise ApiError(
            404,
            f"model {name!r:.80} is not here (use {' or '.join(known)})",
            param="model",
            code="model_not_found",
        )


def language_name(code: str) -> str:
    """Return what OpenAI's API calls a language, as far as it is known here."""
    return _NAMES.get(code, code)


def _sorted(
    fields: Iterable[tuple[str, str]],
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Sort fields into those that come once and those that are lists."""
    single, lists = dict[str, str](), {name: list[str]() for name in _LISTS}
    for name, value in fields:
        if name in _SPEAKERS:
            raise _refused(name, "speakers are not told apart here")
        if name not in _KNOWN:
            raise ApiError(
                400,
                f"{name!r:.80} is no parameter of a transcription (there are file, "
                f"{', '.join(sorted(_KNOWN))})",
                param=name[:80],
                code="unknown_parameter",
            )
        if name in _LISTS:
            lists[name].append(value)
        elif name in single:
            raise _refused(name, "is given twice")
        else:
            single[name] = value.strip() if name != "prompt" else value
    return single, lists


def _check_language(
    single: dict[str, str], lists: dict[str, list[str]], language: str
) -> None:
    wanted = [single["language"]] if single.get("language") else lists["languages"]
    names = {language, language_name(language)}
    found = {one.strip().lower().partition("-")[0] for one in wanted}
    if found and not found & names:
        raise _refused(
            "language",
            f"the model writes {language} only, not {', '.join(sorted(found))!r:.80}",
        )


def _check_temperature(text: str) -> None:
    try:
        temperature = float(text or "0")
    except ValueError:
        raise _refused("temperature", f"{text!r:.40} is no number") from None
    if temperature != 0:
        raise _refused(
            "temperature",
            f"only 0 is possible, not {text!r:.40} (the search draws nothing)",
        )


def _check_chunking(text: str) -> None:
    if text not in ("", "auto"):
        raise _refused(
            "chunking_strategy",
            "only auto is possible (recordings are cut at pauses that are found by "
            "their loudness)",
        )


def _format(name: str) -> str:
    if name == "diarized_json":
        raise _refused("response_format", "speakers are not told apart here")
    if name not in FORMATS:
        raise _refused(
            "response_format", f"{name!r:.40} is not known (use {', '.join(FORMATS)})"
        )
    return name


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("", "true", "false", "1", "0"):
        raise _refused(name, f"must be true or false, not {text!r:.40}")
    return text.lower() in ("true", "1")


def _granularities(given: list[str], format: str) -> frozenset[str]:
    wanted = {name.strip() for value in given for name in value.split(",")} - {""}
    if unknown := wanted - {"word", "segment"}:
        raise _refused(
            "timestamp_granularities",
            f"{', '.join(sorted(unknown))!r:.80} is not known (use word or segment)",
        )
    if wanted and format != "verbose_json":
        raise _refused("timestamp_granularities", "needs response_format=verbose_json")
    return frozenset(wanted or {"segment"})


def _hotwords(lists: dict[str, list[str]]) -> tuple[str, ...]:
    given = [*lists["hotwords"], *lists["keywords"]]
    parts = re.split(r"[,\n]", ",".join(given))
    found = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if len(found) > MOST_WORDS:
        raise _refused("hotwords", f"at most {MOST_WORDS} are possible")
    if any(len(word) > LONGEST_WORD for word in found):
        raise _refused("hotwords", f"may have {LONGEST_WORD} letters each, no more")
    if sum(map(len, found)) > MOST_LETTERS:
        raise _refused("hotwords", f"may have {MOST_LETTERS} letters in all, no more")
    return found


def _refused(param: str, reason: str) -> ApiError:
    return ApiError(400, f"{param}: {reason}", param=param, code="unsupported_value")
