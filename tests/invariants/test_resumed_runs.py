"""A run of any method that was stopped after any update of any epoch goes on with the same rows, numbers and bits."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tiny_folder
from tiny_runs import cut_off, drive, same_weights, weights
from trimtab import methods
from trimtab.core import RewardModel
from trimtab.data.sources import load_rows
from trimtab.runs.parse import load_recipe, parse
from trimtab.runs.recipe import Recipe, Stages
from trimtab.runs.run import run

NAMES = [name for name in methods.names() if methods.load(name).loop != "classification"]
"""of classifiers see `train/test_classification.py`"""
FAST = {"psft"}
"""of the others the trainer's part is tested in tests/train"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    for seed, name in enumerate(("a", "b", "c"), start=3):
        tiny_folder.save(folder / name, seed=seed, attention_dropout=0.1)
    rows = tiny_folder.chat_rows(9)
    tiny_folder.write_jsonl(folder / "answers.jsonl", rows)
    tiny_folder.write_jsonl(folder / "pairs.jsonl", tiny_folder.pair_rows(9))
    tiny_folder.write_jsonl(folder / "outcomes.jsonl", [{**row, "label": i % 2} for i, row in enumerate(rows)])
    steps = [
        {"prompt": f"count {i}", "completions": ["1", "2" * (i + 1)], "labels": [True, i % 2 == 0]} for i in range(9)
    ]
    tiny_folder.write_jsonl(folder / "steps.jsonl", steps)
    tiny_folder.write_jsonl(folder / "rationales.jsonl", load_rows("trimtab:worked_sums/train?rows=9&ways=3"))
    tiny_folder.write_jsonl(folder / "tasks.jsonl", [{"prompt": f"count {i}", "answer": str(i)} for i in range(9)])
    (folder / "own.py").write_text(
        "def letters(prompts, completions, completion_ids, **columns):\n"
        "    return [sum(token > 130 for token in ids) / 8 for ids in completion_ids]\n"
    )
    return folder


@pytest.fixture(scope="module")
def judges(files) -> dict[bool, str]:
    """Reward models: one whose scores are a language model's, and one with a head."""
    found = {}
    for of_model, name, rows in ((True, "ipvrm", "outcomes"), (False, "q_rm", "pairs")):
        made = tree(files, name, files / name)
        made["data"]["train"] = str(files / f"{rows}.jsonl")
        made["training"] |= {"max_steps": 2}
        found[of_model] = str(carried_out(made) / "model")
    return found


def options_of(name: str) -> dict[str, Any]:
    """Of the method's own small recipe."""
    recipe = load_recipe(f"tiny_{name}")
    last = recipe.stages[-1] if isinstance(recipe, Stages) else recipe
    return last.options


def tree(files: Path, name: str, output: Path, judges: dict[bool, str] | None = None) -> dict[str, Any]:
    """Three epochs, whose last update is cut short."""
    method, options = methods.load(name), options_of(name)
    if name == "psft":
        options = {"refresh": 1, "inner_epochs": 2}
    required = method.requirements(method.config.model_validate(options))
    as_answers = {"every_token": "answers", "sampled_pairs": "answers"}
    rows = "tasks" if method.loop == "rollouts" else as_answers.get(required.rows, required.rows)
    models = {"policy": str(files / "a")}
    roles = {key for one in required.models if one.fault({}) for key in one.keys} - {"reward_model"}
    models |= {role: str(files / "bc"[i % 2]) for i, role in enumerate(sorted(roles))}
    if (scoring := required.model(RewardModel)) is not None:
        assert judges is not None
        models["reward_model"] = judges[scoring.candidates is not None]
    training: dict[str, Any] = {
        "num_train_epochs": 3, "max_steps": -1, "learning_rate": 0.01, "save_steps": 1, "save_total_limit": 100,
        "logging_steps": 2, "max_length": 64,
    }  # fmt: skip
    if method.loop == "rollouts":
        training |= {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 6}
        training |= {"steps_per_generation": 2, "save_steps": 2}
        del training["max_length"]
    else:
        training |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        training |= {} if required.window else {"train_sampling_strategy": "group_by_length"}
    made = {"method": name, "options": options, "models": models, "data": {"train": str(files / f"{rows}.jsonl")}}
    made |= {"training": training, "output": str(output), "eval": {"prompts": []}}
    return made | ({"reward": f"{files / 'own.py'}:letters"} if method.loop == "rollouts" else {})


def carried_out(made: dict, resume: bool = False) -> Path:
    recipe = parse(made, "test", "run")
    assert isinstance(recipe, Recipe)
    return run(recipe, resume=resume, console=Console(quiet=True)).folder


