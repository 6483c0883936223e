"""Look at this machine and this installation: `asr doctor`.

Whatever is broken here becomes a line with its remedy, and not a traceback: so nothing
heavy is imported before it is its turn, and what fails may fail in any way.
"""

import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from asr.errors import AsrError, AudioError
from asr.version import DISTRIBUTION, version

ASSETS = Path(__file__).parent / "assets"
PAIR = ("torch", "torchaudio")
"""They only work in versions that were made for each other."""
ON_THE_WAY = ("numpy", *PAIR, "soundfile", "soxr", "safetensors", "jiwer")
"""The libraries that a transcription, or the test of one, imports."""
WITHOUT_TORCH = ("numpy", "onnxruntime", "soundfile", "soxr", "tqdm")
"""Those that a transcription imports where there is no torch."""
FORMATS = {
    "wav": "wav",
    "flac": "flac",
    "ogg": "ogg vorbis",
    "opus": "opus",
    "mp3": "mp3",
}
"""Audio formats that must be readable, by the endings of their samples."""
LEAST_MEMORY = 2**30
"""Bytes: a transcription takes up to 0.8 GiB."""
LEAST_DISK = 2**28
"""Bytes for temporary files."""
SELF_TEST = 3.0
"""Seconds of the bundled recording that are transcribed."""
MOST_ERRORS = 0.6
"""Share of wrong characters up to which the self-test was understood."""

_AGAIN = "install asr again: pip install --force-reinstall --no-deps ."


class Check(NamedTuple):
    """What was found of one thing."""

    topic: str
    found: str
    remedy: str = ""
    """What to do. What needs nothing to be done is no problem."""

    def __str__(self) -> str:
        """Return a line; what is no problem may go on in a second one."""
        if self.remedy:
            return f"! {self.topic:<11} {self.found} ({self.remedy})"
        line = f"  {self.topic:<11} {self.found}"
        return fill(line, 88, subsequent_indent=" " * 14, break_on_hyphens=False)


def examine() -> Iterator[Check]:
    """Look at one thing after the other."""
    if not _is_installed("torch") and _is_installed("onnxruntime"):
        yield from _examine_without_torch()
        return
    yield from _carried_out("asr", _project_and_python)
    yield from _carried_out("asr", _namesakes)
    yield from _carried_out("packages", _packages)
    broken = set[str]()
    for name in ON_THE_WAY:
        try:
            import_module(name)
        except Exception as error:  # an installation can be broken in any way
            reported = name == "torchaudio" and "torch" in broken
            broken.add(name)
            if _is_installed(name) and not reported:
                yield Check(
                    name, f"cannot be imported ({_in_a_line(error)})", _install(name)
                )
    for topic, check, needs in _CHECKS:
        if wrong := broken & set(needs):
            yield Check(topic, f"not examined, for want of {', '.join(sorted(wrong))}")
        else:
            yield from _carried_out(topic, check)


def _examine_without_torch() -> Iterator[Check]:
    """Look at what transcribes with models of `asr export --onnx`, and no more."""
    for topic, check in (
        *(("asr", _project_and_python), ("asr", _namesakes)),
        *(("torch", _no_torch), ("system", _system), ("memory", _memory)),
        *(("disk", _disk), ("audio", _audio), ("language", _language_in_numpy)),
    ):
        yield from _carried_out(topic, check)


def _no_torch() -> Iterator[Check]:
    yield Check(
        "torch",
        "is not installed: models of asr export --onnx transcribe (asr transcribe "
        "--model FOLDER), all else needs it",
    )
    names = [name for name in WITHOUT_TORCH if _is_installed(name)]
    for name in names:
        import_module(name)
    found = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    yield Check("packages", found)
    for name in set(WITHOUT_TORCH) - set(names):
        yield Check(name, "is not installed", f"pip install {name}")


