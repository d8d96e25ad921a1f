"""Generate completions with any decoding strategy; for models with a dial, at one or several strengths."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trimtab import __version__, decoding
from trimtab.commands.asking import StrategySettings, check_decoding
from trimtab.common.errors import UserError
from trimtab.common.files import check_whole
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import quiet, say
from trimtab.common.workdir import Workdir

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from trimtab.data.tokens import Prompt

ROWS = 8
"""Prompts per batch."""


class GenerateError(UserError):
    """A request that cannot be generated."""


class GenerateSettings(StrategySettings):
    """Which prompts, which model, and how it decodes."""

    words: ClassVar[str] = "[KEY=VALUE]..."
    prompt: Annotated[tuple[str, ...], Shown("TEXT")] = ()
    """A prompt; may be repeated."""
    prompts: Annotated[Path | None, Shown("FILE")] = None
    """File with one prompt per line (- for standard input), or rows with a `prompt` column."""
    strength: Annotated[tuple[str, ...], Shown("S[,S...]")] = ()
    """0: the original model, 1: the aligned one; several, such as 0,0.5,1, print a table."""
    aligned: Annotated[str | None, Shown("MODEL")] = None
    """Aligned model to mix with MODEL; otherwise MODEL's identity layer is the dial."""
    merge: Literal["logits", "embedding"] | None = None
    """What the dial mixes; embedding is cheaper, but untested."""
    max_new_tokens: Annotated[int, Shown("N"), Field(ge=1)] = 128
    """Maximum length of a completion, in tokens."""
    temperature: Annotated[float, Shown("T"), Field(ge=0)] = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Shown("P"), Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: smallest set of tokens with this total probability."""
    seed: Annotated[int, Shown("N"), Field(ge=0)] = 0
    """Random seed."""
    decoding: Annotated[str | None, Shown("NAME")] = None
    """A strategy, see `trimtab list decoding`; set its options with decoding.KEY=VALUE."""
    plain: bool = False
    """Continue the prompt as plain text, without the chat template."""
    out: Annotated[Path | None, Shown("FILE.jsonl")] = None
    """Write rows with prompt and completion to this file."""
    force: bool = False
    """Overwrite an existing file."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        strengths = self.strengths
        if self.aligned and not strengths:
            raise SettingsError("--aligned mixes two models: set how strongly with --strength")
        if self.merge and self.aligned:
            raise SettingsError("--merge is for a model with an identity layer; --aligned mixes logits")
        check_decoding(self)
        if self.decoding is not None:
            if self.temperature or self.top_p < 1:
                raise SettingsError(
                    f"--temperature and --top-p are for plain sampling; with --decoding {self.decoding} write "
                    "decoding.KEY=VALUE (trimtab show lists the keys)"
                )
            decoding.check(self.decoding, self.chosen)
        if self.top_p < 1 and self.temperature == 0:
            raise SettingsError("--top-p has no effect at temperature 0: add --temperature")
        if self.out is not None and self.out.suffix != ".jsonl":
            raise SettingsError(f"--out: answers are written as rows; choose FILE.jsonl instead of {self.out}")
        return self.check_owned()

    def owned(self) -> Mapping[str, Any]:
        return {"decoding": ()}

    @property
    def chosen(self) -> dict[str, Any]:
        """Settings of the strategy."""
        return self.options.get("decoding", {})

    @property
    def strengths(self) -> tuple[float, ...]:
        return parse_strengths(self.strength)

    @property
    def own(self) -> bool:
        """Whether the model's own generation config is used."""
        return self.decoding == decoding.MODEL

    def sampling(self, tokenizer: Any, model: Any = None) -> dict[str, Any]:
        """Arguments of one `model.generate` call; the model's own generation settings have no effect besides."""
        if self.decoding is not None:
            return decoding.arguments(self.decoding, tokenizer, model=model, **self.chosen)
        if self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


SETTINGS = GenerateSettings


