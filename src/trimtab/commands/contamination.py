"""Has a model seen the test set? Its scores on the original items, on the same in other words, and on fresh ones."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trimtab import __version__
from trimtab.commands import evaluate
from trimtab.common.disk import check_writable
from trimtab.common.errors import UserError
from trimtab.common.terminal import cells, say, table_of
from trimtab.common.yaml_text import parse_value
from trimtab.data import stored
from trimtab.evals.contamination import SETS, Set, Triangle, check_author, triangles
from trimtab.evals.runner import EvalSpec, Mode, eval_spec
from trimtab.evals.suite import Answered, baselines, plain
from trimtab.models import loading
from trimtab.models.asked import How
from trimtab.report import contamination as page
from trimtab.report.html import put

SUITE, FACTS, REPORT = "multiple_choice", "contamination.json", "report.html"


class ContaminationError(UserError):
    """Sets that cannot be compared."""


@dataclass(frozen=True)
class Settings:
    """What the command line was given."""

    clean: str
    """Rows that `trimtab clean` wrote: they hold the original words too."""
    control: str
    """Fresh rows of the same kind."""
    models: Sequence[str]
    out: Path
    baseline: str | None = None
    """One of the models, that has not seen the original items."""
    endpoint: str | None = None
    mode: Mode = "generate"
    prompt: str | None = None
    limit: int | None = None
    """Items of each set."""
    seed: int = evaluate.Settings.seed
    batch: int = evaluate.Settings.batch
    max_new_tokens: int | None = None
    allow_same: bool = False
    """Measure a model too that made the clean set."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the suite `multiple_choice`, such as the names of columns."""
    how: How = field(default_factory=How)
    tokenizer: str | None = None
    """of a server's models, see `trimtab.commands.evaluate`"""


def contamination(settings: Settings, console: Console | None = None) -> list[Triangle]:
    """Ask each model the three sets, one evaluation folder each, and write the gaps, `contamination.json` and a page.

    A call that was stopped goes on where it was.

    Raises:
        ValueError: (or a subclass) for a mistake of the user, before weights are loaded where that can be known.
    """
    console = console or Console()
    rewriter, rows = _made_by(settings.clean)
    if settings.baseline is not None and settings.baseline not in settings.models:
        raise ContaminationError(f"--baseline {settings.baseline} is none of the models: {', '.join(settings.models)}")
    if len(set(settings.models)) < len(settings.models):
        raise ContaminationError("a model is named twice; name each once")
    for model in () if settings.allow_same else settings.models:
        check_author(model, rewriter)
    asked: dict[Set, EvalSpec] = {name: _question(name, settings) for name in SETS}
    if settings.limit is None and len(asked["clean"].items) != rows:
        raise ContaminationError(
            f"{settings.clean} has {len(asked['clean'].items)} rows, and its meta says {rows}; take the file as "
            "`trimtab clean` wrote it, and fewer items with --limit"
        )
    known = {_words(item.text) for name in ("original", "clean") for item in asked[name].items}
    both = sum(_words(item.text) in known for item in asked["control"].items)
    if both:
        raise ContaminationError(
            f"{settings.control}: {both} of its questions are among those of {settings.clean}; a control set is fresh"
        )
    for model in () if settings.endpoint else settings.models:
        loading.load_config(model)  # a name that is none is told before the first item is asked
    check_writable(settings.out, ContaminationError, "choose another --out")
    answered = {model: _answered(model, asked, settings, console) for model in settings.models}
    found = triangles(answered, rewriter=rewriter, baseline=settings.baseline, allow_same=settings.allow_same)
    facts: dict[str, Any] = {
        "trimtab": __version__, "clean": settings.clean, "control": settings.control, "rewriter": rewriter,
        "baseline": settings.baseline, "mode": settings.mode, "seed": settings.seed,
        "items": {name: len(one.items) for name, one in asked.items()},
        "in the same words": _unchanged(asked["original"], asked["clean"]),
        "errors": {
            model: {name: sum(one.error is not None for one in of) for name, of in sets.items()}
            for model, sets in answered.items()
        },
        "a random option": baselines(asked["original"].suite, asked["original"].items).get("random"),
    }  # fmt: skip
    put(json.dumps({**facts, "models": plain([vars(one) for one in found])}, indent=1) + "\n", settings.out / FACTS)
    links = {model: {name: f"{folder_of(model)}/{name}/{REPORT}" for name in SETS} for model in settings.models}
    page.write(found, facts, links, settings.out / REPORT)
    console.print(table(found))
    for line in (*page.findings(found, facts), *page.cautions(facts)):
        say(console, line)
    return found


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Settings of `multiple_choice` from KEY=VALUE; what the files are is said elsewhere.

    Raises:
        ContaminationError: naming what is no setting.
    """
    found = {}
    for word in words:
        key, sign, value = word.removeprefix(f"{SUITE}.").partition("=")
        if not sign:
            raise ContaminationError(f"{word!r} is no setting; write KEY=VALUE, for example answer=label")
        if key in ("file", "which"):
            raise ContaminationError(f"{word!r}: the files are CLEAN.jsonl and --control FILE")
        found[key] = parse_value(word, value)
    return found


def folder_of(model: str) -> str:
    """The name of a model's folder."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"


