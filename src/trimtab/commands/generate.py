"""Answers to prompts on the terminal, at one strength of the alignment or at several, and what made them."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import GenerationConfig, PreTrainedModel, TextStreamer

from trimtab import __version__, decoding
from trimtab.common import fingerprint
from trimtab.common.errors import UserError
from trimtab.common.files import check_whole
from trimtab.common.locks import writing
from trimtab.common.progress import bar
from trimtab.common.terminal import say
from trimtab.common.yaml_text import parse_value
from trimtab.data import stored
from trimtab.data.chat import date_facts, text_of
from trimtab.data.sources import SUFFIXES, load_rows, prompt_lines
from trimtab.data.tasks import question
from trimtab.data.tokens import Prompt, encode_prompts, prompt_ids
from trimtab.decoding._checkpoint_config import check_own, check_stored
from trimtab.decoding._config import config_of, described
from trimtab.decoding.realign import Merge
from trimtab.models import loading
from trimtab.models.asked import How, load_asked
from trimtab.models.identity_layer import MARK
from trimtab.models.limits import check_prompts
from trimtab.train import heldout

ROWS = 8
"""Prompts in a batch."""


class GenerateError(UserError):
    """Something that was asked for and cannot be generated."""


@dataclass(frozen=True)
class Settings:
    """What the command line was given."""

    model: str
    aligned: str | None = None
    strengths: tuple[float, ...] = ()
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    decoding: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """of the decoding strategy"""
    plain: bool = False
    out: Path | None = None
    force: bool = False
    merge: str | None = None
    """what the dial mixes; None: logits"""
    how: How = field(default_factory=How)

    def __post_init__(self) -> None:
        if self.aligned and not self.strengths:
            raise GenerateError("--aligned mixes two models: say how strongly with --strength")
        if self.merge not in (None, *get_args(Merge)):
            raise GenerateError(f"--merge must be one of {', '.join(get_args(Merge))}, got {self.merge!r}")
        if self.merge and self.aligned:
            raise GenerateError("--merge is for a model with an identity layer; with --aligned logits are mixed")
        if not 0 < self.top_p <= 1:
            raise GenerateError(f"--top-p must be above 0 and at most 1, got {self.top_p:g}")
        if self.decoding is not None:
            if self.temperature or self.top_p < 1:
                raise GenerateError(
                    f"--temperature and --top-p are of decoding without a name; with --decoding {self.decoding} write "
                    "decoding.KEY=VALUE (trimtab show lists the keys)"
                )
            decoding.check(self.decoding, self.options)
        elif self.options:
            raise GenerateError(
                f"decoding.{next(iter(self.options))} is a setting of a strategy; name it: --decoding NAME"
            )
        if self.top_p < 1 and self.temperature == 0:
            raise GenerateError("--top-p says how to sample, and at temperature 0 nothing is: add --temperature")
        if self.out is not None and self.out.suffix != ".jsonl":
            raise GenerateError(f"--out: answers are written as rows; choose FILE.jsonl and not {self.out}")
        self.check_out()

    def check_out(self) -> None:
        """Refuse to replace a file that is there."""
        if self.out is not None and self.out.exists() and not self.force:
            raise GenerateError(f"--out: {self.out} exists; add --force to replace it or choose another FILE.jsonl")

    @property
    def own(self) -> bool:
        """Whether the model's own generation config is asked for."""
        return self.decoding == decoding.MODEL

    def sampling(self, tokenizer: Any, model: Any = None) -> dict[str, Any]:
        """Arguments of one call of `model.generate`; nothing of the settings that came with the model acts besides."""
        if self.decoding is not None:
            return decoding.arguments(self.decoding, tokenizer, model=model, **self.options)
        if self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """decoding.KEY=VALUE, each value as YAML.

    Raises:
        GenerateError: naming what is none.
    """
    found = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key.startswith("decoding.") or not key.removeprefix("decoding."):
            raise GenerateError(f"{word!r} is no setting; write decoding.KEY=VALUE, for example decoding.epsilon=0.001")
        found[key.removeprefix("decoding.")] = parse_value(word, value)
    return found


