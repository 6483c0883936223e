"""`asr transcribe --output-format manifest`: one manifest of all recordings."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from asr.cli.options import one_line, shard_of
from asr.errors import AsrError, ConfigError

if TYPE_CHECKING:
    from asr.transcript import Transcript

MANIFEST = "manifest"
"""Its name among the formats."""


class ManifestOutput:
    """Takes transcripts, and writes the manifest when all are there.

    Where no manifest is asked for, it does nothing.

    Args:
        args: of the command; the manifest is taken out of its formats.

    Raises:
        ConfigError: the options do not go together.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        asked = [name.strip() for name in (args.output_format or "").split(",")]
        self.is_wanted = MANIFEST in asked
        rest = [name for name in asked if name != MANIFEST]
        self.is_alone = self.is_wanted and not rest
        if not self.is_wanted:
            if args.min_confidence is not None:
                raise ConfigError("--min-confidence needs --output-format manifest")
            return
        from asr.data.labels import Labels

        self.labels = Labels(args.min_confidence or 0.0)
        _check(args)
        args.output_format = ",".join(rest) or None
        shard = shard_of(args)
        part = f"-{shard.index}-of-{shard.count}" if shard else ""
        self.path = Path(args.output_dir) / f"{MANIFEST}{part}.jsonl"

    def take(self, name: str, transcript: "Transcript") -> AsrError | None:
        """Take what is good enough of a transcript; return what is wrong with it."""
        if not self.is_wanted:
            return None
        try:
            self.labels.add(transcript, lambda _, start: f"{name}-{start * 1000:08.0f}")
        except AsrError as error:
            return error
        return None

    def write(self) -> bool:
        """Write the manifest; return whether that was wanted and cannot be done."""
        if not self.is_wanted:
            return False
        try:
            self.labels.write(self.path)
        except AsrError as error:
            print(one_line(f"asr: {error}"), file=sys.stderr)
            return True
        print(one_line(f"asr: wrote {self.path}: {self.labels}"), file=sys.stderr)
        return False


def _check(args: argparse.Namespace) -> None:
    if args.output_dir is None:
        raise ConfigError("a manifest needs a folder: give --output-dir")
    if args.skip_existing:
        raise ConfigError("a manifest is of all recordings (leave --skip-existing out)")
    if args.channel != "mix":
        raise ConfigError("a manifest has no channels (leave --channel out)")
    if "-" in args.paths:
        raise ConfigError("a manifest needs files (standard input is gone afterwards)")
