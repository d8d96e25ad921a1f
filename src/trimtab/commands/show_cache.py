"""`trimtab show cache:FOLDER`: what a teacher cache holds, and whether it is what was written."""

from pathlib import Path

from rich.console import Console

from trimtab.common.count import count
from trimtab.common.terminal import cells, say, table_of


def show_cache(folder: Path, console: Console) -> None:
    """Print what a cache holds.

    Raises:
        CacheError: if the folder holds none.
        StoreError: if a shard is not what was written.
        HeadError: if its head is not.
    """
    from trimtab.models.stored_head import HeadError, head_bytes, head_fault
    from trimtab.runs import cached_teacher as c
    from trimtab.signals.row_store import RowStore

    facts = c.facts_of(folder)
    if facts.kind == "hidden" and (fault := head_fault(folder)):
        raise HeadError(f"{fault}; run the command that wrote it again, which writes the head anew")
    store = RowStore(folder)
    head, lines, tokens = head_bytes(folder), facts.lines, max(1, store.num_tokens)
    size = store.num_bytes - head
    held = f"last hidden states ({lines[c.DTYPE]}) and the output head"
    if facts.kind == "topk":
        held = f"the {facts.k} most likely tokens, their log-probabilities and the mass of the rest"
    table = table_of("what", "found", box=None, pad_edge=False)
    rows = [
        ("of", f"{lines.get(c.NAMED, '')} {lines[c.TEACHER]}, run in {lines.get('frozen dtype', '')}"),
        ("holds", held),
        ("rows", f"{len(store):,}"),
        ("answer tokens", f"{store.num_tokens:,}"),
        ("size", f"{size / 1e6:,.1f} MB, {size / tokens:,.0f} bytes a token"),
        *([("head", f"{head / 1e6:,.1f} MB")] if head else []),
        ("vocabulary", f"{facts.vocab:,} tokens"),
        ("longest row", str(facts.places or "no limit by the teacher")),
        *((key, lines[key]) for key in ("tokenizer", "chat template", "date") if key in lines),
    ]
    covered, lost = c.means_of(store)
    if facts.kind == "topk":
        rows.append(("covered mass", f"{covered:.4f}"))
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    if facts.kind == "topk":
        say(console, c.said_of_error(covered, lost))
    say(console, f"{count(store.num_shards, 'shard')}, each as it was written")
    say(console, f"train on it with models.teacher=cache:{folder}")
