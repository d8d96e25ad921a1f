"""The command line: parse and hand over. Nothing heavy is imported before it is needed."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trimtab import __version__
from trimtab.common import processes
from trimtab.common.errors import Interrupted, Unanswered, UserError

STOPPED = 130
"""exit code after a Ctrl-C"""

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

# typer brings its own copy of click or uses the installed one, by version; this is the base of its usage errors
UsageMistake: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="trimtab",
    help="Controlled change of language models after pre-training.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of one that comes with trimtab.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change a key, such as training.max_steps=20.")
]

DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Of the weights; auto: the one that the checkpoint was saved in."),
]
DeviceMapOption = Annotated[
    Literal["auto"] | None,
    typer.Option(help="auto: spread over all GPUs, and where they are too small the CPU; else all on one device."),
]
AdapterOption = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="Of PEFT (or a hub id), put on MODEL, whichever it names.")
]


@app.command("list")
def list_(
    what: Annotated[
        Literal["methods", "decoding", "suites", "models", "data", "recipes"] | None,
        typer.Argument(help="Everything if not given."),
    ] = None,
) -> None:
    """Methods, decoding strategies, suites, builtin models, data and recipes that come with trimtab."""
    from rich.console import Console

    from trimtab.common.terminal import cells, table_of

    table = table_of("kind", "name", "what it is", box=None, pad_edge=False)
    for kind, name, text in _listed():
        if what in (None, kind):
            table.add_row(*cells((kind, name, text)))
    Console().print(table)


def _listed() -> list[tuple[str, str, str]]:
    from trimtab import decoding, methods
    from trimtab.data.synthetic import DATASETS
    from trimtab.evals import suites
    from trimtab.models.builtin import BUILTIN
    from trimtab.runs.shipped import shipped

    rows = [("methods", name, methods.summary(name)) for name in methods.names()]
    rows += [("decoding", name, decoding.summary(name)) for name in decoding.known()]
    rows += [("suites", name, suites.summary(name)) for name in suites.names()]
    rows += [("models", name, str(made)) for name, made in BUILTIN.items()]
    rows += [("data", f"trimtab:{n}", (d.__doc__ or "").partition("\n")[0]) for n, d in DATASETS.items()]
    rows += [("recipes", name, _first_comment(name)) for name in shipped()]
    return rows


def _first_comment(recipe: str) -> str:
    from trimtab.runs.shipped import recipe_folder

    return (recipe_folder() / f"{recipe}.yaml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


@app.command()
def show(
    method: Annotated[
        str, typer.Argument(metavar="NAME", help="Of a method, decoding strategy or suite, see `trimtab list`.")
    ],
) -> None:
    """A method's or strategy's equation, claim, options and recipe; a suite's prompts and settings."""
    from rich.console import Console

    from trimtab import decoding, methods
    from trimtab.common.terminal import say
    from trimtab.evals import suites
    from trimtab.runs.shipped import shipped

    console = Console(highlight=False)
    if method in suites.names():
        suite = suites.load(method)
        console.print(suites.summary(method), style="bold", markup=False)
        console.print(f"\nversion: {suite.version}\nprompts: {', '.join(suite.prompts)}", markup=False)
        console.print(f"paper:   {suite.paper or '–'}\n", markup=False)
        console.print(_options(suite.options, method))
        say(console, f"\ntry it: trimtab eval {method} --model smollm2-135m --limit 20")
        return
    if method in decoding.known() and method not in methods.names():
        chosen = decoding.strategy(method)
        console.print(decoding.summary(method), style="bold", markup=False)
        console.print(f"\n  {chosen.equation}\n\npaper:  {chosen.paper or '–'}\n", markup=False)
        console.print(_options(chosen.options, "decoding"))
        say(console, f"\ntry it: trimtab generate --model smollm2-135m --prompt TEXT --decoding {method}")
        return
    loaded = methods.load(method)
    console.print(methods.summary(method), style="bold", markup=False)
    console.print(f"\n  {loaded.equation}\n\nclaim:  {loaded.claim}\npaper:  {loaded.paper}", markup=False)
    wants = loaded.wanted(loaded.config())
    named = [*sorted(wants.roles), *(["reference (the start of training, unless named)"] if wants.start else [])]
    named += ["credit (a trained reward model)"] if wants.credit else []
    console.print(f"models: {', '.join(['policy', *named])}", markup=False)
    tasks = "tasks with an `answer` to judge by; the policy answers them itself"
    console.print(f"rows:   {tasks if loaded.loop == 'rollouts' else _rows(wants)}\n", markup=False)
    console.print(_options(loaded.config, "options"))
    recipes = [name for name in shipped() if name == f"tiny_{method}"]
    if recipes:
        say(console, f"\ntry it: trimtab train {recipes[0]}")


