"""The recipe's `models.teacher` and what stands beside it: whether they fit the method."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from trimtab.engines.address import is_address
from trimtab.runs.models_key import FROZEN, SELVES, Cut, cache_folder, is_no_model
from trimtab.runs.recipe import Recipe

if TYPE_CHECKING:
    from trimtab.core import Method, Requirements


def fault(recipe: Recipe, method: "Method", required: "Requirements") -> str | None:
    """Why the recipe's teacher does not fit the rest of it; None if it does.

    Args:
        required: by the method with the recipe's options.
    """
    from trimtab.core import Teacher

    models, name, reads = recipe.models, f"method {recipe.method}", required.model(Teacher)
    cache = cache_folder(models.teacher) is not None
    own, several = models.teacher in SELVES, isinstance(models.teacher, dict)
    prompt = recipe.data.teacher_prompt is not None
    tokenizer = f"{name} with these options reads rows with the teacher's own tokenizer, and"
    apart = reads is not None and reads.own_tokenizer
    inside = method.loop == "classification" or required.inside
    samples_or_looks = "samples new completions" if method.loop == "rollouts" else "reads inside its teacher"
    unasked = not_askable(recipe) if recipe.precompute is not None else None
    cut = isinstance(models.policy, Cut) and models.policy.source == "teacher"
    from_teacher = "models.policy is cut from the teacher,"
    rules = (
        (
            cache and (method.loop != "supervised" or required.inside),
            f"{name} {samples_or_looks}, and a cache only holds what a teacher said of given rows; name the model as "
            "models.teacher",
        ),
        (
            cache and apart,
            f"{tokenizer} a cache holds those of the policy's; name the model as models.teacher",
        ),
        (unasked is not None, unasked),
        (
            models.teacher_bits is not None and find_spec("bitsandbytes") is None,
            "models.teacher_bits needs bitsandbytes, which is not installed; pip install bitsandbytes, or leave it out",
        ),
        (own and (inside or reads is None), f"{name} cannot be taught by itself; name a model as models.teacher"),
        (
            (own or prompt) and apart,
            f"{tokenizer} a teacher that is the policy, or reads another prompt, shares the policy's; leave out "
            "options.tokenizers",
        ),
        (prompt and reads is None, f"{name} reads no teacher; leave out data.teacher_prompt"),
        (several and inside, f"{name} reads inside its teacher, and takes one; name it alone"),
        (several and reads is None, f"{name} reads no teacher; name one to compare with, or none"),
        (several and apart, f"{tokenizer} several teachers share the policy's; name one"),
        (cut and own, f"{from_teacher} which is the policy itself; name a model under models.policy.from"),
        (cut and several, f"{from_teacher} and there are several; name a model under models.policy.from"),
        (cut and not models.teacher, f"{from_teacher} but models.teacher is missing"),
        (
            cut and cache,
            f"{from_teacher} but models.teacher is a cache of what one said; name the model under models.policy.from",
        ),
    )
    return (
        next((why for wrong, why in rules if wrong), None)
        or served_fault(recipe, method, required)
        or (twice_fault(recipe) if required.inside else None)
        or split_fault(recipe, method)
    )


def split_fault(recipe: Recipe, method: "Method") -> str | None:
    """Why the recipe's frozen models cannot be split over processes; None if they can, or are not to be."""
    models = recipe.models
    rules = (
        (method.loop != "supervised", f"method {recipe.method} does not train with split weights"),
        (
            models.teacher_cache != "off",
            "models.teacher_cache keeps rows by process, and all read a split model at once",
        ),
        (recipe.data.teacher_column, "data.teacher_column asks single teachers, and all processes must ask at once"),
        (models.teacher_device, "models.teacher_device names one place for it"),
        (models.teacher_bits, "models.teacher_bits packs its weights"),
        (recipe.minutes, "minutes are measured with whole models"),
        (not _loads_frozen(recipe), "no frozen model is loaded"),
    )
    wrong = next((why for wrong, why in rules if wrong), None) if models.split_frozen else None
    return None if wrong is None else f"models.split_frozen: {wrong}; leave one of them out"


