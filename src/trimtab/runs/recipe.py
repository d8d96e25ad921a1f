"""A recipe: everything that a run depends on, in one YAML file, checked strictly."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from trimtab.common.errors import UserError, nearest
from trimtab.common.files import DataError, half_character, read_text

Dtype = Literal["float32", "bfloat16", "float16"]


class RecipeError(UserError):
    """A recipe that cannot be run; the message says where, what, and the way out."""


class _Loader(yaml.SafeLoader):
    """YAML in which 3e-4 is a number, as everybody expects; PyYAML alone wants 3.0e-4."""


def _unique(loader: Any, node: Any) -> dict:
    """A mapping whose keys occur once: YAML's readers take the last of two in silence."""
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark)
        seen.add(key.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, tree: Any) -> Any:
        """A section that a file names and leaves empty (`options:`) is null in YAML: it has its defaults."""
        if not isinstance(tree, dict):
            return tree
        fields = cls.model_fields.items()
        sections = {name for name, field in fields if field.default in ({}, []) or field.default_factory is not None}
        return {key: value for key, value in tree.items() if value is not None or key not in sections}


class Cut(_Strict):
    """A model made from another by keeping some of its layers."""

    source: str = Field("teacher", validation_alias=AliasChoices("from", "source"), serialization_alias="from")
    """`teacher`, or a model as anywhere else."""
    layers: int | list[int]
    """Indices of the layers to keep, or how many, evenly spaced with the first and the last among them."""


class Models(_Strict):
    policy: str | Cut = Field(validation_alias=AliasChoices("policy", "student"))
    """The model to be trained (`student` is another name for it): a builtin (smollm2-135m), a folder, a hub id
    (`ORG/NAME` or `ORG/NAME@REVISION`), a folder with an adapter, `@NAME` for the result of an earlier stage, or
    `{from: teacher, layers: ...}`."""
    teacher: str | None = None
    """The frozen model that distillation learns from."""
    reference: str | None = None
    """The frozen model that changes are measured from. Methods that need only its log-probabilities take the model
    that training starts from, if none is named: with adapters or an identity layer at no cost, else as a copy.
    `column`: they are read from the rows, where `trimtab precompute` writes them."""
    aligned: str | None = None
    """A descendant of the reference whose alignment is to be set anew."""
    weak_reference: str | None = None
    """A small model before its alignment."""
    weak_aligned: str | None = None
    """The same small model after it."""
    dtype: Dtype = "float32"
    """Of the policy's weights and products, and of `model/`. Weights that are trained are kept in float32 meanwhile:
    in half precision small updates would be rounded away."""
    frozen_dtype: Dtype = "float32"
    """Of the weights of frozen models; they run in this dtype, outside autocast. A critic and a reward model that learn
    along compute in it, and are kept in float32 like the policy."""
    teacher_cache: Literal["off", "memory"] = "off"
    """`memory`: frozen models run once over all rows and their hidden states are kept in main memory (hidden size x 4
    bytes for each answer token; only 4 where log-probabilities are enough), which saves a forward in every later
    epoch, and of the teacher in every later stage."""
    reward_model: str | None = None
    """A trained reward model, whose token scores become the advantages of the policy's completions."""
    lora: dict[str, Any] | None = None
    """Arguments of PEFT's LoraConfig; the policy's own weights are then frozen."""
    resize: bool = False
    """Give the policy's embedding a row for each token that the tokenizer has and it has not, drawn around the mean of
    the others as transformers does."""
    trust_remote_code: bool = False
    """Run code that comes with a model. Only for sources that you trust."""


STORED = "column"
"""As models.reference: no model, but what one said beforehand."""
FROZEN = ("teacher", "reference", "aligned", "weak_reference", "weak_aligned")
"""Roles of frozen models."""


def _one_source(given: Any) -> Any:
    if isinstance(given, list):
        raise ValueError("expected one file or dataset: write the rows into one, as in cat A.jsonl B.jsonl > ALL.jsonl")
    return given


def _empty_suites(given: Any) -> Any:
    """`geomrel:` without settings asks with the defaults."""
    return {name: {} if how is None else how for name, how in given.items()} if isinstance(given, dict) else given


