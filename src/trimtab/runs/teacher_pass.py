"""One pass of a teacher over the rows of a recipe, which writes a teacher cache."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from trimtab import __version__
from trimtab.common import fingerprint, processes
from trimtab.common.count import count
from trimtab.common.environment import environment
from trimtab.common.errors import FailedOutside
from trimtab.common.on_ray import Cluster
from trimtab.common.progress import num_tokens, watched
from trimtab.common.terminal import say
from trimtab.common.workdir import Workdir
from trimtab.core import Teacher
from trimtab.data.collate import Collator, length_sorted
from trimtab.data.counts import Prepared
from trimtab.models import loading
from trimtab.models.forward import backbone, resolve_head, same_logits
from trimtab.models.probing import eval_mode, probe_ids
from trimtab.models.stored_head import HEAD_FILES, head_fault, load_head, store_head
from trimtab.runs import served_pass
from trimtab.runs.cached_teacher import (
    COVERED_MASS,
    DTYPE,
    KIND,
    LEFT_OUT,
    NAMED,
    PLACES,
    TEACHER,
    TOP_K,
    VOCABULARY,
    Written,
)
from trimtab.runs.policy import method_of, policy_tokenizer, policy_vocab
from trimtab.runs.recipe import Recipe, policy_source
from trimtab.runs.rows import adopt_run_date, check_ids, prepare_source
from trimtab.runs.served_teacher import MOST_LIKELY, ServedFacts, probe
from trimtab.runs.signature import tokenizer_lines
from trimtab.runs.stages import made_by
from trimtab.runs.teacher_key import not_askable
from trimtab.runs.teacher_reader import Give, TeacherError, device_of, giver, load_teacher, loaded_giver
from trimtab.signals.cached import Kind
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.row_store import INDEX, RowStore, missing, rows_of, write_tensors

Stored = Literal["bfloat16", "float32"]
COVERED = 0.9
"""share of the probability mass that the most likely tokens should have"""
PATIENCE = 600.0
"""seconds in which the main process has to begin, and another to write something"""


def made_files(folder: Path) -> list[str]:
    """Names of the files of a cache in a folder."""
    found = [path.name for pattern in (f"{INDEX}*.json", "rows-*.safetensors") for path in folder.glob(pattern)]
    return [f"{INDEX}.json", *HEAD_FILES, *(name for name in sorted(found) if name != f"{INDEX}.json")]


def stored_dtype(recipe: Recipe, asked: Stored | None) -> Stored:
    """The dtype of hidden states: what is asked for, or that of the teacher as far as it is stored."""
    return asked or ("bfloat16" if recipe.models.frozen_dtype == "bfloat16" else "float32")


def cache_teacher(
    recipe: Recipe,
    out: Path,
    kind: Kind,
    *,
    k: int | None = None,
    dtype: Stored | None = None,
    force: bool = False,
    option: str = "another --out FOLDER",
    again: str = "",
    console: Console | None = None,
    ray: Cluster | None = None,
) -> Written:
    """Write what the recipe's teacher gives for its training and held-out rows to a folder.

    Rows that are there already stay: a call that was stopped goes on, and another recipe with the same teacher,
    tokenizer and template adds its rows. Of the processes of a launch each writes shards of its own.

    Args:
        kind: "hidden" for last hidden states and the head, "topk" for the most likely tokens.
        k: 64 by default.
        dtype: of hidden states.
        force: begin anew.
        option: how to choose another folder, for messages.
        again: the command that goes on after a stop; the same by default.
        ray: shares the batches among workers.

    Raises:
        ValueError: (or a subclass) for a mistake in the recipe, its rows or models, or a folder of another teacher.
        Interrupted: after Ctrl-C.
    """
    console = console or Console()
    work = Workdir(out, "precompute", made_files(out), option=option, force=force)
    work.check()
    with work.open(partial(_kept, work, again) if again else None):
        number = (k or MOST_LIKELY) if kind == "topk" else None
        written = _write(recipe, work, kind, number, dtype, console, ray)
    if written.covered is not None and written.covered < COVERED:
        say(
            console,
            f"warning: the {number} most likely tokens have {written.covered:.2f} of the teacher's probability; raise "
            "k, or write hidden states, which are exact",
        )
    return written


def _kept(work: Workdir, again: str, first: str) -> str:
    """What is kept of a stage, what to do first, and the command that goes on."""
    rows = sum(len(store) for store in work.lines)
    kept = f"{count(rows, 'row')} of the teacher {'is' if rows == 1 else 'are'} in {work.place}"
    return f"{kept}; {f'{first}, and ' if first else ''}continue with: {again}"


def write_stage(recipe: Recipe, console: Console) -> Written:
    """Write the teacher cache of a stage with `precompute`; see `cache_teacher`."""
    spec = recipe.precompute
    assert spec is not None
    how: dict[str, Any] = {"k": spec.k, "dtype": spec.dtype, "option": "another output=FOLDER", "console": console}
    how["again"] = recipe.command()
    return cache_teacher(recipe, Path(recipe.output), spec.teacher, **how)


def check_sizes(recipes: Sequence[Recipe]) -> None:
    """Refuse a stage that is to write more of the most likely tokens than there are, before an earlier one is trained.

    A model that a stage makes has the vocabulary of the one that it comes from; one that grows is left to its stage.

    Raises:
        TeacherError: naming the stage.
    """
    origins: dict[str, str | None] = {}
    for recipe in recipes:
        models, spec, begun = recipe.models, recipe.precompute, policy_source(recipe)
        policy = None if models.resize else origins.get(begun, begun)
        if spec is None:
            origins[made_by(recipe)] = policy
            continue
        known = [one for one in (policy, origins.get(str(models.teacher), str(models.teacher))) if one is not None]
        for name in known if spec.teacher == "topk" else ():
            vocab = loading.limits(name, trust_remote_code=models.trust_remote_code).vocab
            _check_k(spec.k or MOST_LIKELY, vocab, f"{recipe.output}: precompute.")


def _check_k(k: int, vocab: int, where: str = "") -> None:
    if k > vocab:
        raise TeacherError(f"{where}k is {k}, but the vocabulary has {vocab:,} tokens; choose at most that many")


def _write(
    recipe: Recipe,
    work: Workdir,
    kind: Kind,
    k: int | None,
    dtype: Stored | None,
    console: Console,
    ray: Cluster | None,
) -> Written:
    """Ask the teacher about all rows that the cache lacks: training rows, if the method reads a teacher, and held-out
    rows.

    Args:
        work: the opened folder.
        k: number of most likely tokens, for "topk".
        dtype: of hidden states, see `stored_dtype`.

    Raises:
        UserError: a subclass, for a mistake in the recipe, its rows or models.
    """
    if why := not_askable(recipe):
        raise TeacherError(why)
    models = recipe.models
    name = str(models.teacher)
    tokenizer = policy_tokenizer(recipe)
    adopt_run_date(recipe, tokenizer)
    vocab = policy_vocab(recipe, tokenizer)
    if (facts := probe(models, tokenizer, vocab, k=k)) is not None:
        if ray is not None:
            raise TeacherError("--ray: a server is asked many times at once as it is; leave out --ray")
        return _write_served(recipe, work, kind, facts, tokenizer, vocab, console)
    size, note = loading.check_vocabulary(tokenizer, vocab, name, "teacher", trust_remote_code=models.trust_remote_code)
    if note:
        say(console, note)
    both = min(vocab, size)
    if k is not None:
        _check_k(k, both)
    rows = _rows(recipe, tokenizer, both, {"policy": vocab, "teacher": size}, console)

    model = load_teacher(recipe)
    print_of = fingerprint.of_model(model)
    places = loading.limits(name, trust_remote_code=models.trust_remote_code).places
    lines = {
        KIND: kind,
        TOP_K: k,
        TEACHER: print_of,
        **tokenizer_lines(tokenizer),
        VOCABULARY: size if kind == "hidden" else both,
        "frozen dtype": models.frozen_dtype,
        **({"teacher bits": models.teacher_bits} if models.teacher_bits is not None else {}),
        DTYPE: stored_dtype(recipe, dtype) if kind == "hidden" else "float32",
        PLACES: places,
        NAMED: name,
        "trimtab": __version__,
        **environment(),
    }
    store = _signed(work, lines, console)
    if ray is None:
        model.to(device_of(recipe))  # type: ignore[arg-type]
    if kind == "hidden":
        _store_head(FrozenModel(model), work.place)
    wanted = getattr(torch, str(lines[DTYPE]))
    give: Give = partial(map, giver(recipe, model, both, k, wanted))
    if ray is not None:
        model.to("meta")  # type: ignore[arg-type]
        give = partial(ray.map, partial(loaded_giver, recipe, print_of, both, k, wanted))
    _ask(give, store, rows, recipe.eval.batch_size, console)
    return _written(store, work.place, kind)


def _write_served(
    recipe: Recipe, work: Workdir, kind: Kind, facts: ServedFacts, tokenizer: Any, vocab: int, console: Console
) -> Written:
    """As `_write`, of a teacher that is served."""
    if kind != "topk":
        raise TeacherError(f"the teacher at {facts.server.url} tells no hidden states; use --teacher topk")
    rows = _rows(recipe, tokenizer, facts.vocab, {"policy": vocab, "teacher": facts.vocab}, console)
    signal = served_pass.signal_of(facts, [prepared for prepared, _ in rows])
    for note in facts.notes:
        say(console, note)
    lines = served_pass.lines_of(facts, str(recipe.models.teacher), tokenizer, work.place)
    store = _signed(work, lines, console)
    batch = max(recipe.eval.batch_size, facts.server.at_a_time)
    _ask(partial(map, partial(served_pass.given, signal)), store, rows, batch, console)
    return _written(store, work.place, kind)


def _signed(work: Workdir, lines: Mapping[str, Any], console: Console) -> RowStore:
    """The rows that are in a folder with this signature."""
    _wait(work)
    work.sign(lines, loose=(NAMED, *environment()))
    store = RowStore(work.place, mend=True)
    work.lines.append(store)  # type: ignore[arg-type]
    if store.torn:
        say(console, f"{count(len(store.torn), 'torn shard')} ({', '.join(store.torn)}): their rows are computed anew")
    if len(store):
        say(console, f"{count(len(store), 'row')} of an earlier call are in {work.place}")
    return store


def _wait(work: Workdir) -> None:
    """Let the main process of a launch sign first."""
    until = time.monotonic() + PATIENCE
    while processes.rank() != 0 and not work.signature.is_file():
        if time.monotonic() > until:
            raise TeacherError(f"the main process has not begun {work.place}; see what it says")
        time.sleep(0.1)


def _rows(
    recipe: Recipe, tokenizer: Any, vocab: int, vocabularies: Mapping[str, int], console: Console
) -> list[tuple[Prepared, Collator]]:
    """Rows with how they become batches, as a run reads them."""
    required = method_of(recipe)[2]
    pad = int(tokenizer.pad_token_id or 0)
    found = []
    for which in ("train", "heldout"):
        read = required.model(Teacher) is not None if which == "train" else recipe.data.heldout is not None
        if read:
            prepared = prepare_source(recipe, which, tokenizer, console=console)
            check_ids(prepared, None, vocabularies, tokenizer)
            every = which == "train" and required.rows == "every_token"
            found.append((prepared, Collator(pad, vocab, every)))
    return found


def _store_head(signal: FrozenModel, folder: Path) -> None:
    """Write the head, and check that what is read back gives the same logits."""
    if processes.rank() != 0 or not head_fault(folder):
        return
    store_head(signal.model, folder, write_tensors)
    model, head = signal.model, load_head(folder).to(signal.model.device)
    with torch.no_grad(), eval_mode(model):
        hidden = backbone(model)(input_ids=probe_ids(model), use_cache=False).last_hidden_state
        if not same_logits(head(hidden), resolve_head(model)(hidden)):
            raise TeacherError("the teacher's output head cannot be stored alone; use --teacher topk")


def _ask(give: Give, store: RowStore, rows: list[tuple[Prepared, Collator]], batch: int, console: Console) -> None:
    """Put every row that the store lacks into it, `batch` at a time. Of several processes each takes its share, which
    does not depend on what another has written meanwhile, and all end when all rows are there."""
    asked: set[bytes] = set()
    rank, number = processes.rank(), processes.launched()
    for prepared, collator in rows:
        keyed = {tuple(key for key, _ in rows_of(collator([row]))): row for row in prepared.rows}  # equal rows once
        asked.update(key for keys in keyed for key in keys)
        share = list(keyed.items())[rank::number]
        mine = [row for keys, row in share if any(key not in store for key in keys)]
        if not mine:
            continue
        batches = list(length_sorted(mine, collator, batch))
        total = sum(len(row["input_ids"]) for row in mine)
        made = zip(batches, give(batches), strict=True)
        try:
            for _, found in watched(made, "teacher", total, "tokens", lambda one: num_tokens(one[0]), console):
                for key, fields, counted in found:
                    store.put(key, fields, **counted)
        except (KeyboardInterrupt, FailedOutside):
            store.flush()
            raise
    store.flush()
    if number > 1:
        assert store.folder is not None
        _wait_for_rows(store.folder, asked)


def _wait_for_rows(folder: Path, asked: set[bytes]) -> None:
    """Until the other processes have written theirs."""
    seen, until = None, 0.0
    while True:
        now = sorted((path.name, path.stat().st_mtime_ns) for path in folder.glob(f"{INDEX}*.json"))
        if now != seen:
            if not missing(RowStore(folder, mend=True, verify=False), asked):
                return
            seen, until = now, time.monotonic() + PATIENCE
        if time.monotonic() > until:
            raise TeacherError(f"{folder}: another process has written nothing for {PATIENCE / 60:.0f} minutes")
        time.sleep(0.1)


def _written(store: RowStore, folder: Path, kind: Kind) -> Written:
    whole = RowStore(folder, verify=False)  # with what other processes wrote
    head = (folder / HEAD_FILES[0]).stat().st_size if kind == "hidden" else 0
    means = {name: total / max(1, whole.num_tokens) for name, total in whole.sums.items()}
    return Written(
        folder, len(whole), whole.num_tokens, whole.num_bytes - head, head, means.get(COVERED_MASS), means.get(LEFT_OUT)
    )
