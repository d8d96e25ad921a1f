"""What frozen models say, stored beside the rows: the same training, and a refusal wherever it would not fit."""

import json
import re
import shutil
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM

import tiny_folder
from trimtab.commands.precompute import PrecomputeError, precompute
from trimtab.common.errors import Interrupted
from trimtab.common.workdir import WorkdirError
from trimtab.data.sources import DataError
from trimtab.models import loading
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe
from trimtab.runs.run import run
from trimtab.signals.frozen import FrozenModel

QUIET = Console(quiet=True)
WEAK = ("weak_reference", "weak_aligned")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    for seed, name in enumerate(WEAK, start=3):
        tiny_folder.save(folder / name, seed=seed, num_hidden_layers=1)
    return folder


def tree(files: Path, output: Path, **changes) -> dict:
    made = tiny_folder.recipe(files, "wspo", output=str(output), eval={"every": None, "prompts": []}, **changes)
    made["models"] = {"policy": str(files / "teacher"), **{role: str(files / role) for role in WEAK}}
    return made


def recipe(files: Path, output: Path, **changes) -> Recipe:
    made = parse(tree(files, output, **changes), "test", "run")
    assert isinstance(made, Recipe)
    return made


def with_column(files: Path, output: Path, rows: Path, **changes) -> Recipe:
    made = tree(files, output, options={"weak": "column"}, **changes)
    made["data"]["train"] = str(rows)
    made["models"] = {"policy": str(files / "teacher"), "reference": "column"}
    stored = parse(made, "test", "run")
    assert isinstance(stored, Recipe)
    return stored


def make(files: Path, out: Path, **changes) -> list[dict]:
    precompute(recipe(files, out.parent / "never", **changes), out, command="made by a test", console=QUIET)
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture(scope="module")
def stored(files, tmp_path_factory) -> Path:
    """A folder with rows.jsonl and its meta, to be copied."""
    folder = tmp_path_factory.mktemp("stored")
    make(files, folder / "rows.jsonl")
    return folder


def logged(folder: Path, key: str) -> list[float]:
    events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [event[key] for event in events if event["event"] == "train"]


@pytest.mark.slow
def test_stored_and_live_log_ratios_train_the_same(files, tmp_path):
    make(files, tmp_path / "rows.jsonl")
    live = run(recipe(files, tmp_path / "live"), console=QUIET).folder
    stored = run(with_column(files, tmp_path / "stored", tmp_path / "rows.jsonl"), console=QUIET).folder
    assert all(abs(ratio) > 0.01 for ratio in logged(live, "weak_ratio"))
    for key in ("loss", "weak_ratio", "strong_ratio", "nll"):
        assert logged(stored, key) == pytest.approx(logged(live, key), rel=1e-4, abs=1e-6), key
    signature = (stored / "signature.txt").read_text()
    assert f"stored columns: weak_reference {files}/weak_reference " in signature
    assert "the stored reference" not in (stored / "metrics.jsonl").read_text()


def test_each_row_keeps_its_place_and_gains_the_log_ratio_of_each_answer_token(files, tmp_path):
    rows = make(files, tmp_path / "rows.jsonl")
    source = [json.loads(line) for line in (files / "train.jsonl").read_text().splitlines()]
    new = {"weak_delta": 0, "reference_logprobs": 0}
    assert [{**row, **new} for row in source] == [{**row, **new} for row in rows]
    tokenizer = tiny_folder.byte_tokenizer()
    prompt, answer = rows[3]["messages"]
    start = tokenizer.apply_chat_template([prompt], tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer(start + answer["content"] + "<|end|>", add_special_tokens=False).input_ids])
    length = len(answer["content"]) + 1
    found = []
    for role in (*WEAK, "teacher"):
        with torch.no_grad():
            logits = AutoModelForCausalLM.from_pretrained(files / role)(ids).logits[0, -length - 1 : -1]
        found.append(logits.log_softmax(-1).gather(-1, ids[0, -length:, None]).squeeze(-1))
    assert rows[3]["weak_delta"] == pytest.approx((found[1] - found[0]).tolist(), abs=1e-5)
    assert rows[3]["reference_logprobs"] == pytest.approx(found[2].tolist(), abs=1e-5)


