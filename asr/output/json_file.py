"""json: everything that is known, in the schema of `asr.transcript`."""

import json

from asr.output.document import Document


def render(document: Document) -> str:
    """Write the whole transcript."""
    tree = document.transcript.to_dict()
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