class Data(_Strict):
    train: Annotated[str, BeforeValidator(_one_source)]
    """`trimtab:NAME/SPLIT`, a .jsonl/.json/.csv/.tsv/.parquet file, or a hub id (`ORG/NAME[@CONFIG][:SPLIT]`)."""
    heldout: Annotated[str | None, BeforeValidator(_one_source)] = None
    """Rows for evaluation that are never trained on, from the same kinds of source."""
    rows: int | None = Field(None, ge=1)
    """Use only the first rows of `train`."""
    heldout_rows: int | None = Field(None, ge=1)
    """Use only the first rows of `heldout`."""
    turns: Literal["auto", "all", "last", "each"] = "auto"
    """Of conversations: `auto` learns every turn of the assistant, in one row where that holds each as the model meets
    it when it is asked, else in one row for each; `each` makes one row for each anyway; `last` learns the last one
    alone; `all` keeps one row, with earlier turns as the chat template writes them in the end."""
    chat: bool = False
    """Rows whose prompt and completion are plain texts, of a model with a chat template: the prompt is what a user
    says, and the completion what the assistant answers. Else the two stay texts that are joined as they are."""
    workers: int = Field(1, ge=1)
    """Processes that turn rows into tokens; what comes out is the same."""
    max_dropped: float = Field(0.01, ge=0, le=1)
    """Refuse to start if a larger share of rows would be truncated, dropped or without an answer."""


class Reward(_Strict):
    """What an answer is worth, held against the row's `answer`."""

    name: str
    """`exact`, `choice`, `math` or `reasoning_gym`, or a function of your own: FILE.py:FUNCTION or
    package.module:FUNCTION."""
    correct: float = 1.0
    """For a correct answer, of those that come with trimtab. Of a function of your own: the value from which on an
    answer counts as correct."""
    incorrect: float = 0.0
    """For any other."""


class SuiteEval(_Strict):
    """How a suite is asked in the course of a run."""

    limit: int | None = Field(100, ge=1)
    """Only the first items; null for all."""
    prompt: str | None = None
    """One of the suite's, see `trimtab show SUITE`."""
    read: Literal["text", "options"] | None = None
    """What the policy writes, or the options' probabilities; as the suite likes best if not given."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Of an answer; the suite's own if not given."""
    options: dict[str, Any] = {}
    """Settings of the suite."""


class Eval(_Strict):
    every: int | None = Field(None, ge=1)
    """Steps between evaluations on held-out rows; before and after training there is always one."""
    kl_to_initial: bool = False
    """Measure KL(policy || model that training started from) on the held-out rows; keeps a copy of that model."""
    prompts: list[str] = []
    """Questions that are answered before and after training, greedily."""
    max_new_tokens: int = Field(64, ge=1)
    """Of those answers."""
    suites: Annotated[dict[str, SuiteEval], BeforeValidator(_empty_suites)] = {}
    """Suites that the policy is asked before and after training, greedily; `trimtab list suites` shows them."""
    batch_size: int = Field(8, ge=1)
    """Rows at a time in evaluations."""
    answers: int = Field(4, ge=1)
    """Of methods that learn from their own answers: how many are drawn for each held-out row, at the temperature of
    training; pass@1 is the share of them that is right."""


def _one_seed(given: Any) -> Any:
    if isinstance(given, list):
        raise ValueError(f"expected one number; to run with each of several, write seeds: {given}")
    return given


def _rewards(given: Any) -> Any:
    """A single reward, or its bare name, as a list of one."""
    listed = given if isinstance(given, list) else [given]
    return [{"name": one} if isinstance(one, str) else one for one in listed]


class Recipe(_Strict):
    """One run."""

    method: str
    """A file name of trimtab.methods; `trimtab list methods` shows them."""
    models: Models
    data: Data
    options: dict[str, Any] = {}
    """Settings of the method; `trimtab show METHOD` lists them."""
    reward: Annotated[list[Reward], BeforeValidator(_rewards)] = []
    """Of methods that learn from their own answers: a name, or a name with its values, or a list of these whose values
    are added (weighed by training.reward_weights). The first one that judges an answer (a function of your own may
    return None) decides whether it is right, in evaluations and where a reward model learns."""
    training: dict[str, Any] = {}
    """Arguments of TRL's SFTConfig, or of its GRPOConfig for methods that learn from their own answers, under their own
    names."""
    eval: Eval = Field(default_factory=lambda: Eval.model_validate({}))
    seed: Annotated[int, BeforeValidator(_one_seed), Field(ge=0, lt=2**32)] = 0
    """Of all that is drawn. A recipe with `seeds: [0, 1, 2]` in its place is run once with each."""
    output: str
    """The run folder; runs/<name of the recipe file> if not given."""
    minutes: float | None = Field(None, gt=0)
    """Most minutes of training: the speed of this machine is measured first, and training.max_steps lowered to
    fit. What was chosen is written into the run's own recipe.yaml."""