def test_tokens_that_are_cut_off_and_rows_that_are_lost_have_no_numbers_and_are_not_read(files, tmp_path):
    changes = {"data": {"max_dropped": 1.0, "rows": 8}, "training": {"max_length": 24}}
    (files / "lossy.jsonl").write_text(
        "".join(
            json.dumps(row) + "\n"
            for row in (
                {"prompt": "ab", "completion": "cd"},
                {"prompt": "a" * 60, "completion": "bc"},
                {"prompt": "ab", "completion": ""},
                {"prompt": "ab", "completion": "c" * 30},
                *[{"prompt": "ab", "completion": "c" * n} for n in range(1, 9)],
            )
        )
    )
    changes["data"]["train"] = str(files / "lossy.jsonl")
    rows = make(files, tmp_path / "rows.jsonl", **changes)
    columns = [row["weak_delta"] for row in rows]
    assert [len(column) for column in columns] == [3, 3, 0, 31, 2, 3, 4, 5]
    assert [column.count(None) for column in columns] == [0, 3, 0, 9, 0, 0, 0, 0]
    assert columns[3].index(None) == 22

    stored = with_column(files, tmp_path / "a", tmp_path / "rows.jsonl", **changes)
    live = run(recipe(files, tmp_path / "live", **changes), console=QUIET).folder
    assert logged(run(stored, console=QUIET).folder, "loss") == pytest.approx(logged(live, "loss"), rel=1e-4)

    changes["training"] = {"max_length": 32}
    longer = with_column(files, tmp_path / "b", tmp_path / "rows.jsonl", **changes)
    with pytest.raises(DataError, match=r"row 4: weak_delta has no number for answer token 23; .* smaller training"):
        run(longer, console=QUIET)


@pytest.mark.slow
def test_one_model_is_in_memory_at_a_time(files, tmp_path, monkeypatch):
    loaded, load_model = [], loading.load_model

    def remember(name, **kwargs):
        assert all(model() is None for _, model in loaded)
        model = load_model(name, **kwargs)
        loaded.append((Path(name).name, weakref.ref(model)))
        return model

    monkeypatch.setattr(loading, "load_model", remember)
    make(files, tmp_path / "rows.jsonl")
    assert [name for name, _ in loaded] == [*WEAK, "teacher"]


