"""The date that a chat template writes: that of the run, which a later one goes on with."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

DATE = "chat date"
"""The line of a signature that holds the moment which a chat template writes."""


def chat_date(tokenizer: Any) -> datetime:
    """The moment that this tokenizer's template writes wherever it writes the date: that of the first question, unless
    one was set before."""
    if getattr(tokenizer, "_trimtab_chat_date", None) is None:
        set_chat_date(tokenizer, datetime.now().replace(microsecond=0))
    return tokenizer._trimtab_chat_date


def set_chat_date(tokenizer: Any, moment: datetime) -> None:
    """Let the template of this tokenizer write this moment wherever it writes the date."""
    tokenizer._trimtab_chat_date = moment


def date_facts(tokenizer: Any) -> dict[str, str]:
    """For signatures: the moment that the chat template writes; nothing if it writes none."""
    dated = "strftime_now" in str(tokenizer.chat_template or "")
    return {DATE: chat_date(tokenizer).isoformat()} if dated else {}


def adopt_date(tokenizer: Any, *files: Path) -> None:
    """Go on with the moment of the first of these files, signatures as text or JSON, that holds one: what is resumed
    after midnight, or reads stored columns, has to write the date that was written before."""
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if found := re.search(rf'{DATE}"?: "?(\d[\d:T-]+)', text):
            return set_chat_date(tokenizer, datetime.fromisoformat(found[1]))
    return None


def dated(template: str, moment: datetime) -> str:
    """A chat template that writes this moment for the current one."""

    def written(call: re.Match[str]) -> str:
        return json.dumps(moment.strftime(call["format"]), ensure_ascii=False)

    return re.sub(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>[^'\"]*)(?P=quote)\s*\)", written, template)
