"""Write docs/reference/methods.md from the methods' files: source, claim, equation, models, recipes, options.

With `--check` nothing is written, and the exit code is 1 if the page is stale.
"""

import re
import sys

import yaml

from pages import DOCS, command, table, takes
from results import results
from trimtab import methods
from trimtab.core import Method
from trimtab.runs.shipped import recipe_folder, shipped

PAGE = DOCS / "reference" / "methods.md"
HEADER = """\
# Methods and results

<!-- written by scripts/papers_page.py; change the files in src/trimtab/methods and run `make pages` -->

Each method is one file, and what stands here comes from that file. The claim is the paper's;
[what was reproduced](#what-was-reproduced) here is another matter.
"""
RESULTS = """\
## What was reproduced

Claims of the papers that were tested here, at which scale, and what was found. These are small experiments on a CPU:
they show whether an effect exists, and nothing of its size on large models. Numbers in brackets are 95 % intervals; a
difference is "not shown" if its interval holds 0, and "the contrary" if it lies below. They are read from
`benchmarks/results`; the pages of [the log](../log/index.md) have the commands, the settings and the failures.

"""
NOTATION = """\
## Equations and options

In the equations p is the teacher, q the policy (the student), y_t the answer token at position t, and [condition] is
1 where the condition holds and 0 elsewhere. L_t is the loss of one token, before any division.
"""


def page() -> str:
    """The whole page as text; the same for the same files."""
    names = methods.names()
    rows = [(f"[{name}](#{name})", methods.summary(name).partition(": ")[2], _source(name)) for name in names]
    parts = [HEADER, table(("method", "what it does", "source"), rows), RESULTS + _reproduced(), NOTATION]
    parts += map(_section, names)
    return "\n".join(parts)


def _reproduced() -> str:
    head = ("method", "claim", "found", "scale", "numbers", "log")
    rows = []
    for one in results():
        names = ", ".join(f"[{name}](#{name})" for name in one.methods.split(", "))
        page = f"[{one.log.replace('_', ' ')}](../log/{one.log}.md)"
        rows.append((names, one.claim, f"**{one.verdict}**", one.scale, one.numbers, page))
    return table(head, rows)


def _section(name: str) -> str:
    method = methods.load(name)
    recipes = ", ".join(f"[{recipe}](recipes.md#{recipe})" for recipe in _recipes(name)) or "none"
    lines = [
        f"### {name}\n",
        f"{methods.summary(name)}\n",
        *(f"    {part.strip()}" for part in method.equation.split(";")),
        f"\n- source: {_source(name)}",
        f"- claim: {method.claim}",
        f"- models: {', '.join(['policy', *(model.what for model in method.requirements(method.config()).models)])}",
        f"- recipes: {recipes}",
        f"- code: `src/trimtab/methods/{name}.py`\n",
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
        (f"`options.{name}`", f"`{option.default}`", takes(option), option.description or "")
        for name, option in fields.items()
    ]
    return table(("option", "default", "takes", "what it does"), rows)


if __name__ == "__main__":
    sys.exit(command(PAGE, page, __file__))
