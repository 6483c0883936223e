"""Measure a server under load: requests a second, and how long each takes.

Starts `asr serve`, has 1, 4 and 16 clients send clips of 5 s one after the other, and
prints a row for each number of clients. All of it runs on this machine: the clients
take little of it.

    python -m tools.bench_serving --requests 32 -- --beam-size 8
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from io import BytesIO
from tempfile import TemporaryFile

import httpx
import soundfile

from asr.audio import SAMPLE_RATE, read_waveform

CLIENTS = (1, 4, 16)
SECONDS = 5.0


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=32, help="of each row, least")
    parser.add_argument("options", nargs="*", help="of asr serve, behind --")
    args = parser.parse_args()
    clip = _clip()
    with TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "asr", "serve", "--port=0", *args.options],
            stderr=log,
            stdout=log,
        )
        try:
            url = _address(process, log.fileno())
            _request(url, clip)  # whoever is first waits for more
            print(f"{'clients':>7s} {'requests/s':>10s} {'p50 s':>7s} {'p95 s':>7s}")
            for clients in CLIENTS:
                _measure(url, clip, clients, max(args.requests, 2 * clients))
        finally:
            process.terminate()
            process.wait()


def _measure(url: str, clip: bytes, clients: int, number: int) -> None:
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = sorted(pool.map(lambda _: _request(url, clip), range(number)))
    rate = number / (time.perf_counter() - began)
    p50, p95 = statistics.median(times), _quantile(times, 0.95)
    print(f"{clients:7d} {rate:10.2f} {p50:7.2f} {p95:7.2f}", flush=True)


def _quantile(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, int(share * len(times)))]


def _request(url: str, clip: bytes) -> float:
    """Send a clip; return the seconds until the text is there."""
    began = time.perf_counter()
    response = httpx.post(
        f"{url}/v1/audio/transcriptions",
        files={"file": ("clip.wav", clip)},
        timeout=600,
    )
    response.raise_for_status()
    return time.perf_counter() - began


def _clip() -> bytes:
    """Return the first seconds of the bundled recording, as a WAV file."""
    waveform = read_waveform(str(files("asr") / "assets" / "sample.opus"))
    file = BytesIO()
    soundfile.write(
        file, waveform[: int(SECONDS * SAMPLE_RATE)].numpy(), SAMPLE_RATE, format="WAV"
    )
    return file.getvalue()


def _address(process: subprocess.Popen[bytes], log: int) -> str:
    """Wait until the server listens; return where."""
    while True:
        text = os.pread(log, 2**16, 0).decode()
        if found := re.search(r"serving \S+ on (http://\S+) ", text):
            return found[1]
        if process.poll() is not None:
            sys.exit(text)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
