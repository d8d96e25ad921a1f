"""Chains of thought of the current model for edits, one a line in a file; what is there is not made again."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from trimtab.common.files import JsonLines
from trimtab.data import edit_rows
from trimtab.data.edits import Edit
from trimtab.decoding._texts import generate_texts

TRIES = 4
"""chains of an edit: the first greedy, the others sampled"""


def thoughts(
    model: Callable[[], Any], tokenizer: Any, edits: Sequence[Edit], file: Path, *, seed: int, max_new_tokens: int,
    cot_filter: bool = True, chat: bool = True,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """A chain of thought for each edit, without its final answer.

    The first is greedy; with `cot_filter` one that asserts the old answer is made again, sampled with a seed of its
    own, and after `TRIES` of them the edit gets no chain: its row is the answer alone. A chain depends on its edit, the
    model and the seed, and not on the other edits.

    Args:
        model: loads the model, which happens only if a chain is missing.
        file: of what was made, in JSON lines.

    Returns:
        The chains, and what is to be said of them.
    """
    kept = JsonLines(file, "id", "prompt", "thought", what="chains")
    known = {(row["id"], row["prompt"]): row for row in kept.rows}
    loaded = None
    for edit in edits:
        if (edit.id, edit.prompt) in known:
            continue
        loaded = loaded or model()
        row = _made(loaded, tokenizer, edit, seed, max_new_tokens, cot_filter, chat)
        kept.append([row])
        known[edit.id, edit.prompt] = row
    found = [known[one.id, one.prompt] for one in edits]
    without = [row["id"] for row in found if row["thought"] is None]
    notes = []
    if without:
        notes.append(
            f"cot_filter: all {TRIES} chains of {len(without)} of {len(found)} edits assert the old answer, so they "
            f"learn the answer alone ({', '.join(without[:5])}{', ...' if len(without) > 5 else ''})"
        )
    return [row["thought"] or "" for row in found], notes


def _made(
    model: Any, tokenizer: Any, edit: Edit, seed: int, max_new_tokens: int, cot_filter: bool, chat: bool
) -> dict[str, Any]:
    dropped = []
    for attempt in range(TRIES if cot_filter else 1):
        how = {} if attempt == 0 else {"do_sample": True, "temperature": 1.0, "top_p": 0.95}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{seed}/{edit.id}/{attempt}".encode()))
            prompt = edit_rows.asked(edit, chat, True)
            reply = generate_texts(model, tokenizer, [prompt], max_new_tokens, plain=not chat, **how)[0].text
        chain = edit_rows.thought(reply)
        if not cot_filter or not edit_rows.asserts_old(chain, edit):
            return {"id": edit.id, "prompt": edit.prompt, "thought": chain, "dropped": dropped}
        dropped.append(chain)
    return {"id": edit.id, "prompt": edit.prompt, "thought": None, "dropped": dropped}
