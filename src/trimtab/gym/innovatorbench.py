"""Tasks in the format of InnovatorBench (arXiv:2510.27598), as they are:

    configs/task_1.yaml                          limits and machines, anywhere at or below the root
    evaluations/task_1/task/{evaluation,config}.py    TaskBenchmark(TaskConfig(...)).validate()
    evaluations/task_1/hint.md
    datasets/gym/task_1/{task,data}/             the workspace, with task/task_description.md

What cannot be had here, such as a machine with GPUs, is refused; what is done in another way is in the task's `notes`.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import Field, StrictFloat, StrictInt

from trimtab.common.count import count
from trimtab.common.errors import check_settings
from trimtab.common.files import read_text
from trimtab.common.options import Options
from trimtab.common.yaml_text import read_tree
from trimtab.gym.budget import BudgetLimits
from trimtab.gym.sandbox import WORKSPACE, SandboxLimits
from trimtab.gym.task import Anchors, GymTask, TaskError, TaskSettings
from trimtab.gym.workspace import DiskUsage, Quota

SCORE = "score"
"""the metric: the sum of the points of all metrics of a task"""
ROOM = 100 << 30
"""bytes that a workspace may grow by, which the format does not limit"""
WHOLE = 1 << 20
"""bytes of a file up to which all of it counts for the version, and beyond which its size does"""
DATASETS = "datasets"
PLACEHOLDER = re.compile(r"^<.*>$")
SAID_OTHERWISE = {
    "search_engine": "there is no web search: documents/ beside task/ and data/ are searched instead",
    "cmd_proxy_url": "there is no proxy: commands reach no network",
    "web_proxy_url": "there is no proxy: commands reach no network",
    "openai_api_key": "there are no parsers that ask a model: commands reach no network",
}
"""setting -> what is otherwise here, where it is given"""


class Computer(Options):
    """A machine of the pool."""

    computer_ip: str = ""
    computer_port: int | None = None
    computer_type: Literal["gpu", "cpu", "localhost_cpu"] = "cpu"
    available: bool = True


class InnovatorSettings(Options):
    """A task's YAML. Of the settings without a type here only is looked at whether they are given, if at all."""

    task_name: str = Field(pattern=r"^\w+$")
    launch_type: str = "direct_http"
    workspace: str = WORKSPACE
    max_working_time: float = Field(gt=0)
    start_time: Any = None
    max_steps: int = Field(ge=1)
    max_eval_num: int = Field(default=3, ge=0)
    max_eval_time: float = Field(default=5000.0, gt=0)
    save_freq: int = -1
    resume_from_path: str | None = None
    computer_pool: tuple[Computer, ...] | None = None
    env_vars: dict[str, str | StrictInt | StrictFloat] | None = None
    workspace_dataset_path: str = DATASETS
    eval_workspace: str = "./evaluations"
    default_shell: str | None = None
    tokenizer: Any = None
    model_name: Any = None
    checkpoint_base_path: Any = None
    actual_workspace: Any = None
    default_http_port: Any = None
    cmd_proxy_url: Any = None
    openai_api_key: Any = None
    openai_base_url: Any = None
    search_engine: Any = None
    serper_api_key: Any = None
    azure_bing_search_subscription_key: Any = None
    search_max_top_k: Any = None
    search_region: Any = None
    search_lang: Any = None
    azure_bing_search_mkt: Any = None
    search_cache_dir: Any = None
    search_cache_duration_days: Any = None
    web_server_host: Any = None
    web_server_port: Any = None
    web_proxy_url: Any = None
    web_cache_dir: Any = None
    web_cache_duration_days: Any = None


@dataclass(frozen=True)
class InnovatorTask(GymTask):
    """A task of which each part lies where the format has it; the folder is that of its YAML."""

    config: Path = Path()
    parts: Path = Path()
    """of the workspace: task/ and data/"""
    evaluation: Path = Path()
    """evaluations/<task>"""

    @property
    def description(self) -> str:
        return read_text(self.parts / "task" / "task_description.md")

    @property
    def hint(self) -> str | None:
        path = self.evaluation / "hint.md"
        return read_text(path) if path.is_file() else None

    @property
    def workspace(self) -> Path:
        return self.parts

    @property
    def evaluator(self) -> Path:
        return Path(__file__).with_name("_innovatorbench.py")

    @property
    def hidden(self) -> Path:
        return self.evaluation

    @property
    def documents(self) -> Path:
        return self.parts / "documents"

    def files(self) -> Iterator[tuple[str, Path]]:
        yield "config", self.config
        for part in (self.parts, self.evaluation):
            yield from ((f"{part.name}/{path.relative_to(part)}", path) for path in sorted(part.rglob("*")))

    def version(self) -> str:
        """Of all its files; of large ones the size counts, for data sets and checkpoints are long to read."""
        digest = hashlib.sha256()
        for name, path in self.files():
            if path.is_file() and "__pycache__" not in path.parts:
                size = path.stat().st_size
                digest.update(f"{name}\0{size}\0".encode() + (path.read_bytes() if size <= WHOLE else b""))
        return digest.hexdigest()[:16]


def is_innovatorbench(place: Path) -> bool:
    """Whether a path is what `load_innovatorbench` reads, and not a task folder."""
    return place.is_file() or ((place / "evaluations").is_dir() and not (place / "task.yaml").exists())


