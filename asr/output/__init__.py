"""Transcripts in the formats that other programs read, one module a format."""

from asr.output.formats import FORMATS, render, write
from asr.output.subtitles import SubtitleConfig
from asr.output.trn import trn_line

__all__ = ["FORMATS", "SubtitleConfig", "render", "trn_line", "write"]
