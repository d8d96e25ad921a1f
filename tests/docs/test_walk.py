"""The walk through a run in docs/explanation/how_it_fits.md is what a run of `tiny_kd` calls, in its order."""

import importlib
import operator
import re
import sys
from pathlib import Path

import pytest

import tiny_folder
import trimtab as package

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "how_it_fits.md"
WORDS = (
    "models.teacher=files/teacher models.student.layers=2 data.train=files/train.jsonl data.heldout=files/heldout.jsonl"
    " data.heldout_rows=2 training.max_steps=1 training.per_device_train_batch_size=2 eval.prompts=[] eval.every=null"
)


def listed() -> list[tuple[str, str]]:
    """The files of the walk, with the function to read in each."""
    text = PAGE.read_text(encoding="utf-8").partition("## A walk through a run")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([\w/]+\.py)` \| `([\w.]+)` \|", text, re.MULTILINE)


def test_the_files_and_functions_of_the_walk_are_there():
    for file, name in listed():
        module = importlib.import_module(f"trimtab.{file.removesuffix('.py').replace('/', '.')}")
        assert operator.attrgetter(name)(module).__module__ == module.__name__, file


@pytest.mark.slow
def test_the_functions_of_the_walk_are_called_by_a_run_in_this_order(trimtab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_folder.lay_out(Path("files"))
    root, called = str(Path(package.__file__).parent), {}

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(root):
            place = Path(frame.f_code.co_filename).relative_to(root).as_posix()
            called.setdefault((place, frame.f_code.co_qualname), len(called))

    sys.setprofile(watch)
    try:
        code, _, err = trimtab("train", "tiny_kd", *WORDS.split())
    finally:
        sys.setprofile(None)
    assert code == 0, err
    walk = listed()
    assert [one for one in walk if one not in called] == []
    assert walk == sorted(walk, key=called.__getitem__)
    assert 15 <= len(walk) == len({file for file, _ in walk}) <= 20
