"""Check names and values of training arguments against TRL's without importing it, which takes seconds."""

import ast
import importlib.util
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Optional, Union

from pydantic import TypeAdapter, ValidationError

from trimtab.common.errors import UserError, nearest, wrong_value

Loop = Literal["supervised", "rollouts", "classification"]
CONFIG_NAMES: dict[Loop, str] = {
    "supervised": "SFTConfig",
    "rollouts": "GRPOConfig",
    "classification": "ClassificationConfig",
}
_FILES = {
    "SFTConfig": ("trl", "trainer/sft_config.py"),
    "GRPOConfig": ("trl", "trainer/grpo_config.py"),
    "ClassificationConfig": ("trimtab", "train/classification_config.py"),
    "_BaseConfig": ("trl", "trainer/base_config.py"),
    "TrainingArguments": ("transformers", "training_args.py"),
    "SchedulerType": ("transformers", "trainer_utils.py"),
    "OptimizerNames": ("transformers", "training_args.py"),
    "LoraConfig": ("peft", "tuners/lora/config.py"),
}
"""class -> package and file"""
CHOICES = {"lr_scheduler_type": "SchedulerType", "optim": "OptimizerNames"}
"""argument -> the enumeration of its values"""
TRACKERS = {
    **{name: (name,) for name in ("wandb", "trackio", "mlflow", "comet_ml", "clearml", "dvclive", "swanlab")},
    **{name: (name,) for name in ("codecarbon", "neptune")},
    "tensorboard": ("tensorboard", "tensorboardX"),
    "dagshub": ("dagshub",),
    "azure_ml": ("azureml",),
    "flyte": ("flytekit",),
    "kubeflow": (),
}
"""name in `report_to` -> packages, any of which is enough"""
_PLAIN = {"int": int, "float": float, "bool": bool, "str": str, "None": None, "Optional": Optional, "Union": Union}
"""names in declared types that can be checked without importing their module"""
OF_LOOP: dict[Loop, str] = {
    "supervised": "methods that learn from rows",
    "rollouts": "methods that learn from rollouts",
    "classification": "methods that train classifiers",
}
WHOSE: dict[Loop, str] = {
    "supervised": "TRL's SFTConfig",
    "rollouts": "TRL's GRPOConfig",
    "classification": "transformers' TrainingArguments, and max_length",
}
ADDED = {"disable_dropout": bool, "share_prefixes": bool}
"""Our own keys. The first is GRPOConfig's name, for all loops; by default true for methods that learn a ratio."""
OURS = {
    "output_dir": "the recipe's `output`",
    "seed": "the recipe's `seed`",
    "eval_strategy": "the recipe's `eval`",
    "do_eval": "the recipe's `eval`",
    "resume_from_checkpoint": "--resume",
    "dataset_kwargs": "the recipe's `data`",
    "remove_unused_columns": "trimtab",
    "dataset_text_field": "the format of the rows",
    "assistant_only_loss": "the format of the rows: the loss covers answers, not prompts",
    "completion_only_loss": "the format of the rows: the loss covers answers, not prompts",
    "loss_type": "the recipe's `method`",
    "model_init_kwargs": "the recipe's `models`",
    "trust_remote_code": "the recipe's `models`",
    "chat_template_path": "the policy's tokenizer, which tokenizes the rows",
    "eos_token": "the policy's tokenizer, which tokenizes the rows",
    "pad_token": "the policy's tokenizer, which tokenizes the rows",
    "truncation_mode": "trimtab: a row that is too long is cut at the end of its answer",
    "disable_tqdm": "trimtab",
}
NOT_BUILT = {
    "eval_packing": "held-out rows are padded to the longest of their batch; leave it out",
    "padding_free": "give training.packing: true; with flash attention its batches have no padding",
    "use_liger_kernel": "Liger replaces the forward pass that computes the objective; leave it out",
    "push_to_hub": "nothing is uploaded; use `hf upload` on the finished model/ folder",
    "hub_token": "nothing is uploaded, and secrets do not belong in a recipe; leave it out",
    "save_only_model": "a checkpoint without optimizer state cannot be resumed to the same weights; leave it out",
    "ignore_data_skip": "a resumed run would restart its epoch and repeat rows; leave it out",
    "fsdp": "sharding is chosen at the launch: trimtab launch --fsdp RECIPE; leave it out",
    "deepspeed": "sharding is chosen at the launch: trimtab launch --zero2 RECIPE; leave it out",
    "label_smoothing_factor": "label smoothing is not part of any method here; leave it out",
}
NOT_BUILT_OF_ROLLOUTS = {
    "router_aux_loss_coef": "the router loss is added to training on rows alone, not to rollouts; leave it out",
    "use_vllm": "the recipe names the engine: rollouts: {engine: vllm, server: http://HOST:PORT}; leave it out",
}
USED_BY_ROLLOUTS = {
    "num_generations", "max_completion_length", "shuffle_dataset", "generation_batch_size", "steps_per_generation",
    "num_iterations", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs",
    "chat_template_kwargs", "cache_implementation", "use_transformers_continuous_batching",
    "transformers_continuous_batching_config", "reward_weights", "mask_truncated_completions", "disable_dropout",
    "use_vllm", "vllm_importance_sampling_correction", "vllm_importance_sampling_mode",
    "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min",
}  # fmt: skip
"""Supported arguments among those that GRPOConfig adds to transformers'."""
DEFAULTS: dict[str, Any] = {
    # TRL switches both on by default; here a recipe asks for them
    "bf16": False,
    "gradient_checkpointing": False,
}
DEFAULTS_OF_RUNS: dict[str, Any] = {"logging_steps": 1, "report_to": "none"}
"""Defaults that differ from TRL's."""
INSTEAD = {"max_length": "max_completion_length", "max_completion_length": "max_length"}
"""a key of one loop -> its counterpart in another"""