def _rows(wants: Any) -> str:
    if wants.pairs:
        return "chosen and rejected answers"
    if wants.outcomes:
        return "answers with a label, right or wrong"
    return "steps of answers with a label each" if wants.steps else "answers"


def _options(config: Any, prefix: str) -> Any:
    from trimtab.common.terminal import cells, table_of

    table = table_of("option", "default", "what it does", box=None, pad_edge=False)
    for name, option in config.model_fields.items():
        table.add_row(*cells((f"{prefix}.{name}", option.default, " ".join((option.description or "").split()))))
    return table if config.model_fields else "no options"


@app.command()
def preview(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="How many rows to show.", min=0)] = 3,
    split: Annotated[Literal["train", "heldout"], typer.Option(help="Which rows.")] = "train",
) -> None:
    """Rows as the model sees them: what is learnt in green, what is only read in grey; and what is lost."""
    loaded = _first_recipe(recipe, overrides)
    from trimtab.commands.preview import preview_recipe

    preview_recipe(loaded, rows, split)


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the complete recipe and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run of this recipe.")] = False,
    edited: Annotated[
        bool, typer.Option("--edited", help="Continue also by code (a reward, a method) that was edited since.")
    ] = False,
) -> None:
    """Carry out a recipe; the run folder holds the model, the numbers and a report."""
    from trimtab.runs.early import check_outputs, check_places
    from trimtab.runs.parse import load_recipe
    from trimtab.runs.recipe import Stages, dump

    if edited and not resume:
        raise UserError("--edited: a run that begins takes the code as it is; leave it out, or add --resume")

    def first(runs: Any) -> None:
        check_places(runs)
        check_outputs(runs, resume)

    loaded = load_recipe(recipe, overrides or (), first=None if dry_run else first)
    if dry_run:
        typer.echo(dump(loaded), nl=False)
        return
    _quiet()
    from rich.console import Console

    from trimtab import report
    from trimtab.runs.run import run, run_stages

    console = Console(quiet=processes.rank() != 0)
    if isinstance(loaded, Stages):
        result = run_stages(loaded, resume=resume, edited=edited, console=console)
        finished = [report.load(Path(stage.output)) for stage in loaded.stages]
        for table in filter(None, (report.table(finished, console.width), report.seeds_table(finished, console.width))):
            console.print(table)
    else:
        result = run(loaded, resume=resume, edited=edited, console=console)
        console.print(report.table([report.load(result.folder)], console.width))
    if processes.rank() == 0:
        typer.echo(f"report: {result.report}")


@app.command()
def precompute(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="The rows with their new columns.")],
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Run a recipe's frozen models once over its training rows and store what they say as columns of the rows."""
    import shlex

    from trimtab.runs.early import check_places
    from trimtab.runs.parse import load_recipe
    from trimtab.runs.recipe import Stages

    loaded = load_recipe(recipe, overrides or (), first=check_places)
    stages = loaded.stages if isinstance(loaded, Stages) else [loaded]
    _quiet()
    from trimtab.commands.precompute import columns_of, precompute

    chosen = max(stages, key=lambda stage: len(columns_of(stage)))
    meta = precompute(chosen, out, command=shlex.join(["trimtab", *sys.argv[1:]]), force=force)
    columns = columns_of(chosen)
    typer.echo(f"rows: {out}\nmeta: {meta}\ncolumns for {chosen.method}: {', '.join(columns)}")
    use = [f"data.train={out}"]
    if "reference_logprobs" in columns:
        use.append("models.reference=column")
    if "weak_delta" in columns:
        use.append("options.weak=column models.weak_reference=null models.weak_aligned=null")
    typer.echo(f"train on them with {' '.join(use)}")


