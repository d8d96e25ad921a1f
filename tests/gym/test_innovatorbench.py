"""A task in the format of InnovatorBench, written here: loaded, worked on and scored, or refused with the reason."""

import json

import pytest

from tiny_gym import engine, said
from trimtab.gym.budget import BudgetLimits
from trimtab.gym.episode import Episode
from trimtab.gym.innovatorbench import InnovatorTask
from trimtab.gym.task import TaskError, load_task

CONFIG = """
task_name: "task_7"
launch_type: "direct_http"
workspace: "/workspace"
max_working_time: 120
start_time: null
max_steps: 40
max_eval_num: 3
save_freq: -1
resume_from_path: null
tokenizer: "Qwen/Qwen2.5-7B-Instruct"
checkpoint_base_path: "<base_dir_path_to_save_checkpoints>"
workspace_dataset_path: "<base_dir_path_to_load_dataset>"
actual_workspace: "<symbolic_link>"
env_vars: {SHARDS: "3"}
cmd_proxy_url: null
computer_pool:
  - {computer_ip: "<computer_ip>", computer_port: 8123, computer_type: "localhost_cpu", available: true}
default_shell: "/bin/bash"
eval_workspace: "./evaluations"
max_eval_time: 20
search_engine: ""
"""
RESULTS = """
from dataclasses import asdict, dataclass


@dataclass
class Config:
    eval_workspace: str
    workspace: str


@dataclass
class Result:
    task_name: str
    eval_results: dict

    def to_dict(self):
        return asdict(self)
"""
EVALUATION = """
import json
import os

from evaluations.base.data_classes import Result

from .config import TaskConfig


class TaskBenchmark:
    def __init__(self, config: TaskConfig):
        self.config = config

    def validate(self):
        with open(f"{self.config.eval_workspace}/task_7/task/labels.json") as file:
            labels = json.load(file)
        with open("/workspace/data/questions.txt") as file:
            questions = file.read().split()
        answers = open(os.path.join(self.config.workspace, "data/outputs/answers.txt")).read().split()
        right = sum(map(str.__eq__, answers, labels)) / len(questions)
        points = [right * 60, len(answers) * 10]
        return [Result("task_7", {"score": one, "detail": "x"}) for one in points]
"""
FILES = {
    "research_gym/configs/tasks/task_7.yaml": CONFIG,
    "evaluations/__init__.py": "",
    "evaluations/base/__init__.py": "",
    "evaluations/base/data_classes.py": RESULTS,
    "evaluations/task_7/hint.md": "Say tangerine.",
    "evaluations/task_7/task/config.py": "from evaluations.base.data_classes import Config as TaskConfig\n",
    "evaluations/task_7/task/evaluation.py": EVALUATION,
    "evaluations/task_7/task/labels.json": '["tangerine", "b"]',
    "evaluations/task_8/task/labels.json": '["secret"]',
    "datasets/gym/task_7/task/task_description.md": "Answer two questions in /workspace/data/outputs.",
    "datasets/gym/task_7/data/questions.txt": "one two",
    "datasets/gym/task_7/data/outputs/README": "Outputs go here.",
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def place(root):
    return root / "research_gym/configs/tasks/task_7.yaml"


def changed(root, old, new):
    text = place(root).read_text()
    assert old in text
    place(root).write_text(text.replace(old, new))
    return place(root)


def test_the_settings_of_a_foreign_task_mean_the_same(root):
    task = load_task(place(root))
    assert isinstance(task, InnovatorTask)
    assert (task.name, task.description, task.hint) == (
        "task_7", "Answer two questions in /workspace/data/outputs.", "Say tangerine."
    )  # fmt: skip
    settings = task.settings
    assert settings.budget == BudgetLimits(
        seconds=120, steps=40, submissions=3, evaluation_seconds=60, cpu_seconds=settings.budget.cpu_seconds
    )
    assert settings.budget.cpu_seconds > 120
    assert (settings.evaluation_seconds, settings.outputs) == (20, ("data/outputs",))
    assert settings.environment == {"SHARDS": "3"}
    assert [task.score({"score": points}) for points in (-3, 0, 42.5, 100, 130)] == [0, 0, 42.5, 100, 100]
    assert task.notes == ("commands see this Python, and no conda environment of the task's own",)


@pytest.mark.parametrize("given, wanted", [("0", "0"), ("1.5", "1.5"), ('"03"', "03"), ("true", None), ("[1]", None)])
def test_a_variable_is_a_text_or_a_number(root, given, wanted):
    path = changed(root, '{SHARDS: "3"}', f"{{SHARDS: {given}}}")
    if wanted is None:
        with pytest.raises(TaskError, match=r"env_vars"):
            load_task(path)
    else:
        assert load_task(path).settings.environment == {"SHARDS": wanted}


def test_it_is_found_in_a_folder_that_holds_its_yaml(root):
    place(root).rename(root / "config.yaml")
    assert load_task(root).name == "task_7"
    (root / "other.yaml").write_text("task_name: x")
    with pytest.raises(TaskError, match="it has: config.yaml, other.yaml; name the file"):
        load_task(root)


def test_its_version_is_that_of_its_own_files(root):
    before = load_task(place(root)).version()
    (root / "evaluations/task_8/task/labels.json").write_text("[]")
    assert load_task(place(root)).version() == before
    (root / "evaluations/task_7/task/labels.json").write_text("[]")
    assert load_task(place(root)).version() != before


def test_work_at_a_foreign_task_is_scored_by_its_own_benchmark(root):
    engine()
    with Episode(load_task(place(root)), root / "run") as episode:
        assert said(episode, "cat data/questions.txt; echo $SHARDS; ls /workspace")["output"] == "one two3\ndata\ntask"
        assert said(episode, f"ls {root}")["exit_code"] != 0
        episode.call("run_command", {"command": "rm data/outputs/README", "wait_for_completion": True})
        assert episode.call("eval").to_dict()["message"] == "there is nothing in data/outputs"
        episode.call("create_file", {"filename": "data/outputs/answers.txt", "content": "tangerine c"})
        found = episode.call("eval").to_dict()
        assert (found["overall_score"], found["metrics"]) == (50, {"score": 50, "metric_0": 30, "metric_1": 20})
        episode.call("create_file", {"filename": "data/outputs/answers.txt", "content": "tangerine b c d e f"})
        assert episode.end()["final"] == 100


def test_a_benchmark_that_crashes_costs_no_submission_and_tells_nothing(root):
    engine()
    with Episode(load_task(place(root)), root / "run") as episode:
        found = episode.call("eval").to_dict()
        assert "costs no submission" in found["error_message"]
        assert "answers.txt" not in str(found)
        assert "No such file or directory: '/workspace/data/outputs/answers.txt'" in (
            root / "run/evaluator.log"
        ).read_text().replace("\\", "")


@pytest.mark.slow
def test_a_benchmark_sees_its_own_evaluation_alone(root):
    engine()
    text = EVALUATION.replace("right * 60", "60 * (os.listdir(self.config.eval_workspace).count('task_8'))")
    (root / "evaluations/task_7/task/evaluation.py").write_text(text)
    with Episode(load_task(place(root)), root / "run") as episode:
        episode.call("create_file", {"filename": "data/outputs/answers.txt", "content": "a"})
        assert episode.call("eval").to_dict()["metrics"] == {"score": 10, "metric_0": 0, "metric_1": 10}


REFUSED = {
    ('"localhost_cpu"', '"gpu"'): "it wants 1 machine with GPUs",
    ('"direct_http"', '"load_checkpoint"'): "a run goes on by its own snapshots",
    ("resume_from_path: null", "resume_from_path: /x"): "a run goes on by its own snapshots",
    ('workspace: "/workspace"', 'workspace: "/w"'): "workspace is '/w'",
    ("/bin/bash", "/bin/zsh"): "default_shell is '/bin/zsh'; sessions run bash",
    ('SHARDS: "3"', 'SHARDS: "<number>", B: "2"'): "env_vars has placeholders: SHARDS",
    ("start_time: null", "start_time: 2025-01-01"): "a run begins with its first action",
    ("max_steps: 40", "max_step: 40"): "has no setting 'max_step'; did you mean 'max_steps'",
    ("max_steps: 40", ""): "task_7.yaml has no max_steps; add it",
    ("max_working_time: 120", "max_working_time: 0"): "max_working_time",
    ('"localhost_cpu"', '"tpu"'): "computer_pool",
    ('"task_7"', '"<task_name>"'): "has no task_name; add it",
    ('"task_7"', '"../task_7"'): "task_name",
    ('"task_7"', '"task_9"'): "there is no evaluations/task_9/task/evaluation.py at",
    ("<base_dir_path_to_load_dataset>", "/nowhere"): "no /nowhere/gym/task_7/task/task_description.md",
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), REFUSED)
def test_what_cannot_be_had_here_is_refused(root, old, new):
    with pytest.raises(TaskError) as caught:
        load_task(changed(root, old, new))
    assert REFUSED[old, new] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_done_in_another_way_is_noted(root):
    more = ', available: true}\n  - {computer_type: "cpu"}\n  - {computer_type: "gpu", available: false}'
    changed(root, ", available: true}", more)
    changed(root, 'search_engine: ""', "search_engine: google\nserper_api_key: <key>")
    changed(root, "save_freq: -1", "save_freq: 10")
    path = place(root).rename(place(root).with_name("task_6.yaml"))
    notes = " | ".join(load_task(path).notes)
    for said_so in (
        "there is no web search", "its 2 machines are one here", "save_freq is not looked at",
        "task_6.yaml names task_7, which is the task that is loaded",
    ):  # fmt: skip
        assert said_so in notes


def test_results_may_be_plain_mappings_and_must_have_scores(root):
    engine()
    path = root / "evaluations/task_7/task/evaluation.py"
    for body, wanted in (("[{'score': 12.5}]", {"score": 12.5, "metric_0": 12.5}), ("[{'points': 1}]", None)):
        path.write_text(
            f"class TaskBenchmark:\n    def __init__(self, config): ...\n    def validate(self): return {body}"
        )
        with Episode(load_task(place(root)), root / f"run{len(body)}") as episode:
            found = episode.call("eval").to_dict()
        assert found.get("metrics") == wanted
    assert json.loads(json.dumps(found)) == found
