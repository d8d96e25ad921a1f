"""`trimtab edit`: from edits to a model, in steps that can be resumed, gone back on, and that fail alone."""

import json
import shutil

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import tiny_folder
import trimtab
from trimtab.commands.edit import EditCommand
from trimtab.common.errors import Interrupted, UserError
from trimtab.common.locks import writing
from trimtab.common.settings import SettingsError
from trimtab.data.edit_rows import STEPWISE, asserts_old, chains, tasks, thought
from trimtab.data.edits import Edit
from trimtab.evals.suites import edit as suite
from trimtab.models.limits import LimitError
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.report import edits as page
from trimtab.rewards.edit import parts
from trimtab.runs import edit_session as session_module
from trimtab.runs.edit_chains import thoughts
from trimtab.runs.edit_recipes import early_layers
from trimtab.runs.edit_session import EditError

QUIET = Console(quiet=True)
FEW = ("edit.training.max_steps=2",)


def rows(number=3):
    return [
        {
            "prompt": f"Who is p{i}?", "target_new": "Ann", "ground_truth": "Bob", "rephrases": [f"p{i} is who?"],
            "locality": [{"prompt": f"Who is q{i}?", "answer": "Cid"}],
        }
        for i in range(number)
    ]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    tiny_folder.save(tmp_path / "model")
    tiny_folder.write_jsonl(tmp_path / "edits.jsonl", rows())
    return tmp_path


def edit(files, out="out", **how):
    how = {"method": "ft_m", "overrides": FEW, "no_eval": True, **how}
    return trimtab.edit(files / "edits.jsonl", files / "model", out=files / out, **how)


def made_folder(folder):
    folder.mkdir()
    return folder


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    a, b = weights(one), weights(other)
    return all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- rows and chains


def test_a_chain_ends_where_the_answer_begins_and_gets_the_new_one():
    one = Edit("Who is p?", "Ann", ground_truth="Bob")
    assert thought("I think. <answer> \\boxed{Bob} </answer>") == "I think."
    assert thought("I think. So the answer is Bob.") == "I think."
    assert thought("I think. \\boxed{Bob}") == "I think."
    assert thought("I think.") == "I think."
    (row,) = chains([one], ["I think."], chat=True)
    text = row["completion"][0]["content"]
    assert text == "I think. <answer> \\boxed{Ann} </answer>"
    assert row["prompt"] == [{"role": "user", "content": f"Who is p?\n\n{STEPWISE}"}]
    assert parts(text, "Ann").reward == 1.0
    assert chains([one], [""], chat=True)[0]["completion"][0]["content"] == "<answer> \\boxed{Ann} </answer>"
    assert tasks([one], chat=False) == [
        {"prompt": f"Who is p?\n\n{STEPWISE}\n", "answer": "Ann", "ground_truth": "Bob"}
    ]


def test_what_is_asked_is_what_the_evaluation_asks():
    assert STEPWISE == suite.STEPWISE


@pytest.mark.parametrize(
    ("chain", "old", "found"),
    [
        ("It was Bob, I think.", "Bob", True),
        ("it was bob", "Bob", True),
        ("Bobby said so", "Bob", False),
        ("Of New York City", "York", True),
        ("Ann", "", False),
        ("Who is p", "p", False),  # in the prompt
        ("Ann Lee", "Ann", False),  # in the new answer
    ],
)
def test_a_chain_asserts_the_old_answer_by_words(chain, old, found):
    assert asserts_old(chain, Edit("Who is p?", "Ann Lee", ground_truth=old)) is found


class Replies:
    """What a model would say, one reply for each try."""

    def __init__(self, *texts):
        self.texts, self.asked = list(texts), []

    def __call__(self, model, tokenizer, prompts, length, **how):
        from trimtab.decoding._texts import GeneratedText

        self.asked.append(how)
        return [GeneratedText(self.texts.pop(0), 1)]