def load_innovatorbench(place: Path) -> InnovatorTask:
    """A task of InnovatorBench.

    Args:
        place: the YAML of the task, or a folder that holds it beside evaluations/, if it is the only one there.

    Raises:
        TaskError: naming what is missing, wrong or not to be had here.
    """
    config = place if place.is_file() else _config_in(place)
    tree = read_tree(config, TaskError)
    filled = _without_placeholders(tree)
    fields = InnovatorSettings.model_fields
    missing = [key for key, field in fields.items() if field.is_required() and key not in filled]
    if missing and filled.keys() <= fields.keys():  # else a key may be misspelt
        raise TaskError(f"{config} has no {missing[0]}; add it")
    found: InnovatorSettings = check_settings(InnovatorSettings, filled, str(config), f"{config}: ", TaskError)
    _refuse(found, config)
    evaluation = _folder(config, found.eval_workspace, found.task_name, "evaluation.py", "task")
    parts = _folder(config, f"{found.workspace_dataset_path}/gym", found.task_name, "task_description.md", "task")
    if not (evaluation / "task" / "config.py").is_file():
        raise TaskError(f"{evaluation / 'task'} has no config.py (a class TaskConfig); add it")
    settings, notes = _settings(found, parts), _notes(found, config)
    return InnovatorTask(found.task_name, config.resolve().parent, settings, notes, config, parts, evaluation)


def _config_in(folder: Path) -> Path:
    """The YAML of a folder that names a task."""
    found = [
        path
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))
        if "task_name" in read_tree(path, TaskError)
    ]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise TaskError(f"{folder} should hold one YAML file with a task_name, it has: {names}; name the file")
    return found[0]


def _without_placeholders(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that still say what is to be filled in, such as "<path>"."""
    return {key: value for key, value in tree.items() if not (isinstance(value, str) and PLACEHOLDER.match(value))}


def _refuse(found: InnovatorSettings, config: Path) -> None:
    """What this gym cannot do as it is asked for."""
    machines = [one for one in found.computer_pool or () if one.available]
    gpus = sum(one.computer_type == "gpu" for one in machines)
    unfilled = [name for name, value in (found.env_vars or {}).items() if PLACEHOLDER.match(str(value))]
    whys = {
        f"it wants {count(gpus, 'machine')} with GPUs (computer_pool), and sandboxes see none; take them out where the "
        "task can do without": gpus > 0,
        f"launch_type is {found.launch_type!r}; expected 'direct_http': a run goes on by its own snapshots": (
            found.launch_type != "direct_http" or found.resume_from_path is not None
        ),
        f"workspace is {found.workspace!r}; agents see it as {WORKSPACE} here": found.workspace != WORKSPACE,
        f"start_time is {found.start_time!r}; a run begins with its first action": (
            found.start_time not in (None, "now")
        ),
        f"default_shell is {found.default_shell!r}; sessions run bash": (
            found.default_shell not in (None, "bash", "/bin/bash", "/usr/bin/bash")
        ),
        f"env_vars has placeholders: {', '.join(unfilled)}; fill them in or take them out": bool(unfilled),
    }  # fmt: skip
    for why, holds in whys.items():
        if holds:
            raise TaskError(f"{config}: {why}")


def _folder(config: Path, place: str, task: str, file: str, below: str) -> Path:
    """The task's folder in a place, which is relative to a folder at or above that of the YAML."""
    starts = config.resolve().parents[:5]
    for start in starts:
        folder = (start / place / task).resolve()
        if (folder / below / file).is_file():
            return folder
    wanted = os.path.normpath(Path(place) / task / below / file)
    raise TaskError(f"{config}: there is no {wanted} at {starts[0]} or above; the task {task!r} needs it")


def _settings(found: InnovatorSettings, parts: Path) -> TaskSettings:
    """The settings that mean the same."""
    held = _size(parts)
    unlimited = int(found.max_working_time * (os.cpu_count() or 1)) + 1
    return TaskSettings(
        title=f"InnovatorBench {found.task_name}",
        licence="that of the task's own data",
        source="InnovatorBench, arXiv:2510.27598",
        metrics=(Anchors(name=SCORE, baseline=0.0, reference=80.0),),  # a value is its points
        outputs=("data/outputs",),
        budget=BudgetLimits(
            seconds=found.max_working_time,
            steps=found.max_steps,
            submissions=found.max_eval_num,
            cpu_seconds=unlimited,
            evaluation_seconds=found.max_eval_time * max(1, found.max_eval_num),
        ),
        quota=Quota(bytes=held.bytes + ROOM, files=held.files + 1_000_000),
        limits=SandboxLimits(
            cpu_seconds=unlimited,
            memory=psutil.virtual_memory().total,
            file_bytes=ROOM,
            processes=4096,
            open_files=1024,
            scratch=1 << 30,
        ),
        evaluation_seconds=found.max_eval_time,
        environment={name: str(value) for name, value in (found.env_vars or {}).items()},
    )


def _size(folder: Path) -> DiskUsage:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return DiskUsage(sum(sizes), len(sizes))


def _notes(found: InnovatorSettings, config: Path) -> tuple[str, ...]:
    """What is done in another way than the authors' gym does it."""
    machines = [one for one in found.computer_pool or () if one.available]
    notes = [text for key, text in SAID_OTHERWISE.items() if getattr(found, key)]
    if len(machines) > 1:
        notes.append(f"its {len(machines)} machines are one here, this one")
    if found.save_freq > 0:
        notes.append("save_freq is not looked at: snapshots are an option of a run")
    if config.stem != found.task_name and re.fullmatch(r"task_\d+", config.stem):
        notes.append(f"{config.name} names {found.task_name}, which is the task that is loaded")
    notes.append("commands see this Python, and no conda environment of the task's own")
    return tuple(dict.fromkeys(notes))
