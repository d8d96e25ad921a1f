"""Plant one mistake at a time in a copy of the source; the tests named for it must go red.

    python tests/mutation/mutate.py             all mistakes, then a table; exit code 1 if one went unnoticed
    python tests/mutation/mutate.py shift hpd   those whose name holds one of the words

`mistakes.py` names a function and an expression in it, found by its syntax: code may be laid out anew and moved within
its module. One that is no longer found is an error and not a mistake that was caught: mend the list.

The list holds the heart of each part. For all mistakes of a module that a machine can think of, on demand:
`pip install cosmic-ray`, a file with `[cosmic-ray]`, `module-path = "src/trimtab/core/loss.py"`, `timeout = 60.0`,
`test-command = "python -m pytest -x -q tests/core"` and `[cosmic-ray.distributor]`, `name = "local"`; then
`cosmic-ray init FILE s.sqlite`, `cosmic-ray exec FILE s.sqlite` and `cr-report s.sqlite`.
"""

import argparse
import ast
import contextlib
import importlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from mistakes import MISTAKES, Mistake

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
HEAVY = (
    *("torch", "numpy", "scipy.stats", "pytest", "hypothesis", "_hypothesis_pytestplugin", "pydantic", "tokenizers"),
    *("peft", "trl.trainer.utils", "trl.trainer.dpo_trainer", "trl.experimental.gkd", "trl.kernels.chunked_divergence"),
    *(f"transformers.models.{m}.modeling_{m}" for m in ("llama", "gemma2", "cohere", "granite", "gpt2", "phi", "bert")),
)
"""Imported once, before the children are forked; nothing of trimtab."""


class Outcome(NamedTuple):
    exit_code: int
    failed: frozenset[str]
    output: str


class Collector:
    """A pytest plugin that notes which tests failed."""

    def __init__(self):
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.add(report.nodeid)


def run_tests(source: str, tests: list[str], pipe) -> None:
    """In a forked child: the tests with `trimtab` from the folder `source`."""
    os.chdir(TESTS)
    os.environ["PYTHONPATH"] = source  # of the processes that tests start themselves
    sys.path.insert(0, source)
    sys.dont_write_bytecode = True
    import pytest

    import trimtab

    assert Path(trimtab.__file__).is_relative_to(source), trimtab.__file__
    collector, output = Collector(), io.StringIO()
    options = ["-q", "-p", "no:cacheprovider", "--tb=line", "--no-header", f"--rootdir={TESTS}", "-c", os.devnull]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = pytest.main([*options, *tests], plugins=[collector])
    pipe.send(Outcome(int(code), frozenset(collector.failed), output.getvalue()))


def functions(names: tuple[str, ...]) -> list[str]:
    """Full ids of the test functions whose ids begin with the given ones; each must be the start of exactly one."""
    found = []
    for name in names:
        file, _, start = name.partition("::")
        text = (TESTS / file).read_text(encoding="utf-8")
        defined = [
            line.split("(")[0].removeprefix("def ") for line in text.splitlines() if line.startswith("def test_")
        ]
        matching = [function for function in defined if function.startswith(start)]
        matching = [start] if start in matching else matching
        if len(matching) != 1:
            raise SystemExit(f"{file}: {start!r} is the start of {len(matching)} tests, not of one")
        found.append(f"{file}::{matching[0]}")
    return found


def start(mistake: Mistake | None, tests: list[str], clean: Path, source: Path):
    """A running child and the end of the pipe that its outcome comes from; `source` becomes a copy of `clean`."""
    shutil.copytree(clean, source, symlinks=True)
    if mistake is not None:
        path = file_of(mistake, source)
        path.write_text(planted(path.read_text(encoding="utf-8"), mistake), encoding="utf-8")
    context = multiprocessing.get_context("fork")  # the heavy imports are paid for once
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=run_tests, args=(str(source), tests, theirs))
    child.start()
    theirs.close()
    return child, ours


def finish(child, pipe) -> Outcome:
    try:
        outcome = pipe.recv()
    except EOFError:
        outcome = Outcome(-1, frozenset(), "the child ended without a result")
    child.join()
    return outcome


