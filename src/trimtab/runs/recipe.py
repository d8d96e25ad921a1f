"""The recipe schema: everything that a run depends on; `trimtab.runs.parse` reads it from YAML."""

import shlex
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, model_validator

from trimtab.common.errors import UserError
from trimtab.runs.agent_key import AgentData, role_alone
from trimtab.runs.models_key import (
    CACHE,
    OTHERS,
    SELF,
    TEACHER,
    Models,
    RecipeSection,
    cache_folder,
    is_no_model,
    rename_models,
    teachers_of,
)
from trimtab.runs.rollouts_key import RolloutsKey
from trimtab.runs.scope_key import ScopeKey


class RecipeError(UserError):
    """A recipe that cannot be run; the message says where, what, and how to fix it."""


class _Section(RecipeSection, BaseModel):  # named again for ruff, which knows its mutable defaults to be copied
    pass


def _no(given: Any) -> Any:
    """YAML reads a bare `no` as false, which is a value of transformers' strategies."""
    if not isinstance(given, dict):
        return given
    return {key: "no" if value is False and str(key).endswith("_strategy") else value for key, value in given.items()}


def _one_source(given: Any) -> Any:
    if isinstance(given, list):
        raise ValueError("expected one file or dataset: write the rows into one, as in cat A.jsonl B.jsonl > ALL.jsonl")
    return given


def _empty_suites(given: Any) -> Any:
    """`geomrel:` without settings has the defaults."""
    return {name: {} if how is None else how for name, how in given.items()} if isinstance(given, dict) else given


class Data(_Section):
    train: Annotated[str, BeforeValidator(_one_source)]
    """`trimtab:NAME/SPLIT`, a .jsonl/.json/.csv/.tsv/.parquet file, or a hub id (`ORG/NAME[@CONFIG][:SPLIT]`); of each
    a part: `rows.jsonl[10%:55%]`, `rows.jsonl[:1000]`."""
    heldout: Annotated[str | None, BeforeValidator(_one_source)] = None
    """Held-out rows for evaluation, never trained on; the same kinds of source."""
    rows: int | None = Field(None, ge=1)
    """Use only the first N rows of `train`."""
    heldout_rows: int | None = Field(None, ge=1)
    """Use only the first N rows of `heldout`."""
    turns: Literal["auto", "all", "last", "each"] = "auto"
    """Which assistant turns of a conversation to train on. `auto`: every turn, in one row if the chat template renders
    earlier turns as at inference, otherwise in one row per turn; `each`: always one row per turn; `last`: only the last
    turn; `all`: one row, with earlier turns as the chat template renders them in the full conversation."""
    chat: bool = False
    """Apply the chat template to rows whose prompt and completion are plain texts: the prompt as the user's message,
    the completion as the assistant's. By default the two texts are concatenated as they are."""
    workers: int = Field(1, ge=1)
    """Number of processes that tokenize rows; does not affect the result."""
    teacher_column: str | None = None
    """For several teachers: the column of the rows, held-out ones too, that holds the name of the row's teacher."""
    teacher_prompt: str | None = None
    """The column of the rows with the prompt that the teacher reads before the same answer, such as the question with
    its solution: messages, or the text of the last message, or for rows of plain texts a text. Or such a text with
    columns in braces, of which {prompt} is what the row asks: "{prompt} (The answer is {answer}.)". Held-out rows are
    compared with the teacher where they have it too."""
    agent: Annotated[AgentData | None, BeforeValidator(role_alone)] = None
    """Rows are trajectories of a tool agent, of which one role's samples are learnt: `agent: planner`, or
    `{role: planner, cut: false}`."""
    max_dropped: float = Field(0.01, ge=0, le=1)
    """Refuse to train if more than this share of rows would be truncated, dropped or without an answer."""


class RewardSpec(_Section):
    """A reward that compares a completion with the row's `answer`."""

    name: str
    """`exact`, `choice`, `math`, `reasoning_gym` or `edit` (of facts), or your own: FILE.py:FUNCTION or
    package.module:FUNCTION."""
    correct: float = 1.0
    """Reward of a correct completion, for builtin rewards. For your own function and `edit`: the reward from which a
    completion counts as correct."""
    incorrect: float = 0.0
    """Reward of an incorrect completion, for builtin rewards."""
    options: dict[str, Any] = {}
    """Of `edit`: `consistency` (contradiction, the default, or heading) and `embedding` (true: answers in other words
    count by their sentence embedding)."""


class SuiteEval(_Section):
    """How a suite is evaluated during a run."""

    limit: int | None = Field(100, ge=1)
    """Use only the first N items; null for all."""
    prompt: str | None = None
    """Name of one of the suite's prompts, see `trimtab show SUITE`."""
    mode: Literal["generate", "loglikelihood"] | None = None
    """`generate`: parse an answer; `loglikelihood`: compare the options' probabilities. Default: the suite's."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Maximum length of an answer; the suite's default if not given."""
    options: dict[str, Any] = {}
    """Settings of the suite, see `trimtab show SUITE`."""


