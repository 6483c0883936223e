import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.corpora.entries import Kind
from asr.data.corpora.librispeech import find_subsets
from asr.data.manifest import read_manifest
from asr.data.prepare import dense, steps_needed
from asr.errors import CorpusError
from recipes.librispeech.prepare import main
from recipes.librispeech.published import Size, compare, measure

SCRIPT = Path(__file__).parents[2] / "recipes" / "librispeech" / "prepare.py"


def write_sound(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(list(str(path).encode()))
    noise = chance.normal(0, 0.1, int(16000 * seconds)).astype(np.float32)
    # soundfile does not know the name .opus
    coding = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    soundfile.write(path, noise, 16000, **coding)


def write_chapter(
    subset: Path, chapter: str, texts: dict[str, str], suffix: str = ".flac"
) -> Path:
    """Half a second of noise for each text, in LibriSpeech's layout."""
    folder = subset.joinpath(*chapter.split("-"))
    for number in texts:
        write_sound(folder / f"{chapter}-{number}{suffix}")
    lines = [f"{chapter}-{number} {text}\n" for number, text in texts.items()]
    (folder / f"{chapter}.trans.txt").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two speakers, three chapters, five utterances."""
    corpus = tmp_path / "corpus"
    write_chapter(corpus / "dev-clean", "84-9", {"0000": "GO", "0001": "DO YOU HEAR"})
    write_chapter(corpus / "dev-clean", "84-10", {"0000": "GO ON"}, ".wav")
    write_chapter(corpus / "dev-clean", "7-1", {"0000": "IT'S", "0001": "HERE"}, ".ogg")
    return corpus


def prepare(*arguments: object) -> int:
    return main([*map(str, arguments), "--processes", "1"])


# What comes out


def test_a_byte_order_mark_and_blank_lines_are_no_problem(
    corpus: Path, tmp_path: Path
) -> None:
    assert prepare(corpus, tmp_path / "one") == 0
    for path in corpus.rglob("*.trans.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n \r\n")

    assert prepare(corpus, tmp_path / "two") == 0

    for name in ("one", "two"):
        assert not list((tmp_path / name).glob("*.problems.txt"))
    one, two = (
        read_manifest(next((tmp_path / n).glob("*.jsonl"))) for n in ("one", "two")
    )
    assert [u.text for u in one] == [u.text for u in two]


def test_a_subset_becomes_a_manifest(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(corpus, tmp_path / "data") == 0

    utterances = read_manifest(tmp_path / "data" / "dev-clean.jsonl")
    hear = next(u for u in utterances if u.id == "84-9-0001")
    assert hear.text == "DO YOU HEAR"
    assert hear.speaker == "84"
    assert hear.duration == 0.5
    assert hear.audio == str(corpus / "dev-clean" / "84" / "9" / "84-9-0001.flac")
    assert [u.id for u in utterances] == [
        "7-1-0000",
        "7-1-0001",
        "84-10-0000",
        "84-9-0000",
        "84-9-0001",
    ]
    assert capsys.readouterr() == (
        "subset            utterances    hours  speakers\n"
        "dev-clean                  5     0.00         2"
        "   part: 5 of 2703 utterances\n",
        "",
    )
    assert not list(tmp_path.rglob("*.problems.txt"))


@pytest.mark.parametrize("suffix", [".flac", ".wav", ".ogg", ".opus", ".mp3", ".FLAC"])
def test_every_kind_of_audio_is_found(tmp_path: Path, suffix: str) -> None:
    write_chapter(tmp_path / "test-other", "1-2", {"0000": "GO"}, suffix)

    prepare(tmp_path, tmp_path / "data")

    (utterance,) = read_manifest(tmp_path / "data" / "test-other.jsonl")
    assert utterance.audio.endswith(f"1-2-0000{suffix}")


def test_the_corpus_may_lie_in_a_folder_called_librispeech(tmp_path: Path) -> None:
    write_chapter(tmp_path / "LibriSpeech" / "dev-other", "1-2", {"0000": "GO"})

    assert find_subsets(tmp_path) == {
        "dev-other": tmp_path / "LibriSpeech" / "dev-other"
    }


def test_only_the_wished_subsets_are_prepared(corpus: Path, tmp_path: Path) -> None:
    write_chapter(corpus / "dev-other", "1-2", {"0000": "GO"})
    write_chapter(corpus / "mine", "1-2", {"0000": "GO"})

    prepare(corpus, tmp_path / "wished", "--subsets", "dev-other", "mine")
    prepare(corpus, tmp_path / "all")

    wished = sorted(path.name for path in (tmp_path / "wished").glob("*.jsonl"))
    assert wished == ["dev-other.jsonl", "mine.jsonl"]
    known = sorted(path.name for path in (tmp_path / "all").glob("*.jsonl"))
    assert known == ["dev-clean.jsonl", "dev-other.jsonl"]


def test_the_same_corpus_gives_the_same_manifest(corpus: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "data" / "dev-clean.jsonl"
    prepare(corpus, tmp_path / "data")
    once = manifest.read_bytes()

    prepare(corpus, tmp_path / "data")

    assert manifest.read_bytes() == once


def test_several_processes_give_the_same_as_one(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "one")
    main([str(corpus), str(tmp_path / "two"), "--processes", "2"])

    one, two = (tmp_path / name / "dev-clean.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_the_script_runs_anywhere(corpus: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, str(SCRIPT), "../corpus", "../data", "--processes", "1"]

    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    first = read_manifest(tmp_path / "data" / "dev-clean.jsonl")[0]
    assert first.audio == str(corpus / "dev-clean" / "7" / "1" / "7-1-0000.ogg")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configs", "is_cut"), [("las_mini", False), ("las_mini las_mini_stage5", True)]
)
def test_dev_is_cut_by_speakers_where_a_configuration_wants_it(
    corpus: Path, tmp_path: Path, configs: str, is_cut: bool
) -> None:
    write_chapter(corpus / "dev-clean", "99-1", {"0000": "YES"})
    environment = {"CONFIG": configs, "PYTHON": sys.executable}
    environment["PYTHONPATH"] = str(SCRIPT.parents[2])

    done = subprocess.run(
        [str(SCRIPT.with_name("run.sh")), str(corpus), "prepare"],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    held = tmp_path / "exp" / "librispeech" / "data" / "dev-clean.held.jsonl"
    assert held.exists() == is_cut
    if is_cut:
        assert {u.speaker for u in read_manifest(held)} == {"99"}


# Judging


@pytest.mark.parametrize(
    ("text", "steps"), [("", 0), ("A", 1), ("AA", 3), ("AAA", 5), ("ABA", 3)]
)
def test_ctc_needs_a_step_a_character_and_a_blank_between_equals(
    text: str, steps: int
) -> None:
    assert steps_needed(text) == steps


def test_an_utterance_is_dense_when_its_steps_do_not_suffice(tmp_path: Path) -> None:
    # 0.5 s at 25 steps a second are 12.5 steps. 12 characters fit, 13 do not, nor do
    # 12 of which two neighbours are equal.
    texts = {"0": "ABABABABABAB", "1": "ABABABABABABA", "2": "ABABABABABAA"}
    write_chapter(tmp_path / "dev-clean", "1-2", texts)

    prepare(tmp_path, tmp_path / "data")

    utterances = read_manifest(tmp_path / "data" / "dev-clean.jsonl")
    found = [problem.what for problem in dense(utterances, 25)]
    assert [what.split("/")[-1] for what in found] == [
        "1-2-1.flac: needs 13 steps, has 12",
        "1-2-2.flac: needs 13 steps, has 12",
    ]
    assert not list(dense(utterances, 26))
    assert len(utterances) == 3


def test_a_subset_is_measured_in_hours(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "data")
    utterances = read_manifest(tmp_path / "data" / "dev-clean.jsonl")
    size = measure(utterances)
    assert (size.utterances, size.speakers) == (5, 2)
    assert size.hours == pytest.approx(5 * 0.5 / 3600)


@pytest.mark.parametrize(
    ("size", "verdict"),
    [
        (Size(2703, 5.388, 40), "whole"),
        (Size(2702, 5.388, 40), "part: 2702 of 2703 utterances"),
        (Size(2703, 5.388, 39), "differs: 39 speakers, not 40"),
        (Size(2703, 5.30, 40), "differs: 5.30 hours, not 5.39"),
    ],
)
def test_a_subset_is_whole_when_nothing_is_missing(size: Size, verdict: str) -> None:
    assert compare(size, "dev-clean") == verdict


def test_hours_that_are_not_known_are_not_compared() -> None:
    assert compare(Size(1089, 2.0, 26), "dev-clean-2") == "whole"


def test_a_subset_of_ones_own_is_compared_with_nothing() -> None:
    assert compare(Size(1, 1.0, 1), "mine") == "not a published subset"


# What is wrong with single utterances


def spoil_missing_audio(chapter: Path) -> None:
    (chapter / "84-9-0000.flac").unlink()


def spoil_missing_text(chapter: Path) -> None:
    write_sound(chapter / "84-9-0002.flac")


def spoil_audio(chapter: Path) -> None:
    (chapter / "84-9-0000.flac").write_bytes(b"not a flac")


def spoil_line(line: bytes) -> Callable[[Path], None]:
    def spoil(chapter: Path) -> None:
        transcript = chapter / "84-9.trans.txt"
        transcript.write_bytes(transcript.read_bytes() + line + b"\r\n\n")

    return spoil


def spoil_by_a_twin(chapter: Path) -> None:
    write_sound(chapter / "84-9-0000.wav")


def spoil_by_a_copy(chapter: Path) -> None:
    (chapter.parent / "9-copy").mkdir()
    write_sound(chapter.parent / "9-copy" / "84-9-0000.flac")
    transcript = chapter.parent / "9-copy" / "84-9.trans.txt"
    transcript.write_text("84-9-0000 GO\n")


def spoil_by_density(chapter: Path) -> None:
    write_sound(chapter / "84-9-0000.flac", 0.04)


@pytest.mark.parametrize(
    ("spoil", "kind", "what", "num_kept"),
    [
        (spoil_missing_audio, Kind.NO_AUDIO, "84/9: 84-9-0000 has no audio", 4),
        (spoil_missing_text, Kind.NO_TEXT, "84-9-0002.flac: has no text", 5),
        (spoil_audio, Kind.UNREADABLE, "84-9-0000.flac: ", 4),
        (spoil_line(b"84-9-0002"), Kind.MALFORMED, ":3: 84-9-0002 has no words", 5),
        (spoil_line(b"84-8-0002 GO"), Kind.MALFORMED, ":3: starts with '84-8-0002'", 5),
        (spoil_line(b"GO ON"), Kind.MALFORMED, ":3: starts with 'GO'", 5),
        (spoil_line(b"0002 GO ON"), Kind.MALFORMED, ":3: starts with '0002'", 5),
        (spoil_line(b"84-9-0002 \xff"), Kind.MALFORMED, ":3: is not UTF-8 text", 5),
        (spoil_line(b"84-9-0001 A"), Kind.DUPLICATE, ":3: 84-9-0001 has a text", 5),
        (spoil_by_a_twin, Kind.DUPLICATE, "0000.wav: is the same utterance", 5),
        (spoil_by_a_copy, Kind.DUPLICATE, "9-copy/84-9-0000.flac: has the id of", 5),
        (spoil_by_density, Kind.DENSE, "0000.flac: needs 2 steps, has 1", 5),
    ],
)
def test_a_problem_is_listed_and_the_others_are_kept(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    kind: Kind,
    what: str,
    num_kept: int,
) -> None:
    spoil(corpus / "dev-clean" / "84" / "9")

    assert prepare(corpus, tmp_path / "data") == 0

    listing = tmp_path / "data" / "dev-clean.problems.txt"
    (line,) = listing.read_text().splitlines()
    assert line.startswith(f"{kind}: {corpus}")
    assert what in line
    assert capsys.readouterr().err == f"prepare: {listing}: 1 x {kind}\n"
    kept = read_manifest(tmp_path / "data" / "dev-clean.jsonl")
    assert len(kept) == num_kept
    assert next(u for u in kept if u.id == "84-9-0001").text == "DO YOU HEAR"


def test_a_repaired_corpus_leaves_no_list_of_problems(
    corpus: Path, tmp_path: Path
) -> None:
    spoil_missing_text(corpus / "dev-clean" / "84" / "9")
    prepare(corpus, tmp_path / "data")
    (corpus / "dev-clean" / "84" / "9" / "84-9-0002.flac").unlink()

    prepare(corpus, tmp_path / "data")

    assert not (tmp_path / "data" / "dev-clean.problems.txt").exists()


def test_hidden_files_and_other_files_are_not_looked_at(
    corpus: Path, tmp_path: Path
) -> None:
    chapter = corpus / "dev-clean" / "84" / "9"
    (chapter / "._84-9-0000.flac").write_bytes(b"left behind by a Mac")
    (chapter / "84-9.seg.txt").write_text("0 1\n")

    prepare(corpus, tmp_path / "data")

    assert not (tmp_path / "data" / "dev-clean.problems.txt").exists()


# What is wrong with the corpus


def test_a_wrong_path_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path / "none", tmp_path / "data") == 1

    assert capsys.readouterr() == (
        "",
        f"prepare: {tmp_path}/none: does not exist "
        "(the folder of LibriSpeech was expected)\n",
    )
    assert not (tmp_path / "data").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="file: is not a folder"):
        find_subsets(tmp_path / "file")
    with pytest.raises(CorpusError, match=r"holds no subset \(one of train-clean-5, "):
        find_subsets(tmp_path)


def test_a_folder_may_have_the_name_of_a_subset(tmp_path: Path) -> None:
    write_chapter(tmp_path / "dev-clean" / "test-clean", "1-2", {"0000": "GO"})
    assert list(find_subsets(tmp_path / "dev-clean")) == ["test-clean"]


def test_a_subset_in_the_place_of_the_corpus_is_refused(corpus: Path) -> None:
    with pytest.raises(CorpusError, match=f"clean: is a subset .{corpus} was expected"):
        find_subsets(corpus / "dev-clean")


def test_a_wished_subset_must_be_there(corpus: Path) -> None:
    with pytest.raises(CorpusError, match="corpus: holds no folder dev-other"):
        find_subsets(corpus, ["dev-clean", "dev-other"])


def test_an_empty_subset_stops_all_before_anything_is_written(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "test-clean" / "1" / "2").mkdir(parents=True)

    assert prepare(corpus, tmp_path / "data") == 1

    assert f"prepare: {corpus}/test-clean: holds no speech" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_subset_without_one_good_utterance_is_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for transcript in corpus.rglob("*.trans.txt"):
        transcript.unlink()

    assert prepare(corpus, tmp_path / "data") == 1

    assert capsys.readouterr().err == (
        f"prepare: {corpus}/dev-clean: holds no usable speech "
        "(5 x audio without text)\n"
    )
    assert not list((tmp_path / "data").iterdir())


def test_a_place_that_cannot_be_written_is_reported(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data" / "dev-clean.jsonl").mkdir(parents=True)

    assert prepare(corpus, tmp_path / "file") == 1
    assert prepare(corpus, tmp_path / "data") == 1

    assert capsys.readouterr().err == (
        f"prepare: {tmp_path}/file: cannot be made (File exists)\n"
        f"prepare: {tmp_path}/data/dev-clean.jsonl: cannot be written "
        "(Is a directory)\n"
    )


def test_a_transcript_that_cannot_be_read_is_reported(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "dev-clean" / "84" / "9" / "0.trans.txt").mkdir()

    assert prepare(corpus, tmp_path / "data") == 1

    assert "/84/9/0.trans.txt: cannot be read (Is a dir" in capsys.readouterr().err


def test_a_number_of_processes_is_above_zero(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(corpus), "data", "--processes", "0"])
    assert "'0' is no whole number above zero" in capsys.readouterr().err
