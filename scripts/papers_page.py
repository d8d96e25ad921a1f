"""Write docs/papers.md from the files in src/trimtab/methods: source, claim, equation, models, recipes, options.

With `--check` nothing is written, and the exit code is 1 if the page is stale.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from trimtab import methods
from trimtab.core import Method
from trimtab.runs.shipped import recipe_folder, shipped

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "papers.md"
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
HEADER = """\
# The methods and their papers

<!-- written by scripts/papers_page.py; change the files in src/trimtab/methods and write it anew with `make docs` -->

Each method is one file. What stands here comes from that file. The claim is what the source says; whether it was
reproduced here is a matter of the tests and of [the log](log.md).

In the equations p is the teacher, q the policy (the student), y_t the answer token at position t, and [condition] is
1 where the condition holds and 0 elsewhere. L_t is the loss of one token, before any division.
"""


def page() -> str:
    """The whole page as text; the same for the same files."""
    names = methods.names()
    rows = [(f"[{name}](#{name})", methods.summary(name).partition(": ")[2], _source(name)) for name in names]
    parts = [HEADER, _table(("method", "what it does", "source"), rows), *map(_section, names)]
    return "\n".join(parts)


def _section(name: str) -> str:
    method = methods.load(name)
    recipes = ", ".join(f"[{recipe}](../recipes/{recipe}.yaml)" for recipe in _recipes(name)) or "none"
    lines = [
        f"## {name}\n",
        f"{methods.summary(name)}\n",
        *(f"    {part.strip()}" for part in method.equation.split(";")),
        f"\n- source: {_source(name)}",
        f"- claim: {method.claim}",
        f"- models: {', '.join(['policy', *sorted(method.wanted(method.config()).roles)])}",
        f"- recipes: {recipes}",
        f"- code: [methods/{name}.py](../src/trimtab/methods/{name}.py)\n",
        _options(method),
    ]
    return "\n".join(lines)


def _source(name: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[\g<0>](https://arxiv.org/abs/\1)", methods.load(name).paper)


def _recipes(method: str) -> list[str]:
    """Recipes that come with trimtab and train by this method."""
    found = []
    for name in shipped():
        tree = yaml.safe_load((recipe_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
        if method in [tree.get("method"), *(stage.get("method") for stage in tree.get("stages", []))]:
            found.append(name)
    return found


def _options(method: Method) -> str:
    fields = method.config.model_fields
    if not fields:
        return "No options.\n"
    rows = [
        (f"`options.{name}`", f"`{option.default}`", _takes(option), option.description or "")
        for name, option in fields.items()
    ]
    return _table(("option", "default", "takes", "what it does"), rows)


def _takes(option: FieldInfo) -> str:
    """The values that an option takes, in words."""
    kind: Any = option.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return "`True`, `False`"
    words = {int: "a whole number", float: "a number", str: "a text"}.get(kind, f"`{kind}`")
    limits = [
        f"{sign} {getattr(bound, name):g}"
        for bound in option.metadata
        for name, sign in BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    return " and ".join([f"{words} {limits[0]}", *limits[1:]]) if limits else words


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if the page is stale")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/papers.md is stale; write it anew with: python scripts/papers_page.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
