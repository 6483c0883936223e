"""A server as its users start it: a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.model.storage import save_model
from asr.text import CharTokenizer

ROOT = Path(__file__).parents[2]
_PATIENCE = 180.0
"""Seconds for whatever a busy machine may take long for."""


@dataclass
class Server:
    """A process that serves."""

    process: subprocess.Popen[bytes]
    log: Path
    key: str | None
    url: str = field(init=False)

    def __post_init__(self) -> None:
        """Wait until it listens."""
        self.url = self.wait_for(r"serving \S+ on (http://\S+) ")[1]

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line of the log."""
        deadline = time.monotonic() + _PATIENCE
        while not (found := re.search(pattern, self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return found

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def children(self) -> set[int]:
        """All processes that it has started, and theirs."""
        return children_of(self.process.pid)

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE)


def children_of(pid: int) -> set[int]:
    """Return the processes below one."""
    parents = dict[int, int]()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = entry.read_text().rpartition(")")
        except OSError:
            continue  # it has ended
        if not rest.startswith(" Z"):
            parents[int(head.partition(" ")[0])] = int(rest.split()[1])
    found = {pid}
    while more := {one for one, above in parents.items() if above in found} - found:
        found |= more
    return found - {pid}


def start(folder: Path, *options: str, key: str | None = None) -> Server:
    """Start a server with a tiny model, unless options name another.

    Args:
        folder: for the model and the log.
        options: of `asr serve`.
        key: in the environment.
    """
    if "--model" not in options:
        options = ("--model", str(tiny_model(folder)), "--lm-weight=0", *options)
        options = (*options, "--beam-size=2")
    log = folder / "log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if key:
        environment["ASR_API_KEY"] = key
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "asr", "serve", "--port=0", *options],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        return Server(process, log, key)
    except BaseException:
        process.kill()
        process.wait()
        raise


def tiny_model(folder: Path) -> Path:
    """Make a network that knows nothing."""
    config = LASConfig(
        ListenerConfig(size=8, reductions=[2, 2], dropout=0.0),
        AttentionConfig(size=8),
        SpellerConfig(size=8, embedding_size=4, dropout=0.0),
    )
    torch.manual_seed(0)
    tokenizer = CharTokenizer()
    save_model(folder / "tiny", LAS(config, tokenizer.size).eval(), tokenizer, {})
    return folder / "tiny"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that all tests share, with a key and small limits."""
    folder = tmp_path_factory.mktemp("server")
    options = ("--max-upload=1", "--max-seconds=40", "--processes=1")
    server = start(folder, *options, key="sesame")
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
