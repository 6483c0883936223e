"""What a model is adapted to: recordings to learn from, and others that are held out.

A folder as `asr prepare` writes it has train.jsonl and dev.jsonl, perhaps alphabet.txt
and test.jsonl. Where nothing is held out, it is done here: some of the speakers; where
all is by one speaker, some of the texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.alphabet import alphabet_of, character_counts, read_alphabet, shown
from asr.data.manifest import Utterance, read_manifest, spread
from asr.data.splits import split
from asr.errors import ConfigError, ManifestError
from asr.wording import counted

TRAIN, DEV, TEST, ALPHABET = "train.jsonl", "dev.jsonl", "test.jsonl", "alphabet.txt"
HELD_SHARE = 0.1
"""Share of the recordings that is held out where nothing is."""
HELD_SECONDS = 1800.0
"""More than this is not held out."""
DECODED_SECONDS = 900.0
"""Of what is held out so much is decoded, before and after."""
RARE = 20
"""A character that is written less often is hardly learned."""


@dataclass(frozen=True)
class Material:
    """Recordings of one kind."""

    train: list[Utterance]
    dev: list[Utterance]
    """Held out."""
    alphabet: str
    """Of their texts."""
    test: Path | None
    """A further manifest that nothing is chosen by, if there is one."""
    split_here: bool
    """Whether `dev` was held out here."""

    @property
    def hours(self) -> float:
        """Of what there is to learn from."""
        return seconds(self.train) / 3600

    @property
    def texts(self) -> list[str]:
        """All of them."""
        return [utterance.text for utterance in (*self.train, *self.dev)]

    def decoded(self) -> list[Utterance]:
        """Return what is decoded before and after: all of `dev`, if it is not much."""
        share = min(1.0, DECODED_SECONDS / seconds(self.dev))
        return spread(self.dev, max(1, int(len(self.dev) * share)))

    def describe(self) -> list[str]:
        """Write what there is, a line each."""
        how = "held out here" if self.split_here else "held out"
        lines = [
            f"to learn from: {_amount(self.train)}",
            f"{how}: {_amount(self.dev)}",
            f"the texts have {len(self.alphabet)} characters: {shown(self.alphabet)}",
        ]
        both = speakers(self.train) & speakers(self.dev)
        if both and not self.split_here:
            lines.append(
                f"{len(both)} of the {len(speakers(self.dev))} speakers that are held "
                "out are learned from, too: for others less may be gained"
            )
        counts = character_counts(utterance.text for utterance in self.train)
        rare = "".join(c for c in self.alphabet if 0 < counts[c] < RARE)
        if rare:
            lines.append(
                f"written less than {RARE} times, hardly learned: {shown(rare)}"
            )
        return lines


def read_material(data: Path, dev: Path | None = None) -> Material:
    """Read what a model is to be adapted to.

    Args:
        data: folder with train.jsonl, or the manifest itself.
        dev: manifest of what is held out; None for dev.jsonl of the folder, or else
            for some of what there is to learn from.

    Raises:
        ManifestError: a manifest cannot be read, is too small to hold anything out, or
            has an utterance without a text.
        ConfigError: alphabet.txt is none.
    """
    folder = data if data.is_dir() else None
    path = data / TRAIN if folder else data
    if folder and not path.exists():
        raise ManifestError(
            f"{data}: holds no {TRAIN} (asr prepare SOURCE {data} --split 90:10 writes "
            "one; or name a manifest)"
        )
    if dev is None and folder and (folder / DEV).exists():
        dev = folder / DEV
    train = _read(path)
    held = _read(dev) if dev else []
    if dev is None:
        train, held = hold_out(train, path)
    letters = alphabet_of(u.text for u in (*train, *held))
    if folder and (folder / ALPHABET).exists():
        given = read_alphabet(folder / ALPHABET)
        letters = alphabet_of([given, letters])
    test = folder / TEST if folder and (folder / TEST).exists() else None
    return Material(train, held, letters, test, dev is None)


def hold_out(
    utterances: Sequence[Utterance], place: Path
) -> tuple[list[Utterance], list[Utterance]]:
    """Divide recordings: some speakers, or of one speaker some texts, are held out.

    Returns:
        What there is to learn from, and what is held out, both in the order of before.

    Raises:
        ManifestError: there is only one speaker with one text.
    """
    by = "speaker" if len(speakers(utterances)) > 1 else "text"
    share = min(HELD_SHARE, HELD_SECONDS / seconds(utterances))
    try:
        parts = split(utterances, (1 - share, share), by)
    except ConfigError as error:
        raise ManifestError(
            f"{place}: has one text only, so that nothing can be held out (name what "
            "to compare by: --dev FILE)"
        ) from error
    return parts["train"], parts["dev"]


def speakers(utterances: Sequence[Utterance]) -> set[str]:
    """Name the speakers that are known."""
    return {utterance.speaker for utterance in utterances if utterance.speaker}


def seconds(utterances: Sequence[Utterance]) -> float:
    """Add up how long they are."""
    return sum(utterance.duration for utterance in utterances)


def _read(path: Path) -> list[Utterance]:
    """Read a manifest, each of whose utterances has a text."""
    utterances = read_manifest(path)
    without = [utterance.id for utterance in utterances if not utterance.text.strip()]
    if without:
        raise ManifestError(
            f"{path}: {len(without)} of its utterances have no text, the first is "
            f"{without[0]} (what was said has to be known)"
        )
    return utterances


def _amount(utterances: Sequence[Utterance]) -> str:
    found = seconds(utterances)
    long = f"{found:.1f} s"
    if found >= 60:
        long = f"{found / 3600:.1f} h" if found >= 3600 else f"{found / 60:.1f} min"
    known = len(speakers(utterances))
    of = f" of {counted(known, 'speaker')}" if known else ""
    return f"{long}, {counted(len(utterances), 'utterance')}{of}"