@app.command()
def generate(
    model: Annotated[str, typer.Option(metavar="MODEL", help="A builtin model, a folder or a hub id.")],
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="May be repeated.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A prompt a line (- for standard input), or rows with a column `prompt`."),
    ] = None,
    strength: Annotated[
        list[str] | None,
        typer.Option(metavar="S[,S...]", help="0: the original model, 1: the aligned one. Several give a table."),
    ] = None,
    aligned: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Mix with this model; else with MODEL's own identity layer.")
    ] = None,
    merge: Annotated[
        str | None,
        typer.Option(metavar="logits|embedding", help="What the dial mixes; embedding is cheaper, and untried."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1)] = 128,
    temperature: Annotated[float, typer.Option(metavar="T", min=0, help="At 0 the best token is taken.")] = 0.0,
    top_p: Annotated[float, typer.Option(metavar="P", help="Sample from the best tokens of this share.")] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 0,
    decoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="A strategy, see `trimtab list decoding`; its settings follow.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[decoding.KEY=VALUE]...", help="Such as decoding.epsilon=0.001.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Go on with the prompt; no chat template.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write rows with prompt and completion.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    adapter: AdapterOption = None,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
) -> None:
    """Answers to prompts, by any decoding strategy; for an aligned model with a dial, at one strength or several."""
    from trimtab.runs.early import check_asked, check_prompts

    check_prompts(prompt, prompts)
    check_asked([("--model", model), ("--aligned", aligned), ("--adapter", adapter)], decoding=decoding)
    _quiet()
    from trimtab.commands import generate as answers
    from trimtab.models.asked import How, with_adapter

    strengths = answers.parse_strengths(strength or ())
    chosen = answers.parse_options(options or ())
    how = (max_new_tokens, temperature, top_p, seed, decoding, chosen, plain, out, force)
    settings = answers.Settings(
        with_adapter(model, adapter), aligned, strengths, *how, merge=merge, how=How(dtype, device_map)
    )
    asked = [*(prompt or ()), *(answers.load_prompts(prompts) if prompts else ())]
    if not asked:
        raise answers.GenerateError("there is nothing to answer: give --prompt TEXT or --prompts FILE")
    answers.generate(asked, settings)


@app.command()
def clean(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rows with question, options and answer, or fields.")],
    out: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="The rows in other words.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as select=lowest pivots=[de].")
    ] = None,
    rewriter: Annotated[
        str, typer.Option(metavar="rules|MODEL", help="Who rewrites. TO,BACK are two translators.")
    ] = "rules",
    detector: Annotated[
        str,
        typer.Option(
            metavar="auto|lm:MODEL|nli:MODEL|embedding|none",
            help="Who tells if the meaning is the same; auto asks the model that rewrites.",
        ),
    ] = "auto",
    scorer: Annotated[
        str, typer.Option(metavar="chrf|embedding|bleurt:FOLDER", help="What likeness is selected by.")
    ] = "chrf",
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A server of chat completions has the rewriter; its key in TRIMTAB_API_KEY."),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Drop what this model answers otherwise than the original."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
) -> None:
    """Rewrite a test set that models may have seen: same meaning and answers, other words (Clean-Eval)."""
    import shlex

    from trimtab.runs.early import check_asked

    writers = [] if rewriter == "rules" or endpoint else rewriter.split(",")
    judge = detector.partition("nli:")[2] or ("" if endpoint else detector.partition("lm:")[2])
    named = [*(("--rewriter", name) for name in writers), ("--detector", judge), ("--reader", reader)]
    check_asked(named, [file])
    _quiet()
    from trimtab.commands import clean as cleaning
    from trimtab.models.asked import How

    settings = cleaning.parse(options or ())
    command = shlex.join(["trimtab", *sys.argv[1:]])
    cleaning.clean(
        file,
        out,
        settings,
        rewriter,
        detector,
        scorer,
        endpoint=endpoint,
        reader=reader,
        command=command,
        force=force,
        how=How(dtype, device_map),
    )


