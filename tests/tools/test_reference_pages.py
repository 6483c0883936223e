import re
from pathlib import Path

import asr
from tools.reference_docstrings import join_legends
from tools.reference_pages import PACKAGE, _index, _titles


def test_each_folder_of_the_package_has_a_page() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}

    assert folders - {"cli", "server"} == _titles().keys() - {"index", "modules"}
    assert "model" in folders


def test_the_public_names_lead_to_their_homes() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\[([\w.]+)\] \| (.*) \|$", _index(), re.M)

    assert [name for name, _, _ in rows] == asr.__all__
    assert {name: home.rpartition(".")[0] for name, home, _ in rows} == asr._HOME
    assert all(about for _, _, about in rows)


def test_a_legend_of_several_lines_becomes_one() -> None:
    text = "What.\n\nShapes: B rows,\n        J steps.\n\nArgs:\n    a: b\n        c"

    assert join_legends(text) == (
        "What.\n\nShapes: B rows, J steps.\n\nArgs:\n    a: b\n        c"
    )


def test_the_package_is_found() -> None:
    assert Path(asr.__file__).parent == PACKAGE
