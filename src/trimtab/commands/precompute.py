"""What frozen models say of the answers, computed once and stored beside the rows: training holds none of them."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel

from trimtab import __version__
from trimtab.common import fingerprint
from trimtab.common.environment import environment
from trimtab.common.errors import UserError
from trimtab.common.locks import writing
from trimtab.common.progress import num_tokens, watched
from trimtab.core import IGNORE, answer_mask
from trimtab.data import stored
from trimtab.data.collate import Collator, length_sorted
from trimtab.data.rows import REJECTED, prefixes, prepare, sequences
from trimtab.data.sources import load_rows
from trimtab.models import loading
from trimtab.models.ends import end_tokens
from trimtab.models.forward import crop_to
from trimtab.runs.policy import Shared, make_policy, method_of, policy_tokenizer, policy_vocab, shown
from trimtab.runs.recipe import STORED, Recipe, policy_source
from trimtab.runs.rows import check_ids, column_facts, prepare_source
from trimtab.signals.frozen import FrozenModel
from trimtab.train import settings

WEAK: tuple[str, ...] = ("weak_reference", "weak_aligned")
LogProbs = dict[int, list[Tensor]]
"""row id -> log-probabilities of the answer tokens of its sequences, one model's"""


class PrecomputeError(UserError):
    """A recipe or a file that nothing can be precomputed for."""


