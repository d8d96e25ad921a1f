"""Check that a recipe has what its method needs; validation errors become one line that names the key."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, BaseModel, ValidationError

from trimtab.common.errors import nearest, wrong_value
from trimtab.runs import agent_key, rollouts_key, scope_key, teacher_key
from trimtab.runs.models_key import OTHERS
from trimtab.runs.recipe import Recipe, RecipeError

if TYPE_CHECKING:
    from trimtab.core import Requirements


def check_plainly(recipe: Recipe, where: str) -> None:
    """Check the method's name and the training arguments, without importing them."""
    from trimtab import methods
    from trimtab.train import keys

    try:
        methods.check_name(recipe.method)
        keys.check_plain(recipe.training)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None


def check_method(recipe: Recipe, where: str, trains: bool = True) -> None:
    """Fill in the defaults of options and training, and check what the method needs.

    Args:
        trains: also check training arguments with TRL's own classes, which take seconds to import.

    Raises:
        RecipeError: for an unknown method, option or training argument, or a missing model.
    """
    from trimtab import methods
    from trimtab.train import keys

    try:
        method = methods.load(recipe.method)
        training = keys.check_early(recipe.training, method.loop)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error
    options = validate(method.config, recipe.options, where, ("options",), of=f"options of {recipe.method}")
    recipe.options = options.model_dump()
    _check_models(recipe, method.requirements(options), where)
    _check_loop(recipe, method.loop == "rollouts", where)
    if why := scope_key.fault(recipe, method.requirements(options).trains):
        raise RecipeError(f"{where}: {why}")
    if why := rollouts_key.fault(recipe, method.loop):
        raise RecipeError(f"{where}: {why}")
    if why := agent_key.fault(recipe, method.loop, method.requirements(options)):
        raise RecipeError(f"{where}: {why}")
    if why := teacher_key.fault(recipe, method, method.requirements(options)):
        raise RecipeError(f"{where}: {why}")
    if trains:
        _check_training(recipe, method.loop, where)
    else:
        recipe.training = training
    if "max_steps" not in recipe.training and "num_train_epochs" not in recipe.training:
        recipe.training["num_train_epochs"] = 1


def _check_training(recipe: Recipe, loop: Any, where: str) -> None:
    from trimtab.train import settings

    try:
        recipe.training = settings.check(recipe.training, loop)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _check_models(recipe: Recipe, required: "Requirements", where: str) -> None:
    named = recipe.models.model_dump()
    for model in required.models:
        if fault := model.fault(named):
            raise RecipeError(f"{where}: method {recipe.method} {fault}")
    for role in OTHERS:
        if named[role] is not None and role != "teacher" and role not in required.keys:  # evaluations use a teacher
            options = " with these options" if role == "reward_model" else ""
            raise RecipeError(f"{where}: method {recipe.method}{options} does not use models.{role}; leave it out")


def _check_loop(recipe: Recipe, rollouts: bool, where: str) -> None:
    if rollouts and not recipe.reward:
        raise RecipeError(
            f"{where}: method {recipe.method} learns from rollouts and needs a reward; add one, "
            "for example: reward: exact"
        )
    if recipe.reward and not rollouts:
        raise RecipeError(f"{where}: method {recipe.method} learns from rows, not rollouts; leave out reward")
    check_minutes(recipe, recipe.minutes, where)


def samples(recipe: Recipe) -> bool:
    """Whether completions are sampled in training, of which nobody knows beforehand how long they get."""
    from trimtab import methods

    method = methods.load(recipe.method)
    return bool(recipe.reward) or method.requirements(method.config(**recipe.options)).rows == "sampled_pairs"


def check_minutes(recipe: Recipe, minutes: float | None, where: str) -> None:
    if minutes is not None and recipe.precompute is not None:
        raise RecipeError(
            f"{where}: minutes gives all stages the same number of steps, and a stage with precompute has none; leave "
            "out minutes"
        )
    if minutes is not None and samples(recipe):
        raise RecipeError(f"{where}: the speed of {recipe.method} cannot be measured beforehand; leave out minutes")


def validate(kind: Any, tree: Any, where: str, at: tuple, of: str | None = None) -> Any:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise RecipeError(f"{where}: {_explain(kind, first, at, of)}") from error


def _explain(kind: Any, error: Any, at: tuple, of: str | None) -> str:
    location = [part for part in error["loc"] if part not in ("Cut", "str", "int", "list[int]")]
    place = ".".join(map(str, (*at, *location)))
    if error["type"] == "extra_forbidden":
        known = keys_of(kind, location[:-1])
        said = nearest(str(location[-1]), known, f"known keys: {', '.join(known) or 'none'}")
        said += "; options={} drops those of the recipe" if of and "did you mean" not in said else ""
        parent = of or ".".join(map(str, (*at, *location[:-1]))) or "the recipe"
        return f"{parent} has no key {location[-1]!r}; {said}"
    if error["type"] == "missing":
        return f"{place} is missing"
    return f"{place} {wrong_value(error)}"


def keys_of(kind: Any, location: Iterable[Any]) -> list[str]:
    """The keys of the pydantic model at `location`, under the names used in recipes."""
    for part in (part for part in location if not isinstance(part, int)):
        field = kind.model_fields.get(part) or kind.model_fields.get({"student": "policy"}.get(part, part))
        assert field is not None
        choices = getattr(field.annotation, "__args__", (field.annotation,))
        kind = next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), kind)
    names = []
    for name, field in kind.model_fields.items():
        alias = field.validation_alias
        names += [str(c) for c in alias.choices] if isinstance(alias, AliasChoices) else [name]
    return names
