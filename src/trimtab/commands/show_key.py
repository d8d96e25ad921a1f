"""`trimtab show train KEY`: what a key of a recipe means; without a key, all of them."""

from rich.console import Console
from rich.table import Table

from trimtab.common.terminal import cells, say, table_of
from trimtab.runs.explain import Explained, all_keys, explain, keys_below, used_by

SHOWN_RECIPES = 8
OF_METHOD = ("options.", "training.")
"""sections whose keys depend on the method"""


def show_keys(key: str | None, method: str | None, console: Console) -> None:
    """Print what a key means, with the keys of a section; or the list of all keys.

    Args:
        method: whose options and training arguments; without a key only these are listed.

    Raises:
        RecipeError: for an unknown key or method.
    """
    from trimtab import methods

    named = None if method is None else [method]
    if method is not None:
        methods.check_name(method)
    if key is None:
        found = all_keys(named)
        console.print(_table([one for one in found if method is None or one.key.startswith(OF_METHOD)]))
        return
    found = explain(key.rstrip("."), named)
    for number, one in enumerate(found):
        if number:
            say(console, "")
        _show(one, console)
    if len(found) == 1 and (below := keys_below(found[0].key, named)):
        say(console, "")
        console.print(_table(below))
    if method is None and len(found) > 1 and found[0].key.startswith("options."):
        say(console, f"\nfor one method only: trimtab show train {found[0].key} --method {found[0].of}")


def _table(keys: list[Explained]) -> Table:
    table = table_of("key", "default", "what it does", box=None, pad_edge=False)
    for one in keys:
        table.add_row(*cells((one.key, one.default, f"{one.help}{f' ({one.of})' if one.of else ''}")))
    return table


def _show(one: Explained, console: Console) -> None:
    console.print(one.key + (f"  ({one.of})" if one.of else ""), style="bold", markup=False)
    say(console, f"  type     {one.kind}\n  default  {one.default or '–'}")
    say(console, f"  {one.help}")
    recipes = used_by(one.key, one.of if one.key.startswith("options.") else "")
    more = f" and {len(recipes) - SHOWN_RECIPES} more" if len(recipes) > SHOWN_RECIPES else ""
    users = f"in the recipes {', '.join(recipes[:SHOWN_RECIPES])}{more}" if recipes else "in no shipped recipe"
    say(console, f"  {users}")
