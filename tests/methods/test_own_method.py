"""A method of the user's own: a file or a module that a recipe names."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import tiny_folder
from trimtab import methods
from trimtab.commands.show import ShowSettings
from trimtab.commands.show import main as show
from trimtab.core import Method
from trimtab.methods import UnknownMethod
from trimtab.runs.folder import RunError, check_signature
from trimtab.runs.job import load_job
from trimtab.runs.parse import parse
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import RecipeError
from trimtab.runs.run import run

PENALTY = '''"""Confidence penalty: less sure of everything."""

from strengths import DEFAULT

from trimtab.core import Method, MethodConfig, Objective, Plan


class Config(MethodConfig):
    strength: float = DEFAULT
    """Nats of likelihood for a nat of entropy."""


class Penalty(Objective):
    def __init__(self, strength):
        self.strength = strength

    def __call__(self, batch):
        logprobs, entropy = batch.log_softmax(), -batch.logprobs()
        return batch.losses(entropy + self.strength * (logprobs.exp() * logprobs).sum(-1), nll=-batch.logprobs())


def build(config, policy):
    return Plan(Penalty(config.strength))


METHOD = Method(config=Config, build=build, claim="It is less sure.")
'''


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "penalty.py").write_text(PENALTY, encoding="utf-8")
    (tmp_path / "strengths.py").write_text("DEFAULT = 0.1\n", encoding="utf-8")
    yield tmp_path
    for name in [name for name in sys.modules if name in ("strengths", "lab", "lab.own") or name.startswith("method_")]:
        sys.modules.pop(name)


def tree(method: str, **more) -> dict:
    return {"method": method, "models": {"policy": "x"}, "data": {"train": "y"}, **more}


def test_a_file_and_what_lies_beside_it_is_a_method(folder):
    method = methods.load("penalty.py")
    assert isinstance(method, Method)
    assert method.config().strength == 0.1
    assert methods.load(str(folder / "penalty.py")) is methods.load("penalty.py")
    assert methods.summary("penalty.py") == "Confidence penalty: less sure of everything."
    recipe = parse(tree("penalty.py", options={"strength": 0.3}), "here", "run")
    assert recipe.options == {"strength": 0.3}


def test_a_module_of_a_package_is_a_method(folder):
    (folder / "lab").mkdir()
    (folder / "lab" / "__init__.py").write_text("")
    (folder / "lab" / "own.py").write_text(PENALTY)
    assert methods.load("lab.own").config().strength == 0.1
    assert methods.summary("lab.own") == "Confidence penalty: less sure of everything."
    with pytest.raises(UnknownMethod, match="method lab.other: importing lab.other raised ModuleNotFoundError"):
        methods.load("lab.other")


def test_a_file_that_was_edited_is_read_again(folder):
    first = methods.load("penalty.py")
    (folder / "penalty.py").write_text(PENALTY.replace("It is less sure.", "It is sure of nothing."))
    assert methods.load("penalty.py") is not first
    assert methods.load("penalty.py").claim == "It is sure of nothing."


LOOSE = "from trimtab.core import Method\nMETHOD = Method(config=int, build=print)"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nowhere.py", None, r"there is no file nowhere.py \(looked for.*; write your own method as FILE.py or"),
        ("kd.py", PENALTY, "kd.py has the name of a method that ships with trimtab; rename the file, or set"),
        ("broken.py", "import nothing_there", r"method broken.py: .* ModuleNotFoundError: .* \(.*broken.py, line 1\)"),
        ("torn.py", "def build(:", r"method torn.py: .* SyntaxError: .* \(.*torn.py, line 1\)"),
        ("empty.py", "", "empty.py has no METHOD; end it with METHOD = Method"),
        ("other.py", "METHOD = 3", "METHOD of other.py is int, expected a trimtab Method"),
        ("loose.py", LOOSE, "config of loose.py is int, expected a class derived from MethodConfig"),
        ("trimtab.methods.kd", None, "trimtab.methods.kd ships with trimtab; set method: kd"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_method_is_refused_with_its_place_and_the_way_out(folder, name, text, said):
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(UnknownMethod, match=said):
        methods.load(name)
    with pytest.raises(RecipeError, match=f"^here: .*{said}"):
        parse(tree(name), "here", "run")
    assert not any(folder.glob("runs*"))


def test_the_name_of_a_file_that_exists_is_refused_with_the_file(folder):
    with pytest.raises(UnknownMethod, match=r"there is no method .penalty.; to use the file here, set method"):
        methods.check_name("penalty")


def test_stages_are_named_by_the_file_alone(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "other.py").write_text(PENALTY)
    stages = [{"method": "penalty.py"}, {"method": "sub/other.py", "models": {"policy": "@penalty"}}]
    made = parse({"models": {"policy": "x"}, "data": {"train": "y"}, "stages": stages}, "here", "run")
    assert [stage.output for stage in made.stages] == ["runs/run/penalty", "runs/run/other"]


def test_it_is_shown_with_its_options_and_what_it_asks_for(folder, capsys):
    show(ShowSettings(name="penalty.py"))
    said = capsys.readouterr().out
    for part in ("Confidence penalty", "It is less sure.", "options.strength", "trains: the policy"):
        assert part in said
    assert "in a recipe: method: penalty.py" in said


def test_it_trains_and_an_edit_of_its_files_is_reported_on_resume(folder):
    files = tiny_folder.lay_out(folder)
    made = tiny_folder.recipe(files, "penalty.py", models={"student": None, "teacher": None})
    made["models"] = {"policy": str(files / "teacher")}
    made["training"] |= {"max_steps": 2, "save_steps": 1}
    recipe = parse(made, "here", "run")
    job = load_job(recipe, Shared(), Console(quiet=True))
    assert {"penalty.py", "strengths.py"} == {part.split()[0] for part in job.signature["code"].split(", ")}
    done = run(recipe, console=Console(quiet=True))
    assert "Confidence penalty" in (done.folder / "model" / "README.md").read_text()
    (folder / "strengths.py").write_text("DEFAULT = 0.1  # as before\n")
    after = load_job(parse(made, "here", "run"), Shared(), Console(quiet=True))
    with pytest.raises(RunError, match=r"its code has changed: strengths.py was edited; restore it, add --edited"):
        check_signature(done.folder, after.signature, edited=False)


WRONG = """
from trimtab.core import Method, Plan, Requirements
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.policy_gradient import Reinforce
from trimtab.methods.rloo import LeaveOneOut
METHOD = Method({}build=lambda config, policy: {})
"""


@pytest.mark.parametrize(
    ("says", "builds", "said"),
    [
        ("", "Likelihood()", "build returned Likelihood, expected a Plan"),
        ("", "Plan(Reinforce(), advantages=LeaveOneOut(0.0))", "declares loop 'supervised', but its plan"),
        ("requires=Requirements(trains='scorer'), ", "Plan(Likelihood())", "its objective is no RewardObjective"),
    ],
)  # fmt: skip
def test_a_plan_that_is_not_what_the_method_says_is_refused(folder, says, builds, said):
    (folder / "wrong.py").write_text(WRONG.format(says, builds))
    files = tiny_folder.lay_out(folder)
    made = tiny_folder.recipe(files, "wrong.py", models={"student": None, "teacher": None}, eval={"prompts": []})
    made["models"] = {"policy": str(files / "teacher")}
    with pytest.raises(RunError, match=f"method wrong.py.*{said}"):
        load_job(parse(made, "here", "run"), Shared(), Console(quiet=True))


VALUES = "entropy + self.strength * (logprobs.exp() * logprobs).sum(-1)"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("batch.log_softmax()", "batch.log_softmx()"), r"penalty.py, line 18: AttributeError: .*log_softmx.*; fix it"),
        (("batch.log_softmax()", "batch.log_softmax('teacher')"), "line 18: KeyError: .*no signal 'teacher'.*`needs`"),
        (("return batch.losses(", "return list("), "penalty.py, line 19: TypeError"),
        (("return batch.losses(", "return (lambda values, nll: values)("), "Penalty returned a Tensor; return batch.l"),
        ((VALUES, f"({VALUES}).mean()"), r"returned values of shape \[\]; expected \[\d+\], one for each token"),
    ],
)  # fmt: skip
def test_a_mistake_in_its_code_costs_one_line_that_names_it(folder, trimtab, wrong, said):
    assert wrong[0] in PENALTY
    (folder / "penalty.py").write_text(PENALTY.replace(*wrong))
    files = tiny_folder.lay_out(folder)
    made = tiny_folder.recipe(files, "penalty.py", models={"student": None, "teacher": None}, eval={"prompts": []})
    made["models"] = {"policy": str(files / "teacher")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(made))
    code, _, err = trimtab("train", folder / "recipe.yaml")
    last = err.strip().splitlines()[-1]
    assert code == 2, err
    assert re.search(said, last), last
    assert "Traceback" not in err
