"""What an estimate of memory knows of classifiers and of attribution maps, before anything is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core import Requirements
from trimtab.runs.classification import LabelledRows, labelled_rows
from trimtab.runs.made_models import MadeModel
from trimtab.runs.recipe import Recipe, policy_source


def known_rows(known: Recipe, recipe: Recipe, made: Mapping[str, MadeModel]) -> LabelledRows:
    """The rows of a classifier's recipe; where its teacher is yet to be trained the labels are those of the rows.

    Args:
        known: the recipe with what is there already in the place of models that are yet to be trained.
    """
    teacher = recipe.models.teacher
    if isinstance(teacher, str) and teacher in made and not Path(teacher).is_dir():
        known = known.model_copy(deep=True)
        known.models.policy, known.models.teacher = policy_source(known), None
    return labelled_rows(known, refuse=False)


def num_maps(required: Requirements, options: Any, outputs: int) -> int:
    """Attribution maps of each row in a step.

    Args:
        outputs: of a classifier; 0 for a language model.
    """
    if not getattr(options, "beta", 0):
        return 0
    if outputs:
        return outputs if outputs > 2 else 1
    return (options.positions or 1) * options.candidates if required.inside else 0
