"""From a recipe to a run folder: what is written, what is refused, what continues."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
import tiny_folder
from trimtab import report
from trimtab.recipe import parse
from trimtab.run import RunError, Shared, load_job, run, run_stages, seconds_per_step

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def finished(files) -> Path:
    return run(recipe(files, files / "finished"), console=QUIET).folder


def recipe(files: Path, output: Path, method: str = "hpd", **changes):
    return parse(tiny_folder.recipe(files, method, output=str(output), **changes), "test", "run")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def events(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_folder_holds_what_the_contract_says(finished):
    found = {path.name for path in finished.iterdir()}
    assert found == {
        "recipe.yaml", "signature.txt", "metrics.jsonl", "samples.jsonl", "model", "checkpoints", "report.html"
    }  # fmt: skip
    assert not list(finished.glob("**/*.part"))
    assert [e["step"] for e in events(finished, "eval")] == [0, 3, 6]
    assert [e["step"] for e in events(finished, "train")] == [1, 2, 3, 4, 5, 6]
    assert events(finished, "finished")[0]["step"] == 6


def test_the_signature_names_what_the_result_depends_on(finished):
    text = (finished / "signature.txt").read_text()
    for key in (
        "method: hpd",
        "options:",
        "seed: 0",
        "policy:",
        "teacher:",
        "chat template:",
        "dtype:",
        "versions:",
        "hardware:",
    ):
        assert key in text, key


def test_the_trained_model_is_an_ordinary_folder_with_fewer_layers_and_a_card(finished, files):
    model = AutoModelForCausalLM.from_pretrained(finished / "model")
    assert model.config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(finished / "model").chat_template == tiny_folder.TEMPLATE
    assert "hpd" in (finished / "model" / "README.md").read_text()
    assert not list((finished / "model").glob("*.bin"))


def test_training_moved_the_student_towards_its_teacher(files, tmp_path):
    folder = run(
        recipe(files, tmp_path / "kd", "kd", training={"max_steps": 40, "learning_rate": 0.01, "save_steps": 40}),
        console=QUIET,
    ).folder
    first, *_, last = events(folder, "eval")
    assert last["forward_kl"] < 0.5 * first["forward_kl"]


def test_the_same_recipe_gives_the_same_weights_to_the_bit(finished, files, tmp_path):
    assert same_weights(run(recipe(files, tmp_path / "again"), console=QUIET).folder, finished)


def test_another_seed_gives_other_weights(finished, files, tmp_path):
    assert not same_weights(run(recipe(files, tmp_path / "other", seed=1), console=QUIET).folder, finished)


def test_remembered_frozen_states_change_nothing_but_rounding(finished, files, tmp_path):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "memory"))
    tree["models"]["frozen_states"] = "memory"
    folder = run(parse(tree, "test", "run"), console=QUIET).folder
    assert tiny.relative_error(weights(folder), weights(finished)) < 1e-3


def test_held_out_rows_are_stored_one_by_one_before_and_after(finished):
    loaded = report.load(finished)
    assert set(loaded.heldout) == {0, 6}
    total = sum(row["tokens"] for row in loaded.heldout[6].values())
    nll = sum(row["nll"] for row in loaded.heldout[6].values()) / total
    assert nll == pytest.approx(loaded.evals[-1]["nll"])
    assert [len(g) for g in loaded.generations.values()] == [1, 1]


def test_a_finished_run_is_refused_and_resuming_it_is_no_work(finished, files):
    with pytest.raises(RunError, match="holds this run, finished"):
        run(recipe(files, finished), console=QUIET)
    stamp = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    assert run(recipe(files, finished), resume=True, console=QUIET).report == finished / "report.html"
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_run_folder_of_another_recipe_is_refused_with_the_difference(finished, files):
    with pytest.raises(RunError, match=r"seed is 0 there and 7 here\); choose another output"):
        run(recipe(files, finished, seed=7), resume=True, console=QUIET)


def test_a_folder_that_is_no_run_folder_is_refused_and_left_alone(files, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is no run folder"):
        run(recipe(files, tmp_path), console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_there_must_be_something_to_resume(files, tmp_path):
    with pytest.raises(RunError, match="to resume; leave out --resume"):
        run(recipe(files, tmp_path / "none"), resume=True, console=QUIET)


def _broken(files: Path, tmp_path: Path, kind: str) -> dict:
    """Changes to a recipe that are noticed only when data and models are looked at."""
    rows = tiny_folder.chat_rows(4)
    path = tmp_path / "rows.jsonl"
    if kind == "missing file":
        return {"data": {"train": str(tmp_path / "nowhere.jsonl")}}
    if kind == "malformed line":
        path.write_text(json.dumps(rows[0]) + "\n{oops\n")
    elif kind == "no answer":
        tiny_folder.write_jsonl(path, [*rows, {"messages": [{"role": "user", "content": "?"}]}])
    elif kind == "all masked":
        tiny_folder.write_jsonl(path, [{"messages": [{"role": "user", "content": "?"}]}])
    elif kind == "long prompt":
        tiny_folder.write_jsonl(path, [*rows, {"prompt": "x" * 99, "completion": "y"}])
    elif kind == "other tokenizer":
        folder = tmp_path / "other"
        tiny_folder.save(folder)
        tokenizer = tiny.tokenizer(["<unk>", *map(str, range(tiny_folder.VOCAB - 1))])
        tokenizer.eos_token = "<unk>"
        tokenizer.save_pretrained(folder)
        return {"models": {"student": str(folder)}}
    elif kind == "missing model":
        return {"models": {"student": str(tmp_path / "nowhere" / "at" / "all")}}
    elif kind == "hub without network":
        return {"models": {"student": "someone/something"}}
    return {"data": {"train": str(path)}}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing file", "there is no file"),
        ("malformed line", "line 2 is no JSON"),
        ("no answer", r"1 of 5 rows would be lost: 1 without an answer \(first: row 5\)"),
        ("all masked", "no row is left of 1"),
        ("long prompt", r"1 dropped because the prompt alone fills the limit \(first: row 5\)"),
        ("other tokenizer", "policy and teacher have different tokenizers"),
        ("missing model", "there is no folder"),
        ("hub without network", "could not load the model 'someone/something'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(files, tmp_path, kind, message):
    broken = recipe(files, tmp_path / "out", **_broken(files, tmp_path, kind))
    with pytest.raises(ValueError, match=message) as raised:
        run(broken, console=QUIET)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_policy_with_a_padded_vocabulary_is_cropped_with_a_message_and_trains(files, tmp_path):
    tiny_folder.save(tmp_path / "wide", seed=4, vocab_size=tiny_folder.VOCAB + 5)
    made = recipe(files, tmp_path / "out", models={"student": str(tmp_path / "wide")})
    folder = run(made, console=QUIET).folder
    (note,) = events(folder, "note")
    assert "cropped to 259" in note["text"]
    assert weights(folder)["model.embed_tokens.weight"].shape[0] == tiny_folder.VOCAB + 5


def test_lora_trains_adapters_alone_and_leaves_a_merged_model_and_the_adapter(files, tmp_path):
    lora = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    folder = run(recipe(files, tmp_path / "out", models={"lora": lora}), console=QUIET).folder
    assert (folder / "adapter" / "adapter_config.json").is_file()
    AutoModelForCausalLM.from_pretrained(folder / "model")
    teacher = load_file(files / "teacher" / "model.safetensors")
    trained = weights(folder)
    changed = {
        name for name in trained if not torch.equal(trained[name], teacher[name.replace("layers.1", "layers.2")])
    }
    assert changed
    assert all(name.split(".")[-2] in ("q_proj", "v_proj") for name in changed)


def test_lora_settings_that_peft_does_not_take_are_named(files, tmp_path):
    with pytest.raises(ValueError, match=r"models\.lora: .*rank"):
        run(recipe(files, tmp_path / "out", models={"lora": {"rank": 2}}), console=QUIET)


def test_stages_run_in_order_share_the_teacher_and_are_compared(files, tmp_path):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "both"))
    del tree["method"]
    tree["stages"] = [{"method": "sft"}, {"method": "kd", "models": {"student": "@sft"}}]
    result = run_stages(parse(tree, "test", "both"), console=QUIET)
    assert result.report == tmp_path / "both" / "comparison.html"
    first = events(tmp_path / "both" / "sft", "eval")[-1]
    second = events(tmp_path / "both" / "kd", "eval")[0]
    assert second["nll"] == pytest.approx(first["nll"])


def test_a_budget_of_minutes_lowers_the_steps_and_says_so(files, tmp_path):
    made = recipe(files, tmp_path / "out", training={"max_steps": 1000000}, minutes=0.02)
    folder = run(made, console=QUIET).folder
    (note,) = events(folder, "note")
    steps = events(folder, "finished")[0]["step"]
    assert f"training {steps} steps" in note["text"]
    assert "max_steps: 1000000" not in (folder / "recipe.yaml").read_text()
    made = recipe(files, tmp_path / "out", training={"max_steps": 1000000}, minutes=0.02)
    assert run(made, resume=True, console=QUIET).folder == folder


def test_measuring_the_speed_leaves_the_weights_alone(files, tmp_path):
    job = load_job(recipe(files, tmp_path / "out"), Shared(), QUIET)
    before = {name: value.clone() for name, value in job.policy.state_dict().items()}
    assert seconds_per_step(job) > 0
    assert all(torch.equal(value, before[name]) for name, value in job.policy.state_dict().items())
    assert all(p.grad is None for p in job.policy.parameters())


DRIVER = """
import os, signal, sys
import torch, yaml
from rich.console import Console
from trimtab import run as r
from trimtab.recipe import parse
from trimtab.train.trainer import ObjectiveTrainer
torch.set_num_threads(1)
what, tree = sys.argv[1], yaml.safe_load(open(sys.argv[2]))
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
kind, _, step = what.partition(":")
step = int(step or 0)
if kind == "step":
    plain = ObjectiveTrainer.training_step
    def training_step(self, *a, **k):
        if self.state.global_step == step: kill()
        return plain(self, *a, **k)
    ObjectiveTrainer.training_step = training_step
