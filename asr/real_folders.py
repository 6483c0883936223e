"""A folder and all those in it, each once: links may point anywhere, also upwards."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(
    source: Path,
    onerror: Callable[[OSError], object] | None = None,
    *,
    hidden: bool = False,
) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder, and the sorted names of its files.

    Links are followed after all folders that lie here themselves, so that these keep
    their own path.

    Args:
        source: the outermost folder.
        onerror: is called with what is wrong with a folder that cannot be read.
        hidden: whether folders whose names begin with a dot are entered.
    """
    seen, waiting = set[str](), [str(source)]

    def is_new(path: str) -> bool:
        return os.path.realpath(path) not in seen

    for root in waiting:  # which grows
        if not is_new(root):
            continue
        for folder, folders, files in os.walk(root, onerror=onerror):
            seen.add(os.path.realpath(folder))
            paths = {
                name: os.path.join(folder, name)
                for name in sorted(folders)
                if hidden or name[0] != "."
            }
            links = [name for name, path in paths.items() if os.path.islink(path)]
            waiting += [paths[name] for name in links]
            folders[:] = [n for n in paths if n not in links and is_new(paths[n])]
            yield Path(folder), sorted(files)