class Stages(_Strict):
    """Several runs, one after another. Keys beside `stages` are the defaults of all of them."""

    output: str
    minutes: float | None = Field(None, gt=0)
    """Most minutes of training, all stages and seeds together; all get the same number of steps."""
    stages: Annotated[list[Recipe], Field(min_length=1)]
    seeds: list[int] = []
    """Of a recipe with `seeds: [0, 1, 2]`: all of its runs are made with each of them, in folders OUTPUT-seed0 ..."""


def load_recipe(
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    first: Callable[[Sequence[Recipe]], None] | None = None,
) -> Recipe | Stages:
    """Read a recipe, apply `a.b=value` overrides, and check everything that can be checked without a model.

    Args:
        path: of a file, or the name of one that comes with trimtab.
        overrides: words of a command line.
        first: further checks of the runs, made before anything heavy is imported, see `trimtab.runs.early`.

    Raises:
        RecipeError: naming the file and the key.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(p.stem for p in recipe_folder().glob("*.yaml"))
        shipped = recipe_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
        if not shipped.is_file():
            said = nearest(path.stem, known, f"recipes that come with trimtab: {', '.join(known)}")
            raise RecipeError(f"there is no recipe {path}; {said}")
        path = shipped
    try:
        tree = yaml.load(read_text(path), _Loader)
    except DataError as error:
        raise RecipeError(str(error)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}:{at} is no YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds a {type(tree).__name__}, expected keys and values")
    for override in overrides:
        _override(tree, override)
    if found := half_character(tree):
        raise RecipeError(f"{path}: {found[0]} holds half of a character: {found[1]} without the other half")
    return parse(tree, str(path), path.stem, first=first)


def parse(
    tree: Mapping[str, Any], where: str, name: str, *, first: Callable[[Sequence[Recipe]], None] | None = None
) -> Recipe | Stages:
    """A recipe from a tree of plain values; `where` is for messages, `name` for the run folder.

    Args:
        first: see `load_recipe`.
    """
    tree = dict(tree)
    tree.setdefault("output", f"runs/{name}")
    seeds = _seeds(tree, where)
    output = tree["output"]
    seeded = [{**tree, "seed": seed, "output": f"{output}-seed{seed}"} for seed in seeds] or [tree]
    runs = [run for one in seeded for run in _runs(one, where)]
    for recipe, place in runs:  # names, files, numbers and folders, before torch is imported, which takes seconds
        _check_plainly(recipe, place)
    if first is not None:
        first([recipe for recipe, _ in runs])
    minutes = tree.get("minutes") if seeds or "stages" in tree else None
    for recipe, place in runs:
        check_method(recipe, place)
        _check_minutes(recipe, minutes, where)
    recipes = [recipe for recipe, _ in runs]
    if not seeds and "stages" not in tree:
        return recipes[0]
    return _validate(Stages, {"output": output, "minutes": minutes, "stages": recipes, "seeds": seeds}, where, ())


def _runs(tree: Mapping[str, Any], where: str) -> list[tuple[Recipe, str]]:
    """The runs of a tree, each with its place for messages."""
    tree = dict(tree)
    if "stages" not in tree:
        _one_policy(tree, where)
        return [(_validate(Recipe, tree, where, ()), where)]
    stages = tree.pop("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise RecipeError(f"{where}: stages must be a list of recipes")
    output = tree.pop("output")
    tree.pop("minutes", None)
    runs, seen = [], set()
    for number, stage in enumerate(stages):
        own, place = dict(stage), f"{where}: stages[{number}]"
        title = str(own.pop("name", own.get("method", number)))
        if title in seen or "/" in title:
            raise RecipeError(f"{place} needs a name of its own, {title!r} is taken")
        seen.add(title)
        full = _merge(tree, {**own, "output": f"{output}/{title}"})
        full = _refer_to_stages(full, output, seen - {title}, place)
        _one_policy(full, place)
        runs.append((_validate(Recipe, full, where, ("stages", number)), place))
    return runs


def _seeds(tree: dict[str, Any], where: str) -> list[int]:
    """Takes `seeds` out of a tree.

    Raises:
        RecipeError: if it is no list of different seeds, or another key sets them too.
    """
    seeds = tree.pop("seeds", None)
    if seeds is None:
        return []
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise RecipeError(f"{where}: seeds is {seeds!r}; give a list of whole numbers from 0, such as [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"{where}: seeds is {seeds!r}, which names one twice; the two runs would be the same")
    stages = tree.get("stages")
    own = ["the recipe", *(f"stages[{i}]" for i in range(len(stages)))] if isinstance(stages, list) else ["the recipe"]
    for place, part in zip(own, [tree, *(stages if isinstance(stages, list) else [])]):
        if isinstance(part, Mapping) and "seed" in part:
            raise RecipeError(f"{where}: {place} has a seed beside seeds; leave one of them out")
    return seeds


def _check_plainly(recipe: Recipe, where: str) -> None:
    """The method's name and the training arguments, without importing them."""
    from trimtab import methods
    from trimtab.train import keys

    try:
        methods.check_name(recipe.method)
        keys.check_plain(recipe.training)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None