def served_fault(recipe: Recipe, method: "Method", required: "Requirements") -> str | None:
    """Why the recipe's teacher cannot be a server; None if it can, or is none."""
    from trimtab.core import Teacher

    models, name, reads = recipe.models, f"method {recipe.method}", required.model(Teacher)
    if not is_address(models.teacher):
        return None
    looks = "samples new completions" if method.loop == "rollouts" else "reads inside its teacher"
    rules = (
        (
            method.loop != "supervised" or required.inside,
            f"{name} {looks}, and a server is asked for what it says of given rows; name the model as models.teacher",
        ),
        (
            reads is not None and reads.own_tokenizer,
            f"{name} with these options reads rows with the teacher's own tokenizer, and a server is asked by ids of "
            "the policy's; name the model as models.teacher",
        ),
        (
            recipe.data.teacher_prompt is not None,
            "data.teacher_prompt gives the teacher other rows, and a served one is asked about those of the policy; "
            "name the model as models.teacher",
        ),
        (
            isinstance(models.policy, Cut) and models.policy.source == "teacher",
            "models.policy is cut from the teacher, but models.teacher is a server; name the model under "
            "models.policy.from",
        ),
        (
            recipe.precompute is not None and recipe.precompute.teacher == "hidden",
            "a server tells no hidden states; write precompute: {teacher: topk}",
        ),
    )
    return next((why for wrong, why in rules if wrong), None)


def _loads_frozen(recipe: Recipe) -> bool:
    """Whether the recipe names a frozen model, and not what a cache, a server or the policy gives in its place."""
    named = [getattr(recipe.models, role) for role in FROZEN]
    return any(isinstance(name, dict) or (name is not None and not is_no_model(name)) for name in named)


def twice_fault(recipe: Recipe) -> str | None:
    """Why the recipe cannot be trained with maps of the prompt, for which teacher and policy are differentiated at
    their embeddings, the policy twice; None if it can."""
    models, training, name = recipe.models, recipe.training, f"method {recipe.method}"
    rules = (
        (models.teacher_cache != "off", "models.teacher_cache: the teacher's maps are made with each batch"),
        (models.teacher_device, "models.teacher_device: the teacher's maps are made beside the policy's"),
        (models.teacher_bits, "models.teacher_bits: the teacher's maps need gradients through its weights as they are"),
        (recipe.data.teacher_prompt, "data.teacher_prompt: maps of two prompts cannot be compared token by token"),
        (training.get("packing"), "training.packing: the maps of rows in one pack would run into each other"),
        (training.get("share_prefixes"), "training.share_prefixes: a map is of one row's own tokens"),
        *second_derivative_rules(training),
    )
    return next((f"{why} ({name}); leave it out" for wrong, why in rules if wrong), None)


def second_derivative_rules(training: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Training arguments under which a gradient has no gradient: whether each is given, and why not."""
    for key in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        wrong = (training.get(key) or {}).get("use_reentrant")
        yield wrong, f"training.{key}: use_reentrant has no second derivative"
    yield training.get("torch_compile"), "training.torch_compile: a compiled model has no second derivative"


def forms(method: "Method", required: "Requirements") -> list[str]:
    """What `models.teacher` may be for a method; nothing if it reads none.

    Args:
        required: by the method with the recipe's options.
    """
    from trimtab.core import Teacher

    reads = required.model(Teacher)
    if reads is None:
        return []
    if method.loop == "classification" or reads.own_tokenizer or reads.inside:
        return ["MODEL"]
    cache = ["cache:FOLDER"] if method.loop == "supervised" else []
    served = ["vllm://HOST:PORT"] if method.loop == "supervised" else []
    return ["MODEL", "{NAME: MODEL, ...}", *cache, *served, *SELVES]


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
    if method.loop == "classification" or method.requirements(method.config(**recipe.options)).inside:
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
