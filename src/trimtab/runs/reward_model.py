"""Runs that train a reward model: checks, notes for the user, and how the model is to be read."""

from trimtab.core import Plan, Requirements
from trimtab.data import stored
from trimtab.data.counts import Prepared
from trimtab.objectives.reward_models import RewardObjective
from trimtab.runs.folder import RunError
from trimtab.runs.models_key import STORED
from trimtab.runs.recipe import Recipe, policy_source
from trimtab.signals.reward_model import ScoreSpec, score_spec_of


def check_eval(recipe: Recipe, required: Requirements) -> None:
    """Refuse evaluations that need completions, which a reward model cannot generate.

    Raises:
        RunError: naming the setting.
    """
    asked = {"kl_to_initial": recipe.eval.kl_to_initial, "prompts": recipe.eval.prompts, "suites": recipe.eval.suites}
    for name in [name for name, value in asked.items() if value and required.scores]:
        raise RunError(f"eval.{name}: {recipe.method} trains a reward model, which generates nothing; leave it out")


def reward_notes(train: Prepared, reference: str | None, start: str) -> list[str]:
    """Notes for the user about a reward model's rows, and about its reference by the models' fingerprints."""
    notes, counts = [], train.counts
    cut = counts.no_end + counts.truncated
    if cut:
        notes.append(
            f"{cut / counts.kept:.1%} of the rows hold an answer without its end token, where most of it is known"
        )
    if reference not in (None, start):
        notes.append(
            f"the reference is {reference} but the initial policy is {start}: values do not start at 0; leave out "
            "models.reference to measure from the initial policy"
        )
    return notes


def score_spec(recipe: Recipe, plan: Plan, start: str, reference: str | None) -> ScoreSpec:
    """How to read the reward model that this run produces.

    Args:
        start: fingerprint of the model that training starts from.
        reference: fingerprint of the frozen model that the recipe names, if any.
    """
    models = recipe.models
    policy = (
        models.policy
        if isinstance(models.policy, str)
        else {"from": policy_source(recipe), "layers": models.policy.layers}
    )
    place, name = (policy, start) if reference is None else (models.reference, reference)
    if models.reference == STORED:
        stored_place, _, name = stored.models(recipe.data.train)["reference"].rpartition(" ")
        place = policy if name == start else stored_place
    if "reference" not in plan.objective.needs:
        place = name = None
    assert isinstance(plan.objective, RewardObjective)
    return score_spec_of(plan.objective, reference=place, reference_fingerprint=name, method=recipe.method)
