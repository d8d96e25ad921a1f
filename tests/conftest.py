"""Nothing here reaches a network, but what is marked `zoo` the package index; one thread a process is faster for
tensors this small."""

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))  # `import tiny` from any folder

import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test that is marked `fast("one-*", "*-two")`, the items whose ids fit none of the patterns are slow."""
    tables: dict[str, list[bool]] = {}
    for item in items:
        marker = item.get_closest_marker("fast")
        if marker is not None:
            kept = any(fnmatchcase(item.callspec.id, pattern) for pattern in marker.args)
            tables.setdefault(item.nodeid.partition("[")[0], []).append(kept)
            if not kept:
                item.add_marker(pytest.mark.slow)
    stale = [name for name, kept in tables.items() if len(kept) > 1 and not any(kept)]
    if stale:
        raise pytest.UsageError(f"no item is fast, mend the patterns: {', '.join(stale)}")


def pytest_collection_finish():
    """What is there now stays: the collector need not look at torch and at the tests again after each of them."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="second", choices=("second", "cuda"),
        help="of tests that ask for a `device`: cuda, or that of tests/second_device.py, which computes on the CPU and "
        "tells who mixes devices",
    )  # fmt: skip


@pytest.fixture
def device(request):
    """A device that is not the CPU: that of --device."""
    if request.config.getoption("--device") == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        yield torch.device("cuda")
        return
    from second_device import second_device

    with second_device() as found:
        yield found


DRAWN: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _one_drawing_of_each(request, monkeypatch):
    """Outside of the tests of pages, matplotlib draws the curve of a number for the first run that has it, and later
    runs show the same: drawings are most of what a run of a few steps costs."""
    if "report" in request.path.parts:
        return
    from trimtab.report import curves

    real = curves._draw

    def draw(key, *of) -> str:
        if key not in DRAWN:
            DRAWN[key] = real(key, *of)
        return DRAWN[key]

    monkeypatch.setattr(curves, "_draw", draw)


@pytest.fixture(autouse=True)
def _seeded():
    """Each test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def trimtab(monkeypatch, capsys):
    """The command line in this process: words -> (exit code, stdout, stderr)."""
    from trimtab import cli

    def call(*words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


HEAVY = ("torch", "transformers", "trl", "datasets", "numpy", "pyarrow")
SHELL = f"""
import json, os, sys
from trimtab import cli
from trimtab.runs import parse
for line in sys.stdin:
    folder, *words = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        sys.argv, code = ["trimtab", *words], 0
        try: cli.main()
        except SystemExit as end: code = end.code
        print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]), flush=True)
        sys.stderr.flush()
        os._exit(0)
    os.waitpid(child, 0)
    for stream in (sys.stdout, sys.stderr): print("-", file=stream, flush=True)
"""


@pytest.fixture(scope="session")
def shell():
    """A Python in which the command line is imported once, and nothing heavy; each command is a fork of it."""
    words = [sys.executable, "-c", SHELL]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, **pipes, text=True, bufsize=1) as running:
        yield running


@pytest.fixture
def imported(shell, tmp_path):
    """Words of a command that is refused, carried out in `tmp_path` -> what it says, and which heavy packages it has
    imported by then."""

    def call(*words: object) -> tuple[str, set[str]]:
        shell.stdin.write(json.dumps([str(tmp_path), *map(str, words)]) + "\n")
        said, err = ("".join(takewhile("-\n".__ne__, stream)) for stream in (shell.stdout, shell.stderr))
        code, heavy = json.loads(said)
        assert code == 2, err
        return err, set(heavy)

    return call


@pytest.fixture
def server():
    """A `tiny_server.Server` that runs."""
    pytest.importorskip("openai")
    from tiny_server import Server

    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests of pages are skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no browser")
    with api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
