"""A test set in other words, on disk: models by name, candidates that outlive a stop, and what became of them."""

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from trimtab import __version__
from trimtab.common import files, fingerprint
from trimtab.common.errors import Interrupted, check_answered, check_settings
from trimtab.common.locks import writing
from trimtab.common.progress import bar
from trimtab.common.terminal import cells, say, table_of
from trimtab.common.yaml_text import parse_value
from trimtab.data import stored
from trimtab.data.sources import load_rows
from trimtab.evals import contamination
from trimtab.evals.models import HFModel, Model, OpenAIModel
from trimtab.metrics.embeddings import MissingEmbedding
from trimtab.models import loading
from trimtab.models.asked import How, load_asked
from trimtab.models.builtin import BUILTIN
from trimtab.rewriting import clean_eval, rewriters, similarity
from trimtab.rewriting.clean_eval import Cleaned, CleanEvalError, Detector, Scorer
from trimtab.rewriting.rewriters import Rewriter, Way, causal, seq2seq, ways
from trimtab.rewriting.rules import Rules


class Settings(clean_eval.CleanSettings):
    """What KEY=VALUE can be on the command line."""

    n_par: int = Field(default=4, ge=0)
    """Paraphrases a text; of rules, candidates."""
    pivots: tuple[str, ...] = ("zh", "de", "fr")
    """Languages to translate into and back from; zh+de goes through both."""
    temperature: float = Field(default=0.7, ge=0)
    """Of a model that rewrites; at 0 the best token is taken."""
    max_new_tokens: int = Field(default=128, ge=1)
    """A rewrite that has not ended by then is no candidate."""
    prompt: str = Field(default="{text}", pattern=r"\{text\}")
    """What an encoder-decoder model is given."""
    threshold: float | None = None
    """From which value of the detector on the meaning is the same; 0.7 for embedding, else 0.5, if not given."""
    fields: tuple[str, ...] = ("question",)
    """Texts to rewrite in rows that do not name their own."""
    rows: int | None = Field(default=None, ge=1)
    """Only the first rows."""


