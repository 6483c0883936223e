"""Have recognisers transcribe the same utterances in turn: speed, memory, word errors.

    tools/bench --users data/dev-clean.held.jsonl \\
        --recognizer pocketsphinx /tmp/sphinx/bin/python \\
        --recognizer faster_whisper /tmp/w/bin/python /tmp/whisper-base beam_size=1

Ours is measured as `asr transcribe` is by default, with a beam of 8, and in
onnxruntime with int8 weights. Others are NAME PYTHON [MODEL] [KEY=VALUE …]: NAME is one
of those in `tools/recognizers`, or a script that keeps to its `protocol`; PYTHON the
one that it is installed for.

Each is a process of its own, on one core, which gets one utterance after the other as
a WAV file. Speed is the audio divided by the process's CPU time from the moment that
it is ready until it has answered the last one; by the clock, the waiting for answers.
Rounds alternate, one forwards and one backwards; medians are shown. Texts are those of
the first round.

Word errors are counted as `asr score --normalize english` counts them: texts and
references in A to Z and apostrophes, numbers in words, no punctuation. So that a
recogniser that writes prose is not charged for it, titles (Mr., Dr.) are written out
before that, years are read as years, and remarks in brackets are left out; after it, TO
DAY and ANY ONE become one word, and HONOUR becomes HONOR: in all texts and references
alike. Other differences of spelling (GREY, GRAY) stay errors. A file that a recogniser
cannot read counts as an empty text.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import IO, Any, NamedTuple

import soundfile

from asr.alphabet import normalizer
from asr.audio import SAMPLE_RATE
from asr.cli.scripts import run_main
from asr.data.manifest import Utterance, read_manifest, spread
from asr.data.recordings import read_utterance
from asr.errors import AsrError, ConfigError
from asr.scoring import ErrorRate, confidence_interval, word_error_rate

TOP = Path(__file__).resolve().parents[1]
SCRIPTS = TOP / "tools" / "recognizers"
TITLES = {
    **{"MR": "MISTER", "MRS": "MISSUS", "DR": "DOCTOR", "ST": "SAINT"},
    **{"PROF": "PROFESSOR", "CAPT": "CAPTAIN", "COL": "COLONEL", "GEN": "GENERAL"},
    **{"LT": "LIEUTENANT", "REV": "REVEREND", "HON": "HONORABLE", "JR": "JUNIOR"},
}
_TITLE = re.compile(rf"\b({'|'.join(TITLES)})\.|\b(MR|MRS|DR)\b", re.IGNORECASE)
_YEAR = re.compile(r"(?<![$£€\d,.])(1[1-9])(\d\d)(?=s?\b)(?![,.]\d)", re.IGNORECASE)
_REMARK = re.compile(r"\[[^]]*\]|\([^)]*\)")
_PARTED = re.compile(
    r"\bTO (DAY|NIGHT|MORROW)\b|\b(ANY|EVERY|SOME) (ONE|THING|BODY)\b|\bFOR EVER\b"
)
_BRITISH = re.compile(
    r"\b((?:DIS|MIS|UN)?(?:ARD|ARM|BEHAVI|CAND|CLAM|COL|ENDEAV|FAV|FERV|FLAV|HARB|HON|HUM"
    r"|LAB|NEIGHB|OD|PARL|RIG|RUM|SAV|SAVI|SPLEND|SUCC|TUM|VAL|VAP|VIG))OUR"
)
_english = normalizer("english")


class RecognizerError(AsrError):
    """A recogniser cannot be run, or ends before it has answered."""


class Recognizer(NamedTuple):
    """A program that keeps to `tools.recognizers.protocol`."""

    name: str
    command: list[str]


class Run(NamedTuple):
    """What one recogniser did in one round."""

    about: str
    model_bytes: int
    ready: float
    """Seconds of the clock from the start to the first question."""
    cpu: float
    """Seconds of the processor from there on."""
    wall: float
    """Seconds of the clock that were waited for answers."""
    mib: float
    """Most memory that the process had."""
    texts: list[str]
    errors: list[str]
    """Of files without a text."""


# One text in one spelling


def spelled(text: str) -> str:
    """Bring a text of any recogniser into LibriSpeech's spelling.

    >>> spelled("Mr. and Mrs. Lee paid $3 in 1843. (laughs)")
    'MISTER AND MISSUS LEE PAID THREE DOLLARS IN EIGHTEEN FORTY THREE'
    >>> spelled("In 1900 and 1905, Dr Lee's 1,843 cats")
    "IN NINETEEN HUNDRED AND NINETEEN O FIVE DOCTOR LEE'S ONE THOUSAND EIGHT HUNDRED \
AND FORTY THREE CATS"
    >>> spelled("To-day, to night: an honourable neighbour, our four.")
    'TODAY TONIGHT AN HONORABLE NEIGHBOR OUR FOUR'
    """
    text = _TITLE.sub(_title_in_words, _REMARK.sub(" ", text))
    text = _english(_YEAR.sub(_year_in_parts, text))
    text = _PARTED.sub(lambda match: match[0].replace(" ", ""), text)
    return _BRITISH.sub(r"\1OR", text)


def _title_in_words(match: re.Match[str]) -> str:
    return TITLES[(match[1] or match[2]).upper()]


def _year_in_parts(match: re.Match[str]) -> str:
    century, year = match.groups()
    if year == "00":
        return f"{century} HUNDRED"
    return f"{century} {year}" if year[0] != "0" else f"{century} O {year[1]}"


# One recogniser as a process


class Process:
    """A recogniser at work, measured from outside."""

    def __init__(self, recognizer: Recognizer, errors: IO[str]) -> None:
        self.name, self._errors = recognizer.name, errors
        self.mib = 0.0
        self._process = subprocess.Popen(
            recognizer.command,
            cwd=TOP,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        )

    def ask(self, path: Path) -> dict[str, Any]:
        """Give it a file; return its answer.

        Raises:
            RecognizerError: there is none.
        """
        assert self._process.stdin
        with suppress(BrokenPipeError):  # then there is no answer either
            print(path, file=self._process.stdin, flush=True)
        return self.answer("text", "error")

    def answer(self, *keys: str) -> dict[str, Any]:
        """Wait for its next answer.

        Raises:
            RecognizerError: there is none, or it has none of these keys.
        """
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                break
        else:
            raise RecognizerError(f"{self.name}: {self._last_words()}")
        with suppress(ValueError):
            answer: dict[str, Any] = json.loads(line)
            if answer.keys() & set(keys):
                self.mib = _peak_mib(self._process.pid) or self.mib
                return answer
        raise RecognizerError(
            f"{self.name}: answered {line.strip()} ({' or '.join(keys)} was expected)"
        )

    def cpu(self) -> float:
        """Return the CPU seconds of the process, its threads and children."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        ticks = map(int, stat.rpartition(")")[2].split()[11:15])
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End it, whatever it does."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else f"ended without a word (status {status})"


