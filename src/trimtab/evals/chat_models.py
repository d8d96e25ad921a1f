"""Models that call tools, for the agents of the gym: in memory, on a server, or the roles of a folder."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.agents.roles import FILE, Roles
from trimtab.agents.speakers import is_endpoint
from trimtab.common.errors import UserError
from trimtab.common.files import dumps
from trimtab.data.tokens import coder, prompt_ids, prompt_text
from trimtab.data.trajectories import from_messages
from trimtab.evals.agent_turns import react
from trimtab.evals.models import HFModel
from trimtab.evals.openai_model import OpenAIModel
from trimtab.evals.role_models import load_agent
from trimtab.evals.spending import prompt_tokens
from trimtab.evals.suite import SPECIAL
from trimtab.gym import actions
from trimtab.gym.actions import schema
from trimtab.gym.agents.history import Messages
from trimtab.gym.agents.react import Called, ChatModel, ModelTurn
from trimtab.models import loading
from trimtab.models.inference import LoadOptions, load_for_inference

HISTORY = "the history of the run"
"""where messages come from, in errors"""
Tools = Sequence[Mapping[str, Any]]
CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
BY_TEXT = """You have these tools:
{tools}

To call one, write <tool_call>{{"name": NAME, "arguments": {{...}}}}</tool_call>."""
"""for a model whose template knows no tools"""


def load_chat(
    name: str, how: LoadOptions | None = None, *, temperature: float = 0.0, timeout: float = 600.0
) -> ChatModel:
    """A model that calls tools.

    Args:
        name: http://HOST/v1#MODEL of a server, a roles folder, a builtin model, a folder or a hub id.
        temperature: 0 for greedy; roles are greedy always.
        timeout: of a server's answer, seconds.

    Raises:
        UserError: for what cannot be loaded.
    """
    if is_endpoint(name):
        url, _, model = name.partition("#")
        if not model:
            raise UserError(f"{name}: a model on a server is written as http://HOST/v1#MODEL")
        return ServedChat(OpenAIModel(url.rstrip("/"), model, temperature=temperature, timeout=timeout, batch=1))
    if (Path(name).expanduser() / FILE).is_file():
        return RolesChat(load_agent(name, how))
    sampled = {"strategy": "sample", "options": {"temperature": temperature}} if temperature else {}
    return LocalChat(HFModel(load_for_inference(name, how), loading.load_tokenizer(name), name, batch=1, **sampled))


def functions(tools: Tools) -> list[dict[str, Any]]:
    """Tools in OpenAI's form."""
    return [{"type": "function", "function": dict(tool)} for tool in tools]


class ServedChat:
    """A model on a server that speaks OpenAI's chat completions with tools."""

    context: int | None = None

    def __init__(self, model: OpenAIModel):
        self.model, self.name = model, f"{model.url}#{model.name}"

    def ask(self, messages: Messages, tools: Tools, max_new_tokens: int, seed: int) -> ModelTurn:
        found, usage = self.model.turn({"prompt": messages, "tools": functions(tools)}, max_new_tokens, seed)
        calls = [Called(one.function.name, one.function.arguments) for one in found.tool_calls or () if one.function]
        return ModelTurn(found.content or "", calls, usage.tokens or None)

    def count(self, messages: Messages, tools: Tools) -> int:
        return prompt_tokens({"prompt": messages, "tools": functions(tools)}) + sum(
            len(str(message["tool_calls"])) // 3 for message in messages if "tool_calls" in message
        )


