"""trimtab: controlled change of language models after pre-training."""

import os
import sys

__version__ = "0.1.0"

SPINS = 2000
"""Rounds that a thread of OpenMP waits awake for its next piece of work, before it sleeps.

GNU's OpenMP, which torch is built with on Linux, takes 300,000: best on a machine of one's own, but beside another job
the waiting threads hold the cores that the working ones need. `benchmarks/shared_cores.py` measures both situations."""


def calm_threads() -> None:
    """Let idle threads of OpenMP sleep soon, unless the user said how they wait or torch, which reads it, is loaded."""
    if "torch" not in sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


calm_threads()