def logged(folder: Path, step: int) -> list[dict[str, Any]]:
    """What the last writer logged after a step, without times."""
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    begun = max((i for i, event in enumerate(events) if event["event"] == "resume"), default=0)
    timed = ("time", "second", "total_flos")
    return [
        {key: value for key, value in event.items() if not any(part in key for part in timed)}
        for event in events[begun:]
        if event["event"] == "train" and event["step"] > step
    ]


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_run_of_any_method_that_was_stopped_in_any_epoch_ends_as_if_it_had_not_been(files, judges, tmp_path, name):
    made = tree(files, name, tmp_path / "whole", judges)
    whole = carried_out(made)
    checkpoints = sorted(int(path.name.split("-")[1]) for path in (whole / "checkpoints").iterdir())
    last = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    later = [step for step in checkpoints if last / 3 <= step < last]  # in the second or third epoch, or before them
    generator = random.Random(name)
    for step in generator.sample(later, 2):
        folder = tmp_path / f"stopped_{step}"
        cut_off(whole, folder, step)
        carried_out({**made, "output": str(folder)}, resume=True)
        assert same_weights(whole, folder), step
        assert logged(whole, step) == logged(folder, step)


UNPACKED = ("proxy_align", "ad_kd_language")
"""the first samples answers while it trains, the second compares maps of rows; both refuse packs"""
PACKABLE = [name for name in methods.names() if methods.load(name).loop == "supervised" and name not in UNPACKED]


@pytest.mark.fast("hpd")
@pytest.mark.parametrize(
    "name", [name if name in ("hpd", "psft") else pytest.param(name, marks=pytest.mark.slow) for name in PACKABLE]
)
def test_packed_rows_of_any_method_are_learnt_from_as_padded_ones_and_a_stop_changes_nothing(
    files, judges, tmp_path, name
):
    made = tree(files, name, tmp_path / "padded", judges)
    made["training"] |= {"optim": "sgd", "per_device_train_batch_size": 64, "gradient_accumulation_steps": 1}
    made["training"] |= {
        "train_sampling_strategy": "random",
        "max_length": 96,
        "logging_steps": 1,
        "disable_dropout": True,
    }
    if name == "psft":  # a window takes as many rows as there are
        made["training"]["per_device_train_batch_size"] = 1
        made["options"] = {"refresh": 2, "inner_epochs": 1}
    padded = carried_out(made)
    packing = {**made["training"], "packing": True}
    packed = carried_out({**made, "training": packing, "output": str(tmp_path / "packed")})
    if name != "psft":
        one, other = weights(padded), weights(packed)
        moved = max(float((one[key] - other[key]).abs().max()) for key in one)
        assert moved < 1e-5, moved
        for wanted, found in zip(logged(padded, 0), logged(packed, 0), strict=True):
            assert wanted.keys() == found.keys()
            for key in wanted:
                same = key == "event" or found[key] == pytest.approx(wanted[key], rel=1e-4, abs=1e-5)
                assert same, (key, found[key], wanted[key])
    cut_off(packed, tmp_path / "stopped", 1)
    carried_out({**made, "training": packing, "output": str(tmp_path / "stopped")}, resume=True)
    assert same_weights(packed, tmp_path / "stopped")
    assert logged(packed, 1) == logged(tmp_path / "stopped", 1)


@pytest.mark.slow
def test_adapters_and_a_schedule_go_on_too(files, tmp_path):
    made = tree(files, "sft", tmp_path / "whole")
    made["models"]["lora"] = {"r": 2, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.2}
    made["training"] |= {"lr_scheduler_type": "cosine", "warmup_steps": 2, "bf16": True, "use_cpu": True}
    whole = carried_out(made)
    cut_off(whole, tmp_path / "stopped", 4)
    carried_out({**made, "output": str(tmp_path / "stopped")}, resume=True)
    assert same_weights(whole, tmp_path / "stopped")


@pytest.fixture(scope="module")
def by_length(files) -> Path:
    return carried_out(killable(files, files / "by_length"))


def killable(files: Path, output: Path) -> dict[str, Any]:
    made = tree(files, "sft", output)
    made["data"]["heldout"] = str(files / "heldout.jsonl")
    made["eval"] = {"every": 3, "prompts": []}
    made["training"]["save_steps"] = 2
    return made


@pytest.mark.slow  # three runs of three epochs; the stops of `train/test_resume.py` are in any epoch, and fast
@pytest.mark.parametrize("what", ["step:7", "save:4", "save:8", "eval:2", "final"])
def test_a_run_that_is_killed_in_a_later_epoch_ends_with_the_same_bits(files, by_length, tmp_path, what):
    """Epochs of three updates: in the third one, in two saves, in an evaluation, and while the model is saved."""
    made = killable(files, tmp_path / "run")
    assert drive(tmp_path, made, what).returncode == -9
    done = drive(tmp_path, made, "none", "--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert same_weights(by_length, tmp_path / "run")
