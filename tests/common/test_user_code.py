"""What a user has written belongs to the signature: an edited file is named, and the run is not gone on with."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

import tiny_folder
from tiny_rollout_runs import parsed, tree
from tiny_runs import drive
from trimtab import __version__, methods
from trimtab.common import user_code
from trimtab.models.loading import load_model
from trimtab.rewards.verifiable import load
from trimtab.runs import run as runs
from trimtab.runs.folder import RunError, check_signature
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe

OWN = """
from judging import share
from parts import numbers

def letters(prompts, completions, completion_ids, **columns):
    import within
    return [share(ids) for ids in completion_ids]
"""
SHARE = "def share(ids):\n    return sum(token > 130 for token in ids) / 8\n"


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def lay(folder: Path) -> None:
    (folder / "own.py").write_text(OWN)
    (folder / "judging.py").write_text(f"import json\nimport torch\n{SHARE}")
    (folder / "within.py").write_text("")
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("from . import numbers\n")
    (folder / "parts" / "more.py").write_text("x = 1\n")
    (folder / "parts" / "numbers.py").write_text("from .more import x\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    lay(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("judging", "within", "parts", "parts.more", "parts.numbers", "reward_own"):
        sys.modules.pop(name, None)


def test_the_files_of_a_reward_are_its_own_and_those_that_it_imports_wherever_it_does(folder):
    reward = load(f"{folder}/own.py:letters")
    assert [path.relative_to(folder).as_posix() for path in reward.files] == [
        "judging.py", "own.py", "parts/__init__.py", "parts/more.py", "parts/numbers.py", "within.py"
    ]  # fmt: skip
    before, said = reward.source, user_code.described(reward.files)
    (folder / "within.py").write_text("x = 1\n")
    after = load(f"{folder}/own.py:letters")
    assert after.source != before
    assert user_code.changes(said, user_code.described(after.files)) == "within.py was edited"
    assert (
        user_code.changes("a.py 1, b.py 2", "b.py 3, c.py 4") == "a.py is no longer used, b.py was edited, c.py is new"
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    made = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    tiny_folder.write_jsonl(made / "tasks.jsonl", [{"prompt": f"count {i}", "answer": str(i)} for i in range(16)])
    return made


@pytest.mark.slow
def test_a_resume_is_refused_where_a_file_that_the_reward_imports_was_edited(models, folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[2] / 'src'}")
    made = tree(models, folder / "run", reward=f"{folder}/own.py:letters", eval={"kl_to_initial": False})
    made["data"].pop("heldout")
    made["data"].pop("heldout_rows")
    assert drive(folder, made, "step:3").returncode == -9
    (folder / "judging.py").write_text(SHARE.replace("130", "150"))
    with pytest.raises(
        RunError, match=r"cannot be resumed: its code has changed: judging.py was edited; restore it, add --e"
    ):
        runs.run(parsed(made), resume=True, console=Console(quiet=True))
    signature = folder / "run" / "signature.txt"
    signature.write_text(signature.read_text().replace(f"trimtab: {__version__}", "trimtab: 0.0.1"))
    with pytest.raises(
        RunError, match=rf"judging.py was edited \(trimtab was 0.0.1 and is {__version__}\); restore it"
    ):
        runs.run(parsed(made), resume=True, console=Console(quiet=True))
    runs.run(parsed(made), resume=True, edited=True, console=Console(quiet=True))
    notes = [event["text"] for event in events(folder / "run") if event["event"] == "note"]
    assert any("its code has changed: judging.py was edited" in note for note in notes)
    assert user_code.described([folder / "judging.py"]) in signature.read_text()


def test_other_rows_are_refused_also_where_code_may_be_edited(models, folder, tmp_path):
    signature = tmp_path / "signature.txt"
    signature.write_text("training data: a 1\ncode: x.py 1\nreward: x 1/0 5\n")
    now = {"training data": "a 2", "code": "x.py 2", "reward": "x 1/0 6"}
    with pytest.raises(RunError, match="different training data .a 1 there, a 2 here.; restore"):
        check_signature(tmp_path, now, True)
    signature.write_text("training data: a 2\ncode: x.py 2\nreward: x 1/0 5\n")
    with pytest.raises(RunError, match="a different reward .x 1/0 5 there, x 1/0 6 here.; restore"):
        check_signature(tmp_path, now, True)


def test_installed_packages_are_recognised_by_folder_and_not_by_a_prefix_of_the_name(tmp_path):
    package = Path(user_code.__file__).parents[1]
    assert user_code.installed(package / "recipe.py")
    assert user_code.installed(tmp_path / ".local/lib/python3/site-packages/torch/nn.py")
    assert user_code.installed("/usr/lib/python3/dist-packages/six.py")
    assert not user_code.installed(package.with_name("trimtab_rewards") / "own.py")


METHOD = Path(methods.__file__).parent / "sft.py"


def test_a_resume_is_refused_where_the_file_of_a_method_was_edited(models, tmp_path, monkeypatch):
    own = tmp_path / "methods"
    own.mkdir()
    (own / "mine.py").write_text(METHOD.read_text())
    real = methods.names
    for place in (methods, methods._FILES):
        monkeypatch.setattr(place, "names", lambda: [*real(), "mine"])
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(own)])
    monkeypatch.setattr(methods, "summary", lambda name: "")

    def recipe(steps: int = 2) -> Recipe:
        made = tiny_folder.recipe(models, "mine", output=str(tmp_path / "run"), eval={"every": None, "prompts": []})
        made["training"] |= {"max_steps": steps, "save_steps": 1}
        found = parse(made, "test", "run")
        assert isinstance(found, Recipe)
        return found

    class Stop(Exception):
        pass

    def stop(*args, **kwargs):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(runs, "save_model", stop)
        with pytest.raises(Stop):
            runs.run(recipe(), console=Console(quiet=True))
    (own / "mine.py").write_text(METHOD.read_text() + "\n# another\n")
    sys.modules.pop("trimtab.methods.mine")
    with pytest.raises(RunError, match=r"cannot be resumed: its code has changed: mine.py was edited; restore it"):
        runs.run(recipe(), resume=True, console=Console(quiet=True))
    (own / "mine.py").write_text(METHOD.read_text())
    sys.modules.pop("trimtab.methods.mine")
    runs.run(recipe(), resume=True, console=Console(quiet=True))
    sys.modules.pop("trimtab.methods.mine")


def test_the_class_that_came_with_a_model_is_among_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    name = tiny_folder.save(tmp_path / "theirs")
    assert not user_code.of_models([load_model(name)])
    written = tmp_path / "theirs" / "modeling_theirs.py"
    written.write_text("from transformers import LlamaForCausalLM\n\nclass Theirs(LlamaForCausalLM):\n    pass\n")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "modeling_theirs.Theirs"}, "architectures": ["Theirs"]}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    (found,) = [
        path for path in user_code.of_models([load_model(name, trust_remote_code=True)]) if "theirs" in path.name
    ]
    assert found.read_text() == written.read_text()
