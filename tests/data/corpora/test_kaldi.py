from pathlib import Path

import pytest

from asr.data.corpora.kaldi import read


@pytest.mark.parametrize(
    "times",
    ["-1 -1", "nan -1", "inf -1", "-0.5 2", "nan 2", "2 1", "1 nan", "1 inf", "0 -2"],
)
def test_a_segment_with_an_impossible_time_is_listed(
    times: str, tmp_path: Path
) -> None:
    (tmp_path / "wav.scp").write_text("long long.wav\n")
    (tmp_path / "text").write_text("a go\nb on\n")
    (tmp_path / "segments").write_text(f"a long {times}\nb long 1 -1\n")

    (subset,) = read(tmp_path)

    assert [(e.id, e.start, e.duration) for e in subset.entries] == [("b", 1.0, None)]
    assert [problem.what for problem in subset.problems] == [
        f"{tmp_path}/segments: a long {times} (RECORDING START END was expected)",
        f"{tmp_path}: a has no audio",
    ]
