"""A teacher that is not loaded: read from a cache, or asked for on a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.common.workdir import read_signature
from trimtab.core import Objective
from trimtab.data.collate import Collator
from trimtab.data.counts import Prepared
from trimtab.runs import cached_teacher, served_teacher
from trimtab.runs.cached_teacher import CacheFacts
from trimtab.runs.models import row_store
from trimtab.runs.recipe import Recipe
from trimtab.runs.served_teacher import ServedFacts
from trimtab.runs.signature import tokenizer_lines
from trimtab.signals.cached import CachedTeacher
from trimtab.signals.served import ServedTeacher


def facts_of(recipe: Recipe, tokenizer: Any, vocab: int) -> CacheFacts | ServedFacts | None:
    """Of the recipe's teacher, if it is a cache or a server, which fits the policy.

    Args:
        tokenizer, vocab: of the policy.
    """
    cached = cached_teacher.cache_facts(recipe)
    if cached is not None:
        cached_teacher.check_fits(cached, tokenizer_lines(tokenizer), vocab)
        return cached
    return served_teacher.probe(recipe.models, tokenizer, vocab)


def said_of(facts: CacheFacts | ServedFacts | None, recipe: Recipe) -> dict[str, str]:
    """For signatures; a server as the run has known it, where it is the same up to rounding."""
    if facts is None:
        return {}
    if isinstance(facts, CacheFacts):
        return {"teacher": facts.said}
    return {"teacher": facts.said_as((read_signature(Path(recipe.output)) or {}).get("teacher"))}


def opened(facts: CacheFacts | ServedFacts | None, recipe: Recipe) -> CachedTeacher | ServedTeacher | None:
    """As a signal."""
    if facts is None:
        return None
    if isinstance(facts, CacheFacts):
        return cached_teacher.open_cache(facts)
    return served_teacher.open_served(facts, row_store(recipe, f"teacher-top{facts.k}"))


def check(
    signal: CachedTeacher | ServedTeacher,
    facts: CacheFacts | ServedFacts,
    objective: Objective,
    recipe: Recipe,
    read: Sequence[tuple[Prepared, Collator]],
) -> list[str]:
    """Check that a teacher gives all that is read of it.

    Args:
        read: rows that it is read for, and how they become batches.

    Returns:
        What the user should know.
    """
    if isinstance(facts, CacheFacts):
        assert isinstance(signal, CachedTeacher)
        note = cached_teacher.check_cached(signal, facts, objective, recipe.method, read)
        return [note] if note else []
    where = f"method {recipe.method} with models.teacher={recipe.models.teacher}"
    cached_teacher.check_objective(objective, signal, where, facts.k)
    for prepared, _ in read:
        served_teacher.check_lengths(facts, prepared)
    return served_teacher.note_of(facts)
