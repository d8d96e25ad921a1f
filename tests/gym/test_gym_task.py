"""Task folders: scores by hand, and what a folder must hold."""

import shutil

import pytest

from tiny_gym import SETTINGS, make_task
from trimtab.common.errors import UserError
from trimtab.gym.task import Anchors, TaskError, load_task


def test_baseline_scores_0_the_reference_80_and_a_quarter_more_of_the_gap_100():
    anchors = Anchors(name="accuracy", baseline=0.2, reference=0.6)
    values = {0.1: 0, 0.2: 0, 0.4: 40, 0.6: 80, 0.7: 100, 0.9: 100}
    for value, points in values.items():
        assert anchors.score(value) == pytest.approx(points)


def test_where_the_reference_is_below_the_baseline_lower_is_better():
    anchors = Anchors(name="loss", baseline=4.0, reference=2.0)
    assert [anchors.score(value) for value in (5.0, 4.0, 3.0, 2.0, 1.5)] == pytest.approx([0, 0, 40, 80, 100])


def test_several_metrics_are_weighed(tmp_path):
    metrics = """
metrics:
  - {name: a, baseline: 0, reference: 1, weight: 3}
  - {name: b, baseline: 0, reference: 1}
"""
    task = make_task(tmp_path / "t", settings="title: T\nlicence: MIT\n" + metrics)
    assert task.score({"a": 1.0, "b": 0.0}) == pytest.approx(60)
    assert task.score({"a": 0.0, "b": 9.0}) == pytest.approx(25)


def test_a_version_changes_with_any_file(tmp_path):
    first = make_task(tmp_path / "t").version()
    assert make_task(tmp_path / "u").version() == first
    assert make_task(tmp_path / "v", **{"hidden/labels.json": "{}"}).version() != first


@pytest.mark.parametrize("name", ["evaluator.py", "description.md", "workspace", "task.yaml"])
def test_a_folder_without_one_of_its_parts_is_refused_by_name(tmp_path, name):
    folder = make_task(tmp_path / "t").folder
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(TaskError, match=rf"has no {name}"):
        load_task(folder)


@pytest.mark.parametrize(
    "before, after, said",
    [
        ("licence: CC0-1.0", "", "has no licence"),
        ("  - {name: accuracy, baseline: 0.0, reference: 0.8}", "  []", "has no metrics"),
        ("reference: 0.8", "reference: 0.0", "a score needs two values"),
        (", reference: 0.8", "", "metrics"),
        ("  - {name: accuracy,", "  - {name: accuracy, baseline: 1, reference: 2}\n  - {name: accuracy,", "twice"),
        ("baseline: 0.0", "baseline: .nan", "finite"),
        ("title: Guess the labels", "title: T\nbuget: {}", "did you mean 'budget'"),
        ("outputs: [outputs]", "outputs: [../outputs]", "outputs"),
        ("outputs: [outputs]", "outputs: [outputs, ./outputs/a]", "outputs/a' lies in 'outputs'"),
        ("outputs: [outputs]", "outputs: [a/b, a/b/]", "'a/b' lies in 'a/b/'"),
    ],
)
def test_settings_without_an_anchor_or_a_licence_are_refused(tmp_path, before, after, said):
    assert before in SETTINGS
    with pytest.raises(TaskError, match=said):
        make_task(tmp_path / "t", settings=SETTINGS.replace(before, after))


@pytest.mark.parametrize("name", ["evaluator.py", "description.md", "workspace", "task.yaml"])
def test_a_part_of_another_kind_is_none(tmp_path, name):
    folder = make_task(tmp_path / "t").folder
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("")
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(TaskError, match=rf"has no {name}"):
        load_task(folder)


@pytest.mark.parametrize("name", ["description.md", "hint.md"])
def test_a_text_that_is_none_is_refused_with_its_place(tmp_path, name):
    task = make_task(tmp_path / "t")
    (task.folder / name).write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=rf"{name}.*UTF-8"):
        getattr(task, name.removesuffix(".md"))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(TaskError, match="there is no task folder"):
        load_task(tmp_path / "none")
