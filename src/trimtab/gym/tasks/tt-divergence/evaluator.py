"""Trains students by the submitted choice, from teachers that nobody has seen."""

import json
import math
from typing import Any

from trimtab.gym.judging import Rejected, Submitted

TEACHERS = {"public": (101, 202), "private": (200, 203)}
"""seeds of teachers, of which each is as hard as the others for one who does not look at it"""


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    try:
        choice = json.loads(submitted.text("outputs/choice.json", 10_000))
    except (ValueError, RecursionError) as error:
        raise Rejected(f"outputs/choice.json is no JSON: {error}") from error
    distil = submitted.module("workspace/distil.py")
    try:
        choice = distil.checked(choice)
        found = {split: distil.measured(choice, teachers, submitted.seed)[1] for split, teachers in TEACHERS.items()}
    except (distil.DivergenceChoiceError, ValueError) as error:  # of the divergence, for its parameters
        raise Rejected(f"outputs/choice.json: {error}") from error
    if not all(map(math.isfinite, found.values())):
        raise Rejected("outputs/choice.json: the training diverged")
    return {split: [{"name": "remaining", "value": value}] for split, value in found.items()}
