"""Runs with several teachers: averaged, or one for each row by a column."""

import io
import json

import pytest
import torch
import yaml
from rich.console import Console

import tiny_folder
from tiny_runs import QUIET, cut_off, events, recipe, same_weights
from trimtab.commands.preview import preview_recipe
from trimtab.core import TokenBatch
from trimtab.data import sources
from trimtab.data.sources import DataError
from trimtab.models.packing import PLACE
from trimtab.runs.job import load_job
from trimtab.runs.parse import parse
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import RecipeError, dump
from trimtab.runs.run import run
from trimtab.signals.several import Teachers

BATCH = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    tiny_folder.save(folder / "other", kind="llama", seed=9, hidden_size=48)
    for name, start in (("train", 0), ("heldout", 100)):
        rows = tiny_folder.chat_rows(16 if name == "train" else 5, start=start)
        named = [{**row, "source": ("sums", "tales")[i % 3 == 0]} for i, row in enumerate(rows)]
        tiny_folder.write_jsonl(folder / f"routed_{name}.jsonl", named)
    return folder


def of_two(files, output, how: str, method: str = "kd", **changes):
    names = {"sums": str(files / "teacher"), "tales": str(files / "other")}
    models = {"policy": str(files / "teacher"), "teacher": names, **changes.pop("models", {})}
    data = {f"{of}": str(files / f"routed_{of}.jsonl") for of in ("train", "heldout")}
    if how == "weights":
        models["teacher_weights"] = {"sums": 3, "tales": 1}
    else:
        data["teacher_column"] = "source"
    training = {"max_steps": 4, "max_length": 64, "save_steps": 2, "learning_rate": 0.01, **BATCH}
    tree = tiny_folder.recipe(files, method, output=str(output), **changes)
    return {**tree, "models": models, "data": data, "training": {**training, **changes.get("training", {})}}


def carried_out(tree, resume=False):
    return run(parse(tree, "test", "run"), resume=resume, console=QUIET).folder


@pytest.mark.parametrize("how", ["weights", "column"])
def test_a_run_learns_from_both_and_its_signature_names_them(files, tmp_path, how):
    folder = carried_out(of_two(files, tmp_path / how, how))
    line = next(one for one in (folder / "signature.txt").read_text().splitlines() if one.startswith("teacher: "))
    assert f"sums {files}/teacher" in line
    assert f"tales {files}/other" in line
    assert ("x 3" in line) == (how == "weights")
    assert ("by source" in line) == (how == "column")
    assert all(event["divergence"] > 0 for event in events(folder, "train"))
    measured = json.loads((folder / "samples.jsonl").read_text().splitlines()[0])
    assert measured["forward_kl"] > 0


def test_rows_have_the_teachers_that_they_name_and_held_out_rows_theirs(files, tmp_path):
    job = load_job(parse(of_two(files, tmp_path / "run", "column"), "test", "run"), Shared(), Console(quiet=True))
    (signal,), (held,) = job.plan.signals, job.heldout_signals
    assert isinstance(signal, Teachers)
    assert isinstance(held, Teachers)
    assert signal.routes is not None
    assert signal.routes.tolist() == [int(i % 3 == 0) for i in range(16)]
    assert held.routes is not None
    assert held.routes.tolist() == [1, 0, 0, 1, 0]
    assert held.teachers[0] is signal.teachers[0], "read once, also what it remembers"
    inputs = job.collator(job.train.rows[:4])
    for place, index in enumerate((1, 0, 0, 1)):
        alone = job.collator(job.train.rows[place : place + 1])
        one = signal.teachers[index]
        wanted = one(None, alone)[one.name].compute().log_softmax(-1)
        mine = TokenBatch.from_labels(inputs["labels"]).row == place
        found = signal(None, inputs)["teacher"].compute().log_softmax(-1)[mine]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.fast("column-disk")
