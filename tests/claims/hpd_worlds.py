"""Where HPD is compared: a teacher, warmed students, and rows of both; see `hpd_fair.py`."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import language
from chains import chains
from rich.console import Console

from trimtab.commands.collect import CollectSettings, collect
from trimtab.data.sources import load_rows
from trimtab.runs.run import run

QUIET = Console(quiet=True)


def question(row: Mapping[str, Any]) -> str:
    """What a row asks."""
    given = row.get("messages") or row["prompt"]
    return given if isinstance(given, str) else given[0]["content"]


@dataclass(frozen=True)
class World:
    """Sizes of a comparison, and the files that it makes in a folder, each once."""

    name: ClassVar[str]
    judged: ClassVar[bool]
    methods: tuple[str, ...]
    steps: int
    """updates of distillation at most"""
    warm_steps: int
    warm_rate: float
    rate: float
    """where the ladder of learning rates begins"""
    halves: bool = True
    """half the length is tried too"""
    criteria: tuple[str, ...] = ("kl",)
    """by which settings are chosen"""
    share: float = 0.25
    """of prompts with completions of the warmed student"""
    seeds: tuple[int, ...] = (0, 1, 2)
    without_own: tuple[str, ...] = ()
    """methods that are also trained on the teacher's completions alone"""
    longest: int = 140
    """new tokens of a completion"""
    training: dict[str, Any] = field(default_factory=dict)

    def teacher_of(self, folder: Path) -> Path | str:
        raise NotImplementedError

    def start(self, folder: Path, seed: int) -> dict[str, Any]:
        """`models.policy` of the student before it is warmed."""
        raise NotImplementedError

    def tasks(self, folder: Path, split: str) -> Path:
        """Rows of prompts: warm, train, tuning and heldout."""
        raise NotImplementedError

    def completions(self, folder: Path, split: str) -> Path:
        """The teacher's completions of the tasks of a split."""
        return collected(folder / f"teacher-{split}", self.teacher_of(folder), self.tasks(folder, split), self.longest)

    def student(self, folder: Path, seed: int) -> Path:
        """The student of a seed, warmed by SFT."""
        how = {"max_steps": self.warm_steps, "learning_rate": self.warm_rate}
        rows = self.completions(folder, "warm")
        return self.sft(folder / f"student-{seed}", self.start(folder, seed), rows, how, seed)

    def sft(self, folder: Path, models: dict[str, Any], rows: Path, training: dict[str, Any], seed: int = 0) -> Path:
        tree = {"method": "sft", "models": models, "data": {"train": str(rows)}, "seed": seed}
        return trained(folder, {**tree, "training": {**self.training, **training}})

    def rows(self, folder: Path, seed: int, share: float) -> Path:
        """What the student of a seed is distilled on: the teacher's completions, a share replaced by its own."""
        given = self.completions(folder, "train")
        if not share:
            return given
        path = folder / f"rows-{seed}-{share:g}.jsonl"
        if not path.exists():
            rows = list(load_rows(str(given)))
            chosen = Random(seed).sample(range(len(rows)), round(share * len(rows)))
            asked = folder / f"asked-{seed}-{share:g}.jsonl"
            write(asked, ({"prompt": question(rows[index])} for index in chosen))
            own = collected(folder / f"own-{seed}-{share:g}", self.student(folder, seed), asked, self.longest, seed)
            replaced = {question(row): row for row in load_rows(str(own))}
            write(path, ({k: replaced.get(question(row), row)[k] for k in ("prompt", "completion")} for row in rows))
        return path

    def smoke(self) -> "World":
        """Sizes at which it takes seconds and says nothing."""
        few = ("sft", "forward KL", "hpd")
        return replace(self, steps=2, warm_steps=2, seeds=(0, 1), share=0.5, criteria=("kl",), longest=120, methods=few)