def function(tree: ast.Module, name: str) -> ast.AST:
    """The only function of that name, or `Class.method`.

    Raises:
        LookupError: where there is none, or several.
    """
    found = []

    def look(node: ast.AST, path: str) -> None:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            here = f"{path}.{child.name}" if named else path
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and f"{here}".endswith(f".{name}"):
                found.append(child)
            look(child, here)

    look(tree, "")
    if len(found) != 1:
        raise LookupError(f"{len(found)} functions {name!r}")
    return found[0]


def planted(text: str, mistake: Mistake) -> str:
    """The source of a module with the mistake in it.

    Raises:
        LookupError: where its function, or in that its expression or statement, is not found exactly once.
    """
    wanted = ast.parse(mistake.old).body[0]
    wanted = wanted.value if isinstance(wanted, ast.Expr) else wanted
    held = function(ast.parse(text), mistake.where.partition(":")[2])
    found = [node for node in ast.walk(held) if ast.dump(node) == ast.dump(wanted)]
    if len(found) != 1:
        raise LookupError(f"found {len(found)} times in its function")
    lines = text.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    node, new = found[0], f"({mistake.new})" if isinstance(wanted, ast.expr) else mistake.new
    begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
    return (text.encode()[:begin] + new.encode() + text.encode()[end:]).decode()


def file_of(mistake: Mistake, source: Path) -> Path:
    path = source.joinpath("trimtab", *mistake.where.partition(":")[0].split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def check(mistakes: list[Mistake], source: Path) -> None:
    """Each must be found in `source` exactly once, and leave a module that Python can read.

    Raises:
        SystemExit: naming all that do not.
    """
    stale = []
    for mistake in mistakes:
        try:
            text = file_of(mistake, source).read_text(encoding="utf-8")
            ast.parse(planted(text, mistake))
        except (LookupError, OSError, SyntaxError) as failed:
            stale.append(f"{mistake.name}: {mistake.where}: {mistake.old!r}: {failed}")
    if stale:
        raise SystemExit("mend the list of mistakes:\n" + "\n".join(stale))


def verdict(outcome: Outcome, tests: list[str]) -> str:
    """ "caught", or what is wrong. Exit code 1 is pytest's for failed tests: an import error is no catch."""
    if outcome.exit_code not in (0, 1):
        return f"BROKEN (exit code {outcome.exit_code})"
    green = [test for test in tests if not any(failed.partition("[")[0] == test for failed in outcome.failed)]
    return f"SURVIVED {', '.join(green)}" if green else "caught"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mistakes whose name holds one of these")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    mistakes = [m for m in MISTAKES if not options.words or any(word in m.name for word in options.words)]
    tests = {mistake.name: functions(mistake.tests) for mistake in mistakes}
    assert len(tests) == len(mistakes), "two mistakes have the same name"

    began = time.monotonic()
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder, "src")  # one copy at the start: the checkout may change while this runs
        shutil.copytree(ROOT / "src", clean, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
        data = Path("trimtab", "data", "bundled")  # large, and no mistake is planted in it
        (clean / data).symlink_to(ROOT / "src" / data)
        check(mistakes, clean)
        every = sorted({test for named in tests.values() for test in named})
        unchanged = finish(*start(None, every, clean, Path(folder, "unchanged")))
        if unchanged.exit_code != 0:
            print(unchanged.output)
            print("the tests are not green without a mistake")
            return 1
        waiting, running = list(enumerate(mistakes)), []
        while waiting or running:
            while waiting and len(running) < options.workers:
                i, mistake = waiting.pop(0)
                running.append((mistake, *start(mistake, tests[mistake.name], clean, Path(folder, str(i)))))
            mistake, child, pipe = running.pop(0)
            outcome = finish(child, pipe)
            word = verdict(outcome, tests[mistake.name])
            bad += word != "caught"
            print(f"{mistake.name:58} {mistake.where:40} {len(tests[mistake.name])} tests  {word}", flush=True)
            if word.startswith("BROKEN"):
                print(outcome.output)
    print(f"{len(mistakes) - bad} of {len(mistakes)} mistakes caught in {time.monotonic() - began:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