class Eval(_Section):
    every: int | None = Field(None, ge=1)
    """Steps between evaluations on held-out rows; there is always one before and one after training."""
    kl_to_initial: bool = False
    """Measure KL(policy || initial policy) on the held-out rows; keeps a copy of the initial policy."""
    prompts: list[str] = []
    """Prompts to complete greedily before and after training."""
    max_new_tokens: int = Field(64, ge=1)
    """Maximum length of these completions."""
    suites: Annotated[dict[str, SuiteEval], BeforeValidator(_empty_suites)] = {}
    """Suites to evaluate greedily before and after training; see `trimtab list suites`."""
    batch_size: int = Field(8, ge=1)
    """Batch size of evaluations."""
    answers: int = Field(4, ge=1)
    """For methods that learn from rollouts: completions sampled per held-out row, at the training temperature; pass@1
    is the share of correct ones."""


def _one_seed(given: Any) -> Any:
    if isinstance(given, list):
        raise ValueError(f"expected one number; for one run per seed, write seeds: {given}")
    return given


def _rewards(given: Any) -> Any:
    """A single reward, or its bare name, as a list of one."""
    listed = given if isinstance(given, list) else [given]
    return [{"name": one} if isinstance(one, str) else one for one in listed]


class CacheSpec(_Section):
    """What a stage writes of its teacher, in place of training."""

    teacher: Literal["hidden", "topk"]
    """`hidden`: last hidden states and the output head, exact for every method; `topk`: the most likely tokens, their
    log-probabilities and the mass of the rest."""
    k: int | None = Field(None, ge=1)
    """Number of tokens for `topk`; 64 by default."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Of hidden states; that of models.frozen_dtype by default."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "CacheSpec":
        if self.k is not None and self.teacher != "topk":
            raise ValueError("k has no effect with teacher: hidden; only the most likely tokens have a number")
        if self.dtype is not None and self.teacher != "hidden":
            raise ValueError("dtype has no effect with teacher: topk; only hidden states have one to choose")
        return self


def _cache_spec(given: Any) -> Any:
    """`precompute: hidden` for `precompute: {teacher: hidden}`."""
    return {"teacher": given} if isinstance(given, str) else given


@dataclass(frozen=True)
class Used:
    """Marks a stage that is a recipe of its own (`use:`)."""

    source: str
    """its name or file, as in `use:`"""
    title: str
    own: str
    """the folder of the stage if it cannot be the run that all users of the recipe share"""
    shared: bool
    """no key next to `use:` changes it"""


@dataclass(frozen=True)
class Origin:
    """The command line that a run comes from; it makes no other recipe."""

    words: str = field(compare=False)
    """without flags"""
    several: bool = field(compare=False)
    """it has further runs, some of which may be finished"""


class Recipe(_Section):
    """One run."""

    _used: Used | None = PrivateAttr(default=None)
    _origin: Origin | None = PrivateAttr(default=None)

    method: str
    """The training method: a name from `trimtab list methods`, or your own as FILE.py or package.module."""
    models: Models
    """The models, by role; `trimtab show METHOD` lists those that a method needs."""
    data: Data
    """The rows to train on, held-out rows, and how they are read."""
    options: dict[str, Any] = {}
    """Options of the method; `trimtab show METHOD` lists them."""
    scope: ScopeKey = None
    """Which of the policy's parameters are trained; all others stay as they are, to the bit. `all`: every one that the
    method trains (the default); `lora`: adapters (the default with models.lora); `{mlp: [4, 8], parts: [down_proj]}`:
    what writes the output of the MLPs of layers 4 to 8, in any family; or a pattern (a regular expression) that is
    searched in names of parameters. With models.lora the adapters are put there. A new head is always trained."""
    reward: Annotated[list[RewardSpec], BeforeValidator(_rewards)] = []
    """For methods that learn from rollouts: a reward's name, a name with its values, or a list of these, whose rewards
    are summed (weighted by training.reward_weights). The first one that grades a completion (your own function may
    return None) decides whether it is correct, in evaluations and for training a reward model."""
    rollouts: RolloutsKey = Field(default_factory=lambda: RolloutsKey.model_validate({}))
    """For methods that learn from rollouts: what samples the completions."""
    training: Annotated[dict[str, Any], BeforeValidator(_no)] = {}
    """Arguments of TRL's SFTConfig or, for methods that learn from rollouts, GRPOConfig, under the same names; for
    methods that train classifiers those of transformers' TrainingArguments, and max_length."""
    eval: Eval = Field(default_factory=lambda: Eval.model_validate({}))
    """What is measured before, during and after training."""
    precompute: Annotated[CacheSpec | None, BeforeValidator(_cache_spec)] = None
    """Of a stage: train nothing, but write what the teacher gives for the rows (`hidden` or `topk`, or a mapping with
    `teacher`, `k`, `dtype`) to the stage's folder. Later stages read it as `models.teacher: cache:@NAME`."""
    seed: Annotated[int, BeforeValidator(_one_seed), Field(ge=0, lt=2**32)] = 0
    """Random seed. `seeds: [0, 1, 2]` instead runs the recipe once per seed."""
    output: str
    """The run folder; runs/NAME for the recipe NAME.yaml by default."""
    minutes: float | None = Field(None, gt=0)
    """Training budget in minutes: the speed of the machine is measured first, and training.max_steps lowered to fit.
    The chosen value is written to the run's recipe.yaml."""

    @model_validator(mode="after")
    def _one_way_to_teach(self) -> "Recipe":
        if self.models.teacher == SELF and self.data.teacher_prompt is None:
            raise ValueError(
                "the policy as its own teacher would learn nothing from the prompt that it reads itself; give the "
                "teacher another with data.teacher_prompt, or take self:initial or self:average"
            )
        if self.data.teacher_prompt is not None and self.models.teacher is None:
            raise ValueError("data.teacher_prompt is what a teacher reads, and there is none; name models.teacher")
        if self.data.teacher_prompt is not None and cache_folder(self.models.teacher) is not None:
            raise ValueError(
                "a cache holds what a teacher said of the rows as they are, and data.teacher_prompt gives it others; "
                "name the model as models.teacher"
            )
        several = isinstance(self.models.teacher, dict)
        column, weights = self.data.teacher_column, self.models.teacher_weights
        if column is not None and not several:
            raise ValueError(
                "data.teacher_column chooses among several teachers; write models.teacher as a mapping NAME: MODEL"
            )
        if several and (column is None) == (weights is None):
            both = "has both" if weights else "has neither"
            raise ValueError(
                "several teachers need either data.teacher_column, which names each row's, or models.teacher_weights, "
                f"to average them; the recipe {both}"
            )
        return self

    @property
    def used(self) -> Used | None:
        """Set for a stage that is `use: NAME`."""
        return self._used

    @used.setter
    def used(self, used: Used) -> None:
        self._used = used

    def read_from(self, origin: Origin) -> None:
        """Remember the command line."""
        self._origin = origin

    def command(self, resume: bool = True) -> str:
        """The whole command that resumes this run, or starts it: "" if that is not known. Of several runs any may be
        resumed or not be there."""
        stored = shlex.join(("trimtab", "train", f"{self.output}/recipe.yaml")) if resume else ""
        origin = self._origin or Origin(stored, several=False)
        return f"{origin.words} --resume" if resume or origin.several else origin.words