def main(settings: GenerateSettings) -> None:
    """Generate, and print or write the completions."""
    from trimtab.runs.early import check_asked, check_prompts

    check_prompts(settings.prompt, settings.prompts)
    named = [("--model", settings.model), ("--aligned", settings.aligned), ("--adapter", settings.adapter)]
    check_asked(named, decoding=settings.decoding)
    quiet()
    from trimtab.data.prompts import load_prompts

    asked = [*settings.prompt, *(load_prompts(settings.prompts) if settings.prompts else ())]
    if not asked:
        raise GenerateError("no prompts: give --prompt TEXT or --prompts FILE")
    generate(asked, settings)


def parse_strengths(words: Sequence[str], option: str = "--strength") -> tuple[float, ...]:
    """Numbers from comma-separated words.

    Raises:
        SettingsError: naming what is not a finite number.
    """
    found = []
    for word in ",".join(words).split(",") if words else ():
        try:
            found.append(float(word))
        except ValueError:
            raise SettingsError(f"{option}: {word!r} is not a number; write 0.5, or 0,0.5,1 for several") from None
        if not math.isfinite(found[-1]):
            raise SettingsError(f"{option}: {word} is not finite")
    return tuple(found)


def generate(prompts: "Sequence[Prompt]", settings: GenerateSettings, console: Console | None = None) -> None:
    """Print each completion, or a table for several strengths, and the signature at the end. On the command line notes
    and the signature go to stderr, so that stdout holds completions alone.

    With an aligned model, logits are mixed by DeRa; in a model with an identity layer by `realign` (at strength 1 if
    none is given); the strategy then draws from the mixture. Prompts of like length share a batch. One prompt on a
    terminal is answered token by token.

    Raises:
        ValueError: a subclass that names what is wrong, where possible before weights are loaded.
    """
    notes = console or Console(stderr=True)
    console = console or Console()
    if settings.out is None:
        _print(prompts, settings, None, console, notes)
        return
    work = Workdir(
        settings.out, "generate", (".meta.json",), is_file=True, option="another FILE.jsonl", force=settings.force
    )
    work.check()
    with work.open():
        _print(prompts, settings, work, console, notes)


def _print(
    prompts: "Sequence[Prompt]", settings: GenerateSettings, work: Workdir | None, console: Console, notes: Console
) -> None:
    """Generate, and print or write."""
    from trimtab.data.chat_date import date_facts
    from trimtab.data.prompts import last_message
    from trimtab.decoding._config import config_of

    for number, prompt in enumerate(prompts, start=1):
        if isinstance(prompt, str):
            check_whole(prompt, f"prompt {number}")
    tokenizer, loop = _checked(prompts, settings, notes)
    strengths: Sequence[float | None] = settings.strengths or ((1.0,) if loop else (None,))
    made = [f"trimtab {__version__}"]
    model, options = _loaded(settings, loop, made)
    streams = len(prompts) == 1 and len(strengths) == 1 and console.is_terminal
    if streams:
        console.print(Text(f"> {last_message(prompts[0])}", style="bold"), soft_wrap=True)
        options |= _streaming(tokenizer, loop, options)
    found = _answers(model, tokenizer, prompts, strengths, settings, options, notes)
    how = settings.sampling(tokenizer, model)
    config = config_of(model, tokenizer, how, settings.max_new_tokens, own=settings.own)
    made += _made(settings, loop, strengths, config)
    made += [] if settings.plain else [f"{key} {value}" for key, value in date_facts(tokenizer).items()]
    if work is not None:
        meta = _write(work, prompts, strengths, found, made)
        say(console, f"{len(prompts)} completions: {settings.out}, meta: {meta}")
    elif not streams:
        for row, prompt in enumerate(prompts):
            _show(console, last_message(prompt), strengths, found[row])
    notes.print(Text(f"signature: {'; '.join(made)}"), soft_wrap=True)


