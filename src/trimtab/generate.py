"""Answers to prompts on the terminal, at one strength of the alignment or at several, and what made them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedModel

from trimtab import __version__, decoding
from trimtab.data.sources import SUFFIXES, load_rows
from trimtab.models import fingerprint, loading
from trimtab.models.identity_layer import MARK
from trimtab.train import heldout

ROWS = 8
"""Prompts in a batch."""


class GenerateError(ValueError):
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

    def __post_init__(self) -> None:
        if self.aligned and not self.strengths:
            raise GenerateError("--aligned mixes two models: say how strongly with --strength")
        if not 0 < self.top_p <= 1:
            raise GenerateError(f"--top-p must be above 0 and at most 1, got {self.top_p:g}")
        if self.top_p < 1 and self.temperature == 0:
            raise GenerateError("--top-p says how to sample, and at temperature 0 nothing is: add --temperature")

    def sampling(self) -> dict[str, Any]:
        """Arguments of `model.generate`, which override the settings that came with the model."""
        if self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


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


def load_prompts(path: Path) -> list[str]:
    """The column `prompt` of a file of rows, or the lines of any other file; empty lines do not count.

    Raises:
        GenerateError: if there is no prompt, or a row's is no text.
        DataError: if rows cannot be read.
    """
    if path.suffix.lower() not in SUFFIXES:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise GenerateError(f"--prompts: {path} cannot be read as text: {error}") from error
        prompts = [line for line in lines if line.strip()]
        if not prompts:
            raise GenerateError(f"--prompts: {path} holds no prompt")
        return prompts
    prompts = []
    for number, row in enumerate(load_rows(str(path)), start=1):
        prompt = row.get("prompt")
        if not isinstance(prompt, str) or not prompt:
            raise GenerateError(f"--prompts: row {number} of {path} has no text in a column 'prompt'")
        prompts.append(prompt)
    return prompts


def generate(prompts: Sequence[str], settings: Settings, console: Console | None = None) -> None:
    """Print the answer to each prompt, a table where there are several strengths, and the signature at the end.

    Decoding is DeRa with an aligned model, `realign` for a model with an identity layer (at strength 1 if none is
    given), and otherwise that of the model itself.

    Raises:
        ValueError: a subclass that names what is wrong, before weights are loaded where that can be known.
    """
    console = console or Console()
    tokenizer = loading.load_tokenizer(settings.model)
    config = loading.load_config(settings.model)
    strategy = "dera" if settings.aligned else "realign" if getattr(config, MARK, False) else None
    if settings.strengths and strategy is None:
        raise GenerateError(
            f"--strength needs a model with an identity layer, and {settings.model} has none; give a second model with "
            "--aligned to mix the two"
        )
    strengths: Sequence[float | None] = settings.strengths or ((1.0,) if strategy else (None,))
    options: dict[str, Any] = {"custom_generate": decoding.load(strategy)} if strategy else {}
    made = [f"trimtab {__version__}"]
    if settings.aligned:
        loading.check_vocabulary(tokenizer, config.get_text_config().vocab_size, settings.aligned, "aligned model")
    model = _load(settings.model, "model", made)
    if settings.aligned:
        options["aligned"] = _load(settings.aligned, "aligned", made)
    for start in range(0, len(prompts), ROWS):
        batch = prompts[start : start + ROWS]
        answers = []
        for strength in strengths:
            torch.manual_seed(settings.seed + start)
            given = options if strength is None else {**options, "strength": strength}
            found = heldout.generate(model, tokenizer, batch, settings.max_new_tokens, **settings.sampling(), **given)
            answers.append([answer.text for answer in found])
        for prompt, texts in zip(batch, zip(*answers)):
            _show(console, prompt, strengths, texts)
    made.append(f"decoding {strategy or 'of the model'}")
    if strategy:
        made.append(f"strength {', '.join(f'{strength:g}' for strength in strengths)}")
    for name in ("max_new_tokens", "temperature", "top_p", "seed"):
        made.append(f"{name} {getattr(settings, name):g}")
    made += [f"{name} {version(name)}" for name in ("torch", "transformers")]
    console.print(Text(f"signature: {'; '.join(made)}"), soft_wrap=True)


def _load(name: str, role: str, made: list[str]) -> PreTrainedModel:
    """The model on the device there is; its fingerprint goes to `made`."""
    model = loading.load_model(name)
    made.append(f"{role} {name} {fingerprint.of_model(model)}")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]


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