_AT_LEAST_ONE = (lambda number: number >= 1, "at least 1")
_ABOVE_0 = (lambda number: number > 0, "a number above 0")
_NOT_NEGATIVE = (lambda number: number >= 0, "0 or more")
_BELOW_1 = (lambda number: 0 <= number < 1, "a number from 0 to below 1")
_SHARE = (lambda number: 0 <= number <= 1, "a number from 0 to 1")
_SEED = (lambda number: 0 <= number < 2**32, "a number from 0 to below 2^32")
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "save_total_limit"), _AT_LEAST_ONE),
    **dict.fromkeys(("max_completion_length", "steps_per_generation"), _AT_LEAST_ONE),
    **dict.fromkeys(("generation_batch_size", "num_iterations", "dataloader_prefetch_factor"), _AT_LEAST_ONE),
    **dict.fromkeys(("num_train_epochs", "logging_steps", "save_steps", "adam_epsilon"), _ABOVE_0),
    **dict.fromkeys(("temperature", "repetition_penalty", "ddp_timeout", "ddp_bucket_cap_mb"), _ABOVE_0),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "top_k"), _NOT_NEGATIVE),
    **dict.fromkeys(("dataloader_num_workers", "neftune_noise_alpha", "router_aux_loss_coef"), _NOT_NEGATIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _BELOW_1),
    "num_generations": (lambda number: number >= 2, "at least 2: a completion is compared with the others of its task"),
    "top_p": (lambda number: 0 < number <= 1, "a number above 0 and at most 1"),
    "min_p": _SHARE,
    "data_seed": _SEED,
    "max_length": (lambda number: number >= 2, "at least 2, or null for no limit"),
    "max_steps": (lambda number: number >= 1 or number == -1, "at least 1, or -1 to use num_train_epochs"),
}
"""Valid ranges; a value outside would fail only after the models are loaded."""
NOT_NULL = ("max_completion_length", "learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size")
"""arguments that cannot be null, whatever the declared type says"""


class TrainingError(UserError):
    """A training argument that cannot be used."""


def others(loop: Loop) -> list[Loop]:
    return [one for one in CONFIG_NAMES if one != loop]


def check_plain(training: Mapping[str, Any]) -> None:
    """Check names, types, numbers and choices without TRL, torch, or knowing the method's loop."""
    known = {key: kind for name in CONFIG_NAMES.values() for key, kind in declared(name).items()}
    if not known:
        return
    both = declared("TrainingArguments")
    check_whose(
        training, {key: OURS[key] for key in OURS if key in both}, {k: NOT_BUILT[k] for k in NOT_BUILT if k in both}
    )
    check_numbers(training)
    typed = dict(training)
    for key, value in training.items():
        if key not in known and key not in ADDED:
            hint = nearest(key, [*known, *ADDED], "the keys are those of TRL's SFTConfig and GRPOConfig")
            raise TrainingError(f"training has no key {key!r}; {hint}")
        kind = plain_type(known.get(key, "bool"))
        if kind is not None:
            typed[key] = typed_value(key, value, TypeAdapter(kind))
    check_numbers(typed)
    for key, name in CHOICES.items():
        allowed = values_of(name)
        if key in training and allowed and training[key] not in allowed:
            hint = nearest(str(training[key]), allowed, f"choose one of {', '.join(allowed)}")
            raise TrainingError(f"training.{key} is {training[key]!r}; {hint}")
    _check_trackers(training.get("report_to"))


