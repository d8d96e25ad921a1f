"""How threads wait is decided before torch reads it, and only where the user did not."""

import json
import os
import subprocess
import sys

import pytest

import trimtab

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def after(statement: str, **said: str) -> dict:
    """What stands in the environment after `statement`, in a process of its own."""
    left = {name: value for name, value in os.environ.items() if name not in NAMES}
    show = f"import json, os; print(json.dumps({{n: os.environ[n] for n in {NAMES} if n in os.environ}}))"
    words = [sys.executable, "-c", f"{statement}; {show}"]
    return json.loads(subprocess.run(words, env={**left, **said}, capture_output=True, text=True, check=True).stdout)


def test_threads_sleep_soon():
    assert after("import trimtab") == {"GOMP_SPINCOUNT": str(trimtab.SPINS)}


@pytest.mark.parametrize("said", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_said_stays(said):
    assert after("import trimtab", **said) == said


def test_a_process_that_has_torch_is_left_alone():
    """Its OpenMP has read the environment; processes that it starts are none of our business."""
    assert after("import sys; sys.modules['torch'] = sys; import trimtab") == {}