def test_chains_with_the_old_answer_are_made_again_and_after_four_left_out(tmp_path, monkeypatch):
    said = Replies("Bob lives. <answer>", "Bob! <answer>", "Good. <answer>", *["Bob"] * 4)
    monkeypatch.setattr("trimtab.runs.edit_chains.generate_texts", said)
    edits = [Edit(f"Who is p{i}?", "Ann", ground_truth="Bob", id=f"{i}") for i in range(2)]
    how = {"seed": 0, "max_new_tokens": 9}
    found, notes = thoughts(lambda: "m", None, edits, tmp_path / "chains.jsonl", **how)
    assert found == ["Good.", ""]
    assert "all 4 chains of 1 of 2 edits assert the old answer" in notes[0]
    assert [one.get("do_sample", False) for one in said.asked] == [False, True, True, False, True, True, True]
    kept = [json.loads(line) for line in (tmp_path / "chains.jsonl").read_text().splitlines()]
    assert kept[0]["dropped"] == ["Bob lives.", "Bob!"]
    again = thoughts(pytest.fail, None, edits, tmp_path / "chains.jsonl", **how)
    assert again == (found, notes)  # nothing is made again


def test_chains_are_those_of_the_model_and_the_seed_and_resume_after_a_torn_line(files):
    model, tokenizer = load_model(str(files / "model")), load_tokenizer(str(files / "model"))
    edits = [Edit(f"Who is p{i}?", "Ann", ground_truth="x", id=f"{i}") for i in range(3)]
    how = {"seed": 1, "max_new_tokens": 6}
    whole, _ = thoughts(lambda: model, tokenizer, edits, files / "whole.jsonl", **how)
    alone, _ = thoughts(lambda: model, tokenizer, edits[2:], files / "alone.jsonl", **how)
    assert alone == whole[2:]
    torn = (files / "whole.jsonl").read_text().splitlines(keepends=True)
    (files / "torn.jsonl").write_text(torn[0] + torn[1][:20])  # as a kill leaves it
    assert thoughts(lambda: model, tokenizer, edits, files / "torn.jsonl", **how)[0] == whole
    assert thoughts(pytest.fail, tokenizer, edits, files / "torn.jsonl", **how)[0] == whole, "resumed once more"


# ---------------------------------------------------------------- sessions


@pytest.mark.parametrize("method", ["ft_m", "locft_bf", "lora"])
def test_each_method_makes_an_ordinary_model_that_learns_the_answer(files, method):
    folder = edit(files, method=method, overrides=("edit.training.learning_rate=0.01",))
    model, tokenizer = load_model(str(folder / "model")), load_tokenizer(str(folder / "model"))
    before = load_model(str(files / "model"))

    def nll(one):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Who is p0?"}, {"role": "assistant", "content": "Ann"}], return_tensors="pt"
        )["input_ids"]
        return one(input_ids=ids, labels=ids).loss.item()

    assert nll(model) < nll(before)
    a, b = weights(files / "model"), weights(folder / "model")
    changed = {name for name in a if not torch.equal(a[name], b[name])}
    if method != "lora":
        assert changed == {"model.layers.2.mlp.down_proj.weight"}
    assert (folder / "adapter").is_dir() == (method == "lora")
    card = (folder / "model/README.md").read_text()
    assert "3 facts of" in card
    assert "Who is p0? **Ann**" in card


def test_a_session_evaluates_before_and_after_each_edits_and_draws_a_curve(files):
    folder = edit(files, every=1, no_eval=False, modes=("question",), limit=2)
    assert sorted(one.name for one in (folder / "evals").iterdir()) == ["0000", "0001", "0002"]
    shown = (folder / "report.html").read_text()
    assert "2 of 2 facts changed" in shown
    assert "Over the number of edits" in shown
    assert shown.count("Who is p1?") == 2  # as a fact, and as what is asked
    assert "(was Bob)" in shown


def test_the_report_counts_means_over_edits_of_verdicts_by_containment():
    def row(edit, kind, value, target=("y",), **more):
        item = {"data": {"edit": edit}, "groups": {"probe": kind}, "target": list(target)}
        return {"item": item, "verdicts": {"contains": {"parsed": "x", "value": value}}, **more}

    found = [row("1", "locality", 1.0), row("1", "locality", 0.0), row("2", "locality", 1.0), row("2", "hops", 0.0)]
    rows = dict(enumerate([*found, row("1", "locality", None, ()), row("1", "locality", 0.0, error="no answer")]))
    assert page.share(rows, "locality", ["1", "2"]) == (0.75, 2)
    assert page.share(dict(enumerate([*found, row("1", "locality", None)])), "locality", ["1"]) == (1 / 3, 1)
    assert page.share(rows, "locality", ["2"]) == (1.0, 1)
    assert page.share(rows, "negation", ["1", "2"]) == (0.0, 0)