@pytest.mark.parametrize(("how", "kept"), [("weights", "memory"), ("column", "disk")])
def test_what_is_remembered_changes_nothing_but_rounding(files, tmp_path, how, kept):
    plain = carried_out(of_two(files, tmp_path / "plain", how))
    other = carried_out(of_two(files, tmp_path / "other", how, models={"teacher_cache": kept}))
    for a, b in zip(events(plain, "train"), events(other, "train"), strict=True):
        assert b["divergence"] == pytest.approx(a["divergence"], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("how", ["weights", "column"])
def test_packed_rows_have_the_same_teachers(files, tmp_path, how):
    tree = of_two(files, tmp_path / "run", how, training={"packing": True, "max_length": 96})
    job = load_job(parse(tree, "test", "run"), Shared(), QUIET)
    padded = job.collator(job.train.rows[:4])
    packed = {**padded, PLACE: torch.tensor([[0, 0], [0, 30], [1, 0], [1, 30]])}
    a, b = (job.plan.signals[0](None, one)["teacher"].compute() for one in (packed, padded))
    torch.testing.assert_close(a.log_softmax(-1), b.log_softmax(-1), rtol=1e-4, atol=1e-4)
    assert len(events(carried_out(tree), "train")) == 4


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_bit(files, tmp_path):
    tree = of_two(files, tmp_path / "whole", "column")
    whole = carried_out(tree)
    cut_off(whole, tmp_path / "stopped", 2)
    carried_out({**tree, "output": str(tmp_path / "stopped")}, resume=True)
    assert same_weights(whole, tmp_path / "stopped")


@pytest.mark.parametrize("how", ["weights", "column"])
def test_own_completions_are_judged_by_them_too(files, tmp_path, how):
    tasks = [{"prompt": f"count {i}", "answer": "1", "source": ("sums", "tales")[i % 2]} for i in range(8)]
    tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", tasks)
    tree = of_two(files, tmp_path / "run", how, method="opd")
    tree["data"] |= {"train": str(tmp_path / "tasks.jsonl"), "heldout": None}
    tree["training"] = {
        "max_steps": 2, "max_completion_length": 4, "num_generations": 2, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
    }  # fmt: skip
    tree |= {"reward": "exact", "eval": {}}
    assert len(events(carried_out(tree), "train")) == 2


def test_a_stage_may_be_one_of_the_teachers(files, tmp_path):
    first = {"name": "one", "method": "sft", "models": {"policy": str(files / "teacher")}}
    tree = of_two(files, tmp_path / "all", "weights")
    models = {**tree["models"], "teacher": {"sums": "@one", "tales": str(files / "other")}}
    second = {"name": "two", "method": "kd", "models": models}
    rest = {key: tree[key] for key in ("data", "training", "output")}
    stages = parse({**rest, "stages": [first, second]}, "test", "all")
    assert stages.stages[1].models.teacher["sums"] == str(tmp_path / "all/one/model")  # type: ignore[union-attr,index]
    assert yaml.safe_load(dump(stages))["stages"][1]["models"]["teacher"]["sums"] == "@one"
    with pytest.raises(RecipeError, match=r"models\.teacher\.sums is @none, but the earlier stages are: one"):
        models["teacher"]["sums"] = "@none"
        parse({**rest, "stages": [first, second]}, "test", "all")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"a": "X"}}, "at least two"),
        ({"teacher": {"a": "X", "b": "cache:Y"}}, "teacher.b is cache:Y, but a cache can only be the one teacher"),
        ({"teacher": {"a b": "X", "c": "Y"}}, "the teacher's name 'a b'"),
        ({"teacher_weights": None}, "either data.teacher_column.* or models.teacher_weights.*has neither"),
        ({"teacher_weights": {"sums": 1}}, "teacher_weights are of sums, but the teachers are sums, tales"),
        ({"teacher_weights": {"sums": 1, "tales": 0}}, "teacher_weights.tales is 0"),
        ({"teacher": "X"}, "teacher_weights are for several teachers"),
        ({"teacher": {1: "X", 2: "Y"}}, 'the name of a teacher is a text; write "1" for 1'),
        ({"teacher_weights": {7: 1, "tales": 2}}, 'the name of a teacher is a text; write "7" for 7'),
        ({"policy": {"from": "teacher", "layers": 1}}, "cut from the teacher, and there are several"),
    ],
)
def test_what_is_wrong_with_several_teachers_costs_one_line(files, tmp_path, changes, message):
    tree = of_two(files, tmp_path / "run", "weights")
    tree["models"] |= changes
    with pytest.raises(RecipeError, match=message) as raised:
        parse(tree, "test", "run")
    assert "\n" not in str(raised.value)


def test_both_ways_to_teach_and_methods_that_take_one_are_refused(files, tmp_path):
    tree = of_two(files, tmp_path / "run", "weights")
    with pytest.raises(RecipeError, match="has both"):
        parse({**tree, "data": {**tree["data"], "teacher_column": "source"}}, "test", "run")
    with pytest.raises(RecipeError, match="method sft reads no teacher"):
        parse({**tree, "method": "sft"}, "test", "run")
    with pytest.raises(RecipeError, match="several teachers share the policy's"):
        parse({**tree, "options": {"tokenizers": "different"}}, "test", "run")
    with pytest.raises(RecipeError, match="chooses among several teachers"):
        recipe(files, tmp_path / "one", data={"train": "x.jsonl", "teacher_column": "source"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "verse"}, "row 3 has the teacher 'verse' in 'source'; the teachers are: sums, tales"),
        ({}, "row 3 has no column 'source'"),
        ({"source": None}, "row 3 has null in 'source', but the name of a teacher is a text"),
        ({"source": 7}, "row 3 has 7 in 'source', but the name of a teacher is a text"),
    ],
)
def test_a_row_without_one_of_the_teachers_is_named(files, tmp_path, trimtab, row, message):
    rows = [{**one, "source": "sums"} for one in tiny_folder.chat_rows(4)]
    rows[2] = {**tiny_folder.chat_rows(1)[0], **row}
    tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    tree = of_two(files, tmp_path / "run", "column")
    tree["data"] |= {"train": str(tmp_path / "rows.jsonl")}
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    code, _, err = trimtab("train", tmp_path / "r.yaml")
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "run").exists()


