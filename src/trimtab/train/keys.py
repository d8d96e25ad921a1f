"""Names and numbers of training arguments, held against TRL's without importing it: that takes seconds."""

import ast
import importlib.util
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from trimtab.mistakes import nearest

Loop = Literal["supervised", "rollouts"]
CONFIG_NAMES: dict[Loop, str] = {"supervised": "SFTConfig", "rollouts": "GRPOConfig"}
_FILES = {
    "SFTConfig": ("trl", "trainer/sft_config.py"),
    "GRPOConfig": ("trl", "trainer/grpo_config.py"),
    "_BaseConfig": ("trl", "trainer/base_config.py"),
    "TrainingArguments": ("transformers", "training_args.py"),
}
"""class -> package and file"""
OF_LOOP: dict[Loop, str] = {
    "supervised": "methods that learn from the rows' answers",
    "rollouts": "methods that learn from their own answers",
}
ADDED = {"disable_dropout": bool}
"""Keys of our own: of GRPOConfig's name, for both loops. Not given, it is true where a ratio is learnt."""
INSTEAD = {"max_length": "max_completion_length", "max_completion_length": "max_length"}
"""what a key of one loop is in the other"""

_AT_LEAST_ONE = (lambda number: number >= 1, "at least 1")
_ABOVE_0 = (lambda number: number > 0, "a number above 0")
_NOT_NEGATIVE = (lambda number: number >= 0, "0 or more")
_BELOW_1 = (lambda number: 0 <= number < 1, "a number from 0 to below 1")
_SHARE = (lambda number: 0 <= number <= 1, "a number from 0 to 1")
_SEED = (lambda number: 0 <= number < 2**32, "a number from 0 to below 2^32")
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "save_total_limit"), _AT_LEAST_ONE),
    **dict.fromkeys(("num_generations", "max_completion_length", "steps_per_generation"), _AT_LEAST_ONE),
    **dict.fromkeys(("generation_batch_size", "num_iterations", "dataloader_prefetch_factor"), _AT_LEAST_ONE),
    **dict.fromkeys(("num_train_epochs", "logging_steps", "save_steps", "adam_epsilon"), _ABOVE_0),
    **dict.fromkeys(("temperature", "repetition_penalty", "ddp_timeout", "ddp_bucket_cap_mb"), _ABOVE_0),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "top_k"), _NOT_NEGATIVE),
    **dict.fromkeys(("dataloader_num_workers", "neftune_noise_alpha", "router_aux_loss_coef"), _NOT_NEGATIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _BELOW_1),
    "top_p": (lambda number: 0 < number <= 1, "a number above 0 and at most 1"),
    "min_p": _SHARE,
    "data_seed": _SEED,
    "max_length": (lambda number: number >= 2, "at least 2, or null for no limit"),
    "max_steps": (lambda number: number >= 1 or number == -1, "at least 1, or -1 to go by num_train_epochs"),
}
"""Numbers of which others make no training; most would be divided by when the models are loaded already."""
NOT_NULL = ("max_completion_length", "learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size")
"""arguments that need a value, whatever the declared type says"""


class TrainingError(ValueError):
    """A training argument that cannot be used."""


def other(loop: Loop) -> Loop:
    """The other one."""
    return "rollouts" if loop == "supervised" else "supervised"


def check_early(training: Mapping[str, Any], loop: Loop) -> None:
    """What `settings.check` says of names and numbers, without TRL where its files can be read.

    Raises:
        TrainingError: for an unknown key, or a number that makes no training.
    """
    known, others = declared(CONFIG_NAMES[loop]), declared(CONFIG_NAMES[other(loop)])
    if known and others:
        check_names(training, loop, known, others)
    check_numbers(training)


def check_names(training: Mapping[str, Any], loop: Loop, known: Collection[str], others: Collection[str]) -> None:
    """Raises a TrainingError for the first key that this loop's config has not.

    Args:
        known: keys of this loop's config.
        others: of the other loop's.
    """
    for key in training:
        if key in known or key in ADDED:
            continue
        if key in others:
            instead = f", or give training.{INSTEAD[key]}" if key in INSTEAD else ""
            raise TrainingError(
                f"training.{key} is a setting of {OF_LOOP[other(loop)]}, which this one is not: leave it out{instead}"
            )
        said = nearest(key, [*known, *ADDED], f"the keys are those of TRL's {CONFIG_NAMES[loop]}")
        raise TrainingError(f"training has no key {key!r}; {said}")


def check_numbers(training: Mapping[str, Any]) -> None:
    """Raises a TrainingError for the first number that makes no training."""
    for key, value in training.items():
        if value is None and key in NOT_NULL:
            raise TrainingError(f"training.{key} is null; give {NUMBERS[key][1]}")
        for number in _numbers(value):
            if not math.isfinite(number):
                raise TrainingError(f"training.{key} is {value}; give {_finite(value)}")
        fits, wanted = NUMBERS.get(key, (None, ""))
        if fits is not None and isinstance(value, (int, float)) and not isinstance(value, bool) and not fits(value):
            raise TrainingError(f"training.{key} is {value}; give {wanted}")


def _finite(value: Any) -> str:
    return "a finite number" if isinstance(value, (int, float)) else "finite numbers"


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a value."""
    if type(value) in (int, float):
        yield value
    elif isinstance(value, str):
        if value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):  # the declared type takes these words
            yield float(value)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _numbers(one)


@cache
def declared(name: str) -> frozenset[str]:
    """Arguments of a config class and its bases, read from their files; none where these are not as expected."""
    if name not in _FILES:
        return frozenset()
    package, file = _FILES[name]
    found = importlib.util.find_spec(package)  # of the top level, which imports nothing
    path = Path(found.origin).parent / file if found is not None and found.origin else None
    if path is None or not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    made = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if made is None:
        return frozenset()
    bases = [base.id for base in made.bases if isinstance(base, ast.Name)]
    inherited = [declared(base) for base in bases]
    if not all(inherited):
        return frozenset()
    own = (n.target.id for n in made.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name))
    return frozenset(own).union(*inherited)