def check_whose(training: Mapping[str, Any], ours: Mapping[str, str], not_built: Mapping[str, str]) -> None:
    """Raise a TrainingError for the first key that another part of the recipe sets, or that is not supported."""
    for key, value in training.items():
        if key in ours:
            raise TrainingError(f"training.{key} is set by {ours[key]}; leave it out")
        if key in not_built and value:
            raise TrainingError(f"training.{key}={value}: {not_built[key]}")


def typed_value(key: str, value: Any, adapter: TypeAdapter) -> Any:
    """The value converted to its declared type, or a TrainingError."""
    try:
        typed = adapter.validate_python(value)
        if isinstance(value, bool) and type(typed) in (int, float):
            raise TrainingError(f"training.{key} is {value}; it must be a number")
        return value if type(value) is int and typed == value else typed  # TRL declares counts as float, for shares
    except ValidationError as error:
        raise TrainingError(f"training.{key} {wrong_value({**error.errors()[0], 'input': value})}") from error


def _check_trackers(given: Any) -> None:
    for name in [given] if isinstance(given, str) else given or []:
        if name in ("all", "none"):
            continue
        if name not in TRACKERS:
            hint = nearest(str(name), TRACKERS, f"choose one of {', '.join(TRACKERS)}")
            raise TrainingError(f"training.report_to={name}: there is no such tracker; {hint}")
        packages = TRACKERS[name]
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise TrainingError(
                f"training.report_to={name} needs the package {' or '.join(packages)}: install it, or leave it out"
            )


def check_early(training: Mapping[str, Any], loop: Loop) -> dict[str, Any]:
    """As `settings.check`, as far as possible from TRL's source without importing it."""
    known = declared(CONFIG_NAMES[loop])
    elsewhere: dict[Loop, Mapping[str, str]] = {one: declared(CONFIG_NAMES[one]) for one in others(loop)}
    if known and all(elsewhere.values()):
        check_names(training, loop, known, elsewhere)
        check_whose(training, *whose(loop, declared("GRPOConfig"), declared("TrainingArguments")))
    typed = {**DEFAULTS, **training}
    for key, value in training.items():
        kind = plain_type(known.get(key, "bool")) if known else None
        typed[key] = value if kind is None else typed_value(key, value, TypeAdapter(kind))
    check_order(typed)
    check_shared_prefixes(typed, loop)
    check_numbers(typed)
    return typed