def _question(name: Set, settings: Settings) -> EvalSpec:
    file = settings.control if name == "control" else settings.clean
    which = "clean" if name == "clean" else "original"
    return eval_spec(
        SUITE, {**settings.options, "file": file, "which": which}, prompt=settings.prompt, mode=settings.mode,
        limit=settings.limit, max_new_tokens=settings.max_new_tokens,
    )  # fmt: skip


def _answered(
    model: str, asked: Mapping[Set, EvalSpec], settings: Settings, console: Console
) -> dict[Set, list[Answered]]:
    """Of one model, which is in memory for no longer than this."""
    how = evaluate.Settings(
        model, settings.out, settings.endpoint, settings.prompt, settings.mode, settings.limit, settings.seed,
        settings.batch, settings.max_new_tokens, how=settings.how, tokenizer=settings.tokenizer,
    )  # fmt: skip
    loaded, folder = evaluate.model_of(how), settings.out / folder_of(model)
    found: dict[Set, list[Answered]] = {}
    for name in SETS:
        say(console, f"{model}: {name}")
        found[name] = evaluate.answered(folder / name, SUITE, asked[name], loaded, how, console)
    return found


def _words(text: str) -> str:
    """A question without what does not make it another one."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _unchanged(original: EvalSpec, clean: EvalSpec) -> int:
    """How many items have the same text in both sets: no rewrite of theirs survived."""
    texts = {item.id: item.text for item in original.items}
    return sum(texts.get(item.id) == item.text for item in clean.items)


def _made_by(clean: str) -> tuple[str, int]:
    """Who made the clean set, and how many rows it has."""
    if not Path(clean).expanduser().is_file():
        raise ContaminationError(f"there is no file {clean}; make it with `trimtab clean FILE --out FILE.jsonl`")
    path = stored.meta_path(Path(clean).expanduser())
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        return str(meta["rewriter"]), meta["report"]["items"] - meta["report"]["left out"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ContaminationError(
            f"{clean}: there is no {path.name} beside it that says who rewrote it; make both with "
            "`trimtab clean FILE --out FILE.jsonl`"
        ) from None


def table(found: Sequence[Triangle]) -> Table:
    """Scores and gaps for a terminal."""
    gaps = ["original - clean", "original - control", *(["less the baseline's"] if found[0].shift else []), "recovery"]
    rows = table_of("", *(one.model for one in found), box=None)
    for name in SETS:
        rows.add_row(*cells((name, *(one.scores[name].shown() for one in found))))
    for name, values in zip(gaps, zip(*(page.gaps(one) for one in found))):
        rows.add_row(*cells((name, *values)))
    return rows
