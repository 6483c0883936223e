"""What a server may be asked for, and how much of it."""

import math
from dataclasses import dataclass
from ipaddress import ip_address

from asr.errors import ConfigError

MIB = 2**20
_LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server."""

    host: str = "127.0.0.1"
    """Address that it listens on."""
    port: int = 8000
    """0 for any that is free."""
    api_key: str | None = None
    """What clients must send; None for no key."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that clients may call a server by that has no key, beside localhost, the
    host that it listens on, and addresses."""
    language: str = "en"
    """Of the model, in two letters (ISO 639-1): the one that clients may ask for."""
    max_upload: int = 25 * MIB
    """Bytes of a request, at most."""
    max_seconds: float = 4 * 3600.0
    """Of a recording, at most."""
    max_requests: int = 32
    """Recordings that are received or transcribed at the same time."""
    max_sessions: int = 32
    """Live sessions at the same time."""
    max_pieces: int = 256
    """Pieces, of up to 15 s, that wait to be recognised."""
    max_connections: int = 512
    """Open at the same time, idle ones too."""
    header_timeout: float = 10.0
    """Seconds within which the head of a request must have come."""
    idle_timeout: float = 20.0
    """Seconds without a byte after which a sender, or a reader, has lost its turn."""
    upload_timeout: float = 300.0
    """Seconds within which a request must have come as a whole."""
    read_timeout: float = 60.0
    """Seconds within which a reader process must have its next piece."""
    read_memory: int = 1024 * MIB
    """Bytes that a reader process may have, beside what it starts with."""
    work_timeout: float = 60.0
    """Seconds that a worker process may take for a batch, and more for its audio: one
    that takes longer hangs, and is replaced."""
    work_factor: float = 30.0
    """How many seconds more for each second of audio, with a beam of 64."""
    drain_timeout: float = 120.0
    """Seconds that running requests are given after SIGTERM."""

    def __post_init__(self) -> None:
        """Refuse what is impossible."""
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"port must be 0 to 65535, not {self.port}")
        if self.api_key is not None and not is_key(self.api_key):
            raise ConfigError(
                "API key: must be printable ASCII without spaces, at least one "
                "character (what stands in the header of a request)"
            )
        self._check_limits()

    def _check_limits(self) -> None:
        for name in (
            *("max_upload", "max_seconds", "max_requests", "max_pieces"),
            *(
                "max_sessions",
                "max_connections",
                "header_timeout",
                "idle_timeout",
                "upload_timeout",
            ),
            *("read_timeout", "read_memory", "work_timeout"),
            *("work_factor", "drain_timeout"),
        ):
            value, shown = getattr(self, name), name.replace("_", "-")
            if not value > 0:
                raise ConfigError(f"{shown} must be above 0, not {value:g}")
            if not math.isfinite(value):
                raise ConfigError(f"{shown} must be a finite number, not {value}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        host = self.host.lower()
        return host == "localhost" or (
            is_address(host) and ip_address(host).is_loopback
        )

    @property
    def trusted_hosts(self) -> frozenset[str] | None:
        """Names, beside addresses, that clients may call the server by; None for any.

        Without a key, a web page could otherwise use the server under a name of its
        own (DNS rebinding).
        """
        if self.api_key is not None:
            return None
        named = (self.host, *self.allowed_hosts)
        return frozenset({*_LOCAL, *(host.lower() for host in named)})


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_key(key: str) -> bool:
    """Return whether a key can stand in a header."""
    return bool(key) and all("!" <= c <= "~" for c in key)