def whose(loop: Loop, of_rollouts: Collection[str], of_both: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Keys that a recipe cannot set -> what sets them, and unsupported keys -> the message.

    Args:
        of_rollouts: keys of GRPOConfig.
        of_both: those of transformers' TrainingArguments.
    """
    if loop != "rollouts":
        return OURS, NOT_BUILT
    ours = dict.fromkeys(
        {*of_rollouts} - {*of_both} - USED_BY_ROLLOUTS - {"router_aux_loss_coef"}, "the recipe's `method`"
    )
    ours |= {key: "the recipe's `rollouts`" for key in ours if key.startswith("vllm_")}
    ours |= {key: value for key, value in OURS.items() if key in of_rollouts}
    return ours, {**NOT_BUILT, **NOT_BUILT_OF_ROLLOUTS}


def check_order(training: Mapping[str, Any]) -> None:
    if training.get("dataloader_in_order") is False:
        raise TrainingError(
            "training.dataloader_in_order=False: rows would come in a different order each time; leave it out"
        )

    if training.get("packing_strategy", "bfd") != "bfd":
        raise TrainingError(
            f"training.packing_strategy={training['packing_strategy']}: rows are packed whole; leave it out"
        )
    if training.get("packing"):
        if "max_length" in training and training["max_length"] is None:
            raise TrainingError("training.packing needs training.max_length, the most tokens of a pack; give a number")
        strategy = training.get("train_sampling_strategy", "random")
        if strategy not in ("random", "sequential"):
            raise TrainingError(
                f"training.train_sampling_strategy={strategy}: packs have about the same length; leave it out, or "
                "leave out packing"
            )


def check_shared_prefixes(training: Mapping[str, Any], loop: Loop) -> None:
    if not training.get("share_prefixes"):
        return
    if loop != "supervised":
        raise TrainingError(f"training.share_prefixes is only for {OF_LOOP['supervised']}; leave it out")
    if training.get("packing"):
        raise TrainingError(
            "training.packing makes packs of any rows, and training.share_prefixes of those that begin alike; leave "
            "one of them out"
        )
    if training.get("router_aux_loss_coef"):
        raise TrainingError(
            "training.router_aux_loss_coef counts each token that an expert reads, and with training.share_prefixes "
            "several rows' tokens are read once; leave one of them out"
        )


def check_names(
    training: Mapping[str, Any], loop: Loop, known: Collection[str], elsewhere: Mapping[Loop, Collection[str]]
) -> None:
    """Raise a TrainingError for the first key that is not in `known`, the keys of this loop's config.

    Args:
        elsewhere: the keys of the other loops' configs.
    """
    for key in training:
        if key in known or key in ADDED:
            continue
        if found := [OF_LOOP[one] for one, keys in elsewhere.items() if key in keys]:
            instead = f", or give training.{INSTEAD[key]}" if INSTEAD.get(key) in known else ""
            raise TrainingError(f"training.{key} is only for {' and '.join(found)}: leave it out{instead}")
        hint = nearest(key, [*known, *ADDED], f"the keys are those of {WHOSE[loop]}")
        raise TrainingError(f"training has no key {key!r}; {hint}")


def check_numbers(training: Mapping[str, Any]) -> None:
    """Raise a TrainingError for the first number out of range."""
    for key, value in training.items():
        if value is None and key in NOT_NULL:
            raise TrainingError(f"training.{key} is null; give {NUMBERS[key][1]}")
        for number in _numbers(value):
            if not math.isfinite(number):
                wanted = "finite numbers" if isinstance(value, (list, tuple, Mapping)) else "a finite number"
                raise TrainingError(f"training.{key} is {value}; give {wanted}")
        fits, wanted = NUMBERS.get(key, (None, ""))
        if fits is not None and isinstance(value, (int, float)) and not isinstance(value, bool) and not fits(value):
            raise TrainingError(f"training.{key} is {value}; give {wanted}")


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a value."""
    if type(value) in (int, float):
        yield value
    elif isinstance(value, str):
        if value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):  # the declared type accepts these words
            yield float(value)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _numbers(one)


@cache
def declared(name: str) -> Mapping[str, str]:
    """Arguments of a config class and its bases with their declared types; empty if the source is not as expected."""
    made = class_source(name)
    if made is None:
        return {}
    inherited = [declared(base.id) for base in made.bases if isinstance(base, ast.Name)]
    if not all(inherited):
        return {}
    fields = [n for n in made.body if isinstance(n, ast.AnnAssign)]
    own = {n.target.id: ast.unparse(n.annotation) for n in fields if isinstance(n.target, ast.Name)}
    return {key: kind for arguments in (*inherited, own) for key, kind in arguments.items()}


@cache
def values_of(name: str) -> tuple[str, ...]:
    """Values of an enumeration; empty if the source is not as expected."""
    made = class_source(name)
    given = [n.value for n in made.body if isinstance(n, ast.Assign)] if made is not None else []
    return tuple(value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str))


def plain_type(kind: str) -> Any:
    """A declared type made of numbers, booleans and strings; None for others."""
    words = {node.id for node in ast.walk(ast.parse(kind)) if isinstance(node, ast.Name)}
    if not words <= _PLAIN.keys():
        return None
    return eval(kind, {"__builtins__": {}, **_PLAIN})  # of TRL's own source, and of these names alone


@cache
def class_source(name: str) -> ast.ClassDef | None:
    """The syntax tree of a class, without importing it; None if its file is not as expected."""
    if name not in _FILES:
        return None
    package, file = _FILES[name]
    found = importlib.util.find_spec(package)  # of the top level, which imports nothing
    path = Path(found.origin).parent / file if found is not None and found.origin else None
    if path is None or not path.is_file():
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
