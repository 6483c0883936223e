"""Is everything here that is needed, and does it work? If not, what to do.

Each thing is looked at by a function of its own that gives findings. What goes wrong in
one of them, a broken installation of torch say, is a finding too and stops no other.
"""

import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.resources import files
from pathlib import Path

TORCH = "2.11"
"""The release of torch and of torchaudio that work together."""
PAIR = 'pip install "torch==2.11.*" "torchaudio==2.11.*"'
AGAIN = "pip install --force-reinstall asr"
SPACE = 1.0
"""GB that should be free for temporary files."""
SECONDS = 3.0
"""Of the bundled recording, for the self-test."""
SLOW = 1.0
"""Real-time factor above which a transcription takes longer than the speech."""


@dataclass(frozen=True)
class Finding:
    """What was found out about one thing."""

    about: str
    result: str
    remedy: str = ""
    """What to do; empty where nothing is wrong."""

    def __str__(self) -> str:
        """One line; two where something is wrong."""
        mark = "PROBLEM" if self.remedy else "ok"
        line = f"{mark:8} {self.about:16} {self.result}"
        return line + (f"\n{'':25} -> {self.remedy}" if self.remedy else "")


def examine() -> Iterator[Finding]:
    """Look at everything, one thing after the other."""
    for about, look in CHECKS.items():
        try:
            yield from look(about)
        except Exception as error:  # whatever is broken: that is what we are here for
            reason = (str(error).splitlines() or [""])[0]
            yield Finding(about, f"{type(error).__name__}: {reason}", AGAIN)


def _versions(about: str) -> Iterator[Finding]:
    yield Finding(about, f"{metadata.version('asr')}, Python {sys.version.split()[0]}")


def _torch(about: str) -> Iterator[Finding]:
    """See whether torch and torchaudio are there, fit, and can be loaded."""
    found = []
    for name in ("torch", "torchaudio"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(about, f"{name} is not installed", PAIR)
            return
        found.append(f"{name} {version}")
        if not version.startswith(f"{TORCH}."):
            yield Finding(about, f"{name} {version}, {TORCH} is needed", PAIR)
            return
    try:
        for name in ("torch", "torchaudio"):
            import_module(name)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        yield Finding(about, f"{name} cannot be loaded ({reason})", PAIR)
        return
    yield Finding(about, ", ".join(found))


def _packages(about: str) -> Iterator[Finding]:
    """Compare the other packages with what this one asks for."""
    wrong, seen = 0, []
    for requirement in metadata.requires("asr") or []:
        match = re.match(r"([\w.-]+)\s*(?:>=([\d.]+))?", requirement)
        if "extra ==" in requirement or not match or match[1].startswith("torch"):
            continue
        name, least = match[1], match[2] or "0"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = ""
        if not version or _numbers(version) < _numbers(least):
            wrong += 1
            result = f"{name} {version or 'is missing'}, {least} is needed"
            yield Finding(about, result, f'pip install "{name}>={least}"')
        seen.append(f"{name} {version}")
    if not wrong:
        yield Finding(about, ", ".join(seen))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _machine(about: str) -> Iterator[Finding]:
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = re.findall(r"model name\s*: (.*)", info.read_text(errors="replace"))
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    yield Finding(about, f"{platform.system()} {platform.release()}, {model}")
    capability = torch.backends.cpu.get_cpu_capability()
    amx = ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    yield Finding(
        "CPU",
        f"{cores or os.cpu_count()} cores for this process, "
        f"{torch.get_num_threads()} threads of torch, {capability}{amx}",
    )
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        yield Finding("memory", f"{memory:.1f} GiB")


def _gpu(about: str) -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        yield Finding(about, f"{torch.cuda.get_device_name()} (--device cuda)")
    elif torch.backends.mps.is_available():
        yield Finding(about, "Apple's, which is not used (the CPU is)")
    else:
        yield Finding(about, "none that torch can use: the CPU is used")


def _formats(about: str) -> Iterator[Finding]:
    """Read a little of each format, made by the very library that reads it."""
    import torch

    from asr.audio import KINDS, SAMPLE_RATE, encode, read_waveform
    from asr.errors import AsrError

    tone = 0.1 * torch.sin(torch.arange(SAMPLE_RATE) * 0.2)
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder, f"tone.{kind}")
            try:
                path.write_bytes(encode(tone, kind))
                read_waveform(path)
            except (AsrError, OSError, RuntimeError) as error:
                broken += 1
                remedy = "pip install --force-reinstall soundfile"
                yield Finding(about, f"{kind} cannot be read ({error})", remedy)
    try:
        more = f"with PyAV {metadata.version('av')} m4a, mp4, webm, mka, aac, wma, amr"
    except metadata.PackageNotFoundError:
        more = 'm4a, mp4 and webm need PyAV (pip install "asr[av]")'
    if not broken:
        yield Finding(about, f"{', '.join(KINDS)}; {more}")


def _space(about: str) -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / 1e9
    remedy = "" if free > SPACE else "make room, or set TMPDIR to another folder"
    yield Finding(about, f"{free:.1f} GB free in {folder}", remedy)


def _models(about: str) -> Iterator[Finding]:
    """Verify the checksums of what comes with the package."""
    from asr.decoding.ngram import WordNGram
    from asr.errors import AsrError
    from asr.model.folder import load_model
    from asr.recognizer import find_language_model, find_model

    for load, folder in (
        (load_model, find_model(None)),
        (WordNGram.load, find_language_model(None)),
    ):
        try:
            load(folder)
            yield Finding(about, f"{folder} is whole")
        except AsrError as error:
            yield Finding(about, str(error), AGAIN)


def _self_test(about: str) -> Iterator[Finding]:
    """Transcribe a little of the bundled recording."""
    from asr.device import use_one_thread
    from asr.recognizer import Recognizer
    from asr.scoring import char_error_rate

    use_one_thread()
    assets = Path(str(files("asr") / "assets"))
    said = json.loads((assets / "sample.json").read_text(encoding="utf-8"))["text"]
    recognizer = Recognizer.load()
    started = time.perf_counter()
    heard = recognizer.transcribe(assets / "sample.opus", clip=(0.0, SECONDS)).text
    factor = (time.perf_counter() - started) / SECONDS
    start = said[: len(heard)]
    good = bool(heard) and char_error_rate([start], [heard]).rate < 0.5
    yield Finding(
        about,
        f"{SECONDS:.0f} s of speech: {heard!r}",
        "" if good else f"it should begin like {said!r}: {AGAIN}",
    )
    yield Finding(
        "speed",
        f"{factor:.2f} s for a second of speech",
        "" if factor < SLOW else "close other programs, or try --precision int8",
    )


CHECKS: dict[str, Callable[[str], Iterator[Finding]]] = {
    "asr": _versions,
    "torch": _torch,
    "packages": _packages,
    "machine": _machine,
    "GPU": _gpu,
    "audio": _formats,
    "disk": _space,
    "models": _models,
    "self-test": _self_test,
}
"""What is looked at, in this order."""
