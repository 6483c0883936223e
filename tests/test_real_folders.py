from pathlib import Path

import pytest

from asr.data.corpora import folders, librispeech
from asr.real_folders import walk


def spoken(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.wav").touch()
        (folder / f"{name}.txt").write_text("go")


def test_each_folder_is_entered_once_and_by_its_own_path_if_it_can_be(
    tmp_path: Path,
) -> None:
    inside, outside = tmp_path / "corpus", tmp_path / "elsewhere"
    for folder in (inside / "a", inside / "z" / "deep", inside / ".hidden", outside):
        folder.mkdir(parents=True)
        (folder / "x.wav").touch()
    (inside / "a" / "self").symlink_to(inside)
    (inside / "a" / "later").symlink_to(inside / "z")
    (inside / "a" / "one").symlink_to(outside)
    (inside / "a" / "two").symlink_to(outside)
    (outside / "back").symlink_to(inside / "a")
    (inside / "nowhere").symlink_to("none")

    found = [str(folder.relative_to(inside)) for folder, _ in walk(inside)]

    assert found == [".", "a", "z", "z/deep", "a/one"]
    with_hidden = [folder.name for folder, _ in walk(inside, hidden=True)]
    assert sorted(with_hidden) == sorted(
        [".hidden", "a", inside.name, "deep", "one", "z"]
    )


def test_a_link_to_its_own_folder_adds_no_recording(tmp_path: Path) -> None:
    spoken(tmp_path, "a", "b")
    (tmp_path / "self").symlink_to(".")

    (subset,) = folders.read(tmp_path)

    assert [entry.id for entry in subset.entries] == ["a", "b"]
    assert not subset.problems


@pytest.mark.parametrize("link", ["84/up", "up"])
def test_a_link_upwards_adds_no_chapter(link: str, tmp_path: Path) -> None:
    chapter = tmp_path / "84" / "9"
    spoken(chapter, "84-9-0")
    (chapter / "84-9.trans.txt").write_text("84-9-0 GO\n")
    (tmp_path / link).symlink_to(tmp_path)

    assert librispeech.has_its_layout(tmp_path)
    assert librispeech.find_chapters(tmp_path) == [chapter]