def check_method(recipe: Recipe, where: str) -> None:
    """Fill in the defaults of options and training, and name what the method lacks.

    Raises:
        RecipeError: for an unknown method, option or training argument, or a missing model.
    """
    from trimtab import methods
    from trimtab.train import keys

    try:
        method = methods.load(recipe.method)
        keys.check_early(recipe.training, method.loop)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error
    options = _validate(method.config, recipe.options, where, ("options",), of=f"options of {recipe.method}")
    recipe.options = options.model_dump()
    wanted = method.wanted(options)
    for role in sorted(wanted.roles):
        if getattr(recipe.models, role, None) is None:
            raise RecipeError(
                f"{where}: method {recipe.method} needs models.{role}; add it, for example: {role}: smollm2-135m"
            )
    if recipe.models.reference == STORED and ("reference" in wanted.roles or wanted.start == "distribution"):
        raise RecipeError(
            f"{where}: method {recipe.method} reads whole distributions of models.reference, and a column holds only "
            "what it says of the answers; name the model"
        )
    used = wanted.roles | ({"reference"} if wanted.start else set())
    for role in FROZEN:
        if getattr(recipe.models, role) is not None and role != "teacher" and role not in used:  # evaluations read it
            raise RecipeError(f"{where}: method {recipe.method} does not use models.{role}; leave it out")
    _check_loop(recipe, method.loop == "rollouts", wanted.credit, where)
    if isinstance(recipe.models.policy, Cut) and recipe.models.policy.source == "teacher" and not recipe.models.teacher:
        raise RecipeError(f"{where}: models.policy is made from the teacher, but models.teacher is missing")
    _check_training(recipe, method.loop, where)
    if "max_steps" not in recipe.training and "num_train_epochs" not in recipe.training:
        recipe.training["num_train_epochs"] = 1


def _check_training(recipe: Recipe, loop: Any, where: str) -> None:
    """Arguments of TRL; last, because it takes seconds to import."""
    from trimtab.train import settings

    try:
        recipe.training = settings.check(recipe.training, loop)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _check_loop(recipe: Recipe, rollouts: bool, credit: bool, where: str) -> None:
    if rollouts and not recipe.reward:
        raise RecipeError(
            f"{where}: method {recipe.method} learns from its own answers and needs a reward to judge them by; add it, "
            "for example: reward: exact"
        )
    if recipe.reward and not rollouts:
        raise RecipeError(f"{where}: method {recipe.method} learns from the rows' answers; leave out reward")
    if credit and recipe.models.reward_model is None:
        raise RecipeError(
            f"{where}: method {recipe.method} with these options needs models.reward_model, the folder of a "
            "trained reward model"
        )
    if recipe.models.reward_model is not None and not credit:
        raise RecipeError(
            f"{where}: method {recipe.method} with these options does not use models.reward_model; leave it out"
        )
    _check_minutes(recipe, recipe.minutes, where)


def _check_minutes(recipe: Recipe, minutes: float | None, where: str) -> None:
    if minutes is not None and recipe.reward:
        raise RecipeError(f"{where}: the speed of {recipe.method} is not known beforehand; leave out minutes")


def policy_source(recipe: Recipe) -> str:
    """The model whose tokenizer and config the policy has."""
    policy = recipe.models.policy
    if isinstance(policy, str):
        return policy
    return str(recipe.models.teacher) if policy.source == "teacher" else policy.source


