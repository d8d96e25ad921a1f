"""Runs whose teacher is the policy itself, or reads another prompt."""

import io
import json
import math

import pytest
import torch
from rich.console import Console

import tiny_folder
from tiny_runs import QUIET, cut_off, events, same_weights
from trimtab.commands.preview import preview_recipe
from trimtab.core import IGNORE, TokenBatch
from trimtab.data.sources import DataError
from trimtab.runs.job import load_job
from trimtab.runs.parse import parse
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import RecipeError
from trimtab.runs.run import run
from trimtab.signals.other_prompt import OtherPrompt

LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    for name, start in (("train", 0), ("heldout", 100)):
        rows = tiny_folder.chat_rows(12 if name == "train" else 4, start=start)
        said = [row["messages"][1]["content"] for row in rows]
        hinted = [{**row, "hint": f"count, that is: {text}"} for row, text in zip(rows, said)]
        tiny_folder.write_jsonl(folder / f"hinted_{name}.jsonl", hinted)
    tasks = [{"prompt": f"count {i}", "answer": str(i), "hint": f"say {i}"} for i in range(8)]
    tiny_folder.write_jsonl(folder / "tasks.jsonl", tasks)
    return folder


def taught(files, output, teacher="self", method="kd", **changes):
    tree = tiny_folder.recipe(files, method, output=str(output))
    models = {"policy": str(files / "teacher"), "teacher": teacher, **changes.pop("models", {})}
    data = {of: str(files / f"hinted_{of}.jsonl") for of in ("train", "heldout")} | {"teacher_prompt": "hint"}
    training = {**tree["training"], "max_steps": 4, "save_steps": 2, **changes.pop("training", {})}
    return {**tree, "models": models, "data": {**data, **changes.pop("data", {})}, "training": training, **changes}


def carried_out(tree, resume=False):
    return run(parse(tree, "test", "run"), resume=resume, console=QUIET).folder


@pytest.mark.fast("None-self:average", "lora1-self:initial")
@pytest.mark.parametrize("teacher", ["self", "self:initial", "self:average"])
@pytest.mark.parametrize("lora", [None, LORA])
def test_the_policy_learns_from_itself_with_the_hint_and_goes_on_to_the_bit(files, tmp_path, teacher, lora):
    tree = taught(files, tmp_path / "whole", teacher, models={"lora": lora})
    whole = carried_out(tree)
    found = events(whole, "train")
    assert len(found) == 4
    assert all(event["divergence"] > 1e-4 for event in found)
    assert f"teacher: {teacher}" in (whole / "signature.txt").read_text()
    assert f"<dd>{teacher}, reading hint</dd>" in (whole / "report.html").read_text()
    sample = json.loads((whole / "samples.jsonl").read_text().splitlines()[0])
    assert sample["forward_kl"] > 0, "held-out rows have hints too"
    cut_off(whole, tmp_path / "stopped", 2)
    carried_out({**tree, "output": str(tmp_path / "stopped")}, resume=True)
    assert same_weights(whole, tmp_path / "stopped")


