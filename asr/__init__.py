"""Listen, Attend and Spell: speech recognition from audio to characters.

>>> from asr import Recognizer
>>> Recognizer.load().transcribe("talk.flac").text                  # doctest: +SKIP
'GO DO YOU HEAR'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.config import Config, load_config
    from asr.data.manifest import Utterance, read_manifest, write_manifest
    from asr.decoding.config import DecodingConfig
    from asr.decoding.hypothesis import Hypothesis
    from asr.errors import AsrError
    from asr.inference.recognizer import Recognizer
    from asr.scoring import ErrorRate
    from asr.transcript import (
        Alignment,
        Alternative,
        Flag,
        Segment,
        Transcript,
        Word,
    )

__version__: str
"""As in `asr --version`; looked up when it is first asked for."""

__all__ = [
    "Alignment",
    "Alternative",
    "AsrError",
    "Config",
    "DecodingConfig",
    "ErrorRate",
    "Flag",
    "Hypothesis",
    "Recognizer",
    "Segment",
    "Transcript",
    "Utterance",
    "Word",
    "load_config",
    "read_manifest",
    "write_manifest",
]

_HOME = {
    **dict.fromkeys(("Config", "load_config"), "asr.config"),
    **dict.fromkeys(("Utterance", "read_manifest", "write_manifest"),
                    "asr.data.manifest"),
    "Hypothesis": "asr.decoding.hypothesis",
    "AsrError": "asr.errors",
    "DecodingConfig": "asr.decoding.config",
    "Recognizer": "asr.inference.recognizer",
    "ErrorRate": "asr.scoring",
    **dict.fromkeys(("Alignment", "Alternative", "Flag", "Segment", "Transcript",
                     "Word"), "asr.transcript"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: torch costs seconds."""
    if name == "__version__":
        from asr.version import version

        return version()
    if name not in _HOME:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Show the public names."""
    return __all__
