"""Small worlds of tools, with tasks for agents that end in exact answers and in a state that can be checked."""

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

SPLITS = ("train", "heldout", "unseen_tools", "unseen_templates")
MISSING, NOT_THERE = 0.08, 0.08
"""shares of the tasks that must be given up: a tool is missing, or what they are about"""
DISTRACTORS = (1, 3)
"""tools that a row offers and does not need"""
NEEDED = {
    "add_event": "add events", "move_event": "move events", "get_weather": "forecast the weather",
    "get_price": "tell prices", "place_order": "order things", "read_file": "read files", "write_file": "save files",
    "run_sql": "read the table", "find_contact": "find addresses", "send_message": "send messages",
    "transfer_money": "move money", "find_trains": "find trains", "book_seat": "book seats",
    "reserve_book": "reserve books", "set_temperature": "heat rooms",
}  # fmt: skip
"""tools without which a task cannot be done, and what they do"""


def tools(split: str, rows: int = 1000, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Tasks for an agent with tools, in small worlds: with all its turns, exact answers and the state in the end.

    There are 17 tools: calendar, weather, shop, sums, units, files, a SQLite table, contacts, money. A task takes 2 to
    6 calls; some fail and are mended by the next (a taken hour, a sold-out product, another way to write days or
    units, an unknown column or file). About one task in six must be given up: no tool can do it, or what it is about
    is not there. Wordings, names and days decide the split: none of a held-out row is ever that of a training row,
    whatever the seed. The rows are CC0.

    Each row has `messages` (thoughts as content, `tool_calls`, results, an answer; `give_up` where there is none),
    `tools` (with one to three that are not needed), `task`, and for `tool_world.check`: `world`, the state before, and
    `final`, the state after, in JSON; `answer`, the facts that a tool must have returned and the answer must say;
    `gives_up`.

    Args:
        split: train; heldout, the same tasks in other words and with other names; unseen_tools, tasks with 8 tools (of
            a bank, trains, a library, a home) that no training row offers; unseen_templates, other tasks with the
            tools of training rows. The last two have the names of heldout.
        rows: how many; the first ones do not depend on it.
        seed: of all draws.

    Raises:
        ValueError: for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"splits are {', '.join(SPLITS)}, not {split!r}")
    return _rows(split, rows, Random(f"tools-{split}-{seed}"))


def _rows(split: str, rows: int, drawn: Random) -> Iterator[dict[str, Any]]:
    from trimtab.data.generators.tool_world import shapes, unseen_shapes

    usual, not_there = {
        "unseen_tools": (unseen_shapes.TOOLS, unseen_shapes.TOOLS_NOT_THERE),
        "unseen_templates": (unseen_shapes.TEMPLATES, unseen_shapes.TEMPLATES_NOT_THERE),
    }.get(split, (shapes.TASKS, shapes.NOT_THERE))
    for _ in range(rows):
        kind = drawn.random()
        shape = drawn.choice(not_there if kind < NOT_THERE else usual)
        yield _row(shape, split, drawn, missing=NOT_THERE <= kind < NOT_THERE + MISSING)


def _row(shape: Any, split: str, drawn: Random, missing: bool) -> dict[str, Any]:
    from trimtab.data.generators.tool_world.draft import Draft
    from trimtab.data.generators.tool_world.world import OWNERS, SEEN, schemas_of

    made = Draft(drawn, split != "train")
    shape(made)
    offered, messages, final = list(made.used), made.messages, made.world.state()
    needed = [tool for tool in made.used if tool in NEEDED]
    if missing and needed:
        removed = drawn.choice(needed)
        offered.remove(removed)
        made.messages, final = messages[:1], made.state
        made.give_up(f"No tool here can {NEEDED[removed]}.")
        messages = made.messages
    apart = [tool for tool in OWNERS if tool not in made.used and (split == "unseen_tools" or OWNERS[tool] in SEEN)]
    offered += drawn.sample(apart, drawn.randint(*DISTRACTORS))
    drawn.shuffle(offered)
    kept = {"dates", *(OWNERS[tool].name for tool in offered)}
    return {
        "messages": deepcopy(messages),
        "tools": schemas_of(offered),
        "task": shape.__name__,
        "world": json.dumps({app: state for app, state in made.state.items() if app in kept}, ensure_ascii=False),
        "final": json.dumps({app: state for app, state in final.items() if app in kept}, ensure_ascii=False),
        "answer": made.facts,
        "gives_up": made.gives_up,
    }
