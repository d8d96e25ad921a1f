"""Write docs/reference/recipe.md: every key of a recipe with its type, default and meaning, from the models."""

import sys
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pages import DOCS, command, default, kind, one_line, table, takes, written_by
from trimtab.runs.explain import DEFAULTS_IN_WORDS
from trimtab.runs.recipe import Recipe, Stages

PAGE = DOCS / "reference" / "recipe.md"
HEADER = """\
# Recipe reference

{comment}

A recipe is one YAML file. Everything that a run depends on stands in it, and unknown keys are errors. Any key can be
changed on the command line: `trimtab train my.yaml models.lora.r=32 training.max_steps=100`.
`trimtab train NAME --dry-run` prints the complete recipe with all defaults; `trimtab schema` prints its JSON Schema for
editors, and `trimtab show train KEY` explains a key in the terminal.

Where a recipe names a file that is not absolute, it is looked for from the folder in which the command is given.
"""
TRAINING = "[Training arguments](training.md) lists all of them."
OPTIONS = "[Methods and results](methods.md) lists those of each method."
LORA = "[Training arguments](training.md#lora) lists them."
STAGES = """\
A recipe with `stages` carries out several runs, one after another. Keys beside `stages` are the defaults of all of
them. A stage holds keys of a run and a `name` (its method's if left out), or `use: NAME` for a recipe that several
share, see [shared stages](run_folder.md#shared-stages). `@NAME` as a model is the result of an earlier stage. On the
command line `stages.NAME.training.max_steps=20` changes one of them.
"""


def page() -> str:
    parts = [HEADER.format(comment=written_by(__file__, "the docstrings in trimtab.runs"))]
    keys = list(_keys(Recipe, "")) + [(n, f) for n, f in _keys(Stages, "") if n.split(".")[0] in ("stages", "seeds")]
    parts.append(
        table(("key", "type", "default"), [(f"[`{n}`](#{anchor(n)})", takes(f), _default(n, f)) for n, f in keys])
    )
    for name, field in keys:
        parts.append(_entry(name, field))
        if name == "stages":
            parts.append(STAGES)
    return "\n".join(part for part in parts if part)


def _entry(name: str, field: FieldInfo) -> str:
    """A key with its type, default and meaning, under a heading whose depth is that of the key, two at most."""
    depth = "##" if "." not in name else "###"
    said = [f'<a id="{anchor(name)}"></a>', f"{depth} `{name}`", f"{takes(field)}; default: {_default(name, field)}"]
    more = {"training": TRAINING, "options": OPTIONS, "models.lora": LORA}.get(name, "")
    return "\n\n".join([*said, f"{one_line(field.description)} {more}"]).strip() + "\n"


def _default(name: str, field: FieldInfo) -> str:
    return DEFAULTS_IN_WORDS.get(name.replace("[]", "")) or default(field)


def anchor(name: str) -> str:
    """Of a key: its own name, which no heading has by itself."""
    return "key-" + name.replace(".", "-").replace("[]", "")


def _keys(model: type[BaseModel], above: str) -> Any:
    for name, field in model.model_fields.items():
        shown = above + (field.serialization_alias or name)
        yield shown, field
        if (inner := _inner(field)) and inner is not Recipe:
            yield from _keys(inner, shown + _step(field))


def _step(field: FieldInfo) -> str:
    words = kind(field.annotation)
    return ".NAME." if _is_dict(field) else "[]." if words.startswith("list") else "."


def _is_dict(field: FieldInfo) -> bool:
    return "dict" in str(field.annotation)


def _inner(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a section's own keys."""
    found, todo = None, [field.annotation]
    while todo:
        one = todo.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            found = one
        todo += get_args(one)
    return found


if __name__ == "__main__":
    sys.exit(command(PAGE, page, __file__))