def dump(recipe: BaseModel) -> str:
    """The recipe as YAML that `load_recipe` reads."""
    tree = _stages_tree(recipe) if isinstance(recipe, Stages) else recipe.model_dump(by_alias=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _stages_tree(stages: Stages) -> dict[str, Any]:
    """Stages and seeds as a recipe writes them: each stage once, under its name."""
    folder = f"{stages.output}-seed{stages.seeds[0]}" if stages.seeds else stages.output
    trees = [run.model_dump(by_alias=True) for run in stages.stages[: len(stages.stages) // max(len(stages.seeds), 1)]]
    for tree in trees:
        tree.pop("minutes")
        if stages.seeds:
            tree.pop("seed")
    whole = {"output": stages.output, "minutes": stages.minutes, **({"seeds": stages.seeds} if stages.seeds else {})}
    if trees[0]["output"] == folder:  # one recipe with several seeds
        return {**trees[0], **whole}
    named = []
    for tree in trees:
        title = tree.pop("output").removeprefix(f"{folder}/")
        named.append({"name": title, **tree, "models": _as_stages(tree["models"], folder)})
    return {**whole, "stages": named}


def _as_stages(models: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Models that earlier stages write, by their names."""
    found = {role: re.fullmatch(rf"{re.escape(folder)}/([^/]+)/model", str(name)) for role, name in models.items()}
    return {role: f"@{stage[1]}" if (stage := found[role]) else name for role, name in models.items()}


def recipe_folder() -> Path:
    """Where the recipes that come with trimtab lie."""
    here = Path(__file__).parents[1] / "recipes"  # inside a wheel
    return here if here.is_dir() else Path(__file__).parents[3] / "recipes"


def shipped() -> list[str]:
    """Names of the recipes that come with trimtab."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def parse_value(word: str, value: str) -> Any:
    """The value of a word KEY=VALUE of a command line, as a recipe would read it.

    Raises:
        RecipeError: naming the word.
    """
    try:
        return yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{word!r}: the value is no YAML") from error


def _override(tree: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise RecipeError(f"{text!r} is no override; write key=value, for example training.max_steps=20")
    parsed = parse_value(text, value)
    *parents, last = key.strip().split(".")
    place: Any = tree
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place
        if place is None or not isinstance(place, dict):
            raise RecipeError(f"override {text!r}: {part} holds no keys")
    if last == "student":  # the other name of the policy must not stand beside it
        place.pop("policy", None)
    if last == "policy":
        place.pop("student", None)
    if last in ("seed", "seeds") and place is tree:
        place.pop({"seed": "seeds", "seeds": "seed"}[last], None)
    place[last] = parsed


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _refer_to_stages(tree: dict[str, Any], output: str, earlier: set[str], where: str) -> dict[str, Any]:
    """`@name` as a model is the folder that an earlier stage wrote."""
    models = dict(tree.get("models") or {})
    for role, value in models.items():
        if isinstance(value, str) and value.startswith("@"):
            if value[1:] not in earlier:
                known = ", ".join(sorted(earlier)) or "none"
                raise RecipeError(f"{where}: models.{role} is {value}, but the earlier stages are: {known}")
            models[role] = f"{output}/{value[1:]}/model"
    return {**tree, "models": models} if models else tree


def _one_policy(tree: Mapping[str, Any], where: str) -> None:
    models = tree.get("models")
    if isinstance(models, Mapping) and {"policy", "student"} <= models.keys():
        raise RecipeError(f"{where}: models has both policy and student, two names of one model; leave one out")


def _validate(kind: Any, tree: Any, where: str, at: tuple, of: str | None = None) -> Any:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise RecipeError(f"{where}: {_explain(kind, first, at, of)}") from error


def _explain(kind: Any, error: Any, at: tuple, of: str | None) -> str:
    location = [part for part in error["loc"] if part not in ("Cut", "str", "int", "list[int]")]
    place = ".".join(map(str, (*at, *location)))
    if error["type"] == "extra_forbidden":
        known = _keys(kind, location[:-1])
        said = nearest(str(location[-1]), known, f"known keys: {', '.join(known) or 'none'}")
        parent = of or ".".join(map(str, (*at, *location[:-1]))) or "the recipe"
        return f"{parent} has no key {location[-1]!r}; {said}"
    if error["type"] == "missing":
        return f"{place} is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{place} is {'null' if error['input'] is None else repr(error['input'])}; {message[0].lower()}{message[1:]}"


def _keys(kind: Any, location: Iterable[Any]) -> list[str]:
    """The keys of the model at `location`, under the names that a recipe uses."""
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
