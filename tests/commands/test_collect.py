"""Answers to tasks, judged: pairs and labels, what is left out, and going on after a stop."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

import tiny_folder
from trimtab.commands.collect import CollectSettings, collect
from trimtab.common.files import drop_torn_line
from trimtab.common.settings import SettingsError
from trimtab.common.workdir import WorkdirError, read_signature, write_signature
from trimtab.data.sources import DataError
from trimtab.evals import collection
from trimtab.evals.collection import chat_of, split_of, tasks_of
from trimtab.rewards.pool import MathPool

QUIET = Console(quiet=True)


def ask(text: str, answer: str = "4") -> dict:
    return {"prompt": [{"role": "user", "content": text}], "answer": answer}


def made(model, source, out, **changes) -> CollectSettings:
    return CollectSettings(model=str(model), source=str(source), out=out, **changes)


def rows_of(tasks: list, found: dict, answers: int = 4, **how):
    return collection.rows_of(tasks, found, answers, **{"heldout": 0.0, **how})


def samples(*tasks: list[str]) -> dict:
    return {(t, i): {"text": text} for t, texts in enumerate(tasks) for i, text in enumerate(texts)}


def test_right_and_wrong_answers_are_paired_in_their_order_and_each_gets_a_label():
    counts, rows = rows_of([ask("2+2?")], samples(["5", "it is 4", "4", "3"]))
    said = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows["train.pairs.jsonl"]]
    assert said == [("it is 4", "5"), ("4", "3")]
    labels = [(row["completion"][0]["content"], row["label"]) for row in rows["train.answers.jsonl"]]
    assert labels == [("5", False), ("it is 4", True), ("4", True), ("3", False)]
    assert (counts.mixed, counts.pairs, counts.unpaired, counts.labelled, counts.correct) == (1, 2, 0, 4, 2)
    assert rows["train.pairs.jsonl"][0]["prompt"] == ask("2+2?")["prompt"]


def test_tasks_with_one_outcome_are_left_out_and_counted():
    counts, rows = rows_of([ask("a"), ask("b")], samples(["4", "4.", "is 4", "4 !"], ["1", "2", "3", "5"]))
    assert not any(rows.values())
    assert (counts.tasks, counts.all_correct, counts.all_incorrect, counts.mixed) == (2, 1, 1, 0)


def test_a_task_is_asked_with_its_tools_and_kept_with_them(tmp_path):
    rows = [{**ask("a"), "tools": '[{"name": "rain"}]', "chat_template_kwargs": {"x": 1}}, {**ask("a"), "tools": []}]
    source = tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", rows)
    with_tools, plain = tasks_of(source)
    assert chat_of(with_tools) == {
        "prompt": ask("a")["prompt"], "tools": [{"name": "rain"}], "chat_template_kwargs": {"x": 1},
    }  # fmt: skip
    assert chat_of(plain) == ask("a")["prompt"]
    _, written = rows_of([with_tools], samples(["4", "5"]), answers=2)
    assert written["train.pairs.jsonl"][0]["tools"] == [{"name": "rain"}]


def test_what_is_empty_repeated_or_an_error_is_counted_and_left_out():
    found = samples(["4", " 4 ", "", "5"])
    found[0, 3] = {"text": "", "error": "timeout"}
    found[0, 4] = {"text": "5"}
    counts, rows = rows_of([ask("a")], found, answers=5)
    assert (counts.answers, counts.empty, counts.repeated, counts.errors) == (3, 1, 1, 1)
    assert [row["label"] for row in rows["train.answers.jsonl"]] == [True, False]


def test_the_most_pairs_of_a_task_are_kept_to_and_the_others_counted():
    counts, rows = rows_of([ask("a")], samples(["4", "4 .", "5", "6"]), pairs=1)
    assert len(rows["train.pairs.jsonl"]) == counts.pairs == 1
    assert counts.unpaired == 2


@pytest.mark.slow
def test_answers_are_judged_by_their_mathematics_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(collection, "MathPool", partial(MathPool, seconds=1.0))  # a limit that one answer reaches
    said = [r"so \boxed{\frac{2}{4}}", "0.5", r"\boxed{10^{10^{10}}}", r"\boxed{\frac{2}{8}}"]
    labels = {}
    for verify in ("exact", "math"):
        counts, rows = rows_of([ask("a", r"\frac{1}{2}")], samples(said), verify=verify)
        labels[verify] = [row["label"] for row in rows["train.answers.jsonl"]]
    assert labels == {"exact": [], "math": [True, True, False, False]}
    assert (counts.correct, counts.answers) == (2, 4)


def test_a_task_is_in_one_split_by_its_text():
    tasks = [ask(f"task {i}") for i in range(400)]
    splits = [split_of(task, 0.25) for task in tasks]
    assert 70 < splits.count("heldout") < 130
    assert splits == [split_of(task, 0.25) for task in tasks]
    counts, rows = rows_of(tasks, samples(*[["4", "5"]] * 400), answers=2, heldout=0.25)
    assert len(rows["heldout.pairs.jsonl"]) == len(rows["heldout.answers.jsonl"]) / 2 == splits.count("heldout")
    assert counts.pairs == 400
    asked = {row["prompt"][0]["content"] for row in rows["train.pairs.jsonl"]}
    assert not asked & {row["prompt"][0]["content"] for row in rows["heldout.pairs.jsonl"]}


# ---------------------------------------------------------------- with a model


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    tiny_folder.save(folder / "model")
    tiny_folder.write_jsonl(folder / "tasks.jsonl", [ask(f"{i} + {i}?", str(2 * i)) for i in range(5)])
    return folder


def real(files: Path, out: Path, **changes) -> CollectSettings:
    wanted = {"answers": 3, "max_new_tokens": 6, "batch": 4, **changes}
    return made(files / "model", files / "tasks.jsonl", out, **wanted)


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "all"
    collect(real(files, out), console=QUIET)
    return out


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_every_answer_of_every_task_is_kept_and_they_differ(finished):
    found = lines(finished)
    assert [(row["task"], row["number"]) for row in found] == [(t, i) for t in range(5) for i in range(3)]
    assert len({row["text"] for row in found}) > 10
    facts = json.loads((finished / "collection.json").read_text())
    assert facts["counts"]["tasks"] == 5
    assert facts["counts"]["answers"] + facts["counts"]["empty"] == 15


def test_a_collection_that_was_stopped_goes_on_to_the_same_answers(finished, files, tmp_path):
    out = tmp_path / "half"
    shutil.copytree(finished, out)
    kept = (out / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (out / "samples.jsonl").write_bytes(b"".join(kept[:8]) + kept[8][:5])
    collect(real(files, out), console=QUIET)
    assert lines(out) == lines(finished)


def test_another_seed_gives_other_answers_and_another_folder_is_asked_for(finished, files, tmp_path):
    with pytest.raises(WorkdirError, match="holds results of `trimtab collect` with a different seed .0 there, 1 here"):
        collect(real(files, finished, seed=1), console=QUIET)
    collect(real(files, tmp_path / "other", seed=1), console=QUIET)
    assert [row["text"] for row in lines(tmp_path / "other")] != [row["text"] for row in lines(finished)]


def test_another_way_to_judge_is_another_collection(finished, files, tmp_path):
    with pytest.raises(WorkdirError, match="a different verify .none there, math here"):
        collect(real(files, finished, verify="math"), console=QUIET)
    out = tmp_path / "math"
    shutil.copytree(finished, out)
    write_signature(out, "collect", {**(read_signature(out) or {}), "verify": "math"})
    with pytest.raises(WorkdirError, match="a different verify .math there, none here"):
        collect(real(files, out), console=QUIET)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": "4"}, "no prompt and no messages"),
        ({"prompt": "2+2?"}, "no `answer`"),
        ({"messages": [{"role": "assistant", "content": "4"}], "answer": "4"}, "holds no question"),
    ],
)
def test_rows_that_are_no_tasks_are_named(files, tmp_path, row, said):
    source = tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", [ask("a"), row])
    with pytest.raises(DataError, match=f"row 2.*{said}"):
        collect(made(files / "model", source, tmp_path / "out"), console=QUIET)
    assert not (tmp_path / "out").exists()


def test_one_question_with_two_answers_is_named(files, tmp_path):
    source = tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", [ask("a", "4"), ask("a", "4.0"), ask("a", "5")])
    with pytest.raises(DataError, match="row 3 gives the answer '5' to a question that had '4'"):
        collect(made(files / "model", source, tmp_path / "out"), console=QUIET)


def test_a_torn_line_is_cut_off_and_another_broken_one_is_named(finished, files, tmp_path):
    out = tmp_path / "broken"
    shutil.copytree(finished, out)
    with (out / "samples.jsonl").open("a") as file:
        file.write('{"task": 1')
    drop_torn_line(out / "samples.jsonl")
    with (out / "samples.jsonl").open("a") as file:
        file.write("[]\n")
    with pytest.raises(WorkdirError, match="line 16: not a row"):
        collect(real(files, out), console=QUIET)


def test_a_server_draws_each_answer_by_a_seed_of_its_own(files, tmp_path, server):
    server.reply = lambda asked: f"It is {asked['seed']}."
    how = {"endpoint": server.url, "answers": 3, "batch": 4, "heldout": 0.0, "seed": 10, "max_new_tokens": 8}
    counts = collect(made("m", files / "tasks.jsonl", tmp_path / "out", **how), console=QUIET)
    assert counts.repeated == 0
    texts = {(row["task"], row["number"]): row["text"] for row in lines(tmp_path / "out")}
    assert [texts[key] for key in sorted(texts)] == [f"It is {seed}." for seed in range(10, 25)]
    assert {asked["temperature"] for asked in server.seen} == {1.0}


def test_a_strategy_draws_the_answers_and_signs(files, tmp_path):
    how = {"answers": 2, "limit": 2, "max_new_tokens": 4, "heldout": 0.0}
    asked = {"decoding": "top_k", "options": {"decoding": {"k": 1}}}
    collect(made(files / "model", files / "tasks.jsonl", tmp_path / "out", **how, **asked), console=QUIET)
    answers = [row["text"] for row in lines(tmp_path / "out")]
    assert answers[0] == answers[1]
    signature = json.loads((tmp_path / "out" / "collection.json").read_text())["signature"]
    assert signature["decoding"] == "top_k temperature=1.0 k=1"
    assert signature["generation"].startswith("do_sample=True, eos_token_id=[0]")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoding": "model", "temperature": 0.5},
            "--temperature is for plain sampling; with --decoding model",
        ),
        ({"decoding": "model", "endpoint": "http://x"}, "--decoding needs a model in memory"),
        (
            {"decoding": "model", "options": {"decoding": {"k": 1}}},
            "decoding model has no setting 'k'; its settings: none",
        ),
        ({"options": {"decoding": {"k": 1}}}, "decoding.k is a setting of a strategy; name it: --decoding NAME"),
    ],
)
def test_decoding_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made("m", "s", Path("o"), **changes)


def test_a_server_takes_no_workers(monkeypatch):
    monkeypatch.setattr("trimtab.common.on_ray.installed", lambda: True)
    with pytest.raises(SettingsError, match="--ray: a server answers many requests at a time"):
        made("m", "rows.jsonl", Path("out"), endpoint="http://127.0.0.1:9/v1", ray="local")


def test_workers_have_a_number_only_with_ray():
    with pytest.raises(SettingsError, match="--ray-workers: only workers of Ray have a number"):
        made("m", "rows.jsonl", Path("out"), ray_workers=2)
