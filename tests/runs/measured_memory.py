"""Carry out a recipe and print the most memory that it took, in bytes beyond those of its imports.

python tests/runs/measured_memory.py RECIPE [KEY=VALUE]...
"""

import sys
from pathlib import Path

from rich.console import Console

from trimtab.runs.parse import load_recipe
from trimtab.runs.recipe import Recipe
from trimtab.runs.run import run


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    recipe = load_recipe(sys.argv[1], sys.argv[2:])
    assert isinstance(recipe, Recipe)
    import peft  # noqa: F401

    before = status("VmRSS")
    run(recipe, console=Console(quiet=True))
    print(status("VmHWM") - before)
