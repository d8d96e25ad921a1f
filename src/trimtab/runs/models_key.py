"""The recipe's `models`: which there are, by role, and how they are named and kept."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trimtab.common.options import Strict
from trimtab.engines.address import address_of, is_address

Dtype = Literal["float32", "bfloat16", "float16"]


class RecipeSection(Strict, BaseModel):
    """A section of a recipe."""

    model_config = ConfigDict(populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, tree: Any) -> Any:
        """An empty section (`options:`) is null in YAML, and gets its defaults."""
        if not isinstance(tree, dict):
            return tree
        fields = cls.model_fields.items()
        sections = {name for name, field in fields if field.default in ({}, []) or field.default_factory is not None}
        return {key: value for key, value in tree.items() if value is not None or key not in sections}


class Cut(RecipeSection):
    """A model built from another by keeping some of its layers."""

    source: str = Field("teacher", validation_alias=AliasChoices("from", "source"), serialization_alias="from")
    """`teacher`, or any model."""
    layers: int | list[int]
    """Indices of the layers to keep, or their number: evenly spaced, including the first and the last."""


def _off(given: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if given is False else given


def _named(given: Any) -> Any:
    """YAML reads a bare 1 or yes as no text."""
    for name in given if isinstance(given, dict) else ():
        if not isinstance(name, str):
            raise ValueError(f"the name of a teacher is a text; write {json.dumps(json.dumps(name))} for {name}")
    for scheme, ours in (("http://", "vllm://"), ("https://", "vllms://")):
        if isinstance(given, str) and given.startswith(scheme):
            raise ValueError(f"a teacher that is served is named by {ours}{given.removeprefix(scheme)}")
    return given


class Models(RecipeSection):
    policy: str | Cut = Field(validation_alias=AliasChoices("policy", "student"))
    """The model to train (`student` is an alias): a builtin model (smollm2-135m), a folder, a Hub id (`ORG/NAME` or
    `ORG/NAME@REVISION`), an adapter folder, `@NAME` for the result of an earlier stage, or
    `{from: teacher, layers: ...}`."""
    teacher: Annotated[str | dict[str, str] | None, BeforeValidator(_named)] = None
    """The frozen model to distil from. `cache:FOLDER`: read what a teacher gave for these rows, as written by `trimtab
    precompute --teacher hidden` (or `topk`), or `cache:@NAME` by an earlier stage with `precompute`; the teacher itself
    is not loaded. `vllm://HOST:PORT` (or `vllm://HOST:PORT/NAME`; `vllms://` for https): a server of vLLM on this or
    another machine, which is asked by token ids; its key is taken from the environment variable TRIMTAB_API_KEY, see
    `trimtab serve-teacher`. Several teachers are a mapping `NAME: MODEL`: each row has the one that its
    `data.teacher_column` names, or all rows have their average by `teacher_weights`. `self`: the policy as it is, which
    is to read another prompt (`data.teacher_prompt`); `self:initial`: with its weights before training; `self:average`:
    with the moving average of its weights."""
    teacher_k: int | None = Field(None, ge=1)
    """Number of most likely tokens that a served teacher is asked for at each answer token, 64 by default; all others
    count as one class. Other tokens that a method reads (hpd) are asked for by themselves."""
    teacher_decay: float | None = Field(None, ge=0, lt=1)
    """Share of the old average in the new one after each update, for `teacher: self:average`; 0.99 by default."""
    teacher_weights: Annotated[dict[str, float] | None, BeforeValidator(_named)] = None
    """Weights of several teachers by name, positive; only their ratios count. The teacher is then the normalised
    product of the distributions, each raised to its share: the average of the log-probabilities."""
    reference: str | None = None
    """The frozen reference model. Methods that need only its log-probabilities use the initial policy by default: at no
    extra memory with adapters or an identity layer, otherwise as a copy. `column`: read log-probabilities from columns
    of the rows, as written by `trimtab precompute`."""
    aligned: str | None = None
    """A model fine-tuned from the reference, whose alignment strength is to be adjusted."""
    weak_reference: str | None = None
    """The small (weak) model before alignment."""
    weak_aligned: str | None = None
    """The small (weak) model after alignment."""
    dtype: Dtype = "float32"
    """Compute dtype of the policy, and dtype of the saved `model/`. Trainable weights are kept in float32 during
    training, because half precision would round small updates away."""
    frozen_dtype: Dtype = "float32"
    """Dtype of frozen models, which run in it outside autocast. A critic or reward model that is trained along computes
    in it, with weights kept in float32 like the policy's."""
    teacher_device: str | None = None
    """Where teachers are kept and computed, such as `cuda:1` or `cpu`, instead of the policy's device. What they say is
    moved; with `cpu` their weights take no accelerator's memory."""
    teacher_bits: Literal[4, 8] | None = None
    """Load teachers with weights of 4 bits (NF4) or 8 (LLM.int8), by bitsandbytes; the output head stays as it is, and
    computes in `frozen_dtype` as all else."""
    teacher_cache: Annotated[Literal["off", "memory", "disk"], BeforeValidator(_off)] = "off"
    """Run each frozen model once over all rows and keep its hidden states: `memory` in main memory, `disk` in the run
    folder under `teacher_cache/`, where a resumed run finds them. An answer token takes hidden size x 4 bytes, or x 2
    if `frozen_dtype` has 16 bits; only 4 bytes if log-probabilities suffice. Saves the forward pass of frozen models in
    later epochs, and the teacher's in later stages. Of completions, which are new each time, nothing is kept."""
    split_frozen: bool = False
    """With `trimtab launch --fsdp`: split the layers of frozen models over the processes too. A device then holds its
    part of them, and one whole layer while that computes; by default it holds them whole."""
    reward_model: str | None = None
    """A trained reward model whose token scores become the advantages of the policy's completions."""
    lora: dict[str, Any] | None = None
    """Arguments of PEFT's LoraConfig; the policy's base weights are then frozen."""
    resize: bool = False
    """Extend the policy's embedding to the size of the tokenizer; new rows are drawn around the mean of the others, as
    in transformers."""
    trust_remote_code: bool = False
    """Run code shipped with a model. Only for sources that you trust."""

    @model_validator(mode="after")
    def _teachers(self) -> "Models":
        names = self.teacher if isinstance(self.teacher, dict) else {}
        if isinstance(self.teacher, dict) and len(names) < 2:
            raise ValueError("several teachers are a mapping NAME: MODEL of at least two; name a single one itself")
        for name, model in names.items():
            if not re.fullmatch(r"\w[\w-]*", name):
                raise ValueError(f"the teacher's name {name!r} is not made of letters, digits, _ and -")
            if model.startswith(CACHE):
                raise ValueError(f"teacher.{name} is {model}, but a cache can only be the one teacher")
            if is_address(model):
                raise ValueError(f"teacher.{name} is {model}, but a served model can only be the one teacher")
        if is_address(self.teacher):
            address_of(str(self.teacher))
        elif self.teacher_k is not None:
            raise ValueError("teacher_k is of a served teacher (vllm://HOST:PORT), and there is none; leave it out")
        if self.teacher_decay is not None and self.teacher != SELF_AVERAGE:
            raise ValueError("teacher_decay is for teacher: self:average; leave it out")
        read = bool(names) or (isinstance(self.teacher, str) and not is_no_model(self.teacher))
        for key in ("teacher_device", "teacher_bits"):
            if getattr(self, key) is not None and not read:
                raise ValueError(f"{key} is of a teacher that is loaded, and there is none; leave it out")
        weights = self.teacher_weights
        if weights is None:
            return self
        if not names:
            raise ValueError("teacher_weights are for several teachers; write models.teacher as a mapping NAME: MODEL")
        if weights.keys() != names.keys():
            raise ValueError(f"teacher_weights are of {_listed(weights)}, but the teachers are {_listed(names)}")
        for name, weight in weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"teacher_weights.{name} is {weight:g}, but a weight is a positive number")
        return self

    @model_validator(mode="after")
    def _one_cache(self) -> "Models":
        sources = {"policy": self.policy.source if isinstance(self.policy, Cut) else self.policy}
        sources |= {role: getattr(self, role) for role in OTHERS if role != "teacher"}
        for role, name in sources.items():
            if isinstance(name, str) and name.startswith(CACHE):
                raise ValueError(f"{role} is {name}, but a cache of what a model gave can only be the teacher")
            if is_address(name):
                raise ValueError(f"{role} is {name}, but a served model can only be the teacher")
        return self


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


