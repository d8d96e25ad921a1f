"""What the benchmarks share: the signature, the same-loss check, time in alternation, memory in a fresh process."""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

import trimtab

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

HERE = Path(__file__).parent
MIB, GIB = 2**20, 2**30
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
MOST_ROUNDS = 15
PATIENCE = 20.0


# ---------------------------------------------------------------- who computed what, where


def signature() -> dict[str, Any]:
    """Everything that a reader needs to judge or repeat a result."""
    names = ("torch", "transformers", "trl", "typer")
    found = {
        "trimtab": trimtab.__version__,
        "commit": _commit(),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "huge_pages": _first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "allocator": Path(os.environ.get("LD_PRELOAD") or "default").name,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        found["blas"] = "MKL" if torch.backends.mkl.is_available() else "not MKL"
        if torch.cuda.is_available():
            one = torch.cuda.get_device_properties(0)
            memory = round(one.total_memory / GIB, 1)
            found["gpus"] = {"number": torch.cuda.device_count(), "name": one.name, "memory_gib": memory}
            found["versions"]["cuda"] = torch.version.cuda
    return found


def _commit() -> str:
    """The commit of this checkout; "dirty" if any file but a result differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", HERE.parent, *words], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results").strip()
        return git("rev-parse", "HEAD").strip()[:12] + (" dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or "unknown"


def card(device: str = "cuda") -> str:
    """A folder's name for what computes: the GPU, or "cpu"."""
    torch = sys.modules.get("torch")
    if device == "cpu" or torch is None or not torch.cuda.is_available():
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().partition("\n")[0]
    except OSError:
        return "unknown"


# ---------------------------------------------------------------- do both sides compute the same?


class Different(ValueError):
    """Two contestants that do not compute the same thing must not be compared."""


@dataclass(frozen=True)
class Answer:
    """What one contestant computed from the inputs that all were given."""

    loss: float
    gradients: Mapping[str, Any]
    """name -> tensor"""


def relative_error(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    """Norm of the difference over norm, over all tensors as one vector."""
    if found.keys() != wanted.keys():
        raise Different(f"gradients reach different tensors: {sorted(found.keys() ^ wanted.keys())}")
    apart = sum(float((found[n].double() - wanted[n].double()).square().sum()) for n in wanted)
    return (apart / sum(float(w.double().square().sum()) for w in wanted.values())) ** 0.5


def check_same(answers: Mapping[str, Answer], reference: str, what: str = "") -> dict[str, dict[str, float]]:
    """Relative errors of every contestant against `reference`.

    Raises:
        Different: if a loss is further off than `LOSS_TOLERANCE`, or gradients than `GRADIENT_TOLERANCE`.
    """
    wanted = answers[reference]
    errors = {}
    for name, found in answers.items():
        if name == reference:
            continue
        loss = abs(found.loss - wanted.loss) / max(abs(wanted.loss), 1e-12)
        gradient = relative_error(found.gradients, wanted.gradients)
        if not (loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE):  # also where one is NaN
            raise Different(
                f"{what}: {name} does not compute what {reference} does: loss {found.loss:.7g} against "
                f"{wanted.loss:.7g}, gradients off by a relative {gradient:.2g}"
            )
        errors[name] = {"loss": loss, "gradient": gradient}
    return errors


# ---------------------------------------------------------------- time


@dataclass
class Timing:
    """What the rounds of one contestant took."""

    seconds: list[float] = field(default_factory=list)
    system_seconds: list[float] = field(default_factory=list)
    """spent by the kernel, mostly to hand out zeroed pages"""
    faulted_gib: list[float] = field(default_factory=list)
    """GiB of minor page faults. glibc gives freed blocks above 32 MiB back at once, so that whoever makes large
    tables of logits is handed them anew, zeroed page by page, at each step; another allocator may differ"""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def record(self) -> dict[str, Any]:
        medians = {name: round(statistics.median(values), 4) for name, values in asdict(self).items()}
        return {**medians, "rounds": [round(s, 4) for s in self.seconds]}


def synchronise() -> None:
    """Wait for what the GPU was given, so that the clock and its memory tell all of it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def alternate(steps: Mapping[str, Callable[[], Any]], repeats: int, patience: float = PATIENCE) -> dict[str, Timing]:
    """Time the contestants by turns, so that a busy minute of the machine hits all alike; the first round warms up.

    Args:
        steps: by contestant.
        repeats: the least number of timed rounds.
        patience: seconds in which further rounds are begun, up to `MOST_ROUNDS`.
    """
    timings = {name: Timing() for name in steps}
    names = list(steps)
    for step in steps.values():
        step()
    started, rounds = time.perf_counter(), 0
    while rounds < repeats or (rounds < MOST_ROUNDS and time.perf_counter() - started < patience):
        for name in names[rounds % len(names) :] + names[: rounds % len(names)]:
            gc.collect()
            synchronise()
            before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            steps[name]()
            synchronise()
            seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
            timings[name].seconds.append(seconds)
            timings[name].system_seconds.append(after.ru_stime - before.ru_stime)
            timings[name].faulted_gib.append((after.ru_minflt - before.ru_minflt) * resource.getpagesize() / GIB)
        rounds += 1
    return timings


# ---------------------------------------------------------------- memory


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _reset_high_water() -> None:
    """Let the kernel forget the highest resident memory so far.

    Where it refuses, the mark stays what it was; the build of the inputs is written not to exceed the step.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(step: Callable[[], Any]) -> int:
    """Resident memory at its highest during `step`, minus what was resident before (Linux only); once this process uses
    a GPU, that memory of its allocator."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        synchronise()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        synchronise()
        return torch.cuda.max_memory_allocated() - held
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # pages that the allocator keeps in stock would hide new ones
    _reset_high_water()
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a module-level function in a process that has only imported, and return what it returns.

    On Linux that process is a fork of this one, so imports are paid once; this process must not have run torch.

    A process that uses a GPU cannot be forked; there it is called here.

    Raises:
        MemoryError: if the process was killed, or the GPU has no room.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        try:
            return function(*args)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error).partition(".")[0]) from None
    gc.freeze()  # the child's collections then leave alone what was imported, and copy none of its pages
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            raise MemoryError("the process was killed, most likely for want of memory") from None


def does_not_fit(need: float) -> str | None:
    """Words for the record if `need` bytes, and a fifth more, are not to be had."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_initialized()
    if 1.2 * need <= (torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available):
        return None
    return f"does not fit: estimated {need / GIB:.1f} GiB"


# ---------------------------------------------------------------- results


@dataclass(frozen=True)
class Target:
    """A figure that was promised before it was measured."""

    what: str
    limit: float
    found: float | None
    """None: not measured"""
    note: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.found is None else self.found <= self.limit

    def record(self) -> dict[str, Any]:
        found = None if self.found is None else round(self.found, 4)
        return {"what": self.what, "limit": self.limit, "found": found, "met": self.met, "note": self.note}

    def __str__(self) -> str:
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        found = "" if self.found is None else f", found {self.found:.3f}"
        return f"{verdict}: {self.what} <= {self.limit:g}{found}{f' ({self.note})' if self.note else ''}"


def unjudged(targets: Sequence[Target]) -> list[Target]:
    """The same promises with nothing found: what tiny sizes say about them is nothing."""
    return [replace(target, found=None) for target in targets]


def ratio(one: Any, other: Any) -> float | None:
    """None unless both are numbers."""
    numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
    return one / other if numbers and other > 0 else None


def shown(value: Any, digits: int = 2) -> str:
    """A cell of a table: a number, the reason why there is none, or a dash."""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return "-" if value is None else str(value)


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table."""
    lines = [headers, ["---"] * len(headers), *[[shown(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all benchmarks have."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script works, measures nothing")
    made.add_argument("--repeats", type=int, help="least number of timed rounds after the warm-up")
    made.add_argument("--tag", default="", help="results go to <script>-<tag>.json")
    made.add_argument("--results-dir", type=Path, default=HERE / "results")
    return made


def write(script: str, args: argparse.Namespace, result: Mapping[str, Any], targets: Sequence[Target]) -> Path:
    """Store a result under the name of its script."""
    tag = args.tag or ("quick" if args.quick else "")
    path = args.results_dir / f"{script}{f'-{tag}' if tag else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"benchmark": script, "quick": args.quick, **result, "targets": [target.record() for target in targets]}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return path


def tell(text: str) -> None:
    """Progress, apart from the table on stdout."""
    print(text, file=sys.stderr, flush=True)