def _environment() -> dict[str, str]:
    """Return that of a recogniser: one thread, and `tools` can be imported."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    paths = [str(TOP), *filter(None, [os.environ.get("PYTHONPATH")])]
    python = {"PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, **dict.fromkeys(threads, "1"), **python}


def _peak_mib(pid: int) -> float:
    """Return the most memory that a process had; 0 where it is over."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


@contextmanager
def started(recognizer: Recognizer) -> Iterator[Process]:
    """Start a recogniser, and end it.

    Raises:
        RecognizerError: there is no such program.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            process = Process(recognizer, errors)
        except OSError as error:
            raise RecognizerError(
                f"{recognizer.name}: {recognizer.command[0]} cannot be run "
                f"({error.strerror})"
            ) from error
        try:
            yield process
        finally:
            process.end()


@contextmanager
def one_core() -> Iterator[None]:
    """Hold this process, and those it starts meanwhile, to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def run(recognizer: Recognizer, recordings: Sequence[Path]) -> Run:
    """Have all recordings transcribed.

    Raises:
        RecognizerError: it cannot be run, or ends before it has answered.
    """
    start = time.perf_counter()
    with started(recognizer) as process:
        about = process.answer("about")
        ready, before = time.perf_counter() - start, process.cpu()
        wall, answers = 0.0, []
        for path in recordings:
            asked = time.perf_counter()
            answers.append(process.ask(path))
            wall += time.perf_counter() - asked
        cpu = process.cpu() - before
        mib = process.mib
    return Run(
        about=str(about["about"]),
        model_bytes=sum(_bytes(Path(path)) for path in about.get("model", [])),
        ready=ready,
        cpu=cpu,
        wall=wall,
        mib=mib,
        texts=[str(answer.get("text", "")) for answer in answers],
        errors=[str(answer["error"]) for answer in answers if "error" in answer],
    )


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


