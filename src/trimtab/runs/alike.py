"""Processes of one run: all of the same recipe, rows and models."""

from collections.abc import Mapping

import yaml

from trimtab.common.collectives import objects
from trimtab.common.workdir import differences, different
from trimtab.runs.folder import RunError, other_keys
from trimtab.runs.recipe import Recipe, dump

SAME = "start all processes with the same command, files and versions"


def check_same_recipe(recipe: Recipe) -> None:
    """Refuse processes that were started with different recipes, in all of them alike.

    Raises:
        RunError: naming the first key that differs.
    """
    trees = objects(yaml.safe_load(dump(recipe)))
    for number, tree in enumerate(trees):
        found = other_keys(trees[0], tree)
        if not found and trees[0]["output"] != tree["output"]:
            found = [("output", trees[0]["output"], tree["output"])]
        for key, first, here in found[:1]:
            raise RunError(
                f"process {number} was started with another recipe: {key} is {here} there and {first} in process 0; "
                f"{SAME}"
            )


def check_same_signature(signature: Mapping[str, str]) -> None:
    """Refuse processes that have read different rows, models or code, in all of them alike.

    Raises:
        RunError: naming the first line that differs.
    """
    lines = objects(dict(signature))
    for number, line in enumerate(lines):
        for key, was, now in differences(lines[0], line)[:1]:
            raise RunError(f"process {number} has {different(key, now, was).replace('here', 'in process 0')}; {SAME}")
