"""Runs that stop: what is said of what is kept, the whole command that goes on, and starting over where nothing is."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml

import tiny_folder
from tiny_runs import events, same_weights
from trimtab.common.locks import writing
from trimtab.runs import run as runs
from trimtab.runs.folder import RunError
from trimtab.runs.parse import load_recipe
from trimtab.train.base import ObjectiveLoop

METHOD = """from trimtab.core import Method, MethodConfig, Objective, Plan


class Config(MethodConfig):
    pass


class Own(Objective):
    def __call__(self, batch):
        SAID
        return batch.losses(-SCALE * batch.logprobs(), nll=-batch.logprobs())


METHOD = Method(config=Config, build=lambda config, policy: Plan(Own()), claim="None.")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def write(files: Path, name: str = "r", method: str = "sft", **changes) -> None:
    tree = tiny_folder.recipe(files, method, output=f"runs/{name}", **changes)
    tree["training"]["gradient_accumulation_steps"] = 1
    tree["eval"] = {}
    del tree["data"]["heldout"], tree["models"]["teacher"]
    tree["models"]["student"]["from"] = str(files / "teacher")
    Path(f"{name}.yaml").write_text(yaml.safe_dump(tree))


def own_method(said: str, scale: float) -> None:
    Path("own.py").write_text(METHOD.replace("SAID", said).replace("SCALE", str(scale)))


def interrupts(monkeypatch, at: int, times: int = 1) -> None:
    """Ctrl-C in the step after so many."""

    def step(self, *args, **kwargs):
        if self.state.global_step == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return super(ObjectiveLoop, self).training_step(*args, **kwargs)

    monkeypatch.setattr(ObjectiveLoop, "training_step", step)


@pytest.mark.fast("flags1")
@pytest.mark.parametrize("flags", [(), ("--resume",), ("--resume", "--edited")])
def test_a_run_without_a_checkpoint_starts_over_whatever_was_edited(trimtab, files, folder, flags):
    own_method("raise KeyError('x')", 1.0)
    write(files, method="own.py")
    code, _, err = trimtab("train", "r.yaml")
    assert code != 0
    assert "there is nothing to resume in runs/r" in err or "own.py, line 10" in err
    assert (folder / "runs/r/recipe.yaml").is_file()
    own_method("pass", 2.0)
    write(files, method="own.py", training={"max_steps": 2, "learning_rate": 0.02})
    code, out, err = trimtab("train", "r.yaml", *flags)
    assert code == 0, err
    assert "runs/r held a run that stopped before its first checkpoint; it starts over" in out
    assert [event["step"] for event in events(folder / "runs/r", "finished")] == [2]
    assert len(events(folder / "runs/r", "start")) == 1
    assert trimtab("train", "r.yaml", "output=runs/new")[0] == 0
    assert same_weights(folder / "runs/r", folder / "runs/new")


def test_what_can_be_resumed_or_is_of_others_is_not_started_over(trimtab, files, folder, monkeypatch):
    write(files)
    with monkeypatch.context() as patched:
        interrupts(patched, at=2)
        assert trimtab("train", "r.yaml")[0] == 130
    before = (folder / "runs/r/metrics.jsonl").read_bytes()
    code, _, err = trimtab("train", "r.yaml")
    assert (code, "holds this run, unfinished; add --resume" in err) == (2, True)
    code, _, err = trimtab("train", "r.yaml", "training.learning_rate=0.5", "--resume")
    assert code == 2
    assert err.endswith(
        "to resume it, repeat training.learning_rate=0.01 with --resume, or choose another output=FOLDER\n"
    )
    assert (folder / "runs/r/metrics.jsonl").read_bytes() == before
    for path in sorted((folder / "runs/r/checkpoints").rglob("complete")):
        path.unlink()
    with writing(folder / "runs/r", "another run", "wait"), pytest.raises(RunError, match="is being written"):
        runs.run(load_recipe("r.yaml"))
    assert (folder / "runs/r/metrics.jsonl").read_bytes() == before
    (folder / "runs/r/signature.txt").unlink()  # not known to be a run of trimtab
    assert trimtab("train", "r.yaml")[0] == 2
    assert (folder / "runs/r/metrics.jsonl").read_bytes() == before