STORED = "column"
"""Value of models.reference for precomputed log-probabilities instead of a model."""
CACHE = "cache:"
"""Beginning of a models.teacher that is a folder of what a teacher gave, instead of a model."""
SELVES = SELF, SELF_INITIAL, SELF_AVERAGE = ("self", "self:initial", "self:average")
"""values of models.teacher for the policy itself: as it is, as it began, the average of its recent weights"""
TEACHER = "teacher"
FROZEN = (TEACHER, "reference", "aligned", "weak_reference", "weak_aligned")
"""The roles of frozen models."""
OTHERS = (*FROZEN, "reward_model")
"""The roles of all models besides the policy."""


def cache_folder(name: Any) -> Path | None:
    """The folder of a models.teacher that is a cache; None for a model."""
    return Path(name.removeprefix(CACHE)).expanduser() if isinstance(name, str) and name.startswith(CACHE) else None


def teachers_of(models: Models) -> dict[str, str]:
    """Name -> model of several teachers; empty where there is one or none."""
    return models.teacher if isinstance(models.teacher, dict) else {}


def is_no_model(name: str) -> bool:
    return name == STORED or name in SELVES or cache_folder(name) is not None or is_address(name)


def one_teacher(models: Models) -> str | None:
    """The teacher, of a recipe that was checked to have no several."""
    assert not isinstance(models.teacher, dict)
    return models.teacher


def is_teacher(role: str) -> bool:
    """Whether a role of `named_models` is that of the teacher, or of one of several."""
    return role.partition(".")[0] == TEACHER


def rename_models(models: Models, rename: Callable[[str], str]) -> list[str]:
    """Give each model, by role, the name that `rename` makes of its own; returns the roles whose model has another."""
    changed = []
    for role in ("policy", *OTHERS):
        name = getattr(models, role)
        if isinstance(name, Cut):
            new: Any = name.model_copy(update={"source": rename(name.source)})
        elif isinstance(name, dict):
            new = {key: rename(one) for key, one in name.items()}
        else:
            new = rename(name) if name is not None else None
        if new != name:
            setattr(models, role, new)
            changed.append(role)
    return changed