class LocalChat:
    """A model in memory, asked through its chat template; where that knows no tools, they are told by text.

    Its calls are read as its tokenizer says, or, where that does not, in the form <tool_call>JSON</tool_call>.
    """

    def __init__(self, model: HFModel):
        self.model, self.name = model, model.name
        self.context = model.limits.places or model.limits.trained
        if model.tokenizer.chat_template is None:
            raise UserError(
                f"{model.name} has no chat template, so that it cannot be told of tools; choose a chat model"
            )
        asked = {"prompt": [{"role": "user", "content": "?"}], "tools": functions([schema(actions.ViewHint)])}
        self.knows_tools = actions.ViewHint.name in prompt_text(model.tokenizer, asked, "a chat with tools")[0]

    def ask(self, messages: Messages, tools: Tools, max_new_tokens: int, seed: int) -> ModelTurn:
        asked = self._asked(messages, tools)
        self.model.seed, self.model.calls = seed, 0
        (reply,) = self.model.answer([{**asked, SPECIAL: "kept"}], max_new_tokens)  # type: ignore[list-item]
        text, calls = self._read(reply.text, asked, tools)
        written = len(coder(self.model.tokenizer).prompt(reply.text, False))
        return ModelTurn(text, calls, self._length(asked) + written)

    def count(self, messages: Messages, tools: Tools) -> int:
        return self._length(self._asked(messages, tools))

    def _length(self, asked: Mapping[str, Any]) -> int:
        return len(prompt_ids(self.model.tokenizer, asked, HISTORY))

    def _asked(self, messages: Messages, tools: Tools) -> dict[str, Any]:
        if self.knows_tools:
            return {"prompt": messages, "tools": functions(tools)}
        return {"prompt": by_text(messages, tools)}

    def _read(self, said: str, asked: Mapping[str, Any], tools: Tools) -> tuple[str, list[Called]]:
        """Words and calls of an answer."""
        tokenizer = self.model.tokenizer
        if self.knows_tools and getattr(tokenizer, "response_template", None) is not None:
            prompt = prompt_text(tokenizer, asked, HISTORY)[0]
            found: Any = {}
            try:
                found = tokenizer.parse_response(said, prefix=prompt, tools=functions(tools))
            except Exception:  # whatever a tokenizer's template meets in a text that is not of its form
                found = {"content": said}
            calls = [one.get("function", one) for one in found.get("tool_calls") or ()]
            return str(found.get("content") or ""), [Called(one.get("name"), one.get("arguments")) for one in calls]
        for token in tokenizer.all_special_tokens:
            said = said.replace(token, "")
        return CALL.sub("", said).strip(), [_called(text) for text in CALL.findall(said)]


class RolesChat:
    """A roles folder: planner, caller and summariser, or one model in the format of the backbone. They cut histories
    that are too long by themselves."""

    context: int | None = None

    def __init__(self, roles: Roles):
        self.roles, self.name = roles, roles.name

    def ask(self, messages: Messages, tools: Tools, max_new_tokens: int, seed: int) -> ModelTurn:
        system, first, *rest = messages
        asked = [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]
        found = from_messages({"messages": asked, "tools": functions(tools)}, HISTORY)
        done = react(self.roles, found, max_new_tokens, seed)
        calls = [] if done.call is None else [Called(done.call.name, done.call.arguments)]
        return ModelTurn(done.answer or done.thought, calls, None)

    def count(self, messages: Messages, tools: Tools) -> int:
        return 0


def by_text(messages: Messages, tools: Tools) -> Messages:
    """Messages for a template that knows no tools: these are told by the system, calls are text, and what they return
    is said by the user."""
    found: Messages = []
    for message in messages:
        text = message["content"]
        if message["role"] == "system":
            text = f"{text}\n\n{BY_TEXT.format(tools=chr(10).join(dumps(tool) for tool in tools))}"
        for call in message.get("tool_calls", ()):
            own = {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])}
            text = f"{text}\n<tool_call>{dumps(own)}</tool_call>".strip()
        if message["role"] == "tool":
            text = f"<tool_response>{text}</tool_response>"
        role = "user" if message["role"] == "tool" else message["role"]
        if found and found[-1]["role"] == role == "user":
            found[-1]["content"] += f"\n\n{text}"
        else:
            found.append({"role": role, "content": text})
    return found


def _called(text: str) -> Called:
    """A call as text; its arguments stay text where they are no JSON, for whoever says what is wrong."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        name = re.match(r'\{\s*"name"\s*:\s*"([^"]*)"', text)
        return Called(name[1] if name else text[:40], text)
    return Called(found.get("name"), found.get("arguments", found.get("parameters")))
