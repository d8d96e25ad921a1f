"""Roles that say what a script has them say, tools of a dictionary, and a roles folder of tiny models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tiny_folder
from trimtab.agents.roles import Roles
from trimtab.agents.speakers import Spoken
from trimtab.data.agent_roles import Prompter

TOOL = {"type": "function", "function": {"name": "look", "description": "sees", "parameters": {
    "type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}}}  # fmt: skip
CALL = 'Action: look\nAction Input: {"town": "Bern"}'
PLANS, ENOUGH, NO = "I look.\n Next: caller.", "Enough.\n Next: conclusion.", "No.\n Next: give up."


class Scripted:
    """A role that says these texts one after another, and keeps what it was asked."""

    def __init__(self, texts: Sequence[str], context: int | None = None):
        self.texts, self.context = list(texts), context
        self.prompts: list[str] = []
        self.asked: list[dict] = []

    def length(self, prompt: str) -> int:
        return len(prompt)

    def write(self, prompt, **how):
        self.prompts.append(prompt)
        self.asked.append(how)
        text = self.texts.pop(0)
        if isinstance(text, BaseException):
            raise text
        if how["on_text"] is not None:
            how["on_text"](text)
        return Spoken(text, len(prompt), 0, len(text))


def scripted(planner=(), caller=(), summarizer=(), contexts: Mapping[str, int] | None = None) -> Roles:
    """Roles that end their turns with </s>; `contexts` are in characters."""
    said = {"planner": planner, "caller": caller, "summarizer": summarizer}
    most = contexts or {}
    return Roles({role: Scripted(texts, most.get(role)) for role, texts in said.items()}, Prompter("</s>", ("</s>",)))


class Seen(NamedTuple):
    text: str
    error: bool = False
    seconds: float = 0.0


class Tools:
    """Answers by name and arguments; keeps what it was asked."""

    schemas = (TOOL,)

    def __init__(self, answers: Mapping[str, str] | None = None):
        self.answers = {"look": "12 C", **(answers or {})}
        self.calls: list[tuple[str, dict]] = []
        self.resets = 0

    def run(self, name: str, arguments: str) -> Seen:
        self.calls.append((name, json.loads(arguments)))
        return Seen(self.answers[name]) if name in self.answers else Seen(f"there is no tool {name!r}", True)


def save_adapter(folder: Path, base: str, seed: int, **settings) -> str:
    """A LoRA adapter of a tiny model with weights that change what it says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **settings),
        )
        for name, weight in made.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight.data, std=0.3)
    made.save_pretrained(folder)
    return str(folder)


def roles_folder(folder: Path, **changes) -> Path:
    """One base and three adapters."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_folder.save(folder / "base", max_position_embeddings=2048)
    for seed, role in enumerate(("planner", "caller", "summarizer"), start=1):
        save_adapter(folder / role, str(folder / "base"), seed)
        path = folder / role / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}))
    return write_roles(folder, **changes)


def write_roles(folder: Path, **changes) -> Path:
    names = ("planner", "caller", "summarizer")
    made = {"version": 1, "format": "text", "base": "base", "roles": {name: name for name in names}, **changes}
    (folder / "roles.json").write_text(json.dumps(made))
    return folder
