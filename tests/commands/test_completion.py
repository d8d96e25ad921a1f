"""Shells complete names, and nothing heavy is imported for it."""

import os
import subprocess
import sys

import pytest

CODE = """
import atexit, sys
atexit.register(lambda: print("HEAVY", *[name for name in ("torch", "transformers", "trl") if name in sys.modules]))
sys.argv = ["trimtab"]
from trimtab.cli import main
main()
"""


def completed(words: str) -> tuple[list[str], list[str]]:
    """What a shell offers behind these words, and the heavy packages that were imported for it."""
    environment = {
        **os.environ, "_TRIMTAB_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment)
    *offered, heavy = done.stdout.split("\n")[:-1]
    return offered, heavy.split()[1:]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("trimtab tra", "train"),
        ("trimtab train tiny_k", "tiny_kd"),
        ("trimtab show hp", "hpd"),
        ("trimtab eval geom", "geomrel"),
        ("trimtab train demo --dr", "--dry-run"),
    ],
)
def test_a_shell_completes_names_without_torch(words, name):
    offered, heavy = completed(words)
    assert name in offered
    assert not heavy