@app.command("compare-decoding")
def compare_decoding(
    model: Annotated[str, typer.Option(metavar="MODEL", help="A builtin model, a folder or a hub id.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STRATEGY.KEY=VALUE]...", help="Settings, such as adaptive.epsilon=0.005."),
    ] = None,
    prompts: Annotated[
        str, typer.Option(metavar="FILE", help="A prompt a line, or rows with `prompt` or a long `text`.")
    ] = "trimtab:prose/heldout",
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page; rows go to FILE.jsonl.")] = Path(
        "runs/decoding.html"
    ),
    strategies: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="See `trimtab list decoding`; ten of them if not given.")
    ] = None,
    number: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first prompts.")] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1)] = 128,
    prefix: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a `text` that are the prompt.")] = 32,
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 0,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Prompts at a time.")] = 100,
    chat: Annotated[bool, typer.Option("--chat", help="Prompts are what a user says, not text to go on with.")] = False,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="For perplexity; the model itself if not given.")
    ] = None,
    token_view: Annotated[int, typer.Option(metavar="N", min=0, help="Prompts to look at token by token.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Replace a page that is there.")] = False,
    adapter: AdapterOption = None,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
) -> None:
    """Decoding strategies on the same prompts: measures with intervals, drawings and texts on one page."""
    from trimtab.runs.early import check_asked

    named = [("--model", model), ("--judge", judge), ("--adapter", adapter)]
    check_asked(named, [prompts] if prompts.startswith("trimtab:") else ())
    _quiet()
    from trimtab.commands import compare_decoding as compare
    from trimtab.models.asked import How, with_adapter

    chosen = compare.parse_strategies(strategies, options or ())
    settings = compare.Settings(
        with_adapter(model, adapter),
        prompts,
        out,
        chosen,
        new=max_new_tokens,
        prefix=prefix,
        number=number,
        seed=seed,
        batch=batch,
        chat=chat,
        judge=judge,
        token_view=token_view,
        force=force,
        how=How(dtype, device_map),
    )
    typer.echo(f"page: {compare.compare(settings)}")


@app.command("eval")
def eval_(
    words: Annotated[
        list[str], typer.Argument(metavar="SUITE... [SUITE.KEY=VALUE]...", help="See `trimtab list suites`.")
    ],
    model: Annotated[str, typer.Option(metavar="MODEL", help="A builtin model, a folder, a hub id, or a server's.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Each suite gets one in it; runs/eval/NAME (of the run or model) if not given."
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="NAME", help="One of the suite's, see `trimtab show`.")] = None,
    mode: Annotated[
        Literal["generate", "loglikelihood"] | None,
        typer.Option(help="Answers that are written, or the options' probabilities; the suite's default if not given."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first items.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="A server of chat completions; its key in TRIMTAB_API_KEY.")
    ] = None,
    decoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="A strategy, see `trimtab list decoding`; greedy if not given.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of an answer; the suite's own if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 0,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Items at a time.")] = 32,
    adapter: AdapterOption = None,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="With --endpoint --mode loglikelihood: whose chat template writes prompts."),
    ] = None,
) -> None:
    """Suites on a model: every answer, numbers with intervals, and a page; a stopped evaluation is gone on with."""
    from trimtab.runs.early import check_asked

    named = [] if endpoint else [("--model", model), ("--adapter", adapter)]
    check_asked(named, decoding=decoding, suites=[word for word in words if "=" not in word])
    _quiet()
    from trimtab.commands import evaluate
    from trimtab.evals import suites
    from trimtab.models.asked import How, with_adapter

    names, options = evaluate.parse(words, suites.names())
    folder = out or Path("runs/eval") / evaluate.folder_name(model)
    settings = evaluate.Settings(
        with_adapter(model, adapter),
        folder,
        endpoint=endpoint,
        prompt=prompt,
        mode=mode,
        limit=limit,
        seed=seed,
        batch=batch,
        max_new_tokens=max_new_tokens,
        decoding=decoding,
        options=options,
        how=How(dtype, device_map),
        tokenizer=tokenizer,
    )
    for written in evaluate.evaluate(names, settings):
        typer.echo(f"report: {written / 'report.html'}")


