"""Prompts of a command line: one per line, or rows."""

from collections.abc import Mapping
from pathlib import Path

from trimtab.data.messages import text_of
from trimtab.data.sources import SUFFIXES, DataError, load_rows, prompt_lines
from trimtab.data.tasks import question
from trimtab.data.tokens import Prompt


def load_prompts(path: Path) -> list[Prompt]:
    """What the rows of a file ask (their `prompt`, a text or messages, with their `tools`), or the lines of any other
    file or of standard input (`-`); empty lines do not count.

    Raises:
        DataError: if the file cannot be read, or holds no prompt, or a row asks nothing.
    """
    if not path.name.lower().endswith(SUFFIXES):
        return list(prompt_lines(path))
    prompts: list[Prompt] = []
    for number, row in enumerate(load_rows(str(path)), start=1):
        prompt = row.get("prompt")
        if isinstance(prompt, list):
            more = {key: row[key] for key in ("tools", "chat_template_kwargs") if row.get(key)}
            prompts.append({"prompt": question(row, f"{path}: row {number}"), **more})
        elif not isinstance(prompt, str) or not prompt:
            raise DataError(f"--prompts: row {number} of {path} has no text or messages in a column 'prompt'")
        else:
            prompts.append(prompt)
    return prompts


def last_message(prompt: Prompt) -> str:
    """The text of the last message."""
    chat = prompt["prompt"] if isinstance(prompt, Mapping) else prompt
    return chat if isinstance(chat, str) else text_of(chat[-1].get("content"))
