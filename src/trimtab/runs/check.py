"""Check that a recipe has what its method needs; validation errors become one line that names the key."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, BaseModel, ValidationError

from trimtab.common.errors import nearest, wrong_value
from trimtab.runs import scope_key
from trimtab.runs.recipe import OTHERS, SELVES, Cut, Recipe, RecipeError, cache_folder

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
    from trimtab.core import Teacher
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
    if cache_folder(recipe.models.teacher) is not None and method.loop != "supervised":
        reads = "samples new completions" if method.loop == "rollouts" else "reads inside its teacher"
        raise RecipeError(
            f"{where}: method {recipe.method} {reads}, and a cache only holds what a teacher said of given rows; name "
            "the model as models.teacher"
        )
    teacher = method.requirements(options).model(Teacher)
    if cache_folder(recipe.models.teacher) is not None and teacher is not None and teacher.own_tokenizer:
        raise RecipeError(
            f"{where}: method {recipe.method} with these options reads rows with the teacher's own tokenizer, and a "
            "cache holds those of the policy's; name the model as models.teacher"
        )
    if recipe.precompute is not None and (why := not_askable(recipe)):
        raise RecipeError(f"{where}: {why}")
    from_teacher = isinstance(recipe.models.policy, Cut) and recipe.models.policy.source == "teacher"
    if recipe.models.teacher_bits is not None and find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"{where}: models.teacher_bits needs bitsandbytes, which is not installed; pip install bitsandbytes, or "
            "leave it out"
        )
    own = recipe.models.teacher in SELVES
    if own and (method.loop == "classification" or teacher is None):
        raise RecipeError(f"{where}: method {recipe.method} cannot be taught by itself; name a model as models.teacher")
    if (own or recipe.data.teacher_prompt is not None) and teacher is not None and teacher.own_tokenizer:
        raise RecipeError(
            f"{where}: method {recipe.method} with these options reads rows with the teacher's own tokenizer, and a "
            "teacher that is the policy, or reads another prompt, shares the policy's; leave out options.tokenizers"
        )
    if recipe.data.teacher_prompt is not None and teacher is None:
        raise RecipeError(f"{where}: method {recipe.method} reads no teacher; leave out data.teacher_prompt")
    several = isinstance(recipe.models.teacher, dict)
    if several and method.loop == "classification":
        raise RecipeError(f"{where}: method {recipe.method} reads inside its teacher, and takes one; name it alone")
    if several and teacher is None:
        raise RecipeError(f"{where}: method {recipe.method} reads no teacher; name one to compare with, or none")
    if several and teacher is not None and teacher.own_tokenizer:
        raise RecipeError(
            f"{where}: method {recipe.method} with these options reads rows with the teacher's own tokenizer, and "
            "several teachers share the policy's; name one"
        )
    if from_teacher and (several or own):
        what = "which is the policy itself" if own else "and there are several"
        raise RecipeError(
            f"{where}: models.policy is cut from the teacher, {what}; name a model under models.policy.from"
        )
    if from_teacher and not recipe.models.teacher:
        raise RecipeError(f"{where}: models.policy is cut from the teacher, but models.teacher is missing")
    if from_teacher and cache_folder(recipe.models.teacher) is not None:
        raise RecipeError(
            f"{where}: models.policy is cut from the teacher, but models.teacher is a cache of what one said; name the "
            "model under models.policy.from"
        )
    if trains:
        _check_training(recipe, method.loop, where)
    else:
        recipe.training = training
    if "max_steps" not in recipe.training and "num_train_epochs" not in recipe.training:
        recipe.training["num_train_epochs"] = 1


def not_askable(recipe: Recipe) -> str | None:
    """Why the recipe's teacher cannot be asked about its rows beforehand; None if it can."""
    from trimtab import methods
    from trimtab.core import Teacher

    method, name = methods.load(recipe.method), recipe.models.teacher
    if name is None:
        return "the recipe names no teacher; add models.teacher=MODEL"
    if isinstance(name, dict):
        return "the recipe has several teachers, and a cache is of one; name it as models.teacher"
    if name in SELVES:
        return f"models.teacher is {name}, and what the policy says changes while it learns; name a model"
    if (folder := cache_folder(name)) is not None:
        return f"models.teacher is the cache {folder}, which only a model writes; add models.teacher=MODEL"
    if method.loop == "classification":
        return f"method {recipe.method} reads inside its teacher, and nothing of that is kept beforehand"
    if method.loop == "rollouts":
        return f"method {recipe.method} samples new completions, and a teacher can only be asked about given rows"
    teacher = method.requirements(method.config(**recipe.options)).model(Teacher)
    if teacher is not None and teacher.own_tokenizer:
        return (
            f"method {recipe.method} with these options reads rows with the teacher's own tokenizer, and a cache holds "
            "those of the policy's"
        )
    if teacher is None and recipe.data.heldout is None:
        return f"method {recipe.method} reads no teacher, and the recipe has no data.heldout to compare on"
    return None


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
