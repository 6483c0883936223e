"""Who may ask."""

import base64

import pytest
from starlette.datastructures import Headers

from asr.errors import ConfigError
from asr.server.access import ENCODED_SUBPROTOCOL, SUBPROTOCOL, authorized
from asr.server.settings import ServerSettings
from tests.server.fake_engine import client


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Authorization", "Bearer sesame", True),
        ("Authorization", "bearer sesame", True),
        ("Authorization", "Bearer open", False),
        ("Authorization", "Basic sesame", False),
        ("Authorization", "sesame", False),
        ("Authorization", "Bearer s\xe9same", False),
        ("Sec-WebSocket-Protocol", f"realtime, {SUBPROTOCOL}sesame", True),
        ("Sec-WebSocket-Protocol", f"realtime, {SUBPROTOCOL}open", False),
        ("X-Key", "sesame", False),
    ],
)
def test_the_key_is_compared(name: str, value: str, expected: bool) -> None:
    assert authorized(Headers({name: value}), "sesame") is expected
    assert authorized(Headers({name: value}), None)


def subprotocol(key: str) -> str:
    encoded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    return f"realtime, {ENCODED_SUBPROTOCOL}{encoded}"


@pytest.mark.parametrize("key", ["sesame", "a/b=", "a,b", "~~~???>>>", "k"])
def test_a_key_that_is_no_token_comes_in_base64(key: str) -> None:
    offered = subprotocol(key)

    assert authorized(Headers({"Sec-WebSocket-Protocol": offered}), key)
    assert not authorized(Headers({"Sec-WebSocket-Protocol": offered}), key + "x")


@pytest.mark.parametrize("encoded", ["", "a", "\xe9", "____", "%%%%", "=="])
def test_what_is_no_base64_is_no_key(encoded: str) -> None:
    headers = Headers({"Sec-WebSocket-Protocol": ENCODED_SUBPROTOCOL + encoded})

    assert not authorized(headers, "sesame")


def test_a_server_of_this_machine_without_a_key_goes_by_few_names() -> None:
    settings = ServerSettings(allowed_hosts=("Asr.Example",))
    names = frozenset({"127.0.0.1", "::1", "localhost", "asr.example"})
    assert settings.trusted_hosts == names
    assert ServerSettings(api_key="sesame").trusted_hosts is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(("127.0.0.2", True), ("LocalHost", True), ("::1", True)),
        *(("0.0.0.0", False), ("192.168.0.2", False), ("asr.example", False)),
    ],
)
def test_loopback_is_this_machine(host: str, expected: bool) -> None:
    assert ServerSettings(host=host).is_local is expected


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        *(("192.168.0.2:8000", 200), ("[fe80::1]:8000", 200), ("localhost", 200)),
        *(("asr.example", 200), ("evil.example", 403), ("", 403)),
    ],
)
def test_without_a_key_no_server_goes_by_a_name_of_others(
    called: str, expected: int
) -> None:
    asked = client(host="0.0.0.0", allowed_hosts=("asr.example",))
    response = asked.get("/health", headers={"Host": called})
    assert response.status_code == expected


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "a\nb"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key: must be printable ASCII"):
        ServerSettings(api_key=key)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("port", 70_000, "port must be 0 to 65535, not 70000"),
        ("max_upload", 0, "max-upload must be above 0, not 0"),
        ("max_seconds", float("nan"), "max-seconds must be above 0, not nan"),
        ("max_seconds", float("inf"), "max-seconds must be a finite number, not inf"),
        ("max_requests", -1, "max-requests must be above 0, not -1"),
    ],
)
def test_impossible_limits_are_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServerSettings(**{name: value})  # type: ignore[arg-type]