# All of them, in turn


def run_all(
    recognizers: Sequence[Recognizer], recordings: Sequence[Path], rounds: int
) -> Iterator[list[Run]]:
    """Run all in each round; one that fails is left out, with a line about it.

    Yields:
        The runs of each recogniser that did all rounds, as soon as it has.
    """
    found = [list[Run]() for _ in recognizers]
    failed = set[int]()
    for number in range(rounds):
        for place in range(len(recognizers))[:: -1 if number % 2 else 1]:
            if place in failed:
                continue
            try:
                found[place].append(run(recognizers[place], recordings))
            except RecognizerError as error:
                print(f"bench: {error} (not measured)", file=sys.stderr, flush=True)
                failed.add(place)
                continue
            if number == rounds - 1:
                yield found[place]


class Row(NamedTuple):
    """One line of the table."""

    runs: list[Run]
    seconds: float
    """Audio that was transcribed in each run."""
    words: ErrorRate
    interval: tuple[float, float]

    @property
    def speeds(self) -> list[float]:
        """Hours of audio an hour of CPU, of each round."""
        return [self.seconds / max(run.cpu, 0.01) for run in self.runs]

    def __str__(self) -> str:
        """Write the line in Markdown."""
        first, speeds = self.runs[0], self.speeds
        speed = f"{median(speeds):.3g}"
        if len(speeds) > 1:
            speed += f" ({min(speeds):.3g} to {max(speeds):.3g})"
        low, high = (100 * end for end in self.interval)
        cells = [
            first.about + (f"; {len(first.errors)} not read" if first.errors else ""),
            speed,
            f"{median(self.seconds / run.wall for run in self.runs):.3g}",
            f"{median(run.ready for run in self.runs):.1f}",
            f"{max(run.mib for run in self.runs):.0f}",
            f"{first.model_bytes / 1e6:.0f}",
            f"{100 * self.words.rate:.1f} ({low:.1f} to {high:.1f})",
        ]
        return f"| {' | '.join(cells)} |"

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, and the texts of the first round."""
        return {
            "seconds": self.seconds,
            "wer": {"rate": self.words.rate, **asdict(self.words)},
            "interval": self.interval,
            "runs": [run._asdict() for run in self.runs],
        }


HEAD = (
    "| recogniser | hours of audio an hour of CPU | by the clock | s until ready | "
    "peak MiB | model, MB | WER, % (95 % interval) |\n|---|---|---|---|---|---|---|"
)


def row_of(runs: list[Run], utterances: Sequence[Utterance], seconds: float) -> Row:
    """Count the word errors of a recogniser's first round."""
    references = [spelled(utterance.text) for utterance in utterances]
    texts = [spelled(text) for text in runs[0].texts]
    speakers = [utterance.speaker for utterance in utterances]
    groups = speakers if len(set(speakers)) > 1 else None
    interval = confidence_interval(references, texts, groups=groups)
    return Row(runs, seconds, word_error_rate(references, texts), interval)


def write_recordings(
    utterances: Sequence[Utterance], folder: Path
) -> tuple[list[Path], float]:
    """Write each utterance as a WAV file; return their paths, and their seconds."""
    paths, samples = list[Path](), 0
    for number, utterance in enumerate(utterances):
        waveform = read_utterance(utterance)
        paths.append(folder / f"{number:05}.wav")
        soundfile.write(paths[-1], waveform.numpy(), SAMPLE_RATE, "PCM_16")
        samples += len(waveform)
    return paths, samples / SAMPLE_RATE