@pytest.mark.fast("1")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_names_the_checkpoint_and_the_command_that_goes_on_which_does(
    trimtab, files, folder, monkeypatch, times
):
    write(files)
    with monkeypatch.context() as patched:
        interrupts(patched, at=3, times=times)
        code, _, err = trimtab("train", "r.yaml", "training.max_steps=5", "training.save_steps=1")
    kept, stopped = (4, "stopped after step 4") if times == 1 else (3, "stopped")
    command = "trimtab train r.yaml training.max_steps=5 training.save_steps=1 --resume"
    assert code == 130
    assert err.endswith(f"\n{stopped}; kept: runs/r/checkpoints/checkpoint-{kept}; continue with: {command}\n"), err
    assert events(folder / "runs/r", "start")[0]["command"] == command
    assert trimtab(*command.split()[1:])[0] == 0
    assert events(folder / "runs/r", "finished")[0]["step"] == 5


def test_ctrl_c_before_anything_is_written_claims_nothing(trimtab, files, folder, monkeypatch):
    def stops(*args, **kwargs):
        raise KeyboardInterrupt

    write(files)
    with monkeypatch.context() as patched:
        patched.setattr(runs, "load_job", stops)
        _, _, err = trimtab("train", "r.yaml", "seed=3")
    assert err == "\nstopped; there is nothing to resume in runs/r: start over with: trimtab train r.yaml seed=3\n"
    assert not (folder / "runs").exists()
    with monkeypatch.context() as patched:
        patched.setattr("trimtab.runs.parse.load_recipe", stops)
        code, _, err = trimtab("train", "r.yaml", "seed=3")
    assert (code, err) == (130, "\nstopped; run the same command again\n")


@pytest.mark.slow
def test_stages_go_on_with_one_command_also_where_one_has_no_checkpoint(trimtab, files, folder, monkeypatch):
    tree = json.loads(json.dumps(tiny_folder.recipe(files, "sft", output="runs/both", eval={"every": None})))
    tree["training"] |= {"max_steps": 2, "save_steps": 2}
    method = tree.pop("method")
    tree["stages"] = [{"method": method}, {"method": "kd"}]
    Path("both.yaml").write_text(yaml.safe_dump(tree))
    with monkeypatch.context() as patched:
        interrupts(patched, at=1, times=2)
        _, _, err = trimtab("train", "both.yaml")
    command = "trimtab train both.yaml --resume"
    assert err.endswith(f"there is nothing to resume in runs/both/sft: start over with: {command}\n")
    assert trimtab(*command.split()[1:])[0] == 0
    assert [len(events(folder / f"runs/both/{name}", "finished")) for name in ("sft", "kd")] == [1, 1]


@pytest.mark.fast("words0")
@pytest.mark.parametrize("words", [["training.max_steps=4"], ["training.max_steps=8"]])
def test_a_resume_without_the_length_that_the_run_was_given_says_what_to_repeat(
    trimtab, files, folder, monkeypatch, words
):
    write(files)  # of 6 steps
    with monkeypatch.context() as patched:
        interrupts(patched, at=2)
        assert trimtab("train", "r.yaml", *words)[0] == 130
    code, _, err = trimtab("train", "r.yaml", "--resume")
    assert code == 2
    number = int(words[0].rpartition("=")[2])
    said = f"holds a run of {number} steps, stopped after step 3, and the recipe asks for 6; to resume it, repeat"
    assert f"{said} {words[0]} with --resume, or choose another output=FOLDER" in err
    assert trimtab("train", "r.yaml", *words, "--resume")[0] == 0
    code, _, err = trimtab("train", "r.yaml")  # finished now: there is nothing to repeat
    assert code == 2
    assert "repeat" not in err


@pytest.mark.slow
def test_where_no_override_can_be_repeated_the_runs_own_recipe_goes_on(trimtab, files, folder, monkeypatch):
    write(files)
    with monkeypatch.context() as patched:
        interrupts(patched, at=2)
        assert trimtab("train", "r.yaml")[0] == 130
    write(files, models={"lora": {"r": 4}})
    code, _, err = trimtab("train", "r.yaml", "--resume")
    assert code == 2
    assert "(models.lora is not set there and {'r': 4} here); to resume it: trimtab train runs/r/recipe.yaml" in err
    assert trimtab("train", "runs/r/recipe.yaml", "--resume")[0] == 0