def parse(words: Sequence[str]) -> Settings:
    """Settings from KEY=VALUE, each value as YAML.

    Raises:
        CleanEvalError: naming what is none, or what it may be.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise CleanEvalError(f"{word!r} is no setting; write KEY=VALUE, for example select=lowest")
        found[key] = parse_value(word, value)
    return check_settings(Settings, found, "clean", "", CleanEvalError)


class Candidates:
    """Candidates in a file, a line each, as they are made. A line that a kill cut short is taken away.

    Raises:
        CleanEvalError: where the file is no such file.
    """

    def __init__(self, path: Path):
        self.path: Path = path
        self.known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        stored.drop_torn_line(path)
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                key, value = json.loads(line)
            except ValueError as error:
                raise CleanEvalError(f"{path}: line {number} is no candidate; delete the file to begin anew") from error
            self.known[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        if self.known.get(key) != value:
            self.known[key] = value
            files.append(self.path, [[key, value]])

    def __getitem__(self, key: str) -> Any:
        return self.known[key]

    def __contains__(self, key: object) -> bool:
        return key in self.known

    def __len__(self) -> int:
        return len(self.known)


def candidates_path(out: Path) -> Path:
    """FILE.jsonl -> FILE.candidates.part"""
    return out.with_suffix(".candidates.part")


def clean(
    source: str,
    out: Path,
    settings: Settings | None = None,
    rewriter: str | Rewriter = "rules",
    detector: str | Detector = "auto",
    scorer: str | Scorer = "chrf",
    *,
    endpoint: str | None = None,
    reader: str | Model | None = None,
    command: str = "",
    force: bool = False,
    console: Console | None = None,
    how: How | None = None,
) -> Cleaned:
    """Write the rows of `source` in other words, a meta with settings, prompts, models and measures beside them, and
    print what was kept and dropped.

    Candidates are kept in FILE.candidates.part by text, way, prompts, seed and rewriter. A call that was stopped goes
    on there, and a call with another detector, scorer or selection does not ask the rewriter again.

    Args:
        source: see `load_rows`.
        out: a .jsonl file.
        settings: see `Settings`.
        rewriter: "rules", a model (builtin, folder or hub id; causal or encoder-decoder), TO,BACK (two translators),
            or a `Rewriter`, such as `rewriters.endpoint` makes.
        detector: "auto" (the language model that rewrites, asked for yes or no; "embedding" where there is none, or
            where it cannot tell), "embedding", "nli:MODEL", "lm:MODEL" (with an endpoint the server's, unless it is a
            folder or builtin), "none", or a `Detector`.
        scorer: "chrf", "embedding", "bleurt:FOLDER", or a `Scorer`.
        endpoint: address of a server of chat completions, whose model `rewriter` then names.
        reader: a causal model, or an `Model`: what changes its answer is dropped, see `clean_eval.clean`.
        command: for the meta.
        force: replace a file that is there.
        console: for progress and the table.
        how: models that are named are loaded.

    Raises:
        ValueError: (or a subclass) for a mistake of the user; nothing is written then but candidates.
        Interrupted: after Ctrl-C.
    """
    if out.suffix != ".jsonl":
        raise CleanEvalError(f"--out: rows are written as .jsonl; choose FILE.jsonl and not {out}")
    models = (rewriter, detector, scorer)
    with writing(out, "another call", "wait for it, or choose another --out", CleanEvalError):
        return _clean(
            source, out, settings or Settings(), *models, endpoint=endpoint, reader=reader, command=command,
            force=force, console=console or Console(), how=how,
        )  # fmt: skip


def _clean(
    source: str,
    out: Path,
    settings: Settings,
    rewriter: str | Rewriter,
    detector: str | Detector,
    scorer: str | Scorer,
    *,
    endpoint: str | None,
    reader: str | Model | None,
    command: str,
    force: bool,
    console: Console,
    how: How | None,
) -> Cleaned:
    if out.exists() and out.resolve() == Path(source).expanduser().resolve():
        raise CleanEvalError(f"--out: {out} is the file that is read; choose another FILE.jsonl")
    if out.exists() and not force:
        raise CleanEvalError(f"--out: {out} exists; add --force to replace it or choose another FILE.jsonl")
    rows = load_rows(source)[: settings.rows]
    try:
        clean_eval.read(rows, settings.fields)
    except CleanEvalError as error:
        raise CleanEvalError(f"{source}: {error}") from None
    if endpoint and (rewriter == "rules" or not isinstance(rewriter, str)):
        raise CleanEvalError("--endpoint needs the name of the server's model that rewrites: --rewriter MODEL")
    models = _Models(how)
    likeness = _scorer(scorer) if isinstance(scorer, str) else scorer
    writer = _rewriter(rewriter, endpoint, settings, models) if isinstance(rewriter, str) else rewriter
    judge, why = (
        _detector(detector, rewriter, endpoint, settings, models) if isinstance(detector, str) else (detector, "")
    )
    reading = HFModel(*models(reader, AutoModelForCausalLM), reader) if isinstance(reader, str) else reader
    if not writer.ways:
        raise CleanEvalError("there is no way to a candidate: n_par is 0 and pivots are empty")
    said = f"{judge.name}, from {judge.threshold:g} on" if judge else "nobody"
    say(console, f"meaning is judged by {said}{f' ({why})' if why else ''}")

    made = Candidates(candidates_path(out))
    if made:
        say(console, f"{len(made)} candidates of an earlier call are in {made.path}")
    try:
        with bar(console) as progress:
            task = progress.add_task("rewrite", total=None, note="candidates")
            result = clean_eval.clean(
                rows, writer, judge, likeness, settings, reader=reading, fields=settings.fields, stored=made,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {len(made)} candidates are in {made.path}: the same command goes on") from None
    errors = [one["error"] for one in _candidates(result) if one["error"]]
    check_answered([one["error"] for one in _candidates(result)], writer.name, whole=True)
    report = contamination.surface(result, _reporters(likeness))
    meta = {
        "paper": "arXiv:2311.09154",
        "source": source,
        "rows": fingerprint.of_each(rows),
        "rewriter": writer.name,
        "detector": judge and {"name": judge.name, "threshold": judge.threshold, "fallback": why or None},
        "reader": reading and reading.facts(),
        "scorer": likeness.name,
        "settings": settings.model_dump(),
        "ways": [way._asdict() for way in writer.ways],
        "report": report,
        "left_out": result.left_out,
        "trimtab": __version__,
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers")),
        "command": command,
    }
    stored.write(out, result.rows, meta)
    _show(console, report)
    if errors:
        say(console, f"{len(errors)} candidates ended in an error; the same command with --force asks for them again")
    where = f"rows: {out}\nmeta: {stored.meta_path(out)}\ncandidates: {made.path}"
    say(console, where)
    return result


def _candidates(result: Cleaned) -> Iterator[dict[str, Any]]:
    return (one for row in [*result.rows, *result.left_out] for of in row["candidates"].values() for one in of)


# ---------------------------------------------------------------- models by name


class _Models:
    """Models that were loaded, by name: one that rewrites and judges is loaded once."""

    def __init__(self, how: How | None) -> None:
        self.how = how
        self.loaded: dict[tuple[str, Any], tuple[Any, Any]] = {}

    def __call__(self, name: str, kind: Any) -> tuple[Any, Any]:
        if (name, kind) not in self.loaded:
            tokenizer = loading.load_tokenizer(name)
            model = load_asked(name, self.how, kind)
            self.loaded[name, kind] = (model, tokenizer)
        return self.loaded[name, kind]


def _rewriter(name: str, url: str | None, settings: Settings, models: _Models) -> Rewriter:
    if name == "rules":
        return Rules(settings.n_par)
    by = ways(settings.n_par, settings.pivots)
    if url:
        server = OpenAIModel(url, name, temperature=settings.temperature, batch=settings.batch)
        return rewriters.endpoint(server, by, max_new_tokens=settings.max_new_tokens)
    how: dict[str, Any] = {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
    names = name.split(",")
    if len(names) == 1 and not loading.load_config(name).is_encoder_decoder:
        return causal(*models(name, AutoModelForCausalLM), by, name=name, **how)
    origin = "backtranslate" if len(names) > 1 else "paraphrase"
    by = tuple(Way(origin, (settings.prompt,) * len(names), draw) for draw in range(settings.n_par))
    return seq2seq([models(one, AutoModelForSeq2SeqLM) for one in names], by, name=" ".join(names), **how)


def _detector(
    name: str, rewriter: str | Rewriter, url: str | None, settings: Settings, models: _Models
) -> tuple[Detector | None, str]:
    """The detector, and of `auto` why it is the fall-back."""
    kind, _, model = name.partition(":")
    given: dict[str, Any] = {} if settings.threshold is None else {"threshold": settings.threshold}
    if name == "none":
        return None, ""
    if name == "auto":
        return _by_language_model(rewriter, url, models, given)
    if name == "embedding":
        return similarity.words_and_cosines(**given), ""
    if kind == "nli" and model:
        return similarity.nli(*models(model, AutoModelForSequenceClassification), model, **given), ""
    if kind == "lm" and model and url and model not in BUILTIN and not Path(model).expanduser().exists():
        return similarity.by_server(OpenAIModel(url, model, batch=settings.batch), **given), ""
    if kind == "lm" and model:
        return similarity.yes_or_no(*models(model, AutoModelForCausalLM), model, **given), ""
    raise CleanEvalError(f"--detector: {name!r} is none; there are auto, embedding, nli:MODEL, lm:MODEL and none")


def _by_language_model(
    rewriter: str | Rewriter, url: str | None, models: _Models, given: dict[str, Any]
) -> tuple[Detector, str]:
    """The language model that rewrites, where it can tell whether texts mean the same; else the embedding, and why."""
    why = "the fall-back, for no language model rewrites: name one by --detector lm:MODEL"
    if isinstance(rewriter, str) and rewriter != "rules" and "," not in rewriter:
        found = None
        if url:
            found = similarity.by_server(OpenAIModel(url, rewriter), **given)
        elif not loading.load_config(rewriter).is_encoder_decoder:
            found = similarity.yes_or_no(*models(rewriter, AutoModelForCausalLM), rewriter, **given)
        right = 0 if found is None else similarity.judges(found)
        if found is not None and right >= similarity.ENOUGH:
            return found, ""
        if found is not None:
            why = (
                f"the fall-back, for {rewriter} judges {right} of {len(similarity.TRIED)} plain examples rightly: name "
                "another by --detector lm:MODEL"
            )
    return similarity.words_and_cosines(**given), why


def _scorer(name: str) -> Scorer:
    kind, _, folder = name.partition(":")
    if name == "chrf":
        return similarity.chrf()
    if name == "embedding":
        return similarity.cosines()
    if kind == "bleurt" and folder:
        return similarity.bleurt(folder)
    raise CleanEvalError(f"--scorer: {name!r} is none; there are chrf, embedding and bleurt:FOLDER")


def _reporters(scorer: Scorer) -> list[Scorer]:
    """The scorer, and what else can be measured on this machine."""
    found = {scorer.name: scorer}
    for make in (similarity.chrf, similarity.bleu, similarity.cosines):
        try:
            one = make()
        except (CleanEvalError, MissingEmbedding):
            continue
        found.setdefault(one.name, one)
    return list(found.values())


# ---------------------------------------------------------------- the table


def _show(console: Console, report: dict[str, Any]) -> None:
    table = table_of("what", "number", box=None, pad_edge=False)
    table.add_row("items", str(report["items"]))
    table.add_row("rewritten", f"{report['rewritten']:.1%}")
    if report["left out"]:
        table.add_row("left out", str(report["left out"]))
    table.add_row("candidates", str(report["candidates"]))
    table.add_row("kept", str(report["survivors"]))
    for reason, number in report["dropped"].items():
        table.add_row(*cells((f"dropped: {reason}", number)))
    for name, value in report.items():
        if isinstance(value, list) and len(value) == 3:
            mean, low, high = value
            table.add_row(*cells((name, f"{mean:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]"))))
    console.print(table)
