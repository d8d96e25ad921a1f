"""`trimtab show train KEY`: what a key of a recipe means; without a key, all of them."""

from rich.console import Console

from trimtab.common.terminal import cells, say, table_of
from trimtab.runs.explain import Explained, all_keys, explain, used_by

SHOWN_RECIPES = 8


def show_keys(key: str | None, method: str | None, console: Console) -> None:
    """Print what a key means, or the list of keys.

    Args:
        method: whose options and training arguments; those of all by default.

    Raises:
        RecipeError: for an unknown key or method.
    """
    from trimtab import methods

    named = None if method is None else [method]
    if method is not None:
        methods.check_name(method)
    if key is None:
        table = table_of("key", "default", "what it does", box=None, pad_edge=False)
        for one in all_keys(named):
            table.add_row(*cells((one.key, one.default, f"{one.help}{f' ({one.of})' if one.of else ''}")))
        console.print(table)
        return
    found = explain(key, named)
    for number, one in enumerate(found):
        if number:
            say(console, "")
        _show(one, console)
    if method is None and len(found) > 1 and found[0].key.startswith("options."):
        say(console, f"\nfor one method only: trimtab show train {found[0].key} --method {found[0].of}")


def _show(one: Explained, console: Console) -> None:
    console.print(one.key + (f"  ({one.of})" if one.of else ""), style="bold", markup=False)
    say(console, f"  type     {one.kind}\n  default  {one.default or '–'}")
    say(console, f"  {one.help}")
    recipes = used_by(one.key, one.of if one.key.startswith("options.") else "")
    more = f" and {len(recipes) - SHOWN_RECIPES} more" if len(recipes) > SHOWN_RECIPES else ""
    users = f"in the recipes {', '.join(recipes[:SHOWN_RECIPES])}{more}" if recipes else "in no shipped recipe"
    say(console, f"  {users}")
