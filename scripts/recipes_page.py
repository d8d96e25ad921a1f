"""Write docs/reference/recipes.md: the recipes that come with trimtab, as they are."""

import sys

from pages import DOCS, command, table, written_by
from trimtab.runs.shipped import recipe_folder, shipped

PAGE = DOCS / "reference" / "recipes.md"
HEADER = """\
# Recipes that come with trimtab

{comment}

Any of them runs by its name: `trimtab train tiny_kd`. Those called `tiny_...` train on a laptop CPU with a builtin
model. The others hold published settings for models of billions of parameters: they are loaded and checked by the
tests, and were not run here. The [recipe reference](recipe.md) explains each key.
"""


def page() -> str:
    texts = {name: (recipe_folder() / f"{name}.yaml").read_text(encoding="utf-8") for name in shipped()}
    parts = [HEADER.format(comment=written_by(__file__, "the files in recipes/"))]
    parts.append(table(("recipe", "what it does"), [(f"[{n}](#{n})", _first_line(text)) for n, text in texts.items()]))
    parts += [f"## {name}\n\n```yaml\n{text.strip()}\n```\n" for name, text in texts.items()]
    return "\n".join(parts)


def _first_line(text: str) -> str:
    """What a recipe does: its first comment that is not for the editor."""
    comments = (line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    return next((line for line in comments if not line.startswith("yaml-language-server")), "")


if __name__ == "__main__":
    sys.exit(command(PAGE, page, __file__))
