"""The lines of a run's signature: what its numbers depend on."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab import methods
from trimtab.common import fingerprint, user_code
from trimtab.core import Plan
from trimtab.data.chat_date import date_facts
from trimtab.engines.address import is_address
from trimtab.evals.runner import EvalSpec
from trimtab.models import noise
from trimtab.rewards import verifiable as rewards
from trimtab.runs import scope_key
from trimtab.runs.recipe import Recipe


def rewarded(recipe: Recipe, judges: Sequence[rewards.Reward]) -> str:
    """The rewards: names, values, and fingerprints of the user's own functions."""
    said = (f"{one.name} {one.correct:g}/{one.incorrect:g} {one.options or ''}".strip() for one in recipe.reward)
    return ", ".join(f"{name} {judge.source}" if judge.source else name for name, judge in zip(said, judges))


def own_code(
    recipe: Recipe, judges: Sequence[rewards.Reward], questions: Mapping[str, EvalSpec], models: Sequence[Any]
) -> list[Path]:
    """Files of the method and of the suites that are asked, and of what a user wrote: rewards, classes of models."""
    suites = [sys.modules.get(f"trimtab.evals.suites.{name}") for name in questions]
    found = user_code.files([methods.module(recipe.method), *suites])
    return [*found, *(path for judge in judges for path in judge.files), *user_code.of_models(models)]


def suite_facts(of: EvalSpec) -> str:
    """Everything that a suite's numbers depend on besides the policy."""
    items = fingerprint.of_each(asdict(item) for item in of.items)
    return f"{of.suite.version}, {len(of.items)} items {items}, prompt {of.prompt}, mode {of.mode}"


def models_facts(models: Mapping[str, str]) -> str:
    return ", ".join(f"{role} {model}" for role, model in models.items())


def tokenizer_lines(tokenizer: Any) -> dict[str, str]:
    """What token ids depend on besides the rows."""
    return {
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "chat template": fingerprint.of_text(str(tokenizer.chat_template)),
        **date_facts(tokenizer),
    }


def trained(recipe: Recipe, policy: Any) -> dict[str, str]:
    """What of the policy is trained."""
    scope = scope_key.said(recipe)
    number = f"{sum(p.numel() for p in policy.parameters() if p.requires_grad):,}"
    return {**({"scope": scope} if scope else {}), "trained parameters": number}


def dtypes(recipe: Recipe) -> str:
    mixed = next((name for name in ("bf16", "fp16") if recipe.training.get(name)), "no")
    served = is_address(recipe.models.teacher)
    teacher = "that of the server" if served else recipe.models.frozen_dtype
    return f"policy {recipe.models.dtype}, teacher {teacher}, autocast {mixed}"


def dropout(recipe: Recipe, plan: Plan, policy: Any) -> tuple[dict[str, str], str]:
    """The signature's line about the policy's dropout, if it matters, and a note for the user."""
    rates, asked = noise.rates(policy), recipe.training.get("disable_dropout")
    if not rates or (asked is None and plan.objective.ratio is None):
        return {}, ""
    said = ", ".join(f"{name} {rate:g}" for name, rate in sorted(rates.items()))
    if asked is not None:
        return {"dropout": f"{'off' if asked else 'kept'} ({said})"}, ""
    return {"dropout": f"off ({said})"}, (
        f"the policy's dropout is off ({said}): {recipe.method} learns a ratio to log-probabilities computed without "
        "it; training.disable_dropout: false keeps it"
    )
