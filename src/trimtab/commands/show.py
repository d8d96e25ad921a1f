"""A method's or strategy's equation, claim, options and recipe; a suite's prompts and settings; keys of recipes."""

from typing import Any, ClassVar, Self

from pydantic import model_validator

from trimtab.commands import completion
from trimtab.common.settings import CommandSettings, SettingsError


class ShowSettings(CommandSettings):
    """What is shown."""

    positional = ("name", "key")
    words: ClassVar[str] = "NAME|train [KEY]"
    complete = staticmethod(completion.named)
    alone = False
    name: str
    """Of a method, decoding strategy or suite, see `trimtab list`; of a method of your own, FILE.py or
    package.module; `train` for the keys of recipes."""
    key: str | None = None
    """Such as training.max_steps; all of them if not given."""
    method: str | None = None
    """Of `train`: options and training arguments of this method alone."""

    @model_validator(mode="after")
    def _keys_of_train(self) -> Self:
        if self.name != "train" and (self.key or self.method):
            said = self.key or f"--method {self.method}"
            raise SettingsError(f"{said}: keys are those of recipes, shown by trimtab show train {self.key or 'KEY'}")
        return self


SETTINGS = ShowSettings


def main(settings: ShowSettings) -> None:
    """Print what there is to know of a name."""
    from rich.console import Console

    from trimtab import decoding, methods
    from trimtab.evals import suites

    console, name = Console(highlight=False), settings.name
    if name == "train":
        from trimtab.commands.show_key import show_keys

        show_keys(settings.key, settings.method, console)
    elif name in suites.names():
        _suite(name, console)
    elif name in decoding.known() and name not in methods.names():
        _strategy(name, console)
    else:
        _method(name, console)


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
    from trimtab.runs.shipped import shipped

    loaded = methods.load(name)
    console.print(methods.summary(name), style="bold", markup=False)
    equation, claim, paper = (one or "–" for one in (loaded.equation, loaded.claim, loaded.paper))
    console.print(f"\n  {equation}\n\nclaim:  {claim}\npaper:  {paper}", markup=False)
    required = loaded.requirements(loaded.config())
    console.print(f"models: {', '.join(['policy', *(model.what for model in required.models)])}", markup=False)
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
    "every_token": "answers, with prompts learnt from like answers",
    "pairs": "chosen and rejected answers",
    "outcomes": "answers with a label, right or wrong",
    "steps": "steps of answers with a label each",
    "tasks": "tasks with an `answer` to judge by; the policy answers them itself",
}
TRAINS = {
    "policy": "the policy",
    "identity_layer": "an identity layer before the policy's first one",
    "scorer": "a reward model, with the head of the language model",
    "scalar_head": "a reward model, with a head that scores tokens",
}


def _options(config: Any, prefix: str) -> Any:
    from trimtab.common.terminal import cells, table_of

    table = table_of("option", "default", "what it does", box=None, pad_edge=False)
    for name, option in config.model_fields.items():
        table.add_row(*cells((f"{prefix}.{name}", option.default, " ".join((option.description or "").split()))))
    return table if config.model_fields else "no options"