# What is compared


def ours(folder: Path) -> Iterator[Recognizer]:
    """Yield ours in three settings; what onnxruntime runs is exported into a folder."""
    exported = str(folder / "onnx")
    export = ["export", "bundled", exported, "--onnx", "--precision", "int8"]
    done = subprocess.run(
        [sys.executable, "-m", "asr", *export], cwd=TOP, capture_output=True, text=True
    )
    words = ["--model", exported, "--backend", "onnx"]
    shown = ["asr transcribe --backend onnx, int8"]
    yield _of_tools("asr", sys.executable, words=[])
    if done.returncode == 0:
        yield _of_tools("asr", sys.executable, words=words, about=shown)
    else:
        reason = (done.stderr.strip().split("\n") or [""])[-1]
        print(f"bench: --backend onnx: {reason} (not measured)", file=sys.stderr)
    yield _of_tools("asr", sys.executable, words=["decoding.beam_size=8"])


def other(words: Sequence[str]) -> Recognizer:
    """Read what --recognizer is given.

    Raises:
        ConfigError: it names no recogniser, or no Python.
    """
    name, *rest = words
    settings = dict(word.split("=", 1) for word in rest if "=" in word)
    python, *model = [word for word in rest if "=" not in word] or [""]
    if not python or len(model) > 1:
        raise ConfigError(
            f"--recognizer {' '.join(words)}: NAME PYTHON [MODEL] [KEY=VALUE …] was "
            "expected"
        )
    # Not resolved: the Python of an environment is a link that knows where it stands.
    python = os.path.abspath(python)
    if model:
        settings["model"] = os.path.abspath(model[0])
    if name.endswith(".py"):
        command = [python, "-W", "ignore", os.path.abspath(name), json.dumps(settings)]
        return Recognizer(Path(name).stem, command)
    if name not in known():
        raise ConfigError(
            f"--recognizer {name}: is none of {', '.join(known())}, and no script (.py)"
        )
    return _of_tools(name, python, **settings)


def known() -> list[str]:
    """Return the names of the recognisers that there is a script for."""
    names = [path.stem.removeprefix("use_") for path in SCRIPTS.glob("use_*.py")]
    return sorted(name for name in names if name != "asr")


def _of_tools(name: str, python: str, **settings: Any) -> Recognizer:
    module = f"tools.recognizers.use_{name}"
    return Recognizer(
        name, [python, "-W", "ignore", "-m", module, json.dumps(settings)]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, measure, print and write; return the exit status.

    Raises:
        AsrError: the command line asks for nothing possible, or a recording of the
            manifest cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="tools/bench --users",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--number", type=int, default=100, help="of utterances")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        *("--recognizer", "-r"),
        nargs="+",
        action="append",
        default=[],
        metavar="WORD",
        help=f"NAME PYTHON [MODEL] [KEY=VALUE …]: one of {', '.join(known())}, or a "
        "script; may be given several times",
    )
    parser.add_argument("--only-others", action="store_true", help="leave ours out")
    parser.add_argument("--output", type=Path, help="JSON file for all, with the texts")
    args = parser.parse_args(argv)
    others = [other(words) for words in args.recognizer]
    if args.only_others and not others:
        raise ConfigError("--only-others needs a --recognizer")
    utterances = spread(read_manifest(args.manifest), args.number)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recordings, seconds = write_recordings(utterances, folder)
        recognizers = [*([] if args.only_others else ours(folder)), *others]
        print(f"{len(utterances)} utterances, {seconds:.1f} s, {args.rounds} round(s)")
        print(f"\n{HEAD}", flush=True)
        rows = []
        with one_core():
            for runs in run_all(recognizers, recordings, args.rounds):
                rows.append(row_of(runs, utterances, seconds))
                print(rows[-1], flush=True)
    if args.output:
        tree = [row.to_dict() for row in rows]
        args.output.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    return int(len(rows) < len(recognizers))


if __name__ == "__main__":
    sys.exit(run_main("bench", main))
