"""`asr serve`: transcription by HTTP, for clients of OpenAI's audio API."""

import argparse
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.options import (
    add_command,
    add_device,
    add_search,
    add_settings,
    decoding_of,
    device_of,
    number,
    own_process,
)
from asr.errors import ConfigError

if TYPE_CHECKING:
    from asr.server.settings import ServerSettings

API_KEY = "ASR_API_KEY"
"""The variable of the environment that has the API key."""
_NEEDED = (
    *("fastapi", "uvicorn", "multipart", "prometheus_client", "jinja2", "websockets"),
)
_DESCRIPTORS = Path("/proc/self/fd")
"""Where processes open what others have open: uploads, here."""


def add(commands: Any) -> None:
    """Add `asr serve`."""
    parser = add_command(
        *(commands, "serve", _serve),
        "answer requests for transcriptions over HTTP, as OpenAI's audio API does",
        "asr serve --port 8000\n"
        "  curl http://127.0.0.1:8000/v1/audio/transcriptions --form file=@talk.mp3",
    )
    add_settings(parser, "settings of the search, in place of the model's")
    address = parser.add_argument_group("who may ask")
    address.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only; 0.0.0.0 for "
        "all networks)",
    )
    address.add_argument("--port", **number(8000, "to listen on (default: 8000)"))
    address.add_argument(
        "--api-key",
        metavar="KEY",
        help="what clients must send (other users of this machine can see a command "
        f"line: better is --api-key-file, or {API_KEY} in the environment)",
    )
    address.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="has the key, in one line"
    )
    address.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that clients may call the server by, beside localhost and "
        "addresses, where there is no key",
    )
    limits = parser.add_argument_group("how much they may ask")
    limits.add_argument(
        "--max-upload", type=float, metavar="MIB", help="of a request (default: 25)"
    )
    limits.add_argument(
        "--max-seconds",
        type=float,
        metavar="S",
        help="of a recording (default: 14400)",
    )
    limits.add_argument(
        "--max-requests",
        **number(None, "received or transcribed at the same time (default: 32)"),
    )
    limits.add_argument(
        "--max-sessions",
        **number(None, "of live transcription at the same time (default: 32)"),
    )
    parser.add_argument(
        "--language",
        default="en",
        metavar="CODE",
        help="of the model, in two letters: what clients may ask for (default: en)",
    )
    parser.add_argument(
        "--processes",
        **number(None, "worker processes (default: one a core; one for a GPU)"),
    )
    add_search(parser)
    add_device(parser)


def _serve(args: argparse.Namespace) -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"asr serve needs {', '.join(missing)} (pip install "
            '"listen-attend-spell[serve]")'
        )
    if not _DESCRIPTORS.is_dir():
        raise ConfigError(
            f"asr serve needs {_DESCRIPTORS}, which this system lacks (use Linux, or "
            "the Docker image)"
        )
    settings = _settings(args)
    if not settings.is_local and settings.api_key is None:
        print(
            f"asr: anybody who can reach {settings.host} can use this server (give "
            "--api-key-file)",
            file=sys.stderr,
        )
    from asr.inference.recognizer_settings import RecognizerSettings
    from asr.model.storage import pinned_model
    from asr.server.serving import serve

    own_process()
    recognizer = RecognizerSettings(
        pinned_model(args.model),
        decoding_of(args),
        args.precision,
        args.language_model,
        device=device_of(args.device).type,
    )
    serve(recognizer, settings, args.processes)


def _settings(args: argparse.Namespace) -> "ServerSettings":
    from asr.server.settings import MIB, ServerSettings

    if not math.isfinite(args.max_upload or 0):
        raise ConfigError(
            f"--max-upload must be a number of MiB, not {args.max_upload:g}"
        )
    given = {
        "max_upload": args.max_upload and round(args.max_upload * MIB),
        "max_seconds": args.max_seconds,
        "max_requests": args.max_requests,
        "max_sessions": args.max_sessions,
    }
    return ServerSettings(
        host=args.host,
        port=args.port,
        api_key=_api_key(args),
        allowed_hosts=tuple(args.allow_host),
        language=args.language.lower(),
        **{name: value for name, value in given.items() if value is not None},
    )


def _api_key(args: argparse.Namespace) -> str | None:
    """Return the key: of the option, its file, or the environment.

    Raises:
        ConfigError: two are given, or the file has none.
    """
    if args.api_key is not None and args.api_key_file is not None:
        raise ConfigError("--api-key and --api-key-file: give one of them")
    if args.api_key_file is None:
        given: str | None = args.api_key
        return given if given is not None else os.environ.get(API_KEY)
    from asr.foreign import read_text

    path = args.api_key_file
    try:
        return read_text(path, most=2**16).strip()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
