"""Training arguments: TRL's own, under their own names, checked before anything is loaded."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import PydanticSchemaGenerationError, TypeAdapter
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from trl import GRPOConfig, SFTConfig  # type: ignore[attr-defined]

from trimtab.common.errors import first_line, nearest
from trimtab.train.classification_config import ClassificationConfig
from trimtab.train.keys import (
    ADDED,
    DEFAULTS,
    DEFAULTS_OF_RUNS,
    Loop,
    TrainingError,
    check_names,
    check_numbers,
    check_order,
    check_shared_prefixes,
    check_whose,
    others,
    typed_value,
    whose,
)


def _names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind) if field.init}


CONFIGS: dict[Loop, Any] = {"supervised": SFTConfig, "rollouts": GRPOConfig, "classification": ClassificationConfig}


def check(training: dict[str, Any], loop: Loop = "supervised") -> dict[str, Any]:
    """The arguments in their declared types, with trimtab's two defaults.

    Raises:
        TrainingError: for a key that is unknown, unsupported or set elsewhere in the recipe, or a wrong type.
    """
    kind = CONFIGS[loop]
    check_names(training, loop, _names(kind), {one: _names(CONFIGS[one]) for one in others(loop)})
    check_whose(training, *whose(loop, _names(GRPOConfig), _names(TrainingArguments)))
    typed = {**DEFAULTS, **{key: _typed(key, value, kind) for key, value in training.items()}}
    check_order(typed)
    check_shared_prefixes(typed, loop)
    check_numbers(typed)
    for field in dataclasses.fields(kind):
        allowed = [str(choice) for choice in field.metadata.get("choices") or ()]
        if allowed and field.name in typed and str(typed[field.name]) not in allowed:
            hint = nearest(str(typed[field.name]), allowed, f"choose one of {', '.join(allowed)}")
            raise TrainingError(f"training.{field.name} is {typed[field.name]!r}; {hint}")
    return typed


def _typed(key: str, value: Any, kind: type) -> Any:
    """Convert the value to the type that TRL declares; TRL itself does not check, and fails much later."""
    hint = ADDED.get(key) or _hints(kind)[key]
    try:
        adapter = TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return value
    return typed_value(key, value, adapter)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def build(training: dict[str, Any], folder: Path, seed: int, loop: Loop = "supervised") -> Any:
    """The config for a run in `folder`: TRL's SFTConfig, its GRPOConfig for rollouts, or ours for classifiers.

    Raises:
        TrainingError: if TRL refuses a value, or a tracker or an optimizer needs a package that is not installed.
    """
    own: dict[str, Any] = {
        "supervised": {"remove_unused_columns": True, "dataset_kwargs": {"skip_prepare_dataset": True}},
        "rollouts": {"remove_unused_columns": False, "beta": 0.0},  # rewards read the rows' own columns
        "classification": {"remove_unused_columns": False},
    }[loop]
    shares = bool(training.get("share_prefixes"))
    training = {key: value for key, value in training.items() if key not in ADDED}
    try:
        args = CONFIGS[loop](
            **{
                **DEFAULTS_OF_RUNS,
                "dataloader_pin_memory": torch.cuda.is_available(),
                "run_name": folder.name,  # trackers would call every run by the folder of its checkpoints
                **training,
            },
            **own,
            output_dir=str(folder / "checkpoints"),
            seed=seed,
            eval_strategy="no",
            disable_tqdm=True,
        )
    except (ValueError, TypeError, ImportError, ZeroDivisionError, NotImplementedError) as error:
        raise TrainingError(f"training: {first_line(error)}") from error
    if is_deepspeed_zero3_enabled():
        raise TrainingError(
            "the launcher asks for ZeRO-3, with which transformers makes models that are split from the start; trimtab "
            "checks and changes whole ones before it trains: use FSDP2 (trimtab launch --fsdp), which splits as much"
        )
    if args.fp16 and args.device.type == "cpu":  # accelerate would train in float32 without a word
        raise TrainingError(
            "training.fp16=True needs a GPU, but this run is on a CPU; leave it out, or give bf16 and use_cpu"
        )
    _check_trackers(args)
    _check_optimizer(args)
    _check_schedule(args)
    args.share_prefixes = shares
    return args


def _check_trackers(args: Any) -> None:
    """Check that each tracker can be created; transformers would do so only after the models are loaded."""
    named = args.report_to if isinstance(args.report_to, list) else [args.report_to]
    for name in named:
        try:
            for tracker in get_reporting_integration_callbacks(name):
                # not itself: several break in their `__del__` where they could not be made
                type(tracker.__name__, (tracker,), {"__del__": lambda _: None})()
        except (ImportError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"training.report_to={name}: {first_line(error)}; install it, or leave it out"
            ) from error


def _check_optimizer(args: Any) -> None:
    """Check the optimizer's package and arguments, as far as possible without a model."""
    name = getattr(args.optim, "value", args.optim)
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError, TypeError, NotImplementedError) as error:
        if "pass a" in str(error) and "model" in str(error):  # the package is there, and the model will be
            return
        raise TrainingError(
            f"training.optim={name}: {first_line(error)}; or choose another, such as adamw_torch"
        ) from error


def _check_schedule(args: Any) -> None:
    """Check the schedule's arguments; transformers would do so only after the models are loaded."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 2, args.lr_scheduler_kwargs)
    except (ValueError, TypeError) as error:
        name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise TrainingError(
            f"training.lr_scheduler_type={name}: {first_line(error)}; see lr_scheduler_kwargs"
        ) from error
