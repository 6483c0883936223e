from pathlib import Path

import pytest

from asr.cli.inputs import Source, find_sources, parse_clip
from asr.errors import AudioError


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_file_stands_for_itself_even_if_it_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "talk.mp3"

    assert find_sources([str(missing)]) == [Source(missing, "talk")]


def test_a_folder_stands_for_all_audio_below_it(tmp_path: Path) -> None:
    make(tmp_path, "b.wav", "a.FLAC", "deep/er/c.mp3", "notes.txt")

    found = find_sources([str(tmp_path)])

    assert found == [
        Source(tmp_path / "a.FLAC", "a"),
        Source(tmp_path / "b.wav", "b"),
        Source(tmp_path / "deep/er/c.mp3", "deep/er/c"),
    ]


def test_a_folder_behind_a_link_is_looked_into_once(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/a.wav", "talks/b.wav", "talks/deep/c.wav")
    talks = tmp_path / "talks"
    (talks / "link").symlink_to(tmp_path / "elsewhere")
    (talks / "again").symlink_to(tmp_path / "elsewhere")
    (talks / "around").symlink_to(talks)
    (talks / "a-link-before").symlink_to(talks / "deep")

    found = find_sources([str(talks)])

    assert [source.name for source in found if isinstance(source, Source)] == [
        *("again/a", "b", "deep/c"),
    ]


def test_a_pattern_stands_for_what_it_matches(tmp_path: Path) -> None:
    make(tmp_path, "x/b.wav", "x/a.wav", "x/a.mp3")

    found = find_sources([f"{tmp_path}/**/*.wav"])

    assert [source.name for source in found if isinstance(source, Source)] == ["a", "b"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    make(tmp_path, "talk[1].wav", "talk1.wav")

    found = find_sources([str(tmp_path / "talk[1].wav")])

    assert found == [Source(tmp_path / "talk[1].wav", "talk[1]")]


def test_a_recording_that_is_meant_twice_is_found_once(tmp_path: Path) -> None:
    make(tmp_path, "a.wav")

    found = find_sources([str(tmp_path / "a.wav"), str(tmp_path)])

    assert found == [Source(tmp_path / "a.wav", "a")]


def names_of(arguments: list[Path], *, split: bool = False) -> list[str]:
    found = find_sources(list(map(str, arguments)), split=split)
    return [source.name for source in found if isinstance(source, Source)]


def test_no_two_recordings_have_the_same_name(tmp_path: Path) -> None:
    make(tmp_path, "1/a.wav", "2/a.mp3", "3/a.mp3", "4/A.mp3", "4/b.mp3")

    names = names_of([tmp_path / str(n) for n in (1, 2, 3, 4)])

    assert names == ["a.wav", "2/a.mp3", "3/a.mp3", "4/A.mp3", "b"]


def test_a_recording_that_comes_later_takes_no_name_of_one_that_is_done(
    tmp_path: Path,
) -> None:
    make(tmp_path, "x.wav", "y/deep/z.wav")
    before = names_of([tmp_path, tmp_path / "y"])

    make(tmp_path, "x.mp3", "w/deep/z.wav")
    after = names_of([tmp_path, tmp_path / "w", tmp_path / "y"])

    assert before == ["x", "y/deep/z"]
    assert sorted(after) == ["w/deep/z", "x.mp3", "x.wav", "y/deep/z"]
    assert not {"x", "deep/z"} & set(after)


def test_folders_of_one_layout_are_told_apart_by_their_own_names(
    tmp_path: Path,
) -> None:
    make(tmp_path, "a/deep/z.wav", "b/deep/z.wav", "c/deep/z.mp3")

    names = names_of([tmp_path / "a", tmp_path / "b", tmp_path / "c"])

    assert names == ["a/deep/z.wav", "b/deep/z.wav", "deep/z.mp3"]


def test_a_name_that_has_its_whole_path_stays() -> None:
    paths = [Path("/x/d/a.wav"), Path("/d/a.wav"), Path("/y/d/a.wav")]

    assert names_of(paths) == ["x/d/a.wav", "d/a.wav", "y/d/a.wav"]


def test_channels_of_one_recording_take_no_name_of_another(tmp_path: Path) -> None:
    make(tmp_path, "call.wav", "call.left.wav", "2024.wav", "2024.3.wav", "b.7.wav")

    assert names_of([tmp_path]) == ["2024.3", "2024", "b.7", "call.left", "call"]
    assert names_of([tmp_path], split=True) == [
        *("2024.3.wav", "2024.wav", "b.7", "call.left.wav", "call.wav"),
    ]


def test_names_that_differ_in_case_alone_get_a_number(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "A.wav", "a.Wav")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this disk takes the three names for one")

    folder = "/".join(tmp_path.parts[1:])
    assert names_of([tmp_path]) == [
        *(f"{folder}/A.wav", f"{folder}/a.Wav-2", f"{folder}/a.wav-3"),
    ]


def test_what_holds_no_audio_is_reported_in_its_place(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "empty/notes.txt")

    first, second, third = find_sources(
        [str(tmp_path / "empty"), str(tmp_path / "*.mp3"), str(tmp_path / "a.wav")]
    )

    assert isinstance(first, AudioError)
    assert str(first) == f"{tmp_path / 'empty'}: holds no audio files"
    assert isinstance(second, AudioError)
    assert str(second) == f"{tmp_path}/*.mp3: matches no file"
    assert third == Source(tmp_path / "a.wav", "a")


def test_an_empty_path_is_not_the_current_folder() -> None:
    (error,) = find_sources([""])

    assert isinstance(error, AudioError)
    assert "is no path" in str(error)


@pytest.mark.parametrize(
    "text", ["", "5", "a:b", "5:5", "6:5", "-1:5", "1:2:3", "nan:"]
)
def test_what_is_no_clip_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not START:END in seconds"):
        parse_clip(text)


def test_a_clip_may_lack_its_ends() -> None:
    assert parse_clip(":") == (0.0, None)