def test_weights_before_training_are_a_teacher_of_the_same_prompt_too(files, tmp_path):
    folder = carried_out(taught(files, tmp_path / "run", "self:initial", data={"teacher_prompt": None}))
    found = [event["divergence"] for event in events(folder, "train")]
    assert found[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("teacher", ["self", "self:average"])
def test_it_judges_its_own_completions_with_the_hint(files, tmp_path, teacher):
    training = {
        "max_steps": 2, "max_completion_length": 4, "num_generations": 2, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
    }  # fmt: skip
    tree = taught(files, tmp_path / "run", teacher, "opd", reward="exact", eval={})
    tree |= {"training": training}
    tree["data"] |= {"train": str(files / "tasks.jsonl"), "heldout": None}
    found = events(carried_out(tree), "train")
    assert len(found) == 2
    assert all(math.isfinite(event["loss"]) for event in found)


def test_a_model_reads_the_hint_behind_the_system_s_message(files, tmp_path):
    rows = [
        {
            "messages": [
                {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "ho"},
            ],
            "hint": "hi, say ho",
        },
        {
            "prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "ha"}],
            "hint": [{"role": "user", "content": "say ha"}],
        },
    ]  # fmt: skip
    tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    tree = taught(files, tmp_path / "run", str(files / "teacher"), data={"train": str(tmp_path / "rows.jsonl")})
    job = load_job(parse(tree, "test", "run"), Shared(), Console(quiet=True))
    signal = job.plan.signals[0]
    assert isinstance(signal, OtherPrompt)
    texts = [job.tokenizer.decode(ids) for ids in signal.prompts]
    assert texts[0].index("be brief") < texts[0].index("hi, say ho")
    assert "say ha" in texts[1]
    assert "hi" not in texts[1]
    made = signal.swapped(job.collator(job.train.rows))
    for ids, labels, row in zip(made["input_ids"], made["labels"], job.train.rows, strict=True):
        answer = [label for label in row["labels"] if label != IGNORE]
        assert labels[labels != IGNORE].tolist() == answer
        assert ids[labels != IGNORE].tolist() == answer


def test_preview_shows_what_the_teacher_reads_of_each_row_and_which_split_has_it(files, tmp_path):
    tree = taught(files, tmp_path / "run", data={"heldout": str(files / "heldout.jsonl")})
    lines = previewed(tree, "train")
    reads = [i for i, line in enumerate(lines) if line == "the teacher reads, before the same answer:"]
    assert len(reads) == 2
    assert lines[reads[0] + 1] == "<|user|>count, that is: 0<|end|>"
    assert lines[reads[0] + 2] == "<|assistant|>"
    assert lines[reads[1] + 1] == "<|user|>count, that is: 0 1<|end|>"
    job = load_job(parse(tree, "test", "run"), Shared(), Console(quiet=True))
    ids = [len(one) for one in job.plan.signals[0].prompts]  # type: ignore[attr-defined]
    assert f"tokens of the teacher's prompts {sum(ids)} longest {max(ids)}" in lines
    lines = previewed(tree, "heldout")
    assert not any("the teacher reads" in line for line in lines)
    assert "tokens of the teacher's prompts 0 none has one; not compared with the teacher" in lines


def test_preview_of_tasks_shows_what_the_teacher_reads_before_a_completion(files, tmp_path):
    training = {"max_steps": 2, "max_completion_length": 4, "num_generations": 2, "per_device_train_batch_size": 4}
    tree = taught(files, tmp_path / "run", "self", "opd", reward="exact", eval={})
    tree |= {"training": training}
    tree["data"] |= {"train": str(files / "tasks.jsonl"), "heldout": None}
    assert "<|user|>say 1<|end|>" in previewed(tree, "train")


def previewed(tree, split):
    written = io.StringIO()
    preview_recipe(parse(tree, "test", "run"), 2, split, Console(file=written, width=300))
    return [" ".join(line.split()) for line in written.getvalue().splitlines()]


def test_a_hint_may_be_made_of_columns(files, tmp_path):
    rows = [{**tiny_folder.chat_rows(1)[0], "answer": 7}, {"prompt": "2+2=", "completion": "4", "answer": "four"}]
    tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {"train": str(tmp_path / "rows.jsonl"), "heldout": None, "teacher_prompt": "{prompt} It is {answer}.{"}
    job = load_job(parse(taught(files, tmp_path / "run", data=data), "test", "run"), Shared(), Console(quiet=True))
    signal = job.plan.signals[0]
    assert isinstance(signal, OtherPrompt)
    texts = [job.tokenizer.decode(ids) for ids in signal.prompts]
    assert "count 0 It is 7.{" in texts[0]
    assert texts[1] == "2+2= It is four.{"
    data["teacher_prompt"] = "{prompt} {solution}"
    with pytest.raises(DataError, match="row 1 has nothing in 'solution', which data.teacher_prompt names"):
        load_job(parse(taught(files, tmp_path / "run", data=data), "test", "run"), Shared(), Console(quiet=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"teacher_prompt": None}}, "would learn nothing from the prompt that it reads itself"),
        ({"models": {"teacher_decay": 0.5}}, "teacher_decay is for teacher: self:average"),
        ({"models": {"teacher_device": "cpu"}}, "teacher_device is of a teacher that is loaded"),
        ({"models": {"policy": {"from": "teacher", "layers": 1}}}, "cut from the teacher, which is the policy itself"),
        ({"method": "sft"}, "method sft cannot be taught by itself"),
        ({"options": {"tokenizers": "different"}}, "shares the policy's"),
        ({"models": {"teacher": "cache:x"}}, "a cache holds what a teacher said of the rows as they are"),
    ],
)
def test_what_cannot_be_costs_one_line(files, tmp_path, changes, message):
    changes = dict(changes)
    method = changes.pop("method", "kd")
    with pytest.raises(RecipeError, match=message):
        parse(taught(files, tmp_path / "run", method=method, **changes), "test", "run")


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (None, "row 2 has no text and no messages in 'hint'"),
        ("", "row 2 has no text and no messages in 'hint'"),
        ("x" * 600, r"row 2 takes \d+ tokens with the prompt of the teacher, which can read 512"),
    ],
)
def test_a_row_without_a_hint_or_with_one_too_long_is_named(files, tmp_path, hint, message):
    rows = [{**row, "hint": "say it"} for row in tiny_folder.chat_rows(4)]
    rows[1]["hint"] = hint
    tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    tiny_folder.save(tmp_path / "gpt2", kind="gpt2", n_positions=512)
    tree = taught(files, tmp_path / "run", data={"train": str(tmp_path / "rows.jsonl"), "heldout": None})
    tree["models"]["policy"] = str(tmp_path / "gpt2")
    with pytest.raises(DataError, match=message):
        load_job(parse(tree, "test", "run"), Shared(), Console(quiet=True))


@pytest.mark.fast("self:average")
@pytest.mark.parametrize("teacher", ["self", "self:initial", "self:average"])
def test_a_method_that_chooses_tokens_by_an_earlier_policy_takes_it(files, tmp_path, teacher):
    tree = taught(files, tmp_path / "run", teacher, "hpd", options={"mini_batches": 2}, eval={})
    assert len(events(carried_out(tree), "train")) == 4


def test_held_out_rows_are_compared_with_the_average_that_teaches(files, tmp_path):
    tree = taught(files, tmp_path / "run", "self:average", models={"teacher_decay": 0.0}, data={"teacher_prompt": None})
    job = load_job(parse(tree, "test", "run"), Shared(), Console(quiet=True))
    (teacher,), (held,) = job.plan.signals, job.heldout_signals
    inputs = job.collator(job.train.rows[:2])
    for step in range(2):
        teacher.before_update(job.policy, step, 0)
        with torch.no_grad():
            for parameter in job.policy.parameters():
                parameter.mul_(1.1)
    found, wanted = (one(job.policy, inputs)["teacher"].compute() for one in (held, teacher))
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        for parameter in job.policy.parameters():
            parameter.div_(1.1)  # the policy that the last update began with
    now = job.policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(found, TokenBatch.align(now, inputs["labels"]).logits(), rtol=1e-3, atol=1e-3)
