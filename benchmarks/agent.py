"""What do three adapters on one base cost an agent against three whole models, and what does it gain by reading once?

SmolLM2-135M plays planner, caller and summariser on tasks of six calls, with eight tools of `trimtab:tools`:

  adapters     one base with an adapter a role (rank 8 on queries and values), switched; each role keeps what it read
  models       three whole models, which keep what they read too
  read anew    the adapters, but each prompt is read from its beginning

What roles say is written by a script, of fixed lengths, so that all contestants read and write as many tokens: a model
generates that many, and its text is replaced. Time by turns in one process, with ten of the 30 layers; memory of all
layers in processes of their own: the resident memory that loading and one task add at the most. Reading once must give
the texts of reading anew.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from common import (
    MIB,
    PATIENCE,
    Different,
    Target,
    alternate,
    in_fresh_process,
    parser,
    peak_bytes,
    ratio,
    signature,
    table,
    tell,
    unjudged,
    write,
)
from trimtab.agents import speakers
from trimtab.agents.loop import Agent
from trimtab.agents.roles import Roles
from trimtab.agents.speakers import LocalModel, LocalSpeaker, Spoken
from trimtab.data.agent_roles import ROLES, prompter_of
from trimtab.data.generators.tool_world.world import SEEN, schemas_of
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.models.student import evenly_spaced, keep_layers

transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
NAME, LAYERS, CALLS, NEW = "smollm2-135m", 10, 6, 24
"""the model, its layers where time is measured, calls of a task, tokens of a turn"""
MEMORY, SLOWER, READING = 0.45, 1.1, 1 / 1.5
PLAN, CALL, ANSWER = (
    "I look up what the forecast says for that day, and then I go on with the rest.",
    'Action: get_weather\nAction Input: {"town": "Bern", "day": "2026-03-04"}',
    "On that day it rains in Bern, so that an umbrella was put on the list.",
)
OBSERVATION = "Bern on 2026-03-04: rain, 12 C, wind 14 km/h from the west; the day before it was dry, with 9 C and fog."


class Fixed(LocalSpeaker):
    """A role that generates, and says what a script has it say."""

    script: Callable[[], str]
    said: list[str]

    def write(self, prompt: str, **how: Any) -> Spoken:
        found = super().write(prompt, **how)
        self.said.append(found.text)
        return found._replace(text=self.script())


class Seen:
    text, error = OBSERVATION, False


class FixedTools:
    """Some tools of the bundled worlds, which return the same."""

    schemas = schemas_of([tool for app in SEEN for tool in app.tools][:8])

    def run(self, name: str, arguments: str) -> Seen:
        return Seen()


def base(quick: bool, layers: int | None = None) -> Any:
    if not quick:
        whole = load_model(NAME)
        return whole if layers is None else keep_layers(whole, evenly_spaced(whole.config.num_hidden_layers, layers))
    config = AutoConfig.for_model(
        "llama", vocab_size=49152, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8192, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def save_adapters(folder: Path, quick: bool, layers: int | None) -> None:
    for seed, role in enumerate(ROLES):
        settings = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        made = get_peft_model(base(quick, layers), settings)
        torch.manual_seed(seed)
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight.data, std=0.01)
        made.save_pretrained(folder / role)


def roles_of(kind: str, folder: Path, quick: bool, layers: int | None = None) -> Roles:
    tokenizer = load_tokenizer(NAME)
    if kind == "models":
        owners = [LocalModel(base(quick, layers), tokenizer, NAME) for _ in ROLES]
        made = [Fixed(owner) for owner in owners]
    else:
        owner = LocalModel(base(quick, layers), tokenizer, NAME)
        for role in ROLES:
            weights = speakers_weights(folder / role)
            owner.add(role, str(folder / role), weights)
        made = [Fixed(owner, role, reuse=kind == "adapters") for role in ROLES]
    return Roles(dict(zip(ROLES, made)), prompter_of(tokenizer))


def speakers_weights(folder: Path) -> Sequence[str]:
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return list(file.keys())


def work(roles: Roles, calls: int) -> tuple[list[str], dict[str, Any]]:
    """One task: what the models generated, and the tokens of each role."""
    plans = iter([f"{PLAN}\n Next: caller."] * calls + [f"{PLAN}\n Next: conclusion."])
    scripts: dict[str, Callable[[], str]] = {
        "planner": lambda: next(plans), "caller": lambda: CALL, "summarizer": lambda: ANSWER,
    }  # fmt: skip
    for role, speaker in roles.speakers.items():
        assert isinstance(speaker, Fixed)
        speaker.forget()
        speaker.script, speaker.said = scripts[role], []
    result = Agent(roles, FixedTools(), max_new_tokens=NEW).run("Do I need an umbrella in Bern on that day?")
    assert result.ended == "conclusion"
    return [text for one in roles.speakers.values() for text in one.said], dict(result.tokens)  # type: ignore[attr-defined]


def of_fixed_length(model: Any, tokenizer: Any, how: Any, number: int) -> Any:
    return CONFIG_OF(model, tokenizer, {**how, "min_new_tokens": number}, number)


CONFIG_OF = speakers.config_of
speakers.config_of = of_fixed_length


def memory(kind: str, folder: Path, calls: int, quick: bool) -> float:
    def step() -> None:
        work(roles_of(kind, folder, quick), calls)

    return round(peak_bytes(step) / MIB, 1)


def clock(folder: Path, calls: int, quick: bool, repeats: int, patience: float) -> dict[str, Any]:
    contestants = {kind: roles_of(kind, folder, quick, LAYERS) for kind in ("adapters", "models", "read anew")}
    results: dict[str, Any] = {}

    def step(kind: str) -> None:
        results[kind] = work(contestants[kind], calls)

    timings = alternate({kind: partial(step, kind) for kind in contestants}, repeats, patience)
    if results["adapters"][0] != results["read anew"][0]:
        raise Different("what was read once gives other texts than what is read anew")
    tokens = {
        kind: {name: sum(getattr(one, name) for one in of.values()) for name in ("read", "reused", "written")}
        for kind, (_, of) in results.items()
    }
    return {kind: {"time": timings[kind].record(), "tokens": tokens[kind]} for kind in contestants}


def main() -> None:
    args = parser(__doc__).parse_args()
    calls = 2 if args.quick else CALLS
    with tempfile.TemporaryDirectory() as place:
        whole, cut = Path(place) / "whole", Path(place) / "cut"
        in_fresh_process(save_adapters, whole, args.quick, None)
        in_fresh_process(save_adapters, cut, args.quick, LAYERS)
        cells: dict[str, Any] = {}
        used = {}
        for kind in ("adapters", "models"):
            tell(f"memory of {kind}")
            used[kind] = in_fresh_process(memory, kind, whole, calls, args.quick)
        tell("time")
        cells = in_fresh_process(clock, cut, calls, args.quick, args.repeats or 3, 0 if args.quick else PATIENCE)
    for kind, number in used.items():
        cells[kind]["memory_mib"] = number
    seconds = {kind: cell["time"]["seconds"] for kind, cell in cells.items()}
    targets = [
        Target("memory of three adapters on a base / of three models", MEMORY, ratio(used["adapters"], used["models"])),
        Target("time of a task, adapters / models", SLOWER, ratio(seconds["adapters"], seconds["models"])),
        Target("time of a task, read once / read anew", READING, ratio(seconds["adapters"], seconds["read anew"])),
    ]
    targets = unjudged(targets) if args.quick else targets
    result = {
        "signature": signature(),
        "model": NAME,
        "layers": LAYERS,
        "calls": calls,
        "tokens_of_a_turn": NEW,
        "cells": cells,
    }
    path = write("agent", args, result, targets)
    rows = [
        [kind, cell["time"]["seconds"], cell.get("memory_mib"), *(str(cell["tokens"][n]) for n in ("read", "reused"))]
        for kind, cell in cells.items()
    ]
    print(table(["roles", "seconds a task", "MiB", "tokens read", "kept"], rows))
    print("\n".join(map(str, targets)))
    print(path)


if __name__ == "__main__":
    main()