def _checked(prompts: "Sequence[Prompt]", settings: GenerateSettings, console: Console) -> tuple[Any, str | None]:
    """Everything that can be checked before weights are loaded: the tokenizer, and the loop that mixes two models."""
    from trimtab.decoding._checkpoint_config import check_stored
    from trimtab.models import loading
    from trimtab.models.identity_layer import MARK

    tokenizer, config = loading.load_tokenizer(settings.asked), loading.load_config(settings.asked)
    loop = "dera" if settings.aligned else "realign" if getattr(config, MARK, False) else None
    if settings.strength and loop is None:
        raise GenerateError(
            f"--strength needs a model with an identity layer, and {settings.model} has none; give a second model with "
            "--aligned to mix the two"
        )
    if settings.merge and loop is None:
        raise GenerateError(f"--merge needs a model with an identity layer, and {settings.model} has none")
    _check_prompts(prompts, settings, tokenizer, console)
    how = settings.sampling(tokenizer)  # a strategy may object to this tokenizer: checked before the weights
    if loop and how.get("num_beams", 1) > 1:
        raise GenerateError(
            f"--decoding {settings.decoding}: two models are mixed greedily or by sampling, not with beam search; "
            "choose another strategy, such as greedy or top_p"
        )
    if settings.own:
        check_stored(settings.asked)
    if settings.aligned:
        own = config.get_text_config().vocab_size
        _, said = loading.check_vocabulary(tokenizer, own, settings.aligned, "aligned model")
        if said:
            say(console, said)
    return tokenizer, loop


def _loaded(settings: GenerateSettings, loop: str | None, made: list[str]) -> "tuple[PreTrainedModel, dict[str, Any]]":
    """The model, and further arguments of `generate`: the loop, and the second model."""
    from trimtab.decoding._checkpoint_config import check_own

    options: dict[str, Any] = {"custom_generate": decoding.load(loop)} if loop else {}
    if settings.merge:
        options["merge"] = settings.merge
    model = _load(settings.asked, "model", made, settings)
    if settings.own:
        check_own(model.generation_config, settings.asked)
    if settings.aligned:
        options["aligned"] = _load(settings.aligned, "aligned", made, settings)
    return model, options


