"""Teacher caches of tiny models, and recipes that read them."""

from pathlib import Path

from rich.console import Console

import tiny_folder
from trimtab.data.collate import Collator
from trimtab.runs.parse import parse
from trimtab.runs.policy import policy_tokenizer
from trimtab.runs.rows import prepare_source
from trimtab.runs.teacher_pass import cache_teacher

QUIET = Console(quiet=True)


def lay_out(folder: Path) -> Path:
    """A teacher, rows, and a student of its own."""
    folder = tiny_folder.lay_out(folder)
    tiny_folder.save(folder / "student", seed=5, num_hidden_layers=1)
    return folder


def tree(files: Path, output: Path, method: str = "kd", teacher: str | None = None, **changes) -> dict:
    made = tiny_folder.recipe(files, method, output=str(output), eval={"prompts": []}, **changes)
    made["models"] = {"policy": str(files / "student"), "teacher": teacher or str(files / "teacher")}
    return made


def parsed(files, output, method="kd", teacher=None, **changes):
    return parse(tree(files, output, method, teacher, **changes), "test", "run")


def write_caches(files: Path, folder: Path) -> Path:
    """Folders hidden, bfloat16 and topk; whoever writes to one copies it."""
    made = parsed(files, folder / "never")
    cache_teacher(made, folder / "hidden", "hidden", console=QUIET)
    cache_teacher(made, folder / "bfloat16", "hidden", dtype="bfloat16", console=QUIET)
    cache_teacher(made, folder / "topk", "topk", k=16, console=QUIET)
    return folder


def batch_of(made, which="train"):
    tokenizer = policy_tokenizer(made)
    return Collator(0, tiny_folder.VOCAB)(prepare_source(made, which, tokenizer).rows)
