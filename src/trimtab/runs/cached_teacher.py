"""A teacher given as `cache:FOLDER`: found, held against the recipe, and opened as a signal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trimtab.common.count import count
from trimtab.common.errors import UserError, looked_in
from trimtab.common.workdir import differences, different, read_signature
from trimtab.core import Head, Objective, TokenBatch, TopK, TopKError, fused_loss, weights
from trimtab.data.collate import Collator
from trimtab.data.counts import Prepared
from trimtab.models.stored_head import StoredTeacher, load_head
from trimtab.runs.models_key import cache_folder
from trimtab.runs.policy import method_of, policy_vocab
from trimtab.runs.recipe import Recipe
from trimtab.runs.signature import tokenizer_lines
from trimtab.signals.cached import CachedTeacher
from trimtab.signals.row_store import INDEX, RowStore, rows_of
from trimtab.signals.served import ServedTeacher

KIND, TOP_K, DTYPE, VOCABULARY, TEACHER, PLACES = "kind", "k", "stored dtype", "vocabulary", "teacher", "longest row"
NAMED = "teacher name"
COVERED_MASS, LEFT_OUT = "covered", "left_out"
"""what is summed along with the most likely tokens: their mass, and `trimtab.core.topk.left_out`"""


class CacheError(UserError):
    """A teacher cache that does not fit the recipe, or is none."""


@dataclass(frozen=True)
class CacheFacts:
    """What a cache was made of."""

    folder: Path
    lines: Mapping[str, str]

    @property
    def kind(self) -> str:
        return self.lines[KIND]

    @property
    def k(self) -> int:
        """Number of tokens; 0 for hidden states."""
        return int(self.lines[TOP_K]) if self.kind == "topk" else 0

    @property
    def vocab(self) -> int:
        return int(self.lines[VOCABULARY])

    @property
    def places(self) -> int | None:
        """Most tokens of a row that the teacher could read."""
        found = self.lines.get(PLACES, "None")
        return int(found) if found.isdecimal() else None

    @property
    def said(self) -> str:
        """For signatures: the folder, what is stored, and last the fingerprint of the teacher."""
        k = f" {self.lines[TOP_K]}" if self.kind == "topk" else ""
        return f"cache:{self.folder} ({self.kind}{k}, {self.lines[DTYPE]}) {self.lines[TEACHER]}"


@dataclass(frozen=True)
class Written:
    """What a pass wrote, with what was there before."""

    folder: Path

    rows: int
    tokens: int
    row_bytes: int
    """of rows, without the head"""
    head_bytes: int
    covered: float | None
    """mean probability mass of the most likely tokens"""
    left_out: float | None
    """mean of `trimtab.core.topk.left_out`, nats a token"""

    def said(self) -> str:
        """In words."""
        each = self.row_bytes / max(1, self.tokens)
        head = f", and {self.head_bytes / 1e6:,.1f} MB for the head" if self.head_bytes else ""
        said = (
            f"cache: {self.folder}\n{count(self.rows, 'row')}, {self.tokens:,} answer tokens, {each:,.0f} bytes a "
            f"token: {self.row_bytes / 1e6:,.1f} MB{head}"
        )
        if self.covered is not None:
            said += f"\ncovered mass: {self.covered:.4f} of the teacher's probability, on average\n"
            said += said_of_error(self.covered, self.left_out)
        return said


def cache_facts(recipe: Recipe) -> CacheFacts | None:
    """Of the recipe's teacher, if that is a cache.

    Raises:
        CacheError: if the folder holds none.
    """
    folder = cache_folder(recipe.models.teacher)
    if folder is None:
        return None
    return facts_of(folder, "models.teacher: ")


def facts_of(folder: Path, where: str = "") -> CacheFacts:
    """Of the cache in a folder.

    Raises:
        CacheError: if the folder holds none.
    """
    lines = read_signature(folder) or {}
    if not lines.keys() >= {KIND, TOP_K, DTYPE, VOCABULARY, TEACHER} or not (folder / f"{INDEX}.json").is_file():
        what = "holds no teacher cache" if folder.is_dir() else f"is not there{looked_in(folder)}"
        raise CacheError(
            f"{where}the folder {folder} {what}; write one with "
            f"trimtab precompute RECIPE --teacher hidden --out {folder}"
        )
    return CacheFacts(folder, lines)


def rows_cached(recipe: Recipe, which: str, prepared: Prepared, tokenizer: Any) -> tuple[int, Path] | None:
    """How many of a recipe's prepared rows its teacher's cache holds, and the folder; None without a cache.

    Args:
        which: "train" or "heldout".

    Raises:
        CacheError: if the cache does not fit the policy.
    """
    facts = cache_facts(recipe)
    if facts is None:
        return None
    vocab = policy_vocab(recipe, tokenizer)
    check_fits(facts, tokenizer_lines(tokenizer), vocab)
    every = which == "train" and method_of(recipe)[2].rows == "every_token"
    collator = Collator(int(tokenizer.pad_token_id or 0), min(vocab, facts.vocab), every)
    store = RowStore(facts.folder, verify=False)
    held = sum(all(key in store for key, _ in rows_of(collator([row]))) for row in prepared.rows)
    return held, facts.folder


def check_fits(facts: CacheFacts, lines: Mapping[str, str], vocab: int) -> None:
    """Hold a cache against the policy that learns from it.

    Args:
        lines: `tokenizer_lines` of the policy's.
        vocab: of the policy.

    Raises:
        CacheError: naming the first difference.
    """
    there = {key: facts.lines.get(key, "") for key in lines}
    for key, was, now in differences(there, lines):
        raise CacheError(f"the teacher cache {facts.folder} was made with {different(key, was, now)}; {_again(facts)}")
    if facts.kind == "topk" and facts.vocab > vocab:
        raise CacheError(
            f"the teacher cache {facts.folder} holds the most likely of {facts.vocab:,} tokens, but the policy has "
            f"{vocab:,}; {_again(facts)}"
        )


def _again(facts: CacheFacts) -> str:
    k = f" --k {facts.lines[TOP_K]}" if facts.kind == "topk" else ""
    return f"write one for this recipe: trimtab precompute RECIPE --teacher {facts.kind}{k} --out ANOTHER_FOLDER"


def open_cache(facts: CacheFacts) -> CachedTeacher:
    """The cache as a signal."""
    teacher = load_head(facts.folder) if facts.kind == "hidden" else StoredTeacher(facts.vocab)
    return CachedTeacher(RowStore(facts.folder), teacher, place=str(facts.folder))


def check_cached(
    signal: CachedTeacher,
    facts: CacheFacts,
    objective: Objective,
    method: str,
    read: Sequence[tuple[Prepared, Collator]],
) -> str | None:
    """Check that a cached teacher has every row, and all that the objective reads of it.

    Args:
        read: rows that it is read for, and how they become batches.

    Returns:
        What the user should know.

    Raises:
        UserError: a subclass, naming the first row or what the objective asks for.
    """
    check_objective(objective, signal, f"method {method} with models.teacher=cache:{facts.folder}", facts.k)
    for prepared, collator in read:
        check_rows(signal, facts, prepared, collator)
    if facts.kind == "hidden":
        return None
    covered, lost = means_of(signal.store)
    return (
        f"the teacher is known by its {facts.k} most likely tokens, {covered:.4f} of its probability, and distances to "
        f"it are of {facts.k} tokens and the rest as one: {said_of_error(covered, lost)}"
    )


def means_of(store: RowStore) -> tuple[float, float | None]:
    """Mean mass of the most likely tokens, and what is left out of a forward KL, see `said_of_error`."""
    number = max(1, store.num_tokens)
    lost = store.sums.get(LEFT_OUT)
    return store.sums.get(COVERED_MASS, 0.0) / number, None if lost is None else lost / number


def said_of_error(covered: float, lost: float | None) -> str:
    """What K + 1 classes cost, in words, see `trimtab.core.topk.left_out`.

    Args:
        covered: mean mass of the K tokens.
        lost: what is left out of the forward KL to a student that is even within the rest, nats a token; None where
            the rest is not known.
    """
    if lost is None:
        return (
            "a forward KL of classes is a lower bound of that over all tokens; its gradient at the logits is exact for "
            f"these tokens, and off by at most {2 * (1 - covered):.4f} in sum over all others"
        )
    return (
        f"a forward KL of classes is a lower bound, {lost:.4f} nats a token below that over all tokens for a student "
        "that spreads the rest evenly; its gradient at the logits is exact for these tokens, and off by at most "
        f"{2 * (1 - covered):.4f} in sum over all others"
    )


def check_rows(signal: CachedTeacher, facts: CacheFacts, prepared: Prepared, collator: Collator) -> None:
    """Check that every prepared row is in the cache.

    Raises:
        NotCached: naming the first that is not.
    """
    how = f"--k {facts.k}" if facts.kind == "topk" else f"--dtype {facts.lines[DTYPE]}"
    way_out = (
        f"add the rows: trimtab precompute RECIPE models.teacher={facts.lines.get(NAMED, 'MODEL')} "
        f"--teacher {facts.kind} {how} --out {facts.folder}"
    )
    batches = (collator([row]) for row in prepared.rows)
    signal.check(batches, prepared.source, (prepared.number(row) for row in prepared.rows), way_out)


def check_objective(objective: Objective, signal: CachedTeacher | ServedTeacher, where: str, k: int) -> None:
    """Check that an objective which reads a teacher can do with the most likely tokens, on a batch made up for it.

    Args:
        k: number of tokens that are known.

    Raises:
        CacheError: naming the objective, and what it asks for.
    """
    if signal.kind != "topk" or not {"teacher"} <= objective.needs <= {"teacher", "snapshot"}:
        return
    vocab = signal.vocab_size
    ids, each = torch.arange(k).repeat(2, 1), torch.full((2, k + 1), -math.log(k + 1))
    asked: dict[str, Any] = {}
    if isinstance(signal, ServedTeacher) and signal.asks:
        asked = {"ask": lambda which, tokens: torch.full((len(which),), -1.0), "place": torch.arange(2)}
    given = TopK(ids, each[:, :k], each[:, k], each[:, 0], vocab, **asked)
    batch = TokenBatch.from_labels(torch.tensor([[-100, 0], [-100, 0]]), {"teacher": given})
    head = Head(lambda hidden: hidden.new_zeros(len(hidden), vocab), vocab)
    how = "sequence_mean" if objective.per == "sequence" else "token_mean"
    try:
        with torch.no_grad():
            fused_loss(objective, batch, torch.zeros(2, 1), head, weights(batch, how, per=objective.per))
    except TopKError as error:
        raise CacheError(f"{where}: {error}") from None