def _streaming(tokenizer: Any, loop: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Streams a completion token by token."""
    from functools import partial

    from transformers import TextStreamer

    streamer = TextStreamer(tokenizer, skip_prompt=loop is None, skip_special_tokens=True)  # type: ignore[arg-type]
    return (
        {"custom_generate": partial(options["custom_generate"], streamer=streamer)} if loop else {"streamer": streamer}
    )


def _answers(
    model: Any,
    tokenizer: Any,
    prompts: "Sequence[Prompt]",
    strengths: Sequence[float | None],
    settings: GenerateSettings,
    options: Mapping[str, Any],
    console: Console,
) -> dict[int, list[str]]:
    """prompt -> a completion at each strength."""
    import torch

    from trimtab.common.progress import bar
    from trimtab.decoding._texts import generate_texts

    found: dict[int, list[str]] = {}
    with bar(console) if len(prompts) > ROWS and settings.out else nullcontext() as progress:
        task = progress.add_task("generate", total=len(prompts), note="prompts") if progress else None
        for number, rows in enumerate(_batches(tokenizer, prompts, settings.plain)):
            answers = []
            for strength in strengths:
                torch.manual_seed(settings.seed + number * ROWS)
                given = {**settings.sampling(tokenizer, model), **options}
                given |= {} if strength is None else {"strength": strength}
                asked = [prompts[row] for row in rows]
                texts = generate_texts(
                    model, tokenizer, asked, settings.max_new_tokens, plain=settings.plain, own=settings.own, **given
                )
                answers.append([answer.text for answer in texts])
            found |= {row: [texts[i] for texts in answers] for i, row in enumerate(rows)}
            if progress and task is not None:
                progress.update(task, completed=len(found))
    return found


def _check_prompts(prompts: "Sequence[Prompt]", settings: GenerateSettings, tokenizer: Any, console: Console) -> None:
    """Check that prompts and the longest completions fit each model."""
    from trimtab.data.tokens import prompt_ids
    from trimtab.models import loading
    from trimtab.models.limits import check_prompts

    ids = [prompt_ids(tokenizer, one, f"prompt {i}", plain=settings.plain) for i, one in enumerate(prompts, start=1)]
    for name in filter(None, (settings.asked, settings.aligned)):
        for note in check_prompts(ids, settings.max_new_tokens, loading.limits(name), tokenizer, name):
            say(console, note)


def _batches(tokenizer: Any, prompts: "Sequence[Prompt]", plain: bool) -> list[list[int]]:
    """Indices of prompts of similar length, longest first: little padding, and memory peaks at the start."""
    from trimtab.data.tokens import encode_prompts

    lengths = [encode_prompts(tokenizer, [prompt], plain)["input_ids"].size(1) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda row: (-lengths[row], row))
    return [order[start : start + ROWS] for start in range(0, len(order), ROWS)]


def _made(
    settings: GenerateSettings, loop: str | None, strengths: Sequence[float | None], config: "GenerationConfig"
) -> list[str]:
    """Everything that the texts depend on besides models and the version of trimtab."""
    from importlib.metadata import version

    from trimtab.decoding._config import described

    made = [f"decoding {loop or settings.decoding or ('sample' if settings.temperature else 'greedy')}"]
    made += [f"merge {settings.merge}"] if settings.merge else []
    if loop:
        made.append(f"strength {', '.join(f'{strength:g}' for strength in strengths)}")
    if settings.decoding:
        chosen = decoding.check(settings.decoding, settings.chosen).model_dump()
        made.append(" ".join([settings.decoding, *(f"{key}={value}" for key, value in chosen.items())]))
    names = ["max_new_tokens", *(() if settings.decoding else ("temperature", "top_p")), "seed"]
    made += [f"{name} {getattr(settings, name):g}" for name in names]
    made += ["plain prompts"] if settings.plain else []
    made.append(f"generation config {described(config)}")
    return made + [f"{name} {version(name)}" for name in ("torch", "transformers")]


def _write(
    work: Workdir,
    prompts: "Sequence[Prompt]",
    strengths: Sequence[float | None],
    found: Mapping[int, list[str]],
    made: list[str],
) -> Path:
    """Write one row per prompt and strength, in order, and a meta file."""
    asked = [prompt if isinstance(prompt, Mapping) else {"prompt": prompt} for prompt in prompts]
    rows = (
        {**prompt, "completion": text, **({} if strength is None else {"strength": strength})}
        for row, prompt in enumerate(asked)
        for strength, text in zip(strengths, found[row])
    )
    return work.write_rows(rows, {"signature": made, "rows": len(prompts) * len(strengths)})


def _load(name: str, role: str, made: list[str], settings: GenerateSettings) -> "PreTrainedModel":
    """Move the model to its device; its fingerprint and dtype go to `made`."""
    from trimtab.common import fingerprint
    from trimtab.models.inference import load_for_inference

    model = load_for_inference(name, settings.how)
    made.append(f"{role} {name} {fingerprint.of_model(model)}")
    made.append(f"{'' if role == 'model' else f'{role}-'}dtype {str(model.dtype).removeprefix('torch.')}")
    return model


def _show(console: Console, prompt: str, strengths: Sequence[float | None], texts: Sequence[str]) -> None:
    console.print(Text(f"> {prompt}", style="bold"), soft_wrap=True)
    if len(texts) == 1:
        console.print(Text(f"{texts[0]}\n"), soft_wrap=True)
        return
    table = Table("strength", "text", box=None, pad_edge=False)
    for strength, text in zip(strengths, texts):
        table.add_row(f"{strength:g}", Text(text))
    console.print(table)
    console.print()