def test_a_number_where_a_teacher_has_that_name_is_told_apart(files, tmp_path):
    rows = [{**one, "source": 1} for one in tiny_folder.chat_rows(4)]
    tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    tree = of_two(files, tmp_path / "run", "column")
    tree["models"]["teacher"] = {"1": str(files / "teacher"), "2": str(files / "other")}
    tree["data"] |= {"train": str(tmp_path / "rows.jsonl")}
    with pytest.raises(DataError, match="row 1 has 1 in 'source', but the name of a teacher is a text; write \"1\""):
        load_job(parse(tree, "test", "run"), Shared(), QUIET)


@pytest.mark.parametrize("how", ["column", "prompt"])
def test_rows_are_read_once(files, tmp_path, monkeypatch, how):
    tree = of_two(files, tmp_path / "run", "column")
    if how == "prompt":
        tree["models"]["teacher"] = "self:initial"
        tree["data"] = {key: value for key, value in tree["data"].items() if key != "teacher_column"}
        tree["data"]["teacher_prompt"] = "{prompt}, as in {source}"
    read, plain = [], sources._file
    monkeypatch.setattr(sources, "_file", lambda path: read.append(path.name) or plain(path))
    load_job(parse(tree, "test", "run"), Shared(), QUIET)
    assert sorted(read) == ["routed_heldout.jsonl", "routed_train.jsonl"]
    read.clear()
    previewed(tree)
    assert read == ["routed_train.jsonl"]


def test_a_teacher_that_no_row_names_is_said(files, tmp_path):
    rows = [{**one, "source": "sums"} for one in tiny_folder.chat_rows(8)]
    tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    tree = of_two(files, tmp_path / "run", "column")
    tree["data"] |= {"train": str(tmp_path / "rows.jsonl")}
    job = load_job(parse(tree, "test", "run"), Shared(), Console(quiet=True))
    assert any("no row names tales in its source" in note for note in job.notes)


def previewed(tree, split="train") -> list[str]:
    written = io.StringIO()
    preview_recipe(parse(tree, "test", "run"), 2, split, Console(file=written, width=300))
    return [" ".join(line.split()) for line in written.getvalue().splitlines()]


@pytest.mark.parametrize(("split", "sums", "tales"), [("train", 10, 6), ("heldout", 3, 2)])
def test_preview_says_who_reads_each_row_and_how_many_each_reads(files, tmp_path, split, sums, tales):
    lines = previewed(of_two(files, tmp_path / "run", "column"), split)
    rules = [line for line in lines if line.startswith("row ")]
    assert [line.partition(", ")[2].split(" \u2500")[0] for line in rules] == [
        "read by teacher tales", "read by teacher sums",
    ]  # fmt: skip
    assert f"rows of teacher sums {sums} {files}/teacher" in lines
    assert f"rows of teacher tales {tales} {files}/other" in lines


def test_preview_says_what_share_each_teacher_has(files, tmp_path):
    lines = previewed(of_two(files, tmp_path / "run", "weights"))
    assert f"share of teacher sums 75.0% {files}/teacher" in lines
    assert f"share of teacher tales 25.0% {files}/other" in lines
    assert not any("read by" in line for line in lines)


def test_preview_of_completions_says_who_reads_them(files, tmp_path):
    tasks = [{"prompt": f"count {i}", "answer": "1", "source": ("sums", "tales")[i % 2]} for i in range(8)]
    tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", tasks)
    tree = of_two(files, tmp_path / "run", "column", method="opd", reward="exact", eval={})
    tree["data"] |= {"train": str(tmp_path / "tasks.jsonl"), "heldout": None}
    tree["training"] = {"max_steps": 2, "max_completion_length": 4, "num_generations": 2}
    lines = previewed(tree)
    assert f"rows of teacher tales 4 {files}/other" in lines


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("column", "sums {0}/teacher, tales {0}/other by source"),
        ("weights", "sums {0}/teacher x 3, tales {0}/other x 1"),
    ],
)
def test_the_report_names_each_teacher(files, tmp_path, how, said):
    folder = carried_out(of_two(files, tmp_path / "run", how))
    page = (folder / "report.html").read_text()
    assert f"<dd>{said.format(files)}</dd>" in page
