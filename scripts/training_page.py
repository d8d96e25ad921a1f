"""Write docs/reference/training.md: the arguments of `training` and `models.lora`, from TRL's and PEFT's own files."""

import re
import sys

from pages import DOCS, command, one_line, table, written_by
from trimtab.runs.explain import OF_LORA, Explained, all_keys
from trimtab.train.keys import NOT_BUILT, OURS

PAGE = DOCS / "reference" / "training.md"
HEADER = """\
# Training arguments

{comment}

`training` holds arguments of TRL's `SFTConfig` under their own names or, for methods that learn from rollouts, of
its `GRPOConfig`. Both inherit those of transformers' `TrainingArguments`. The texts are those of the libraries, and
defaults are those of a run. `models.lora` holds [arguments of PEFT's `LoraConfig`](#lora).
`trimtab show train KEY` shows one of them.
"""
REFUSED = """\
## Refused arguments

These are set elsewhere in a recipe:
"""
WHY = "And these are refused, because nothing here would do what they say:\n"


def page() -> str:
    found = [one for one in all_keys() if one.key.startswith("training.") or one.of == OF_LORA]
    taken = {f"training.{name}" for name in (*OURS, *NOT_BUILT)}
    parts = [HEADER.format(comment=written_by(__file__, "src/trimtab/train/keys.py"))]
    parts += [_entry(one) for one in found if one.of != OF_LORA and one.key not in taken]
    parts.append(REFUSED)
    parts.append(table(("argument", "set by"), [(f"`{key}`", one_line(where)) for key, where in sorted(OURS.items())]))
    parts.append(WHY)
    rows = [(f"`{key}`", one_line(why)) for key, why in sorted(NOT_BUILT.items())]
    parts.append(table(("argument", "why, and the way out"), rows))
    parts.append("## LoRA\n")
    parts += [_entry(one, "###") for one in found if one.of == OF_LORA]
    return "\n".join(parts)


def _entry(one: Explained, depth: str = "##") -> str:
    name = one.key.rpartition(".")[2]
    only = f"; only for {one.of}" if one.of and one.of != OF_LORA else ""
    words, kind, given = (_escaped(one_line(text)) for text in (one.help, one.kind, one.default))
    anchor = one.key.replace(".", "-")
    return f'<a id="key-{anchor}"></a>\n\n{depth} `{name}`\n\n{kind}; default: {given}{only}\n\n{words}\n'


def _escaped(text: str) -> str:
    """What Markdown would read as a tag or a link, outside code, which shows an escape as it is."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        one if number % 2 else one.replace("<", "&lt;").replace("[", "\\[") for number, one in enumerate(parts)
    )


if __name__ == "__main__":
    sys.exit(command(PAGE, page, __file__))
