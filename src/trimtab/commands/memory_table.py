"""The memory and time estimates of `trimtab train --dry-run`, as comments after the recipe."""

from collections.abc import Iterable

from trimtab.common.errors import UserError
from trimtab.common.files import DataError
from trimtab.models.builtin import ModelNotFound
from trimtab.runs.estimate import estimates, first_seed
from trimtab.runs.estimated_split import Split
from trimtab.runs.memory_parts import MemoryEstimate
from trimtab.runs.recipe import Recipe, Stages
from trimtab.runs.stages import made_by


def table(estimate: MemoryEstimate, memory: float | None = None) -> str:
    """The estimate as lines, with each part's share of the peak.

    Args:
        memory: of each device, in units of 10^9 bytes; with it a line says whether it suffices.
    """
    one_memory = estimate.device == "cpu"
    places = [None] if one_memory else [False, True]
    lines = []
    for host in places:
        phase, peak = estimate.peak(host)
        parts = [part for part in estimate.parts if host is None or part.host == host]
        where = "main memory" if one_memory or host else f"each {estimate.device} device"
        if estimate.split:
            where += f" of each process ({estimate.split})" if one_memory or host else f" ({estimate.split})"
        lines.append(f"{where}, full size and size at the peak, which is {PHASES[phase]}")
        for part in parts:
            share = int(part.size * part.share.get(phase, 0))
            lines.append(f"  {part.name:<58} {shown(part.size):>9} {shown(share) if share else '-':>9}")
        lines.append(f"  {'peak':<58} {'':>9} {shown(peak):>9}")
        if lost := estimate.fragmentation():
            lines.append(f"  {'with heap fragmentation, up to':<58} {'':>9} {shown(peak + lost):>9}")
        if memory is not None and not host:
            left = int(memory * 1e9) - peak - lost
            said = f"left of {memory:g} GB" if left >= 0 else f"does not fit: missing of {memory:g} GB"
            lines.append(f"  {said:<58} {'':>9} {shown(abs(left)):>9}")
    return "\n".join(lines)


PHASES = {
    "forward": "in the loss, before the backward pass",
    "backward": "at the start of the backward pass",
    "update": "at the end of the backward pass, before the update",
    "rollouts": "while completions are generated",
    "evaluation": "during an evaluation",
    "saving": "while the model is saved",
}


LEFT_OUT = (
    "not included: Python and its libraries (about 0.5 GB of main memory); on a GPU the driver's context and what the",
    "allocator holds back (often 0.5 to 1 GB); reading weights from disk; suites during evaluations; other programs",
)


def shown(size: int) -> str:
    """A number of bytes with its unit."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def commented(recipe: Recipe | Stages, split: Split | None = None, memory: float | None = None) -> str:
    """The tables of all runs as YAML comments to follow the recipe; or why there are none.

    Args:
        split: the devices of a launch; those of this process if not given.
        memory: of each device, in units of 10^9 bytes.

    Raises:
        DataError, ModelNotFound: for rows or a model without which the recipe cannot be run either.
    """
    try:
        found = estimates(recipe, split)
    except (DataError, ModelNotFound):
        raise
    except UserError as error:
        return f"# no estimate of memory: {error}\n"
    lines = []
    for run in first_seed(recipe):
        if run.precompute is not None:
            lines += ["", f"memory of precompute -> {run.output}: not estimated; the teacher and a batch of rows"]
    for one in found:
        sizes = f"micro-batches of {one.rows} x {one.length} tokens"
        lines += [
            "",
            f"memory of {one.recipe.method} -> {one.recipe.output}, estimated for {sizes}:",
            *table(one, memory).split("\n"),
        ]
    return _comments([*lines, "", *LEFT_OUT])


def timed(recipe: Recipe | Stages) -> str:
    """How long a step of each run takes on this machine, likewise; or why that is not measured."""
    from rich.console import Console

    from trimtab.runs.budget import pace
    from trimtab.runs.policy import Shared

    runs = first_seed(recipe)
    shared, console, later = Shared(), Console(stderr=True), set[str]()
    lines = [""]
    for run in runs:
        if run.precompute is not None:
            lines.append(f"time of precompute -> {run.output}: not measured; each row passes the teacher once")
            later.add(made_by(run))
            continue
        try:
            said = pace(run, later, shared, console)
        except UserError as error:
            said = f"not measured: {error}"
        lines.append(f"time of {run.method} -> {run.output}: {said}")
        later.add(made_by(run))
    return _comments(lines)


def _comments(lines: Iterable[str]) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
