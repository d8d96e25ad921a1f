"""Compare decoding strategies on the same prompts: metrics with intervals, plots and texts on one page."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import typer
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from trimtab import __version__, decoding
from trimtab.commands.asking import AskedSettings
from trimtab.common.settings import Shown
from trimtab.common.terminal import cells, quiet, say, table_of
from trimtab.common.workdir import Workdir

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trimtab.evals.continuations import Generations, Passage
    from trimtab.report.decoding import Page

STRATEGIES = ("greedy", "sample", "top_k", "top_p", "typical", "eta", "min_p", "top_h", "penalty", "adaptive")
TRACKED = 20
"""number of prompts on which self-reinforcement is measured"""


class CompareDecodingSettings(AskedSettings):
    """Which strategies to compare, on which prompts."""

    words: ClassVar[str] = "[KEY=VALUE]..."
    prompts: Annotated[str, Shown("FILE")] = "trimtab:prose/heldout"
    """One prompt per line, or rows with `prompt` or a long `text`."""
    out: Annotated[Path, Shown("FILE.html")] = Path("runs/decoding.html")
    """The HTML page to write; rows go to FILE.jsonl."""
    strategies: Annotated[str | None, Shown("A,B,...")] = None
    """Strategies, see `trimtab list decoding`; ten of them by default."""
    number: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Use only the first N prompts."""
    max_new_tokens: Annotated[int, Shown("N"), Field(ge=1)] = 128
    """Maximum length of a completion, in tokens."""
    prefix: Annotated[int, Shown("N"), Field(ge=1)] = 32
    """How many tokens of a `text` form the prompt."""
    seed: Annotated[int, Shown("N"), Field(ge=0)] = 0
    """Random seed."""
    batch: Annotated[int, Shown("N"), Field(ge=1)] = 100
    """Batch size."""
    chat: bool = False
    """Treat prompts as user messages (chat template), not as text to continue."""
    judge: Annotated[str | None, Shown("MODEL")] = None
    """Model that computes perplexity; the model itself by default."""
    token_view: Annotated[int, Shown("N"), Field(ge=0)] = 2
    """Number of prompts to show token by token."""
    force: bool = False
    """Overwrite an existing page."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        return self.check_owned()

    def owned(self) -> Mapping[str, Any]:
        return self.chosen

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """strategy -> its settings"""
        names = STRATEGIES if self.strategies is None else [name.strip() for name in self.strategies.split(",")]
        return {name: self.options.get(name, {}) for name in names}


SETTINGS = CompareDecodingSettings


def main(settings: CompareDecodingSettings) -> None:
    """Compare, and print the path of the page."""
    from trimtab.runs.early import check_asked

    named = [("--model", settings.model), ("--judge", settings.judge), ("--adapter", settings.adapter)]
    check_asked(named, [settings.prompts] if settings.prompts.startswith("trimtab:") else ())
    quiet()
    typer.echo(f"page: {compare(settings)}")


def compare(settings: CompareDecodingSettings, console: Console | None = None) -> Path:
    """Generate texts with every strategy, measure them, and write one self-contained HTML page, with texts and numbers
    next to it as JSON lines.

    Raises:
        UserError: naming what is wrong, where possible before weights are loaded.
    """
    for name, options in settings.chosen.items():
        decoding.check(name, options)
    names, option = (".jsonl", ".meta.json"), "another --out FILE.html"
    work = Workdir(settings.out, "compare-decoding", names, is_file=True, option=option, force=settings.force)
    work.check()
    with work.open():
        return _compare(settings, work, console or Console())


def _compare(settings: CompareDecodingSettings, work: Workdir, console: Console) -> Path:
    from trimtab.commands import decoding_measures as measures
    from trimtab.evals.continuations import write
    from trimtab.models.inference import load_for_inference
    from trimtab.report import decoding as decoding_page

    tokenizer, judging, passages, left_out = _prompts(settings, console)
    model = _load(settings)
    judge = load_for_inference(settings.judge, settings.how) if settings.judge else model
    begun = time.perf_counter()
    written = write(
        model, tokenizer, passages, settings.chosen, new=settings.max_new_tokens, seed=settings.seed,
        batch=settings.batch, chat=settings.chat, tracked=TRACKED, console=console,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    say(console, "measuring the texts ...")
    texts, logprobs, states = _read_by(judge, judging, tokenizer, passages, written, settings)
    signature = _signature(settings, model, judge, tokenizer, passages, left_out, written)
    signature["seconds of writing"] = f"{seconds:.0f}"
    coherence, signature["coherence by"] = measures.coherence_of(passages, texts)
    columns = measures.columns_of(texts, logprobs, written, coherence)
    if "human" in texts:
        columns += measures.mauve_of(states, signature)
    series = measures.series_of(written, settings.max_new_tokens)
    page = decoding_page.Page(
        headline=f"{len(written)} ways to decode {settings.model} on {len(passages)} prompts",
        strategies={one.name: _described(one) for one in written}
        | ({"human": "the text that follows"} if "human" in texts else {}),
        columns=columns,
        series=[*series, *measures.repeated(model, tokenizer, passages)],
        map=measures.map_of(columns),
        prompts=[
            (passage.prompt, {name: found[i] for name, found in texts.items()}) for i, passage in enumerate(passages)
        ],
        steps=_steps(model, tokenizer, passages, written, settings),
        signature=list(signature.items()),
        cautions=_cautions(settings, passages, written),
    )
    decoding_page.write(page, settings.out)
    rows = (
        {
            "prompt": passage.prompt,
            "strategy": name,
            "text": found[i],
            **({"perplexity": math.exp(-sum(p) / len(p))} if (p := logprobs[name][i]) else {}),
        }
        for i, passage in enumerate(passages)
        for name, found in texts.items()
    )
    measured = {c.title: {name: list(value) for name, value in c.values.items()} for c in columns}
    work.write_rows(rows, {"signature": signature, "measures": measured}, ".jsonl")
    wide = Console(file=console.file, quiet=console.quiet, width=max(console.width, 13 * (len(columns) + 1)))
    wide.print(decoding_table(page))  # cells that are cut are worth less than lines that wrap
    say(console, f"signature: {'; '.join(f'{key} {value}' for key, value in signature.items())}")
    return settings.out


def _prompts(settings: CompareDecodingSettings, console: Console) -> "tuple[Any, Any, list[Passage], str]":
    """Tokenizers of the model and of the judge, the passages, and what was left out; no weights are loaded."""
    from trimtab.data.tokens import prompt_ids
    from trimtab.decoding._checkpoint_config import check_stored
    from trimtab.evals.continuations import load_passages
    from trimtab.models import loading
    from trimtab.models.limits import check_prompts

    name, new = settings.asked, settings.max_new_tokens
    tokenizer = loading.load_tokenizer(name)
    passages, left_out = load_passages(settings.prompts, tokenizer, settings.prefix, new)
    passages = passages[: settings.number]
    for strategy, options in settings.chosen.items():
        decoding.arguments(strategy, tokenizer, **options)  # a strategy may object to this tokenizer
    if decoding.MODEL in settings.chosen:
        check_stored(name)

    def check(reader: str, by: Any) -> list[str]:
        plain = not settings.chat
        ids = [prompt_ids(by, one.prompt, f"prompt {i}", plain=plain) for i, one in enumerate(passages, 1)]
        return check_prompts(ids, new, loading.limits(reader), by, reader)

    for note in check(name, tokenizer):
        say(console, note)
    if settings.judge is None:
        return tokenizer, tokenizer, passages, left_out
    judging = loading.load_tokenizer(settings.judge)
    check(settings.judge, judging)
    return tokenizer, judging, passages, left_out


def _load(settings: CompareDecodingSettings) -> "PreTrainedModel":
    from trimtab.decoding._checkpoint_config import check_own
    from trimtab.models.inference import load_for_inference

    model = load_for_inference(settings.asked, settings.how)
    if decoding.MODEL in settings.chosen:
        check_own(model.generation_config, settings.asked)
    return model


def _read_by(
    judge: Any,
    judging: Any,
    tokenizer: Any,
    passages: "Sequence[Passage]",
    written: "Sequence[Generations]",
    settings: CompareDecodingSettings,
) -> tuple[dict[str, list[str]], dict[str, Any], dict[str, Any]]:
    """Texts by strategy (and `human`), log-probabilities of their tokens under the judge, and last hidden states."""
    import torch

    from trimtab.common import fingerprint
    from trimtab.evals.continuations import read

    texts = {one.name: one.texts for one in written}
    logprobs: dict[str, Any] = {one.name: one.logprobs for one in written}
    states: dict[str, Any] = {one.name: torch.stack(one.states) for one in written}
    human = [passage.reference for passage in passages]
    if all(human):
        texts["human"] = [str(text) for text in human]
    same = fingerprint.of_tokenizer(judging) == fingerprint.of_tokenizer(tokenizer)
    written_ids = {one.name: one.ids for one in written} if same else {}
    for name, found in texts.items():  # the model's own texts were scored while they were generated
        if name == "human" or settings.judge:
            given = written_ids.get(name, found)
            logprobs[name], states[name] = read(judge, judging, passages, given, chat=settings.chat)
    return texts, logprobs, states


def _signature(
    settings: CompareDecodingSettings,
    model: Any,
    judge: Any,
    tokenizer: Any,
    passages: "Sequence[Passage]",
    left_out: str,
    written: "Sequence[Generations]",
) -> dict[str, str]:
    """Everything that the texts and numbers depend on."""
    from trimtab.common import fingerprint
    from trimtab.common.environment import environment
    from trimtab.data.chat_date import date_facts

    how = "as chats" if settings.chat else "plain"
    of = f", of {settings.prefix} tokens" if all(passage.reference for passage in passages) else ""
    return {
        "trimtab": __version__,
        "model": f"{settings.asked} {fingerprint.of_model(model)}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        **(date_facts(tokenizer) if settings.chat else {}),
        "perplexity under": f"{settings.judge} {fingerprint.of_model(judge)}" if settings.judge else "the model itself",
        "prompts": f"{settings.prompts}, {len(passages)} {how}{of}{f'; {left_out}' if left_out else ''}",
        "tokens of a text": f"at most {settings.max_new_tokens}",
        **{
            f"generation of {one.name}": _config_described(model, tokenizer, one, settings.max_new_tokens)
            for one in written
        },
        "seed": str(settings.seed),
        "batch": str(settings.batch),
        **environment(),
    }


def _config_described(model: Any, tokenizer: Any, one: "Generations", new: int) -> str:
    """The values of a strategy's generation config that differ from transformers' defaults."""
    from trimtab.decoding._config import config_of, described

    how = decoding.arguments(one.name, tokenizer, model=model, **one.options)
    return described(config_of(model, tokenizer, how, new, own=one.name == decoding.MODEL))


def _described(one: "Generations") -> str:
    chosen = decoding.check(one.name, one.options).model_dump()
    settings = ", ".join(f"{key} {value}" for key, value in chosen.items())
    return f"{decoding.summary(one.name)} {settings}".strip()


def decoding_table(page: "Page") -> Table:
    """The page's measures for a terminal, without intervals."""
    table = table_of("strategy", *(column.title for column in page.columns), box=None, pad_edge=False)
    for name in page.strategies:
        found = [name]
        for column in page.columns:
            value = column.values.get(name)
            found.append("–" if value is None or math.isnan(value.estimate) else f"{value.estimate:.{column.digits}f}")
        table.add_row(*cells(found))
    return table


