"""Explain a name (a method, strategy, suite, model, data set or recipe) or a key of a recipe."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import model_validator

from trimtab.commands import completion
from trimtab.common.settings import CommandSettings, SettingsError, Shown


class ShowSettings(CommandSettings):
    """What to explain."""

    positional = ("name", "key")
    words: ClassVar[str] = "NAME | cache:FOLDER | train [KEY]"
    complete = staticmethod(completion.named)
    alone = False
    name: str
    """A name from `trimtab list`; your own method as FILE.py or package.module; a teacher cache as cache:FOLDER;
    `train` for the keys of recipes; or `scope` for what of a model is trained."""
    key: str | None = None
    """KEY is a key or a section, such as training.max_steps or models; all keys by default."""
    method: Annotated[str | None, Shown("NAME")] = None
    """With `train`: only the options and training arguments of this method."""

    @model_validator(mode="after")
    def _keys_of_train(self) -> Self:
        if self.name != "train" and (self.key or self.method):
            given = self.key or f"--method {self.method}"
            raise SettingsError(f"{given}: keys are those of recipes, shown by trimtab show train {self.key or 'KEY'}")
        return self


SETTINGS = ShowSettings


def main(settings: ShowSettings) -> None:
    """Print the explanation of a name."""
    from rich.console import Console

    from trimtab import decoding, methods
    from trimtab.evals import suites
    from trimtab.runs.models_key import cache_folder

    console, name = Console(highlight=False), settings.name
    if name in ("train", "scope"):
        from trimtab.commands.show_key import show_keys

        show_keys("scope" if name == "scope" else settings.key, settings.method, console)
    elif folder := cache_folder(name):
        from trimtab.commands.show_cache import show_cache

        show_cache(folder, console)
    elif name in suites.names():
        _suite(name, console)
    elif name in decoding.known() and name not in methods.names():
        _strategy(name, console)
    elif name in methods.names() or methods.is_own(name):
        _method(name, console)
    else:
        _listed(name, console)


def _listed(name: str, console: Any) -> None:
    """A recipe, as it is written; of a model or data, what the list says."""
    from trimtab.commands.list import listed
    from trimtab.common.errors import nearest
    from trimtab.common.terminal import say
    from trimtab.runs.shipped import find

    known = {name: (kind, text) for kind, name, text in listed()}
    if name not in known:
        raise SettingsError(f"there is no {name!r} to show; {nearest(name, known, 'trimtab list shows the names')}")
    kind, text = known[name]
    if kind == "recipes":
        say(console, find(name).read_text(encoding="utf-8"))
        say(console, f"{find(name)}\nrun it: trimtab train {name}\nwith all defaults: trimtab train {name} --dry-run")
    else:
        say(console, f"{name}: {text}")


def _suite(name: str, console: Any) -> None:
    from trimtab.common.terminal import say
    from trimtab.evals import suites

    suite = suites.load(name)
    console.print(suites.summary(name), style="bold", markup=False)
    console.print(f"\nversion: {suite.version}\nprompts: {', '.join(suite.prompts)}", markup=False)
    console.print(f"paper:   {suite.paper or '–'}\n", markup=False)
    console.print(_options(suite.options, name))
    say(console, f"\ntry it: trimtab eval {name} --model smollm2-135m --limit 20")


def _strategy(name: str, console: Any) -> None:
    from trimtab import decoding
    from trimtab.common.terminal import say

    chosen = decoding.strategy(name)
    console.print(decoding.summary(name), style="bold", markup=False)
    console.print(f"\n  {chosen.equation}\n\npaper:  {chosen.paper or '–'}\n", markup=False)
    console.print(_options(chosen.options, "decoding"))
    say(console, f"\ntry it: trimtab generate --model smollm2-135m --prompt TEXT --decoding {name}")


def _method(name: str, console: Any) -> None:
    from trimtab import methods
    from trimtab.common.terminal import say
    from trimtab.runs.models_key import SELF
    from trimtab.runs.shipped import shipped
    from trimtab.runs.teacher_key import forms

    loaded = methods.load(name)
    console.print(methods.summary(name), style="bold", markup=False)
    equation, claim, paper = (one or "–" for one in (loaded.equation, loaded.claim, loaded.paper))
    console.print(f"\n  {equation}\n\nclaim:  {claim}\npaper:  {paper}", markup=False)
    required = loaded.requirements(loaded.config())
    console.print(f"models: {', '.join(['policy', *(model.what for model in required.models)])}", markup=False)
    if teachers := forms(loaded, required):
        console.print(f"models.teacher: {', '.join(teachers)}", markup=False)
        if SELF in teachers:
            console.print("data.teacher_prompt: what it reads in the place of the row's prompt", markup=False)
    console.print(f"trains: {TRAINS[required.trains]}", markup=False)
    console.print(f"rows:   {ROWS['tasks' if loaded.loop == 'rollouts' else required.rows]}\n", markup=False)
    console.print(_options(loaded.config, "options"))
    if methods.is_own(name):
        say(console, f"\nin a recipe: method: {name}")
    recipes = [recipe for recipe in shipped() if recipe == f"tiny_{name}"]
    if recipes:
        say(console, f"\ntry it: trimtab train {recipes[0]}")


ROWS = {
    "answers": "answers",
    "every_token": "answers; prompts are trained on as well",
    "pairs": "chosen and rejected answers",
    "outcomes": "answers with a label, correct or incorrect",
    "sampled_pairs": "answers; the policy samples the rejected ones in training",
    "steps": "answers in steps, each with a label",
    "rationales": "questions with several rationales and the answer",
    "labelled": "texts, or pairs of texts, with a label: a class or a number",
    "tasks": "tasks with a reference `answer`; the policy generates the completions",
}
TRAINS = {
    "policy": "the policy",
    "identity_layer": "an identity layer before the policy's first layer",
    "scorer": "a reward model, on the language model head",
    "scalar_head": "a reward model, with a scalar head",
    "classifier": "a classifier (or a regression) of texts",
}


def _options(config: Any, prefix: str) -> Any:
    from trimtab.common.terminal import cells, table_of

    table = table_of("option", "default", "what it does", box=None, pad_edge=False)
    for name, option in config.model_fields.items():
        table.add_row(*cells((f"{prefix}.{name}", option.default, " ".join((option.description or "").split()))))
    return table if config.model_fields else "no options"
