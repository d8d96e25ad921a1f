"""Tunes policies by the submitted choice, on languages that nobody has seen."""

import json
import math
from typing import Any

from trimtab.gym.judging import Rejected, Submitted

SETTINGS = {"public": (11, 12, 20, 24), "private": (13, 21, 22, 23)}
"""seeds of languages, of which each is as hard as the others for one who does not look at it"""


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    try:
        choice = json.loads(submitted.text("outputs/choice.json", 10_000))
    except (ValueError, RecursionError) as error:
        raise Rejected(f"outputs/choice.json is no JSON: {error}") from error
    tune = submitted.module("workspace/tune.py")
    try:
        choice = tune.checked(choice)
        found = {
            split: tune.measured(choice, settings, submitted.seed)["regret"] for split, settings in SETTINGS.items()
        }
    except (tune.WindowError, ValueError) as error:
        raise Rejected(f"outputs/choice.json: {error}") from error
    if not all(map(math.isfinite, found.values())):
        raise Rejected("outputs/choice.json: the training diverged")
    return {split: [{"name": "regret", "value": value}] for split, value in found.items()}