def parse_strengths(words: Sequence[str]) -> tuple[float, ...]:
    """Numbers from words that hold one or several, with commas between them.

    Raises:
        GenerateError: naming what is no finite number.
    """
    found = []
    for word in ",".join(words).split(",") if words else ():
        try:
            found.append(float(word))
        except ValueError:
            raise GenerateError(f"--strength: {word!r} is not a number; write 0.5, or 0,0.5,1 for several") from None
        if not math.isfinite(found[-1]):
            raise GenerateError(f"--strength: {word} is not finite")
    return tuple(found)


def load_prompts(path: Path) -> list[Prompt]:
    """What the rows of a file ask (their `prompt`, a text or messages, with their `tools`), or the lines of any other
    file or of standard input (`-`); empty lines do not count.

    Raises:
        GenerateError: if a row asks nothing.
        DataError: if the file cannot be read, or holds no prompt.
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
            raise GenerateError(f"--prompts: row {number} of {path} has no text or messages in a column 'prompt'")
        else:
            prompts.append(prompt)
    return prompts


def _shown(prompt: Prompt) -> str:
    """What was asked last."""
    chat = prompt["prompt"] if isinstance(prompt, Mapping) else prompt
    return chat if isinstance(chat, str) else text_of(chat[-1].get("content"))


def generate(prompts: Sequence[Prompt], settings: Settings, console: Console | None = None) -> None:
    """Print the answer to each prompt, a table where there are several strengths, and the signature at the end.

    With an aligned model, logits are mixed by DeRa; in a model with an identity layer by `realign` (at strength 1 if
    none is given); the strategy then draws from the mixture. Prompts of like length share a batch. One prompt on a
    terminal is answered token by token.

    Raises:
        ValueError: a subclass that names what is wrong, before weights are loaded where that can be known.
    """
    console = console or Console()
    if settings.out is None:
        return _generate(prompts, settings, console)
    with writing(settings.out, "another call", "wait for it, or choose another --out", GenerateError):
        settings.check_out()  # another call may have written it since
        return _generate(prompts, settings, console)


def _generate(prompts: Sequence[Prompt], settings: Settings, console: Console) -> None:
    for number, prompt in enumerate(prompts, start=1):
        if isinstance(prompt, str):
            check_whole(prompt, f"prompt {number}")
    tokenizer = loading.load_tokenizer(settings.model)
    config = loading.load_config(settings.model)
    loop = "dera" if settings.aligned else "realign" if getattr(config, MARK, False) else None
    if settings.strengths and loop is None:
        raise GenerateError(
            f"--strength needs a model with an identity layer, and {settings.model} has none; give a second model with "
            "--aligned to mix the two"
        )
    strengths: Sequence[float | None] = settings.strengths or ((1.0,) if loop else (None,))
    if settings.merge and loop is None:
        raise GenerateError(f"--merge needs a model with an identity layer, and {settings.model} has none")
    options: dict[str, Any] = {"custom_generate": decoding.load(loop)} if loop else {}
    if settings.merge:
        options["merge"] = settings.merge
    _check_prompts(prompts, settings, tokenizer, console)
    how = settings.sampling(tokenizer)  # what a strategy says against this tokenizer comes before the weights
    if loop and how.get("num_beams", 1) > 1:
        raise GenerateError(
            f"--decoding {settings.decoding}: two models are mixed greedily or by sampling, and not with beams; choose "
            "another strategy, such as greedy or top_p"
        )
    if settings.own:
        check_stored(settings.model)
    made = [f"trimtab {__version__}"]
    if settings.aligned:
        own = config.get_text_config().vocab_size
        _, said = loading.check_vocabulary(tokenizer, own, settings.aligned, "aligned model")
        if said:
            say(console, said)
    model = _load(settings.model, "model", made, settings.how)
    if settings.own:
        check_own(model.generation_config, settings.model)
    if settings.aligned:
        options["aligned"] = _load(settings.aligned, "aligned", made, settings.how)
    streams = len(prompts) == 1 and len(strengths) == 1 and console.is_terminal
    if streams:
        console.print(Text(f"> {_shown(prompts[0])}", style="bold"), soft_wrap=True)
        streamer = TextStreamer(tokenizer, skip_prompt=loop is None, skip_special_tokens=True)  # type: ignore[arg-type]
        if loop:
            options["custom_generate"] = partial(options["custom_generate"], streamer=streamer)
        else:
            options["streamer"] = streamer
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
                texts = heldout.generate(
                    model, tokenizer, asked, settings.max_new_tokens, plain=settings.plain, own=settings.own, **given
                )
                answers.append([answer.text for answer in texts])
            found |= {row: [texts[i] for texts in answers] for i, row in enumerate(rows)}
            if progress and task is not None:
                progress.update(task, completed=len(found))
    how = settings.sampling(tokenizer, model)
    config = config_of(model, tokenizer, how, settings.max_new_tokens, own=settings.own)
    made += _made(settings, loop, strengths, config)
    made += [] if settings.plain else [f"{key} {value}" for key, value in date_facts(tokenizer).items()]
    if settings.out is not None:
        _write(settings.out, prompts, strengths, found, made)
        say(console, f"{len(prompts)} answers: {settings.out}, made by: {settings.out.with_suffix('.meta.json')}")
    elif not streams:
        for row, prompt in enumerate(prompts):
            _show(console, _shown(prompt), strengths, found[row])
    console.print(Text(f"signature: {'; '.join(made)}"), soft_wrap=True)


def _check_prompts(prompts: Sequence[Prompt], settings: Settings, tokenizer: Any, console: Console) -> None:
    """Hold the prompts and the longest answers against what each model can read."""
    ids = [prompt_ids(tokenizer, one, f"prompt {i}", plain=settings.plain) for i, one in enumerate(prompts, start=1)]
    for name in filter(None, (settings.model, settings.aligned)):
        for note in check_prompts(ids, settings.max_new_tokens, loading.limits(name), tokenizer, name):
            say(console, note)


def _batches(tokenizer: Any, prompts: Sequence[Prompt], plain: bool) -> list[list[int]]:
    """Indices of prompts of like length, the longest first: little padding, and memory peaks at the start."""
    lengths = [encode_prompts(tokenizer, [prompt], plain)["input_ids"].size(1) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda row: (-lengths[row], row))
    return [order[start : start + ROWS] for start in range(0, len(order), ROWS)]


def _made(
    settings: Settings, loop: str | None, strengths: Sequence[float | None], config: GenerationConfig
) -> list[str]:
    """What the texts depend on besides models and versions of trimtab."""
    made = [f"decoding {loop or settings.decoding or ('sample' if settings.temperature else 'greedy')}"]
    made += [f"merge {settings.merge}"] if settings.merge else []
    if loop:
        made.append(f"strength {', '.join(f'{strength:g}' for strength in strengths)}")
    if settings.decoding:
        chosen = decoding.check(settings.decoding, settings.options).model_dump()
        made.append(" ".join([settings.decoding, *(f"{key}={value}" for key, value in chosen.items())]))
    names = ["max_new_tokens", *(() if settings.decoding else ("temperature", "top_p")), "seed"]
    made += [f"{name} {getattr(settings, name):g}" for name in names]
    made += ["plain prompts"] if settings.plain else []
    made.append(f"generation config {described(config)}")
    return made + [f"{name} {version(name)}" for name in ("torch", "transformers")]


def _write(
    out: Path,
    prompts: Sequence[Prompt],
    strengths: Sequence[float | None],
    found: Mapping[int, list[str]],
    made: list[str],
) -> None:
    """One row for each prompt and strength, in order; beside them what made them."""
    asked = [prompt if isinstance(prompt, Mapping) else {"prompt": prompt} for prompt in prompts]
    rows = (
        {**prompt, "completion": text, **({} if strength is None else {"strength": strength})}
        for row, prompt in enumerate(asked)
        for strength, text in zip(strengths, found[row])
    )
    stored.write(out, rows, {"signature": made, "rows": len(prompts) * len(strengths)})


def _load(name: str, role: str, made: list[str], how: How) -> PreTrainedModel:
    """The model where it is to run; its fingerprint and dtype go to `made`."""
    model = load_asked(name, how)
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