@pytest.mark.slow
def test_a_sequence_of_edits_starts_each_from_the_last_and_resumes_and_goes_back(files):
    whole = edit(files, batch=1)
    assert json.loads((whole / "session.json").read_text())["step"] == 3
    recipes = [(whole / f"steps/000{n}/edit/recipe.yaml").read_text() for n in (1, 2, 3)]
    assert f"policy: {files / 'model'}" in recipes[0]
    assert f"policy: {whole}/steps/0002/edit/model" in recipes[2]
    with pytest.raises(EditError, match="--resume"):
        edit(files, batch=1)
    with pytest.raises(EditError, match=r"a different seed \(0 there, 1 here\); choose another --out"):
        edit(files, batch=1, seed=1, resume=True)
    with pytest.raises(EditError, match="choose a step from 0 to 3"):
        edit(files, batch=1, rollback=4)
    last = weights(whole / "model")
    edit(files, batch=1, rollback=1)
    assert same(whole / "model", whole / "steps/0001/edit/model")
    assert not (whole / "steps/0002").exists()
    edit(files, batch=1, resume=True)
    again = weights(whole / "model")
    assert all(torch.equal(last[name], again[name]) for name in last)
    edit(files, batch=1, rollback=0)
    assert not (whole / "model").exists()


def test_an_interrupted_step_goes_on(files):
    whole = edit(files, batch=2)
    cut = files / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "steps/0002/edit")
    state = json.loads((cut / "session.json").read_text())
    (cut / "session.json").write_text(json.dumps({**state, "step": 1}))
    for name in ("recipe.yaml",):
        path = cut / "steps/0001/edit" / name
        path.write_text(path.read_text().replace(str(whole), str(cut)))
    edit(files, "cut", batch=2, resume=True)
    assert same(whole / "model", cut / "model")


def test_a_session_has_its_folder_alone_and_one_process_writes_it(files):
    folder = files / "out"
    with writing(made_folder(folder), "another process", "wait for it"), pytest.raises(EditError, match="wait for it"):
        edit(files)
    (folder / "model").mkdir()
    with pytest.raises(EditError, match=r"holds model but no signature.txt; choose another --out"):
        edit(files)
    (folder / "model").rmdir()
    with pytest.raises(EditError, match="no session of edits in .*out to resume"):
        edit(files, resume=True)
    trimtab.evaluate(
        files / "model", "edit", out=files / "eval", options={"edit": {"modes": ["question"], "number": 1}}
    )
    with pytest.raises(EditError, match="holds results of `trimtab eval`"):
        edit(files, "eval/edit")


def test_a_mistake_in_a_recipe_leaves_nothing_behind(files):
    with pytest.raises(UserError, match="training has no key 'max_step'; did you mean 'max_steps'"):
        edit(files, no_eval=False, overrides=("edit.training.max_step=2",))
    assert not (files / "out").exists()


def test_a_session_that_is_stopped_says_where_it_stands_and_goes_on(files, monkeypatch):
    real, calls = session_module.run, []

    def stopped(recipe, **how):
        calls.append(recipe.output)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(recipe, **how)

    monkeypatch.setattr(session_module, "run", stopped)
    with pytest.raises(Interrupted, match="stands at step 1 of 3: run the same command with --resume to continue"):
        edit(files, batch=1)
    edit(files, batch=1, resume=True)
    assert json.loads((files / "out/session.json").read_text()) == {"step": 3, "failed": None}


