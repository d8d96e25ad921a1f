"""List methods, decoding strategies, suites, builtin models, data and recipes."""

from typing import ClassVar, Literal

from trimtab.commands import completion
from trimtab.common.settings import CommandSettings

Kind = Literal["methods", "decoding", "suites", "models", "data", "recipes"]


class ListSettings(CommandSettings):
    """What to list."""

    positional = ("what",)
    words: ClassVar[str] = "[WHAT]"
    complete = staticmethod(completion.kinds)
    alone = False
    what: Kind | None = None
    """methods, decoding, suites, models, data or recipes; everything by default."""


SETTINGS = ListSettings


def main(settings: ListSettings) -> None:
    """Print names and descriptions."""
    from rich.console import Console

    from trimtab.common.terminal import cells, table_of

    table = table_of("kind", "name", "what it is", box=None, pad_edge=False)
    for kind, name, text in listed():
        if settings.what in (None, kind):
            table.add_row(*cells((kind, name, text)))
    Console().print(table)


def listed() -> list[tuple[str, str, str]]:
    """Kind, name and description of whatever has a name."""
    from trimtab import decoding, methods
    from trimtab.data.synthetic import DATASETS
    from trimtab.evals import suites
    from trimtab.models.builtin import BUILTIN
    from trimtab.runs.shipped import shipped

    rows = [("methods", name, methods.summary(name)) for name in methods.names()]
    rows += [("decoding", name, decoding.summary(name)) for name in decoding.known()]
    rows += [("suites", name, suites.summary(name)) for name in suites.names()]
    rows += [("models", name, str(made)) for name, made in BUILTIN.items()]
    rows += [("data", f"trimtab:{n}", (d.__doc__ or "").partition("\n")[0]) for n, d in DATASETS.items()]
    rows += [("recipes", name, _first_comment(name)) for name in shipped()]
    return rows


def _first_comment(recipe: str) -> str:
    from trimtab.runs.shipped import recipe_folder

    return (recipe_folder() / f"{recipe}.yaml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
