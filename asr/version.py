"""The version of this package, from one source: what pip wrote down when installing it.

The distribution is called `listen-attend-spell`, because `asr` on PyPI belongs to
another project (materials science). Imports and the command are `asr` all the same.
"""

import tomllib
from contextlib import suppress
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "listen-attend-spell"
"""What pip calls this package."""

_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def version() -> str:
    """Return the version of the installed package.

    Where nothing is installed and `asr` is imported from its source tree, return what
    pyproject.toml has, with `+source` after it, and `0+unknown` where that is missing.
    """
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(DISTRIBUTION)
    with suppress(OSError, ValueError, KeyError):
        project = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]
        if project["name"] == DISTRIBUTION:
            return f"{project['version']}+source"
    return "0+unknown"