@app.command()
def contamination(
    clean: Annotated[str, typer.Argument(metavar="CLEAN.jsonl", help="What `trimtab clean` wrote.")],
    control: Annotated[str, typer.Option(metavar="FILE", help="Fresh questions of the same kind.")],
    model: Annotated[
        list[str], typer.Option(metavar="MODEL", help="A builtin model, a folder, a hub id, or a server's; repeatable.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For every answer, the gaps, and a page.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of multiple_choice, such as answer=label."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="MODEL", help="One of the models, that cannot have seen the original.")
    ] = None,
    mode: Annotated[
        Literal["generate", "loglikelihood"], typer.Option(help="Answers that are written, or the likeliest option.")
    ] = "generate",
    prompt: Annotated[str | None, typer.Option(metavar="NAME", help="One of the suite's, see `trimtab show`.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first items of each set.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="A server of chat completions; its key in TRIMTAB_API_KEY.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of an answer; the suite's own if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 0,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Items at a time.")] = 32,
    allow_same: Annotated[
        bool, typer.Option("--allow-same", help="Measure a model too that made the clean set, which flatters it.")
    ] = False,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="With --endpoint --mode loglikelihood: whose chat template writes prompts."),
    ] = None,
) -> None:
    """Has a model seen a test set? Scores on it, on it in other words and on fresh items, with the gaps, and a page."""
    from trimtab.runs.early import check_asked

    check_asked([] if endpoint else [("--model", name) for name in model], [clean, control])
    _quiet()
    from trimtab.commands import contamination as search
    from trimtab.models.asked import How

    search.contamination(
        search.Settings(
            clean, control, model, out, baseline=baseline, endpoint=endpoint, mode=mode, prompt=prompt, limit=limit,
            seed=seed, batch=batch, max_new_tokens=max_new_tokens, allow_same=allow_same,
            options=search.parse(options or ()), how=How(dtype, device_map), tokenizer=tokenizer,
        )
    )  # fmt: skip
    typer.echo(f"report: {out / search.REPORT}")


@app.command()
def collect(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Rows with messages or a prompt, and an answer.")],
    model: Annotated[str, typer.Option(metavar="MODEL", help="A builtin model, a folder, a hub id, or a server's.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For every answer, and for pairs and labels by split.")],
    answers: Annotated[int, typer.Option(metavar="N", min=2, help="To each task.")] = 8,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first tasks.")] = None,
    heldout: Annotated[float, typer.Option(metavar="SHARE", min=0, max=1, help="Of the tasks.")] = 0.05,
    pairs: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many of one task.")] = None,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[decoding.KEY=VALUE]...", help="Such as decoding.epsilon=0.001.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", min=0.01, help="1 if not given.")] = None,
    decoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="A strategy, see `trimtab list decoding`; sample if not given.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1)] = 256,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="A server of chat completions; its key in TRIMTAB_API_KEY.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 0,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Answers at a time.")] = 32,
    verify: Annotated[
        Literal["exact", "math"], typer.Option(help="Compare the last number or words, or what mathematics means.")
    ] = "exact",
    adapter: AdapterOption = None,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
) -> None:
    """Answers of a model to tasks, judged, as rows for reward models; a stopped collection is gone on with."""
    from trimtab.runs.early import check_asked

    check_asked([] if endpoint else [("--model", model), ("--adapter", adapter)], [source], decoding)
    _quiet()
    from trimtab.commands.collect import Settings, collect
    from trimtab.commands.generate import parse_options
    from trimtab.models.asked import How, with_adapter

    counts = collect(
        Settings(
            with_adapter(model, adapter), source, out, answers=answers, limit=limit, heldout=heldout, pairs=pairs,
            temperature=temperature,
            max_new_tokens=max_new_tokens, endpoint=endpoint, seed=seed, batch=batch, verify=verify,
            decoding=decoding, options=parse_options(options or ()), how=How(dtype, device_map),
        )
    )  # fmt: skip
    for what, number in vars(counts).items():
        typer.echo(f"{what.replace('_', ' '):>10}  {number:,}")
    typer.echo(f"rows: {out}")


@app.command()
def score(
    model: Annotated[str, typer.Option(metavar="RM", help="A trained reward model: a folder or a hub id.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Scores, numbers and a page.")],
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Rows of pairs, answers or steps, as for training.")
    ] = None,
    processbench: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of ProcessBench's files, in place of SOURCE."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Where the model is that log-ratios are measured from.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first rows (of each file).")] = None,
    max_length: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Tokens of prompt and answer; 4096 if not given.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Answers at a time.")] = 16,
    force: Annotated[bool, typer.Option("--force", help="Replace scores that are there.")] = False,
    adapter: AdapterOption = None,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
) -> None:
    """A reward model's score of each answer token, and what it is worth where rows say what is right."""
    from trimtab.runs.early import check_asked

    check_asked([("--model", model), ("--reference", reference), ("--adapter", adapter)], [source])
    _quiet()
    from trimtab.commands import score as scoring
    from trimtab.models.asked import with_adapter

    how = (source, processbench, reference, limit, max_length, batch_size, dtype, force, device_map)
    typer.echo(f"report: {scoring.score_into(scoring.Settings(with_adapter(model, adapter), out, *how))}")


