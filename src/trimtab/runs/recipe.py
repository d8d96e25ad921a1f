"""A recipe: everything that a run depends on, as checked values; `trimtab.runs.parse` reads it from YAML."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from trimtab.common.errors import UserError

Dtype = Literal["float32", "bfloat16", "float16"]


class RecipeError(UserError):
    """A recipe that cannot be run; the message says where, what, and the way out."""


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


class RewardSpec(_Strict):
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
    mode: Literal["generate", "loglikelihood"] | None = None
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


@dataclass(frozen=True)
class Used:
    """That a stage is a recipe of its own."""

    source: str
    """its name or file, as `use:` has it"""
    title: str
    own: str
    """the folder that the stage gets where it is not the run that all who use the recipe share"""
    shared: bool
    """nothing beside `use:` changes it"""


class Recipe(_Strict):
    """One run."""

    _used: Used | None = PrivateAttr(default=None)

    method: str
    """A name that `trimtab list methods` shows, or one of your own: FILE.py or package.module."""
    models: Models
    data: Data
    options: dict[str, Any] = {}
    """Settings of the method; `trimtab show METHOD` lists them."""
    reward: Annotated[list[RewardSpec], BeforeValidator(_rewards)] = []
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

    @property
    def used(self) -> Used | None:
        """Of a stage that is `use: NAME`."""
        return self._used

    @used.setter
    def used(self, used: Used) -> None:
        self._used = used


class Stages(_Strict):
    """Several runs, one after another. Keys beside `stages` are the defaults of all of them."""

    output: str
    minutes: float | None = Field(None, gt=0)
    """Most minutes of training, all stages and seeds together; all get the same number of steps."""
    stages: Annotated[list[Recipe], Field(min_length=1)]
    seeds: list[int] = []
    """Of a recipe with `seeds: [0, 1, 2]`: all of its runs are made with each of them, in folders OUTPUT-seed0 ..."""


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
    whole = {"output": stages.output, "minutes": stages.minutes, **({"seeds": stages.seeds} if stages.seeds else {})}
    runs = [run for run in stages.stages if run.used or run.output == folder or run.output.startswith(f"{folder}/")]
    folders = {f"{run.output}/model": f"@{_title(run, folder)}" for run in runs}
    named = []
    for run in runs:
        tree = run.model_dump(by_alias=True)
        del tree["minutes"], tree["output"]
        if stages.seeds and run.used is None:
            del tree["seed"]
        if run.output == folder:  # one recipe with several seeds
            return {**tree, **whole}
        if run.used is not None:
            tree = {} if run.used.shared else tree
            tree["use"] = run.used.source
        if "models" in tree:
            tree["models"] = {role: folders.get(str(name), name) for role, name in tree["models"].items()}
        named.append({"name": _title(run, folder), **tree})
    return {**whole, "stages": named}


def _title(run: Recipe, folder: str) -> str:
    return run.output.removeprefix(f"{folder}/") if run.used is None else run.used.title
