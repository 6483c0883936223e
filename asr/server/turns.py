"""Whose turn it is: pieces of many requests, one of each after the other.

An hour of audio is hundreds of pieces, and a short request is one. Each request has a
line of its own; what is recognised together is taken from the lines in turn, so that
nobody waits for more than what was begun before.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Owner = TypeVar("Owner")
Work = TypeVar("Work")


@dataclass
class Waiting(Generic[Work]):
    """A piece that waits."""

    work: Work
    seconds: float
    """Of its audio."""
    kind: object = None
    """Only pieces of the same kind can be recognised together."""
    alone: bool = False
    """Whether it must be by itself: a worker has ended over it."""


@dataclass
class Turns(Generic[Owner, Work]):
    """Lines of pieces, one for each request that has some waiting."""

    _lines: OrderedDict[Owner, deque[Waiting[Work]]] = field(
        default_factory=OrderedDict
    )
    """The first is the one whose turn it is."""
    seconds: float = 0.0
    """Of audio that waits."""

    def __len__(self) -> int:
        """Count the pieces that wait."""
        return sum(map(len, self._lines.values()))

    @property
    def num_owners(self) -> int:
        """How many requests have pieces that wait."""
        return len(self._lines)

    def put(
        self, owner: Owner, piece: Waiting[Work], *, in_front: bool = False
    ) -> None:
        """Add a piece to the line of its request.

        Args:
            owner: the request.
            piece: of it.
            in_front: of all others: it was taken before, and comes back.
        """
        line = self._lines.setdefault(owner, deque())
        if in_front:
            line.appendleft(piece)
            self._lines.move_to_end(owner, last=False)
        else:
            line.append(piece)
        self.seconds += piece.seconds

    def drop(self, owner: Owner, piece: Waiting[Work]) -> None:
        """Take a piece back, if it still waits."""
        line = self._lines.get(owner, deque())
        if any(one is piece for one in line):
            self._remove(owner, piece)

    def take(self, most: int, seconds: float) -> list[tuple[Owner, Waiting[Work]]]:
        """Take pieces that are recognised together: one of each request in turn.

        Args:
            most: pieces.
            seconds: of their audio, filled up to the longest of them; a single piece
                may have more.
        """
        taken = list[tuple[Owner, Waiting[Work]]]()
        owners = deque(self._lines)
        while owners and len(taken) < most:
            owner = owners.popleft()
            piece = self._lines[owner][0]
            if taken and not _fits(piece, [one for _, one in taken], seconds):
                continue
            self._remove(owner, piece)
            taken.append((owner, piece))
            if owner in self._lines:
                self._lines.move_to_end(owner)
                owners.append(owner)
            if piece.alone:
                break
        return taken

    def _remove(self, owner: Owner, piece: Waiting[Work]) -> None:
        line = self._lines[owner]
        index = next(i for i, one in enumerate(line) if one is piece)
        del line[index]
        self.seconds -= piece.seconds
        if not line:
            del self._lines[owner]


def _fits(piece: Waiting[Work], taken: list[Waiting[Work]], seconds: float) -> bool:
    """Return whether a piece may go with others."""
    longest = max(piece.seconds, *(one.seconds for one in taken))
    return (
        piece.kind == taken[0].kind
        and not piece.alone
        and longest * (len(taken) + 1) <= seconds
    )