@app.command("report")
def report_(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of evaluations.")],
    output: Annotated[Path | None, typer.Option(help="Where a comparison is written.")] = None,
) -> None:
    """Write the report of a run, or compare several; the same for evaluations."""
    from rich.console import Console

    from trimtab import report
    from trimtab.report import evaluation

    trained, evaluations = evaluation.split(runs)
    if not trained:
        own = evaluations[0] / "report.html" if len(evaluations) == 1 else Path("runs/comparison.html")
        typer.echo(f"report: {evaluation.write(evaluations, output or own)}")
        return
    suites = evaluation.sections(evaluations)
    page = report.write(trained, output, suites)
    console = Console()
    loaded = [report.load(run) for run in trained]
    for table in filter(None, (report.table(loaded, console.width), report.seeds_table(loaded, console.width))):
        console.print(table)
    for line in evaluation.lines(suites):
        typer.echo(line)
    typer.echo(f"report: {page}")


@app.command()
def doctor() -> None:
    """Versions, devices, and whether the builtin model is there."""
    from trimtab.commands.doctor import examine

    raise typer.Exit(examine())


def _first_recipe(recipe: str, overrides: list[str] | None) -> Any:
    """The recipe, or the first of its stages."""
    from trimtab.runs.early import check_places
    from trimtab.runs.parse import load_recipe
    from trimtab.runs.recipe import Stages

    loaded = load_recipe(recipe, overrides or (), first=lambda runs: check_places(runs[:1]))
    return loaded.stages[0] if isinstance(loaded, Stages) else loaded


def _quiet() -> None:
    """Other libraries' chatter: warnings and bars that say nothing about the user's run."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    import transformers
    from rich.console import Console

    Console.on_broken_pipe = _closed  # work that is cut off says how it goes on
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"trimtab {__version__}")
        raise typer.Exit


ALONE = ("precompute", "generate", "clean", "compare-decoding", "eval", "contamination", "collect", "score")
"""commands of which several processes would write the same files"""


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    if context.invoked_subcommand in ALONE:
        processes.check_alone(context.invoked_subcommand)


def main() -> None:
    """Run the command line. A user's mistake costs one line and exit code 2; a server that does not answer, 1; a
    Ctrl-C, 130."""
    try:
        code = app(standalone_mode=False)
        if code == STOPPED:  # typer turns a Ctrl-C into it
            raise KeyboardInterrupt
        sys.exit(code)
    except UsageMistake as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            sys.exit(2)
        _fail(f"{error.format_message()}; see trimtab --help")
    except (KeyboardInterrupt, typer.Abort):
        print(f"\nstopped; what was saved last is kept: {_again()}", file=sys.stderr)
        sys.exit(STOPPED)
    except OutputClosed:
        _fail(f"nobody reads the output any more; what was saved last is kept: {_again()}")
    except UserError as error:
        if os.environ.get("TRIMTAB_TRACEBACK"):
            raise
        from trimtab.common import failures

        _fail(f"{error} ({failures.HINT})" if failures.comes_from_outside(error) else str(error))
    except Unanswered as error:
        _fail(str(error), 1)
    except Interrupted as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(STOPPED)
    except Exception as error:
        if os.environ.get("TRIMTAB_TRACEBACK"):
            raise
        _failed(error)


def _failed(error: Exception) -> None:
    """What has failed outside is one line; a mistake of the code keeps its traceback."""
    import traceback

    from trimtab.common import failures

    said = failures.said(error)
    if said is not None:
        way = "" if "make room" in said or ": lower " in said else "; mend that, or choose another place"
        _fail(f"{said}{way}, and give the same command again ({failures.HINT})")
    traceback.print_exception(error)
    name = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    print(
        f"error: a mistake of trimtab, or of a library that it stands on ({name}); please report it with the lines "
        "above and what `trimtab doctor` prints",
        file=sys.stderr,
    )
    sys.exit(1)


def _again() -> str:
    return "continue with --resume" if "train" in sys.argv[1:2] else "the same command goes on"


class OutputClosed(Exception):
    """A pipe that the output went into has been closed; no BrokenPipeError, which typer makes a silent exit."""


def _closed(self: Any) -> None:
    """What rich calls then; where it is to end at once, such as at `| head`, rich says nothing."""
    self.quiet = True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise OutputClosed


def _fail(message: str, code: int = 2) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