@dataclass(frozen=True)
class Sums(World):
    """A model of 0.8 million weights learns sums and teaches half of its own layers."""

    name: ClassVar[str] = "sums"
    judged: ClassVar[bool] = True
    layers: int = 2
    """of the teacher's four"""
    teacher_steps: int = 1200
    teacher_rate: float = 3e-3
    sizes: dict[str, int] = field(
        default_factory=lambda: {"teacher": 24_000, "warm": 3200, "train": 2560, "tuning": 300, "heldout": 300}
    )
    """rows of each part"""

    def tasks(self, folder: Path, split: str) -> Path:
        path = folder / f"tasks-{split}.jsonl"
        if not path.exists():
            source = split if split in ("tuning", "heldout") else "train"
            made = chains(source, self.sizes[split], seed=list(self.sizes).index(split))
            write(path, made if split == "teacher" else ({"prompt": question(r), "answer": r["answer"]} for r in made))
        return path

    def teacher_of(self, folder: Path) -> Path:
        training = {
            "per_device_train_batch_size": 32, "max_steps": self.teacher_steps, "learning_rate": self.teacher_rate,
            "warmup_steps": min(50, self.teacher_steps), "save_strategy": "steps", "save_steps": 200,
            "save_total_limit": 1,
        }  # fmt: skip
        return self.sft(folder / "teacher", {"policy": "characters-1m"}, self.tasks(folder, "teacher"), training)

    def start(self, folder: Path, seed: int) -> dict[str, Any]:
        return {"student": {"from": "teacher", "layers": self.layers}, "teacher": str(self.teacher_of(folder))}

    def smoke(self) -> "World":
        small = {"teacher": 40, "warm": 24, "train": 24, "tuning": 8, "heldout": 8}
        return replace(super().smoke(), teacher_steps=2, sizes=small)  # type: ignore[call-arg]


@dataclass(frozen=True)
class SmolLM2(World):
    """SmolLM2-135M teaches some of its own layers after a recovery; one student for all seeds, which order the rows."""

    name: ClassVar[str] = "smollm2"
    judged: ClassVar[bool] = False
    layers: int = 10
    tuning: int = 31
    """the last training rows, which no student is trained on"""
    heldout: int = 48
    teacher: str = "smollm2-135m"

    def tasks(self, folder: Path, split: str) -> Path:
        path = folder / f"tasks-{split}.jsonl"
        if not path.exists():
            rows = list(load_rows(f"trimtab:everyday/{'heldout' if split == 'heldout' else 'train'}"))
            cut = len(rows) - self.tuning
            write(path, rows[: self.heldout] if split == "heldout" else rows[cut:] if split == "tuning" else rows[:cut])
        return path

    def completions(self, folder: Path, split: str) -> Path:
        """They come with the project."""
        return self.tasks(folder, split)

    def teacher_of(self, folder: Path) -> str:
        return self.teacher

    def start(self, folder: Path, seed: int) -> dict[str, Any]:
        return {"student": {"from": "teacher", "layers": self.layers}, "teacher": self.teacher}

    def student(self, folder: Path, seed: int) -> Path:
        return super().student(folder, 0)


WORLDS: dict[str, World] = {
    "sums": Sums(
        methods=("sft", "forward KL", "reverse KL", "JSD", "AKL", "ToDi", "ABKL", "hpd"),
        steps=160, warm_steps=400, warm_rate=3e-3, rate=1e-3, without_own=("hpd",),
        training={"per_device_train_batch_size": 16, "max_length": 256, "adam_beta2": 0.95},
    ),
    "smollm2": SmolLM2(
        methods=("sft", "forward KL", "hpd"), steps=12, warm_steps=36, warm_rate=3e-4, rate=3e-4, halves=False,
        share=0.0, training={"adam_beta2": 0.95},
    ),
}  # fmt: skip


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.rename(path)


def trained(folder: Path, tree: dict[str, Any]) -> Path:
    """The model of a run, which is begun, resumed or left as it is."""
    model = folder / "model"
    if not model.exists():
        run(language.recipe(folder.name, {**tree, "output": str(folder)}), resume=folder.exists(), console=QUIET)
    return model


def collected(folder: Path, model: Path | str, tasks: Path, longest: int, seed: int = 0) -> Path:
    """A model's completion of each task, sampled at temperature 1."""
    path = folder / "train.jsonl"
    if not path.exists():
        asked = {"model": str(model), "max_new_tokens": longest, "heldout": 0.0, "seed": seed, "batch": 256}
        collect(CollectSettings(source=str(tasks), out=folder, write="completions", **asked), console=QUIET)
    return path
