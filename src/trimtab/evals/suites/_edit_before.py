"""The evaluation of a model before it was edited."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.common.files import records
from trimtab.evals import FACTS, SAMPLES, SuiteError


@dataclass(frozen=True)
class Before:
    """Answers of the original model, and how it was asked."""

    folder: Path
    rows: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]

    def reply(self, name: str, asked: str) -> str | None:
        """The answer to an item; None where the request for it failed.

        Raises:
            SuiteError: where it was not asked, or something else was.
        """
        row = self.rows.get(name)
        if row is None or row["item"]["text"] != asked:
            what = "no answer to" if row is None else "another question as"
            raise SuiteError(
                f"edit.before: {self.folder} has {what} {name} ({asked!r}); evaluate the original model with the same "
                "edit.file, edit.modes, edit.number and edit.general"
            )
        return None if row.get("error") else row["answers"][-1]

    @property
    def signature(self) -> Mapping[str, str]:
        return self.facts.get("signature", {})

    @property
    def model(self) -> str:
        """As it was given to `trimtab eval`."""
        return str(self.facts.get("model", ""))


def load_before(folder: str) -> Before:
    """The evaluation in a folder, or in its subfolder `edit`.

    Raises:
        SuiteError: if there is none, or it was not finished.
    """
    place = Path(folder).expanduser()
    place = place / "edit" if (place / "edit" / FACTS).is_file() else place
    try:
        facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
        rows = {row["id"]: row for row in records((place / SAMPLES).read_bytes(), "id", "item", "answers")}
        suite, finished = facts["suite"], facts["finished"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SuiteError(
            f"edit.before: {folder} is not an evaluation ({error}); give the folder that `trimtab eval edit` wrote for "
            "the original model"
        ) from None
    if suite != "edit" or not finished:
        state = f"holds the suite {suite}" if suite != "edit" else "was interrupted; run its command again"
        raise SuiteError(f"edit.before: {place} {state}; expected a finished evaluation with the suite edit")
    return Before(place, rows, facts)