if kind == "save":
    def half(self, folder):
        torch.save(self.optimizer.state_dict(), folder + "/optimizer.pt")
        kill() if self.state.global_step == step else None
        self.lr_scheduler and torch.save(self.lr_scheduler.state_dict(), folder + "/scheduler.pt")
    ObjectiveTrainer._save_optimizer_and_scheduler = half
if kind == "log":
    plain_log = ObjectiveTrainer.log
    def log(self, logs, *a):
        plain_log(self, logs, *a)
        if self.state.global_step == step:
            open(tree["output"] + "/metrics.jsonl", "a").write('{"event": "tr')
            kill()
    ObjectiveTrainer.log = log
if kind == "final":
    r._replace = lambda part, folder: kill()
if kind == "interrupt":
    plain = ObjectiveTrainer.training_step
    def training_step(self, *a, **k):
        if self.state.global_step == step and not getattr(self, "sent", False):
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, *a, **k)
    ObjectiveTrainer.training_step = training_step
try:
    r.run(parse(tree, "test", "run"), resume="--resume" in sys.argv, console=Console(quiet=True))
except r.Interrupted as stop:
    print(stop)
    sys.exit(130)
"""


def drive(tmp_path: Path, tree: dict, what: str, *flags: str) -> subprocess.CompletedProcess:
    """The run in a process of its own, which kills itself where `what` says."""
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "recipe.json").write_text(json.dumps(tree))
    command = [sys.executable, str(tmp_path / "driver.py"), what, str(tmp_path / "recipe.json"), *flags]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})


@pytest.mark.parametrize("what", ["step:3", "save:4", "final"])
def test_a_killed_and_resumed_run_ends_with_the_same_weights_to_the_bit(finished, files, tmp_path, what):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "run"))
    killed = drive(tmp_path, tree, what)
    assert killed.returncode == -9, killed.stderr[-2000:]
    resumed = drive(tmp_path, tree, "none", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert same_weights(tmp_path / "run", finished)
    loaded = report.load(tmp_path / "run")
    assert [event["step"] for event in loaded.train] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in loaded.evals] == [0, 3, 6]
    assert set(loaded.heldout) == {0, 6}


def test_a_line_torn_by_a_kill_is_dropped_when_the_run_goes_on(finished, files, tmp_path):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "run"))
    assert drive(tmp_path, tree, "log:5").returncode == -9
    resumed = drive(tmp_path, tree, "none", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert all(json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert same_weights(tmp_path / "run", finished)


def test_ctrl_c_saves_after_the_step_says_how_to_go_on_and_loses_nothing(finished, files, tmp_path):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "run"))
    stopped = drive(tmp_path, tree, "interrupt:2")
    assert stopped.returncode == 130, stopped.stderr[-2000:]
    assert "stopped after step 3; continue with --resume" in stopped.stdout
    assert events(tmp_path / "run", "interrupted")[0]["step"] == 3
    with pytest.raises(RunError, match="add --resume to continue"):
        run(parse(tree, "test", "run"), console=QUIET)
    assert drive(tmp_path, tree, "none", "--resume").returncode == 0
    assert same_weights(tmp_path / "run", finished)


def test_a_run_that_lost_its_checkpoints_starts_again_and_ends_the_same(finished, files, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "report.html").unlink()
    text = (tmp_path / "run" / "recipe.yaml").read_text().replace(str(finished), str(tmp_path / "run"))
    (tmp_path / "run" / "recipe.yaml").write_text(text)
    run(recipe(files, tmp_path / "run"), resume=True, console=QUIET)
    assert same_weights(tmp_path / "run", finished)
    assert [event["step"] for event in report.load(tmp_path / "run").evals] == [0, 3, 6]