class Stages(_Section):
    """Several runs, one after another. Keys next to `stages` are defaults for all of them."""

    output: str
    minutes: float | None = Field(None, gt=0)
    """Training budget in minutes for all stages and seeds together; all get the same number of steps."""
    stages: Annotated[list[Recipe], Field(min_length=1)]
    """The runs, in order. Each has the keys of a recipe, and those next to `stages` are its defaults."""
    seeds: list[int] = []
    """With `seeds: [0, 1, 2]` all runs are repeated with each seed, in folders OUTPUT-seed0 ..."""


def named_models(recipe: Recipe) -> dict[str, str]:
    """Role -> name of the models besides the policy that are loaded: neither columns nor a cache. Several teachers have
    the roles `teacher.NAME`."""
    models = recipe.models
    named = {role: getattr(models, role) for role in OTHERS if role != "teacher"}
    several = {f"{TEACHER}.{name}": model for name, model in teachers_of(models).items()}
    named = several | named if several else {TEACHER: models.teacher, **named}
    return {role: name for role, name in named.items() if isinstance(name, str) and not is_no_model(name)}


def policy_source(recipe: Recipe) -> str:
    """The model that provides the policy's tokenizer and config."""
    policy = recipe.models.policy
    if isinstance(policy, str):
        return policy
    return str(recipe.models.teacher) if policy.source == "teacher" else policy.source


def dump(recipe: "Recipe | Stages") -> str:
    """The recipe as YAML that `load_recipe` reads."""
    tree = _stages_tree(recipe) if isinstance(recipe, Stages) else recipe.model_dump(by_alias=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _stages_tree(stages: Stages) -> dict[str, Any]:
    """Stages and seeds as written in a recipe: each stage once, under its name."""
    folder = f"{stages.output}-seed{stages.seeds[0]}" if stages.seeds else stages.output
    whole = {"output": stages.output, "minutes": stages.minutes, **({"seeds": stages.seeds} if stages.seeds else {})}
    runs = [run for run in stages.stages if run.used or run.output == folder or run.output.startswith(f"{folder}/")]
    folders = {f"{run.output}/model": f"@{_title(run, folder)}" for run in runs}
    folders |= {f"{CACHE}{run.output}": f"{CACHE}@{_title(run, folder)}" for run in runs if run.precompute}
    named = []
    for run in runs:
        known = run.model_copy(deep=True)
        rename_models(known.models, lambda name: folders.get(name, name))
        tree = known.model_dump(by_alias=True)
        del tree["minutes"], tree["output"]
        if stages.seeds and run.used is None:
            del tree["seed"]
        if run.output == folder:  # one recipe with several seeds
            return {**tree, **whole}
        if run.used is not None:
            tree = {} if run.used.shared else tree
            tree["use"] = run.used.source
        named.append({"name": _title(run, folder), **tree})
    return {**whole, "stages": named}


def _title(run: Recipe, folder: str) -> str:
    return run.output.removeprefix(f"{folder}/") if run.used is None else run.used.title