def _carried_out(topic: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Carry out a check; what it fails of is a check, too."""
    try:
        yield from check()
    except AsrError as error:
        yield Check(topic, str(error), _AGAIN)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        yield Check(topic, f"failed ({_in_a_line(error)})", f"pip install {missing}")
    except Exception as error:  # see above
        yield Check(topic, f"failed ({_in_a_line(error)})", _AGAIN)


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


# What is installed


class _Project(NamedTuple):
    """What pyproject.toml, or the installed package, names as what asr needs."""

    python: str
    requirements: tuple[str, ...]


def _project() -> _Project:
    """Read pyproject.toml where asr runs from its source, else what pip wrote down."""
    with suppress(OSError, ValueError, KeyError):
        text = (ASSETS.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
        project = tomllib.loads(text)["project"]
        if project["name"] == DISTRIBUTION:
            return _Project(project["requires-python"], tuple(project["dependencies"]))
    known = metadata.metadata(DISTRIBUTION)
    required = metadata.requires(DISTRIBUTION) or ()
    needed = (one for one in required if "extra ==" not in one)
    return _Project(known["Requires-Python"], tuple(needed))


def _requirements() -> dict[str, str]:
    """Return what is required, by the names of the packages."""
    return {
        re.split(r"[^\w.-]", one, maxsplit=1)[0]: one for one in _project().requirements
    }


def _install(*names: str) -> str:
    """Return the command that installs packages as they are required."""
    required = dict[str, str]()
    with suppress(metadata.PackageNotFoundError):
        required = _requirements()
    pair = names if names[0] not in PAIR else PAIR
    wanted = " ".join(f'"{required.get(name, name)}"' for name in pair)
    return f"pip install --force-reinstall {wanted}"


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _project_and_python() -> Iterator[Check]:
    from packaging.specifiers import SpecifierSet

    yield Check("asr", f"{version()} in {ASSETS.parent}")
    python, wanted = platform.python_version(), _project().python
    if SpecifierSet(wanted).contains(python, prereleases=True):
        yield Check("python", f"{python} in {sys.prefix}")
    else:
        yield Check(
            "python", f"{python} is not {wanted}", f"install asr in Python {wanted}"
        )


def _namesakes() -> Iterator[Check]:
    """Find other projects' packages whose files go into the same folder `asr`."""
    for other in metadata.distributions(name="asr"):
        commands = other.entry_points.select(group="console_scripts")
        if any(command.value.startswith("asr.cli:") for command in commands):
            continue  # this project's, from before it was called listen-attend-spell
        yield Check(
            "asr",
            f"the package asr {other.version} of another project is installed, too, "
            "and one overwrites files of the other",
            f"pip uninstall asr, then {_AGAIN}",
        )


def _packages() -> Iterator[Check]:
    """Compare the versions that are installed with those required."""
    found, errors = dict[str, str](), dict[str, str]()
    for name, requirement in _requirements().items():
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            errors[name] = "is not installed"
            continue
        if not _fits(found[name], requirement):
            errors[name] = f"{found[name]} is not {requirement}"
    yield from _pair(found, errors)
    well = [f"{n} {v}" for n, v in found.items() if n not in {*errors, *PAIR}]
    yield Check("packages", ", ".join(well))
    for name in errors.keys() - set(PAIR):
        yield Check(name, errors[name], _install(name))


def _pair(found: Mapping[str, str], errors: Mapping[str, str]) -> Iterator[Check]:
    """Check whether torch and torchaudio fit together, without importing them."""
    line = " and ".join(f"{n} {found.get(n, 'is not installed')}" for n in PAIR)
    made_for = {".".join(found.get(name, name).split(".")[:2]) for name in PAIR}
    if wrong := [f"{name} {errors[name]}" for name in PAIR if name in errors]:
        yield Check("torch", "; ".join(wrong), _install(*PAIR))
    elif len(made_for) > 1:
        yield Check("torch", f"{line} do not fit together", _install(*PAIR))
    else:
        yield Check("torch", f"{line}, a pair that works together")


def _fits(version: str, requirement: str) -> bool:
    from packaging.requirements import Requirement

    return Requirement(requirement).specifier.contains(version, prereleases=True)


# The machine


def _system() -> Iterator[Check]:
    name = ""
    with suppress(OSError):
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "") + ", "
    yield Check("system", f"{name}{platform.platform()}")


def _processor() -> Iterator[Check]:
    import torch

    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    sets = {
        "avx2": torch.cpu._is_avx2_supported(),
        "avx512": torch.cpu._is_avx512_supported(),
        "vnni": torch.cpu._is_vnni_supported(),
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
    }
    there = [name for name, is_there in sets.items() if is_there]
    yield Check(
        "processor",
        f"{_processor_name()}; {cores} of {os.cpu_count()} cores to be used, "
        f"torch takes {torch.get_num_threads()}; {', '.join(there) or 'no AVX'}; torch "
        f"works with {torch.backends.cpu.get_cpu_capability()}",
    )


def _processor_name() -> str:
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^model name\s*: (.+)$", text, re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


def _memory() -> Iterator[Check]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        yield Check("memory", "unknown on this system")
        return
    kib = {name: int(size) for name, size in re.findall(r"(\w+): +(\d+) kB", text)}
    total, available = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    with suppress(OSError, ValueError):  # what a container may take
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        total, available = min(total, limit), min(available, limit - used)
    line = f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB available"
    enough = available >= LEAST_MEMORY
    yield Check("memory", line, "" if enough else "close other programs: 1 GiB needed")


