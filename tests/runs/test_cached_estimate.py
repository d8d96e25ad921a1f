"""A dry run of a cached teacher counts its head, and no model."""

from pathlib import Path

import pytest
from rich.console import Console

import tiny_folder
from trimtab.runs.estimate import estimates
from trimtab.runs.parse import parse
from trimtab.runs.teacher_pass import cache_teacher


@pytest.mark.parametrize("kind", ["hidden", "topk"])
def test_the_head_of_a_cached_teacher_is_all_that_is_counted(tmp_path, kind):
    files = tiny_folder.lay_out(tmp_path / "files")
    made = tiny_folder.recipe(files, "kd", output=str(tmp_path / "run"))
    made["models"] = {"policy": str(files / "teacher"), "teacher": str(files / "teacher")}
    cache = tmp_path / "cache"
    cache_teacher(parse(made, "test", "run"), cache, kind, k=4 if kind == "topk" else None, console=Console(quiet=True))
    made["models"] |= {"teacher": f"cache:{cache}", "teacher_cache": "memory"}
    (found,) = estimates(parse(made, "test", "run"))
    sizes = {part.name: part.size for part in found.parts}
    head = Path(cache / "head.safetensors")
    assert sizes["head of the cached teacher"] == (head.stat().st_size if kind == "hidden" else 0)
    assert not [name for name in sizes if name.startswith("teacher")]
