"""Numbers in messages."""


def counted(number: int, noun: str) -> str:
    """Write how many there are.

    >>> counted(1, "utterance"), counted(0, "utterance"), counted(1200, "word")
    ('1 utterance', '0 utterances', '1200 words')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