def _accelerator() -> Iterator[Check]:
    import torch

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(count):
        about = torch.cuda.get_device_properties(number)
        yield Check("gpu", f"{about.name}, {about.total_memory / 2**30:.0f} GiB")
    if count:
        return
    if torch.backends.mps.is_available():
        yield Check("gpu", "of Apple, which asr does not use (the CPU is used)")
        return
    why = "".join(f" ({' '.join(str(one.message).split())})" for one in warned[:1])
    yield Check("gpu", f"none{why}: the CPU is used")


def _disk() -> Iterator[Check]:
    elsewhere = "make room there, or name another folder in TMPDIR"
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"asr")
            file.flush()
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Check("disk", f"no temporary file can be written ({error})", elsewhere)
        return
    line = f"{free / 2**30:.1f} GiB free for temporary files in {folder}"
    yield Check("disk", line, "" if free >= LEAST_DISK else elsewhere)


# What asr does


def _audio() -> Iterator[Check]:
    from asr.audio import read_arrays

    readable = []
    for ending, name in FORMATS.items():
        try:
            blocks = list(read_arrays(ASSETS / "formats" / f"tone.{ending}"))
            squares = sum(float((block**2).sum()) for block in blocks)
            loudness = (squares / max(1, sum(map(len, blocks)))) ** 0.5
            if not 0.05 < loudness < 0.15:
                raise AudioError(f"a tone has a loudness of {loudness:.3f}, not 0.09")
        except AsrError as error:
            yield Check("audio", f"{name}: {error}", _install("soundfile"))
        else:
            readable.append(name)
    yield Check("audio", f"{', '.join(readable) or 'nothing'} can be read")
    try:
        for _ in read_arrays(ASSETS / "formats" / "tone.m4a"):
            pass
        yield Check("audio", "m4a, mp4 and webm, too, by PyAV")
    except AsrError as error:
        why = str(error) if _is_installed("av") else "pip install av for them"
        yield Check("audio", f"m4a, mp4 and webm cannot ({why})")


def _model() -> Iterator[Check]:
    from asr.model.storage import BUNDLED, find_model, load_model

    las = load_model(find_model(None)).las
    size = sum(weight.numel() for weight in las.state_dict().values())
    line = f"{BUNDLED}, {size / 1e6:.1f} M numbers; its files have the right checksums"
    yield Check("model", line)


def _language_model() -> Iterator[Check]:
    from asr.lm.ngram import WordNGram
    from asr.lm.word_files import BUNDLED_WORDS, find_language_model

    words = WordNGram.load(find_language_model(None))
    line = f"{BUNDLED_WORDS}, {len(words.words):,} words, order {len(words.levels)}"
    yield Check("language", f"{line}; its file has the right checksum")


def _language_in_numpy() -> Iterator[Check]:
    from asr.onnx.ngram import load_ngram
    from asr.text import CharTokenizer

    words = load_ngram(ASSETS / "words", CharTokenizer())
    line = f"words, {len(words.words):,} words, order {len(words.levels)}"
    yield Check("language", f"{line}; its file has the right checksum")


def _self_test() -> Iterator[Check]:
    """Transcribe the beginning of the bundled recording."""
    from asr.audio import SAMPLE_RATE, read_waveform
    from asr.inference.recognizer import Recognizer
    from asr.runtime import one_thread
    from asr.scoring import char_error_rate

    said = json.loads((ASSETS / "sample.json").read_text(encoding="utf-8"))["text"]
    waveform = read_waveform(ASSETS / "sample.opus")[: round(SELF_TEST * SAMPLE_RATE)]
    recognizer = Recognizer.load()
    with one_thread():
        start = time.perf_counter()
        text = recognizer.transcribe(waveform, sample_rate=SAMPLE_RATE).text
        factor = (time.perf_counter() - start) / SELF_TEST
    words = said.split()
    beginnings = [" ".join(words[: n + 1]) for n in range(len(words))]
    wrong = min(char_error_rate([one], [text]).rate for one in beginnings)
    line = f"{SELF_TEST:.0f} s of speech in {factor:.2f} of real time: {text!r}"
    if wrong > MOST_ERRORS:
        yield Check("self-test", f"{line} is not how {said!r} begins", _AGAIN)
    else:
        yield Check("self-test", line)


_CHECKS: tuple[tuple[str, Callable[[], Iterator[Check]], tuple[str, ...]], ...] = (
    ("system", _system, ()),
    ("processor", _processor, ("torch",)),
    ("memory", _memory, ()),
    ("gpu", _accelerator, ("torch",)),
    ("disk", _disk, ()),
    ("audio", _audio, ("numpy", "soundfile", "soxr")),
    ("model", _model, tuple(set(ON_THE_WAY) - {"jiwer"})),
    ("language", _language_model, tuple(set(ON_THE_WAY) - {"jiwer"})),
    ("self-test", _self_test, ON_THE_WAY),
)
"""Topic, check, and the libraries that it needs."""