def columns_of(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """column -> roles of the frozen models whose log-probabilities of the answers it can replace in training."""
    _, _, wants = method_of(recipe)
    found = {stored.WEAK_DELTA: WEAK} if wants.roles.issuperset(WEAK) else {}
    if wants.start and wants.start != "distribution" and recipe.models.reference != STORED:
        found[stored.REFERENCE] = ("reference",)
    return found


def precompute(recipe: Recipe, out: Path, *, command: str, force: bool = False, console: Console | None = None) -> Path:
    """Write the recipe's training rows with what its frozen models say of the answers, and beside them what that was
    computed from.

    Columns hold one number in nats and float32 for each answer token: `reference_logprobs` log pi_ref(y_t), where the
    method measures from a reference; `weak_delta` log pi_weak_aligned(y_t) - log pi_weak_reference(y_t), of wspo. Those
    of rejected answers begin with `rejected_`. The models run one after another, in models.frozen_dtype, over the rows
    as training reads them: cut to training.max_length. Tokens that are cut off, and rows that are not kept, have null
    in place of numbers; training refuses to read one. All rows stay, in their order.

    Args:
        recipe: of a method with a reference or a weak pair.
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
    columns = columns_of(recipe)
    _check(recipe, columns, out, force)
    with writing(out, "another call", "wait for it, or choose another --out", PrecomputeError):
        _check(recipe, columns, out, force)  # another call may have written it since
        return _precompute(recipe, columns, out, command, console or Console())


def _precompute(
    recipe: Recipe, columns: Mapping[str, tuple[str, ...]], out: Path, command: str, console: Console
) -> Path:
    models, source = recipe.models, recipe.data.train
    trust = models.trust_remote_code
    tokenizer = policy_tokenizer(recipe)
    vocab = policy_vocab(recipe, tokenizer)
    roles = [role for named in columns.values() for role in named]
    vocabularies = {}
    for role in roles:
        name = getattr(models, role) or policy_source(recipe)
        if getattr(models, role) is None:  # the policy before training
            vocabularies[role] = vocab
        else:
            vocabularies[role], _ = loading.check_vocabulary(tokenizer, vocab, name, role, trust_remote_code=trust)
    prepared = prepare_source(recipe, "train", tokenizer, console=console)
    check_ids(prepared, None, {"policy": vocab, **vocabularies}, tokenizer)
    vocab = min(vocab, *vocabularies.values())

    device = settings.build(recipe.training, Path(recipe.output), recipe.seed).device
    logprobs: dict[str, LogProbs] = {}
    names = {}
    for role in roles:
        collator = Collator(int(tokenizer.pad_token_id or 0), vocab)  # type: ignore[arg-type]
        batches = length_sorted(prepared.rows, collator, recipe.eval.batch_size, device)
        counted = watched(batches, role, prepared.counts.tokens, "tokens", num_tokens, console)
        logprobs[role], names[role] = _label_logprobs(recipe, role, counted, vocab)
        gc.collect()  # the model is gone before the next one comes

    rows = load_rows(source)[: recipe.data.rows]
    _, _, wants = method_of(recipe)
    whole = prepare(
        rows,
        tokenizer,
        max_length=10**9,
        source=source,
        end_ids=end_tokens(tokenizer),
        pairs=wants.pairs,
        turns=recipe.data.turns,
        chat=recipe.data.chat,
    )  # answers uncut
    made: dict[int, dict[str, list[float | None]]] = {}
    for row in whole.rows:  # the turns of a conversation that became several rows come one after another
        place = made.setdefault(whole.number(row) - 1, {})
        for name, values in _columns(row, columns, logprobs).items():
            place[name] = [*place.get(name, []), *values]
    nothing = {prefix + name: [] for prefix in (("", REJECTED) if wants.pairs else ("",)) for name in columns}
    meta = {
        "columns": list(columns),
        "models": names,
        "dtype": models.frozen_dtype,
        "source": source,
        "max_length": prepared.max_length,
        "vocabulary": vocab,
        **column_facts(rows, tokenizer, recipe.data.chat),
        "trimtab": __version__,
        **environment(),
        "command": command,
    }
    stored.write(out, ({**row, **made.get(i, nothing)} for i, row in enumerate(rows)), meta)
    return stored.meta_path(out)


def _check(recipe: Recipe, columns: Mapping[str, Any], out: Path, force: bool) -> None:
    if not columns:
        raise PrecomputeError(
            f"method {recipe.method} with these settings asks no frozen model for log-probabilities of answers alone; "
            "columns are computed from recipes of dpo or wspo that name their models"
        )
    if out.suffix != ".jsonl":
        raise PrecomputeError(f"{out}: rows are written as .jsonl; choose --out FILE.jsonl")
    if out.exists() and out.resolve() == Path(recipe.data.train).expanduser().resolve():
        raise PrecomputeError(f"{out} is the recipe's own data.train; choose another --out FILE.jsonl")
    if out.exists() and not force:
        raise PrecomputeError(f"{out} exists; add --force to replace it or choose another --out FILE.jsonl")


def _load(recipe: Recipe, role: str) -> tuple[PreTrainedModel, str]:
    """A frozen model, and how it is named; the reference that no recipe names is the policy before training."""
    models = recipe.models
    name = getattr(models, role)
    if name is None:
        model = make_policy(recipe, Shared())
        start = f"{shown(models.policy)} {fingerprint.of_model(model)}"  # as training prints it, before it is rounded
        return loading.cast(model, models.frozen_dtype), start
    model = loading.load_model(name, dtype=models.frozen_dtype, trust_remote_code=models.trust_remote_code)
    return model, f"{name} {fingerprint.of_model(model)}"


def _label_logprobs(
    recipe: Recipe, role: str, batches: Iterator[dict[str, Tensor]], vocab: int
) -> tuple[LogProbs, str]:
    """Log-probabilities under one model, over the ids below `vocab`, and how the model is named."""
    model, name = _load(recipe, role)
    signal = FrozenModel(model, name=role).labels_only()
    crop_to(model, vocab)
    found: LogProbs = {}
    for inputs in batches:
        model.to(inputs["labels"].device)  # type: ignore[arg-type]
        values = signal(None, inputs)[role].float().cpu()
        lengths = answer_mask(inputs["labels"]).sum(dim=1).tolist()
        for row, numbers in zip(inputs["row_id"].tolist(), values.split(lengths), strict=True):
            found.setdefault(row, []).append(numbers)
    return found, name


def _columns(
    row: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]], logprobs: Mapping[str, LogProbs]
) -> dict[str, list[float | None]]:
    """The columns of a prepared row whose answers are not cut."""
    found = {}
    for number, (prefix, (_, labels)) in enumerate(zip(prefixes(row), sequences(row))):
        length = sum(label != IGNORE for label in labels)
        for name, roles in columns.items():
            kept = [logprobs[role][row["row_id"]][number] for role in roles if row["row_id"] in logprobs[role]]
            values = (kept[-1] - kept[0] if len(roles) == 2 else kept[0]).tolist() if kept else []
            found[prefix + name] = _column(values, length)
    return found


def _column(values: Sequence[float], length: int) -> list[float | None]:
    """Nine digits hold a float32 exactly."""
    return [float(f"{value:.9g}") for value in values] + [None] * (length - len(values))
