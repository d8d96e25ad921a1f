"""`data.agent` makes the samples of one role of trajectories; what is learnt is the target and its end token alone."""

import pytest
from rich.console import Console

import tiny_folder
from trimtab.commands.preview import preview_recipe
from trimtab.data.sources import DataError
from trimtab.runs.estimate import estimates
from trimtab.runs.parse import parse
from trimtab.runs.recipe import RecipeError
from trimtab.runs.rows import prepare_source

TOOL = {"type": "function", "function": {"name": "look", "description": "sees", "parameters": {
    "type": "object", "properties": {"town": {"type": "string"}}}}}  # fmt: skip


def row(observation="12 C", **changes):
    call = {"function": {"name": "look", "arguments": {"town": "Bern"}}}
    messages = [
        {"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": observation}, {"role": "assistant", "content": "12 C."},
    ]  # fmt: skip
    return {"tools": [TOOL], "messages": messages, **changes}


@pytest.fixture
def files(tmp_path):
    tiny_folder.save(tmp_path / "model", max_position_embeddings=2048)
    return tmp_path


def recipe(files, agent, rows, method="sft", data=None, **training):
    tiny_folder.write_jsonl(files / "rows.jsonl", rows)
    tree = {
        "method": method, "models": {"policy": str(files / "model")}, "output": str(files / "run"),
        "data": {"train": str(files / "rows.jsonl"), "agent": agent, "max_dropped": 1, **(data or {})},
        "training": {"max_length": 1000, **training},
    }  # fmt: skip
    return parse(tree, "test", "run")


def prepared(files, agent, rows, **training):
    return prepare_source(recipe(files, agent, rows, **training), "train", tiny_folder.byte_tokenizer())


@pytest.mark.parametrize(
    ("role", "targets"),
    [
        ("planner", ["I look.\n Next: caller.", " Next: conclusion."]),
        ("caller", ['Action: look\nAction Input: {"town": "Bern"}']),
        ("summarizer", ["12 C."]),
        ("backbone", ['I look.\nAction: look\nAction Input: {"town": "Bern"}', "\nconclusion: 12 C."]),
    ],
)
def test_targets_and_their_end_tokens_are_learnt_and_nothing_else(files, role, targets):
    made = prepared(files, role, [row()])
    tokenizer = tiny_folder.byte_tokenizer()
    for one, target in zip(made.rows, targets, strict=True):
        learnt = [token for token in one["labels"] if token != -100]
        assert tokenizer.decode(learnt) == f"{target}<|end|>"
        assert one["input_ids"][-len(learnt) :] == learnt
        before = tokenizer.decode(one["input_ids"][: -len(learnt)])
        assert before.startswith("system: ")
        assert target not in before
    assert made.source.endswith(f"rows.jsonl ({role})")


def test_all_roles_of_one_model_and_what_was_left_out_are_said(files):
    lost = row()
    lost["messages"] = lost["messages"][:3]
    made = prepared(files, "all", [row(), lost])
    assert len(made.rows) == 6
    (note,) = made.notes()
    assert "2 trajectories gave 6 samples of all roles; 1 ends without an answer" in note


def test_a_long_history_is_cut_and_counted_or_as_all_rows_are(files):
    rows = [row("x" * 900)]
    made = prepared(files, "summarizer", rows, max_length=400)
    assert len(made.rows[0]["input_ids"]) <= 400
    assert any("1 samples have a cut history" in note for note in made.notes())
    with pytest.raises(DataError, match="no row is left of 1: 1 whose prompt alone fills the limit"):
        prepared(files, {"role": "summarizer", "cut": False}, rows, max_length=400)
    with pytest.raises(DataError, match="hold no sample of a planner: 2 longer than the limit"):
        prepared(files, "planner", rows, max_length=60)


def test_a_sample_may_fill_the_limit_with_its_end_token(files):
    length = len(prepared(files, "summarizer", [row()]).rows[0]["input_ids"])
    for limit, is_cut in ((length, False), (length - 1, True)):
        made = prepared(files, "summarizer", [row()], max_length=limit)
        assert any("cut history" in note for note in made.notes()) == is_cut
        assert made.counts.truncated == 0


def test_own_templates_are_used(files):
    made = prepared(files, {"role": "summarizer", "templates": {"summarizer": "Sum up: {history}"}}, [row()])
    assert tiny_folder.byte_tokenizer().decode(made.rows[0]["input_ids"]).startswith("Sum up: user: Weather?<|end|>")


@pytest.mark.parametrize(
    ("agent", "changes", "said"),
    [
        ("planer", {}, "data.agent.role is 'planer'"),
        ({"role": "planner", "templates": {"planner": "x"}}, {}, "templates.planner has no place for {history}"),
        ("planner", {"method": "dpo"}, "data.agent: method dpo learns from pairs"),
        ("planner", {"data": {"chat": True}}, "data.agent: data.chat writes prompts"),
    ],
)
def test_what_learns_no_role_is_refused(files, agent, changes, said):
    with pytest.raises(RecipeError, match=said):
        recipe(files, agent, [row()], **changes)


def test_a_row_that_is_no_trajectory_is_named(files):
    with pytest.raises(DataError, match=r"rows.jsonl: row 2: a trajectory is a row with messages"):
        prepared(files, "planner", [row(), {"text": "x"}])


def test_the_memory_of_a_role_is_estimated(files):
    (found,) = estimates(recipe(files, "planner", [row()], max_steps=1))
    assert any(part.name == "2 rows as token ids" for part in found.parts)


def test_preview_shows_the_samples_of_a_role(files):
    console = Console(width=400, force_terminal=False)
    with console.capture() as shown:
        preview_recipe(recipe(files, "caller", [row()]), 1, "train", console)
    assert '⟦Action: look\nAction Input: {"town": "Bern"}<|end|>⟧' in shown.get().replace("\r", "")
