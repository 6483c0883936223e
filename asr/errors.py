"""The errors that a user of this package can cause and correct.

AsrError
├── AudioError       an audio file cannot be read, or holds no usable samples
├── ManifestError    a manifest is missing, or one of its lines is malformed
├── CorpusError      a corpus folder is not what it should be
├── DownloadError    a corpus cannot be fetched, or what came is not what was published
├── ConfigError      a setting is unknown, of the wrong type, or impossible
├── CheckpointError  a checkpoint or model is missing, damaged, or another's
├── TrainingError    training cannot start, or cannot go on
└── InUseError       another process works in the same folder

An error of the *programmer* (a wrong shape, an impossible argument) is a ValueError
or a TypeError instead: it is never caught.
"""


class AsrError(Exception):
    """Base of all errors whose message is written for the user."""


class AudioError(AsrError):
    """An audio file cannot be read, or holds no usable samples."""


class ManifestError(AsrError):
    """A manifest is missing, or one of its lines is malformed."""


class CorpusError(AsrError):
    """A corpus folder is not what it should be."""


class DownloadError(AsrError):
    """A corpus cannot be fetched, or what came is not what was published."""


class ConfigError(AsrError):
    """A setting is unknown, of the wrong type, or impossible."""


class CheckpointError(AsrError):
    """A checkpoint or model is missing, damaged, or made by another architecture."""


class TrainingError(AsrError):
    """Training cannot start, or cannot go on."""


class InUseError(AsrError):
    """Another process works in the same folder, or this one may not write there."""