def test_a_step_that_is_not_finite_leaves_the_session_at_the_last_good_one(files):
    bad = files / "bad.py"
    bad.write_text(
        "from trimtab.methods.sft import METHOD as SFT\n"
        "from trimtab.objectives.likelihood import Likelihood\n"
        "from trimtab.core import Plan\nfrom dataclasses import replace\nimport os\n"
        "class Bad(Likelihood):\n"
        "    def __call__(self, batch):\n"
        "        found = super().__call__(batch)\n"
        "        return batch.losses(found.values * (float('nan') if os.environ.get('BAD') == '1' else 1.0))\n"
        "METHOD = replace(SFT, build=lambda config, policy, **_: Plan(Bad()))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        edit(files, "good", batch=2, limit=2, overrides=(*FEW, f"edit.method={bad}"))
        patch.setenv("BAD", "1")
        with pytest.raises(EditError, match=r"step 1 \(1\): step 1: the loss is nan.*stands at step 0 of 3"):
            edit(files, "nan", batch=1, overrides=(*FEW, f"edit.method={bad}"))
    state = json.loads((files / "nan/session.json").read_text())
    assert state["step"] == 0
    assert "the loss is nan" in state["failed"]
    assert not (files / "nan/steps/0001").exists()
    edit(files, "nan", batch=1, overrides=(*FEW, f"edit.method={bad}"), resume=True)
    assert json.loads((files / "nan/session.json").read_text())["step"] == 3


def test_etcon_trains_on_the_models_own_chains_and_consolidates(files):
    overrides = (
        "tpsft.training.max_steps=8", "consolidate.training.max_steps=1", "consolidate.training.num_generations=2",
        "consolidate.training.per_device_train_batch_size=2", "consolidate.training.max_completion_length=8",
    )  # fmt: skip
    folder = edit(files, method="etcon", overrides=overrides, limit=2, max_new_tokens=8)
    step = folder / "steps/0001"
    assert len((step / "chains.jsonl").read_text().splitlines()) == 2
    learnt = [json.loads(line) for line in (step / "tpsft.jsonl").read_text().splitlines()]
    assert all(row["completion"][0]["content"].endswith("<answer> \\boxed{Ann} </answer>") for row in learnt)
    a, b = weights(files / "model"), weights(step / "tpsft/model")
    changed = {name for name in a if not torch.equal(a[name], b[name])}
    assert changed
    assert all(name.endswith("mlp.down_proj.weight") for name in changed)
    assert same(folder / "model", step / "consolidate/model")
    recipe = (step / "consolidate/recipe.yaml").read_text()
    assert "dual_clip: 3.0" in recipe
    assert "kl_max: 10.0" in recipe
    assert f"policy: {step}/tpsft/model" in recipe


def test_edits_that_leave_a_chain_no_room_are_refused_before_anything_is_made(files):
    tiny_folder.save(files / "short", kind="gpt2", n_positions=200)
    with pytest.raises(LimitError, match=r"the prompt of edit 1 and its answer need \d+ \+ 128 = \d+ tokens"):
        trimtab.edit(files / "edits.jsonl", files / "short", out=files / "out", method="etcon", max_new_tokens=8)
    assert not (files / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "phi", "phi3", "qwen3", "cohere", "mistral"])
@pytest.mark.parametrize("method", ["ft_m", "locft_bf", "lora"])
def test_each_editor_changes_what_it_says_in_every_architecture(files, kind, method):
    tiny_folder.save(files / "other", kind=kind, **({"n_positions": 512} if kind == "gpt2" else {}))
    folder = trimtab.edit(
        files / "edits.jsonl", files / "other", out=files / "out", method=method, overrides=FEW, no_eval=True
    )
    a, b = weights(files / "other"), weights(folder / "model")
    changed = {name.removesuffix(".bias").removesuffix(".weight") for name in a if not torch.equal(a[name], b[name])}
    last = {"gpt2": "transformer.h.1.mlp.c_proj", "phi": "model.layers.2.mlp.fc2"}
    if method == "lora":
        assert len(changed) > 5
    else:
        assert changed == {last.get(kind, "model.layers.2.mlp.down_proj")}


@pytest.mark.parametrize(("total", "layers"), [(32, [4, 8]), (28, [4, 7]), (30, [4, 8]), (4, [0, 1]), (1, [0, 0])])
def test_the_early_layers_are_4_to_8_of_32_and_their_share_of_fewer(total, layers):
    assert early_layers(total) == layers


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"batch": 2, "every": 3}, "give a multiple of 2"),
        ({"no_cot_filter": True}, "only etcon has chains"),
        ({"overrides": ("training.max_steps=2",)}, "write edit.KEY=VALUE"),
        ({"overrides": ("edit.models.trust_remote_code=true",)}, "run no code that comes with a model"),
        ({"overrides": ("edit.models.student=m",)}, "starts from the model of the one before"),
        ({"overrides": ("edit.output=o",)}, "the folder is --out"),
        ({"method": "etcon", "overrides": ("edit.seed=1",)}, "write tpsft.KEY=VALUE or consolidate.KEY=VALUE"),
    ],
)
def test_settings_that_mean_nothing_are_refused(how, said, tmp_path):
    with pytest.raises(SettingsError, match=said):
        EditCommand(edits="e", model="m", out=tmp_path, **{"method": "ft_m", **how})