def _steps(
    model: "PreTrainedModel",
    tokenizer: Any,
    passages: "Sequence[Passage]",
    written: "Sequence[Generations]",
    settings: CompareDecodingSettings,
) -> list[dict[str, Any]]:
    from trimtab.evals.token_view import choices

    if settings.chat:
        return []
    return [
        {
            "prompt": passages[i].prompt,
            "strategy": one.name,
            "steps": choices(model, tokenizer, passages[i].prompt, one.ids[i], settings.chosen),
        }
        for i in range(min(settings.token_view, len(passages)))
        for one in written
    ]


def _cautions(
    settings: CompareDecodingSettings, passages: "Sequence[Passage]", written: "Sequence[Generations]"
) -> list[str]:
    found = [
        "All strategies share their prompts and their seed; their settings were not tuned on these prompts.",
        f"{len(passages)} prompts and texts of at most {settings.max_new_tokens} tokens: few. Mind the intervals.",
    ]
    ended = {one.name: sum(len(ids) < settings.max_new_tokens for ids in one.ids) for one in written}
    early = {name: number for name, number in ended.items() if number}
    if early:
        counts = ", ".join(f"{name} {number}" for name, number in early.items())
        found.append(f"Texts that ended before {settings.max_new_tokens} tokens: {counts}. Short texts repeat less.")
    if settings.chat:
        found.append("Prompts are chats, so there is no token view.")
    return found
