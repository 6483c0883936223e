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

LONGEST = 600
"""Characters of a message: what is longer is shown without its middle."""


class AsrError(Exception):
    """Base of all errors whose message is written for the user.

    A message may quote what stands in a file: as a text it is one line of characters
    that can be printed, and not too long.
    """

    def __str__(self) -> str:
        """Return the message, safe to be shown on a terminal."""
        text = super().__str__()
        if len(text) > 2 * LONGEST:  # what is left out need not be escaped
            text = text[:LONGEST] + text[-LONGEST:]
        text = one_line(text)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} … {text[3 - LONGEST // 2 :]}"
        return text


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


def one_line(text: str) -> str:
    """Show what cannot be printed in a line (a file's name may hold anything).

    >>> one_line("a\\nb.wav: is empty")
    'a\\\\nb.wav: is empty'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class InUseError(AsrError):
    """Another process works in the same folder, or this one may not write there."""


class AsrWarning(UserWarning):
    """Something that a user should know, in one line; the work goes on."""
