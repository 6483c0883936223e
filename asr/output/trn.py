"""trn: `TEXT (name)`, one line, for NIST's sclite.

Source: https://github.com/usnistgov/SCTK, doc/infmts.htm.
"""

import re
from unicodedata import normalize

from asr.output.document import Document
from asr.output.speech import one_line


def render(document: Document) -> str:
    """Write the whole text in one line."""
    return trn_line(
        " ".join(segment.text for segment in document.segments), document.name
    )


def trn_line(text: str, id: str) -> str:
    r"""Write what sclite reads, a line an utterance, in NFC: it compares bytes.

    >>> trn_line("GO ON", "84-1-0")
    'GO ON (84-1-0)\n'
    """
    return f"{normalize('NFC', one_line(text))} ({nist_id(id)})\n"


def nist_id(name: str) -> str:
    """Make a name one column; parentheses belong to the trn line.

    >>> nist_id("my talk (2)")
    'my_talk_2_'
    """
    return re.sub(r"[\s()]+", "_", name)
