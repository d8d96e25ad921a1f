"""Weak log-ratios computed once and stored beside the rows, so that training holds neither weak model."""

import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from trimtab import __version__
from trimtab.core import IGNORE, answer_mask
from trimtab.data import stored
from trimtab.data.collate import Collator, length_sorted
from trimtab.data.rows import prepare
from trimtab.data.sources import load_rows
from trimtab.methods.wspo import COLUMN
from trimtab.models import fingerprint, loading
from trimtab.recipe import Recipe, policy_source
from trimtab.run import check_ids, column_facts, environment, prepare_source
from trimtab.signals.frozen import FrozenModel
from trimtab.train import settings
from trimtab.train.progress import bar, left

ROLES = ("weak_reference", "weak_aligned")


class PrecomputeError(ValueError):
    """A recipe or a file that nothing can be precomputed for."""


def precompute(recipe: Recipe, out: Path, *, command: str, force: bool = False, console: Console | None = None) -> Path:
    """Write the recipe's training rows with the column `weak_delta`, and beside them what it was computed from.

    The column holds log pi_weak_aligned(y_t) - log pi_weak_reference(y_t) for each answer token, in nats and float32.
    The weak models run one after another, in models.frozen_dtype, over the rows as training reads them: cut to
    training.max_length. Tokens that are cut off, and rows that are not kept, have null in place of numbers; training
    refuses to read one. All rows stay, in their order.

    Args:
        recipe: of wspo, with both weak models.
        out: a .jsonl file.
        command: for the meta.
        force: replace a file that is there.
        console: for progress.

    Returns:
        The meta's path.

    Raises:
        ValueError: (or a subclass) for a mistake in the recipe, its rows or models, or a file that is there; nothing
            is written then.
    """
    console = console or Console()
    _check(recipe, out, force)
    models, source = recipe.models, recipe.data.train
    trust = models.trust_remote_code
    tokenizer = loading.load_tokenizer(policy_source(recipe), trust_remote_code=trust)
    vocab = loading.load_config(policy_source(recipe), trust_remote_code=trust).get_text_config().vocab_size
    vocabularies = {}
    for role in ROLES:
        vocabularies[role], _ = loading.check_vocabulary(
            tokenizer, vocab, getattr(models, role), role, trust_remote_code=trust
        )
    prepared = prepare_source(recipe, "train", tokenizer)
    check_ids(prepared, None, vocabularies)

    device = settings.build(recipe.training, Path(recipe.output), recipe.seed).device
    logprobs, names = [], {}
    for role in ROLES:
        collator = Collator(int(tokenizer.pad_token_id or 0), vocabularies[role])  # type: ignore[arg-type]
        batches = length_sorted(prepared.rows, collator, recipe.eval.batch_size, device)
        found, names[role] = _label_logprobs(recipe, role, _watched(batches, role, prepared.counts.tokens, console))
        logprobs.append(found)
        gc.collect()  # the model is gone before the next one comes
    reference, aligned = logprobs

    rows = load_rows(source)[: recipe.data.rows]
    deltas = {row: (aligned[row] - values).tolist() for row, values in reference.items()}
    whole = prepare(rows, tokenizer, max_length=10**9, source=source)  # how many answer tokens there are uncut
    lengths = {row["row_id"]: sum(label != IGNORE for label in row["labels"]) for row in whole.rows}
    meta = {
        "column": COLUMN,
        "models": {role: f"{getattr(models, role)} {names[role]}" for role in ROLES},
        "dtype": models.frozen_dtype,
        "source": source,
        "max_length": prepared.max_length,
        **column_facts(rows, COLUMN, tokenizer),
        "trimtab": __version__,
        **environment(),
        "command": command,
    }
    stored.write(
        out, ({**row, COLUMN: _column(deltas.get(i, []), lengths.get(i, 0))} for i, row in enumerate(rows)), meta
    )
    return stored.meta_path(out)


def _check(recipe: Recipe, out: Path, force: bool) -> None:
    if recipe.method != "wspo" or recipe.options["weak"] != "live":
        found = f"method {recipe.method}" + (" with options.weak=column" if recipe.method == "wspo" else "")
        raise PrecomputeError(
            f"{COLUMN} is computed from a recipe of wspo with options.weak=live, models.weak_reference and "
            f"models.weak_aligned; this one has {found}"
        )
    if out.suffix != ".jsonl":
        raise PrecomputeError(f"{out}: rows are written as .jsonl; choose --out FILE.jsonl")
    if out.exists() and out.resolve() == Path(recipe.data.train).expanduser().resolve():
        raise PrecomputeError(f"{out} is the recipe's own data.train; choose another --out FILE.jsonl")
    if out.exists() and not force:
        raise PrecomputeError(f"{out} exists; add --force to replace it or choose another --out FILE.jsonl")


def _label_logprobs(recipe: Recipe, role: str, batches: Iterator[dict[str, Tensor]]) -> tuple[dict[int, Tensor], str]:
    """{row id: log-probabilities of its answer tokens} under one model, and the model's fingerprint."""
    models = recipe.models
    model = loading.load_model(
        getattr(models, role), dtype=models.frozen_dtype, trust_remote_code=models.trust_remote_code
    )
    name = fingerprint.of_model(model)
    signal = FrozenModel(model, name=role).labels_only()
    found: dict[int, Tensor] = {}
    for inputs in batches:
        model.to(inputs["labels"].device)  # type: ignore[arg-type]
        values = signal(None, inputs)[role].float().cpu()
        lengths = answer_mask(inputs["labels"]).sum(dim=1).tolist()
        found |= zip(inputs["row_id"].tolist(), values.split(lengths), strict=True)
    return found, name


def _column(values: Sequence[float], length: int) -> list[float | None]:
    """Nine digits hold a float32 exactly."""
    return [float(f"{value:.9g}") for value in values] + [None] * (length - len(values))


def _watched(
    batches: Iterator[dict[str, Tensor]], role: str, tokens: int, console: Console
) -> Iterator[dict[str, Tensor]]:
    """The batches, with progress: a bar on a terminal, ten lines elsewhere."""
    done, lines, start = 0, 0, time.perf_counter()
    with bar(console) as progress:
        task: Any = progress.add_task(role, total=tokens, note="tokens")
        for batch in batches:
            yield batch
            done += int(batch["attention_mask"].sum())
            rate = done / (time.perf_counter() - start)
            progress.update(task, completed=done, note=f"tokens  {rate:,.0f}/s")
            if not console.is_terminal and done * 10 // tokens > lines:
                lines = done * 10 // tokens
                at = f"{role}  {done:,}/{tokens:,} tokens  {rate:,.0f}/s  {left((tokens - done) / rate)}"
                console.print(at, highlight=False, soft_wrap=True)