def stopped(files: Path, out: Path, monkeypatch, after: int, force: bool = False) -> int:
    """How many batches are computed until it is stopped, or has ended."""
    plain, calls = FrozenModel.__call__, []

    def call(self, *args):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(self)
        return plain(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(FrozenModel, "__call__", call)
        said = rf"stopped; ({after} batches are in .*{out.stem}\.columns\.part: run the same|nothing of)"
        with pytest.raises(Interrupted, match=said) if after < 1000 else nullcontext():
            precompute(recipe(files, out.parent / "never"), out, command="", force=force, console=QUIET)
    return len(calls)


@pytest.mark.slow
def test_what_was_stopped_is_resumed_and_ends_as_if_it_had_not_been(files, tmp_path, monkeypatch):
    whole, out = make(files, tmp_path / "whole.jsonl"), tmp_path / "rows.jsonl"
    every = stopped(files, tmp_path / "counted.jsonl", monkeypatch, 1000)
    assert stopped(files, out, monkeypatch, 0) == 0
    assert not list(tmp_path.glob("rows.*"))
    assert stopped(files, out, monkeypatch, every // 2) == every // 2
    part = tmp_path / "rows.columns.part"
    part.write_bytes(part.read_bytes()[:-9])  # a kill tears the last line: one batch is lost
    with pytest.raises(
        WorkdirError, match=r"holds results of .* with a different max_length .64 there, 20 here.; add --force"
    ):
        make(files, out, training={"max_length": 20}, data={"max_dropped": 1.0})
    assert stopped(files, out, monkeypatch, 1000) == every - every // 2 + 1
    assert [json.loads(line) for line in out.read_text().splitlines()] == whole
    assert sorted(path.name for path in tmp_path.glob("rows.*")) == ["rows.jsonl", "rows.meta.json"]


def test_the_meta_names_what_the_column_was_computed_from(files, tmp_path):
    make(files, tmp_path / "rows.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "rows.meta.json"]
    meta = json.loads((tmp_path / "rows.meta.json").read_text())
    assert (meta["command"], meta["command_line"]) == ("precompute", "made by a test")
    assert meta["columns"] == ["weak_delta", "reference_logprobs"]
    assert set(meta["models"]) == {*WEAK, "reference"}
    assert meta["models"]["weak_aligned"] != meta["models"]["weak_reference"]
    assert {"tokenizer", "chat template", "rows", "source", "dtype", "max_length", "versions"} <= set(meta)


PAIRS = [
    {"prompt": f"say {i}", "chosen": "ab" * (i % 3 + 1), "rejected": "cde" if i != 5 else "ababab"} for i in range(16)
]
"""Row 6 is no pair: its answers are the same."""


def preferences(files: Path, output: Path, **changes) -> Recipe:
    (files / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    made = tree(files, output)
    made |= {"method": "dpo", "options": {}}
    made["models"] = {"policy": str(files / "teacher")} | changes.pop("models", {})
    made["data"] = {"train": str(files / "pairs.jsonl"), "max_dropped": 0.1} | changes.pop("data", {})
    parsed = parse(made | changes, "test", "run")
    assert isinstance(parsed, Recipe)
    return parsed


@pytest.mark.fast("None")
@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": "all-linear"}])
def test_stored_and_live_references_train_the_same(files, tmp_path, lora):
    live = preferences(files, tmp_path / "live", models={"lora": lora})
    precompute(live, tmp_path / "rows.jsonl", command="", console=QUIET)
    first, *_ = rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert (len(first["reference_logprobs"]), len(first["rejected_reference_logprobs"])) == (3, 4)
    assert rows[5]["reference_logprobs"] == rows[5]["rejected_reference_logprobs"] == []
    data = {"train": str(tmp_path / "rows.jsonl")}
    stored = preferences(files, tmp_path / "stored", models={"reference": "column", "lora": lora}, data=data)
    one, other = run(live, console=QUIET).folder, run(stored, console=QUIET).folder
    assert any(abs(margin) > 1e-4 for margin in logged(one, "margin"))
    for key in ("loss", "margin", "reward_chosen", "reward_rejected"):
        assert logged(other, key) == pytest.approx(logged(one, key), rel=1e-4, abs=1e-6), key


@pytest.mark.slow
def test_a_stored_reference_that_is_not_the_start_is_said(files, tmp_path):
    live = preferences(files, tmp_path / "live", models={"reference": str(files / "weak_reference")})
    precompute(live, tmp_path / "rows.jsonl", command="", console=QUIET)
    data = {"train": str(tmp_path / "rows.jsonl")}
    stored = preferences(files, tmp_path / "stored", models={"reference": "column"}, data=data)
    one, other = run(live, console=QUIET).folder, run(stored, console=QUIET).folder
    assert logged(other, "loss") == pytest.approx(logged(one, "loss"), rel=1e-4)
    said = f"the stored reference is {files}/weak_reference [0-9a-f]+, not the initial policy"
    assert re.search(said, (other / "metrics.jsonl").read_text())


def test_a_column_of_chosen_answers_alone_is_none_of_pairs(files, tmp_path):
    changes = {"data": {"train": str(files / "pairs.jsonl"), "max_dropped": 0.1}}
    preferences(files, tmp_path / "never")
    make(files, tmp_path / "rows.jsonl", **changes)
    data = {"train": str(tmp_path / "rows.jsonl")}
    with pytest.raises(DataError, match="row 1 has no column rejected_reference_logprobs"):
        run(preferences(files, tmp_path / "stored", models={"reference": "column"}, data=data), console=QUIET)


def test_whole_distributions_are_in_no_column(files, tmp_path):
    made = {**tree(files, tmp_path), "method": "trra"}
    made["models"] = {"policy": "p", "reference": "column", "aligned": "a"}
    with pytest.raises(ValueError, match=r"trra reads whole distributions from models\.reference, but a column only"):
        parse(made, "test", "run")


def changed(files: Path, out: Path, what: str) -> Recipe:
    """Training with the stored column after something has changed."""
    made = with_column(files, out.parent / "run", out)
    meta = out.with_suffix(".meta.json")
    if what == "no meta":
        meta.unlink()
    elif what == "torn meta":
        meta.write_text(meta.read_text()[:50])
    elif what == "other rows":
        out.write_text(out.read_text().replace("count 3", "count 33"))
    elif what == "fewer rows":
        out.write_text("".join(out.read_text().splitlines(keepends=True)[:-1]))
    elif what == "plain rows":
        made.data.train = str(files / "train.jsonl")
    else:
        policy = out.parent / "policy"
        tiny_folder.save(policy)
        template = tiny_folder.TEMPLATE.replace("assistant", "model") if what == "template" else tiny_folder.TEMPLATE
        tokenizer = tiny_folder.byte_tokenizer(template)
        if what == "tokenizer":
            tokenizer.pad_token = "<|user|>"
        tokenizer.save_pretrained(policy)
        made.models.policy = str(policy)
    return made


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no meta", r"there is no .*rows\.meta\.json, which says what weak_delta was computed from; make it with"),
        ("torn meta", r"nothing can be read from .*rows\.meta\.json"),
        ("other rows", r"its weak_delta does not fit: rows was [0-9a-f]{16} in rows\.meta\.json and is [0-9a-f]{16}"),
        ("fewer rows", "does not fit: rows was"),
        ("plain rows", r"train\.jsonl: there is no .*train\.meta\.json"),
        (
            "template",
            "does not fit: chat template was .* put back what has changed, or make it",
        ),
        ("tokenizer", "does not fit: tokenizer was"),
    ],
)
def test_a_column_that_was_computed_from_something_else_is_refused_in_one_line(files, stored, tmp_path, what, message):
    for one in stored.iterdir():
        shutil.copy(one, tmp_path)
    with pytest.raises(DataError, match=message) as raised:
        run(changed(files, tmp_path / "rows.jsonl", what), console=QUIET)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_the_command_says_where_the_rows_are_and_how_far_it_is(files, tmp_path, trimtab):
    stages = [{**tree(files, tmp_path / "x"), "method": "sft", "models": {"policy": str(files / "teacher")}}]
    stages.append({**tree(files, tmp_path / "x"), "method": "wspo"})
    for stage in stages:
        del stage["output"]
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({"stages": stages}))
    out = tmp_path / "new" / "rows.jsonl"
    code, said, err = trimtab("precompute", tmp_path / "both.yaml", "--out", out)
    assert code == 0, err
    assert f"rows: {out}\nmeta: {tmp_path}/new/rows.meta.json\n" in said
    assert "columns for wspo: weak_delta, reference_logprobs\n" in said
    assert f"data.train={out} models.reference=column options.weak=column models.weak_reference=null" in said
    for role in WEAK:
        assert f"{role}  " in said
    assert "tokens  " in said
    assert "left 0:00" in said
    assert json.loads((tmp_path / "new" / "rows.meta.json").read_text())["command_line"].startswith("trimtab prec")


def test_a_file_that_is_there_is_kept_unless_forced(files, tmp_path, trimtab):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree(files, tmp_path / "never")))
    out = tmp_path / "rows.jsonl"
    out.write_text("mine")
    code, _, err = trimtab("precompute", tmp_path / "mine.yaml", "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{out} exists; add --force" in err
    assert out.read_text() == "mine"
    code, _, err = trimtab("precompute", tmp_path / "mine.yaml", "--out", out, "--force")
    assert code == 0, err
    assert len(out.read_text().splitlines()) == 16


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"method": "sft"}, (), "error: method sft with these settings needs no log-probabilities"),
        ({"options": {"weak": "column"}}, ("models.reference=column",), "method wspo with these settings needs no"),
        ({}, ("models.weak_aligned=null",), "method wspo needs models.weak_aligned"),
        ({}, ("data.train=nowhere.jsonl",), "there is no file nowhere.jsonl"),
        ({}, ("training.max_length=20",), "rows would be dropped or truncated"),
        ({}, ("models.weak_aligned=./nowhere",), "there is no folder ./nowhere"),
        ({}, ("--out", "rows.csv"), "rows are written as .jsonl; choose FILE.jsonl instead of rows.csv"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing_behind(files, tmp_path, trimtab, changes, words, message):
    made = {**tree(files, tmp_path / "never"), **changes}
    if changes:
        made["models"] = {"policy": str(files / "teacher")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(made))
    code, _, err = trimtab("precompute", tmp_path / "mine.yaml", "--out", tmp_path / "rows.jsonl", *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_the_rows_of_the_recipe_are_never_overwritten(files, tmp_path):
    made = recipe(files, tmp_path / "never")
    part = recipe(files, tmp_path / "never", data={"train": f"{files / 'train.jsonl'}[:50%]"})
    for one in (made, part):
        with pytest.raises(PrecomputeError, match=r"is the recipe's own data\.train"):
            precompute(one, files / "train.jsonl", command="", force=True, console=QUIET)


def test_columns_of_a_part_are_written_to_a_file_of_its_own_and_read_whole(files, stored, tmp_path):
    rows = make(files, tmp_path / "part.jsonl", data={"train": f"{files / 'train.jsonl'}[50%:]"})
    whole = [json.loads(line) for line in (stored / "rows.jsonl").read_text().splitlines()]
    assert 0 < len(rows) < len(whole)
    assert [row["messages"] for row in rows] == [row["messages"] for row in whole[-len(rows) :]]
    run(with_column(files, tmp_path / "run", tmp_path / "part.jsonl"), console=QUIET)
    with pytest.raises(DataError, match="computed of all rows of a file, and this is a part of it"):
        run(with_column(files, tmp_path / "other", Path(f"{stored / 'rows.jsonl'}[50%:]")), console=QUIET)


def test_weak_models_with_other_tokens_are_refused_before_they_run(files, tmp_path, monkeypatch):
    tiny_folder.save(tmp_path / "other")
    tokenizer = tiny_folder.byte_tokenizer()
    words = {token: (i + 5) % tiny_folder.VOCAB for token, i in tokenizer.get_vocab().items()}
    saved = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    saved["model"]["vocab"] = words
    saved["added_tokens"] = []
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(saved))
    monkeypatch.setattr(loading, "load_model", None)  # would fail
    made = recipe(files, tmp_path / "never")
    made.models.weak_aligned = str(tmp_path / "other")
    with pytest.raises(ValueError, match="policy and weak_aligned have different tokenizers"):
        precompute(made, tmp_path / "rows.jsonl", command="", console=QUIET)


@pytest.mark.slow
def test_an_error_while_writing_keeps_what_was_there(files, tmp_path, monkeypatch):
    make(files, tmp_path / "rows.jsonl")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("trimtab.runs.precomputed._column", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        precompute(recipe(files, tmp_path / "never"), tmp_path / "rows.jsonl", command="", force=True, console=QUIET)
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.undo()
    assert stopped(files, tmp_path / "rows.jsonl", monkeypatch, 1000, force=True) == 0  # all batches were kept


@pytest.mark.slow
def test_killed_between_its_two_files_it_leaves_rows_that_are_refused(files, tmp_path, monkeypatch):
    make(files, tmp_path / "rows.jsonl")
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: 1 / 0 if to.suffix == ".json" else replace(self, to))
    with pytest.raises(ZeroDivisionError):
        precompute(recipe(files, tmp_path / "never"), tmp_path / "rows.jsonl", command="", force=True, console=QUIET)
    monkeypatch.undo()
    with pytest.raises(DataError, match="there is no"):
        run(with_column(files, tmp_path / "run", tmp_path / "rows.jsonl"), console=QUIET)
