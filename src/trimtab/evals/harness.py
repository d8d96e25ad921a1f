"""Suites as tasks of inspect_ai, and our decoding as one of its model providers; with `gym/on_inspect` the only place
that knows inspect_ai.

`inspect eval trimtab/geomrel --model openai/...` runs a suite on any provider; `--model trimtab/smollm2-135m` (with
`-M decoding=adaptive -M batch=32`) lets a builtin model, a folder or a hub id answer with any decoding strategy.
`inspect eval trimtab/gym_df_noisy` lets any agent work on a task of the gym (`trimtab gym list`).
`--sandbox trimtab` runs the tools of any agent in the gym's sandbox.
`--model trimtab_agent/ROLES` lets a roles folder, or one model that was trained as an agent, work on tasks with tools.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import anyio
import anyio.to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    modelapi,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, mean, metric, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo

from trimtab.agents.roles import Roles
from trimtab.data.tokens import is_text
from trimtab.data.trajectories import Trajectory, from_messages
from trimtab.evals import suites
from trimtab.evals.agent_turns import react
from trimtab.evals.models import HFModel
from trimtab.evals.role_models import load_agent
from trimtab.evals.runner import measures
from trimtab.evals.suite import Answered, Item, Messages, SuiteError, Verdict
from trimtab.gym.on_inspect import sandbox as sandbox  # registered by being imported
from trimtab.gym.on_inspect.tasks import NAMED
from trimtab.gym.on_inspect.tasks import gym as gym
from trimtab.metrics.tool_calls import parsed
from trimtab.models import loading
from trimtab.models.inference import LoadOptions, load_for_inference, with_adapter

_ROLES: dict[str, Callable[..., ChatMessage]] = {
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
    "system": ChatMessageSystem,
}


def suite_task(
    name: str, prompt: str | None = None, limit: int | None = None, max_new_tokens: int | None = None, **settings: Any
) -> Task:
    """A suite as a task; `settings` are those of the suite, SUITE.KEY on trimtab's own command line."""
    suite = suites.load(name)
    prompt = prompt or next(iter(suite.prompts))
    if prompt not in suite.prompts:
        raise SuiteError(f"there is no prompt {prompt!r}; there are: {', '.join(suite.prompts)}")
    items = list(suite.items(suites.check(name, settings)))[:limit]
    if max_new_tokens is not None:
        items = [replace(item, max_new_tokens=max_new_tokens) for item in items]
    samples = [
        Sample(id=item.id, input=_messages(suite.prompts[prompt][0](item, ())), target=list(item.target) or "",
               metadata={"item": asdict(item)})
        for item in items
    ]  # fmt: skip
    return Task(
        dataset=MemoryDataset(samples, name=name),
        solver=steps(name, prompt),
        scorer=verdict(name),
        config=GenerateConfig(max_tokens=suite.max_new_tokens, temperature=0.0),
        version=suite.version,
        name=name,
    )


def _task(name: str) -> Any:
    def make(
        prompt: str | None = None,
        limit: int | None = None,
        max_new_tokens: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Task:
        return suite_task(name, prompt, limit, max_new_tokens, **(settings or {}))

    make.__name__ = make.__qualname__ = name
    make.__doc__ = suites.summary(name)
    return task(name=name)(make)


globals().update({name: _task(name) for name in suites.names()})
globals().update(NAMED)


def _messages(chat: Messages) -> list[ChatMessage]:
    if is_text(chat):
        raise SuiteError("this prompt is text to go on with, but inspect asks by chats; choose another prompt or mode")
    return [_ROLES[message["role"]](content=message["content"]) for message in chat]


def _item(metadata: Any) -> Item:
    raw = metadata["item"]
    return Item(**{**raw, "target": tuple(raw["target"])})


@solver
def steps(suite: str, prompt: str) -> Solver:
    """One generation for each step of the prompt; a step sees the answers before it, and no other message."""
    of_prompt = suites.load(suite).prompts[prompt]

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        item, answers = _item(state.metadata), []
        for step in of_prompt:
            chat = step(item, answers)
            if not chat:
                answers.append("")
                continue
            state.messages = _messages(chat)
            state = await generate(state, **({"max_tokens": item.max_new_tokens} if item.max_new_tokens else {}))
            answers.append(state.output.completion)
        state.store.set("answers", answers)
        return state

    return solve


@metric
def numbers(suite: str) -> Metric:
    """All numbers of the suite, as `trimtab eval` gives them, without their intervals."""
    loaded = suites.load(suite)

    def count(scores: list[SampleScore]) -> Value:
        answered = []
        for one in scores:
            kept = one.score.metadata or {}
            verdicts = {name: Verdict(v["parsed"], v["value"]) for name, v in kept["verdicts"].items()}
            answered.append(Answered(_item(kept), tuple(kept["answers"]), verdicts))
        found = measures(loaded, answered)
        return {f"{m.name}, {m.group}": m.value.estimate for m in found if not math.isnan(m.value.estimate)}

    return count


def verdict(suite: str) -> Scorer:
    """The suite's first parser; an answer that was not understood counts 0 where verdicts are right or wrong."""
    loaded = suites.load(suite)

    @scorer(metrics=[mean(), stderr(), numbers(suite)], name=f"{suite}_verdict")
    def of_suite() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            item = _item(state.metadata)
            answers = state.store.get("answers") or [state.output.completion]
            found = loaded.score(item, said := loaded.joined(item, answers))
            first = next(iter(found.values()))
            judged = loaded.accuracy or item.target  # inspect leaves a sample without a value out of all numbers
            value = first.value if first.value is not None else 0.0 if judged else math.nan
            return Score(
                value=value,
                answer=None if first.parsed is None else str(first.parsed),
                explanation=said,
                metadata={
                    "item": asdict(item),
                    "answers": answers,
                    "verdicts": {name: one._asdict() for name, one in found.items()},
                },
            )

        return score

    return of_suite()


@modelapi(name="trimtab")
class TrimtabAPI(ModelAPI):
    """A model in memory with trimtab's decoding; requests that come together are answered in one batch.

    Args:
        model_name: a builtin model, a folder or a hub id.
        model_args: `decoding` (a strategy), `batch`, `plain`, `dtype`, `device_map` and `adapter` (as on the command
            line), `live` (a (model, tokenizer) that is in memory already), and settings of the strategy.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        **model_args: Any,
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        batch = int(model_args.pop("batch", 32))
        strategy, plain = model_args.pop("decoding", "greedy"), bool(model_args.pop("plain", False))
        live = model_args.pop("live", None)
        how = LoadOptions(model_args.pop("dtype", "auto"), model_args.pop("device_map", None))
        if live is None:
            named = with_adapter(model_name, model_args.pop("adapter", None))
            live = load_for_inference(named, how), loading.load_tokenizer(named)
        model, tokenizer = live
        self._model = HFModel(
            model,
            tokenizer,
            model_name,
            strategy=strategy,
            options=model_args,
            seed=config.seed or 0,
            batch=batch,
            plain=plain,
        )
        self._waiting: list[_Request] = []
        self._busy = anyio.Lock()

    def max_connections(self) -> int:
        return self._model.batch

    def connection_key(self) -> str:
        return self.model_name

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        if tools:
            raise SuiteError("trimtab's provider calls no tools; choose another provider for this task")
        if config.temperature or config.top_p or config.top_k:  # whatever the strategy, it would not see them
            raise SuiteError("choose how to sample with -M decoding=NAME, not with --temperature, --top-p or --top-k")
        chat = [{"role": message.role, "content": message.text} for message in input]
        own = _Request(chat, config.max_tokens or 512)
        self._waiting.append(own)
        await anyio.sleep(0)  # those that start at the same time all get into the list first
        async with self._busy:
            if own.reply is None:
                batch = self._next(own)
                replies = await anyio.to_thread.run_sync(self._answer, batch)
                for one, reply in zip(batch, replies):
                    one.reply = reply
        assert own.reply is not None
        return ModelOutput.from_content(self.model_name, own.reply)

    def _next(self, first: "_Request") -> list["_Request"]:
        """The request, and those that wait and want answers of the same length; of like length first."""
        like = [one for one in self._waiting if one.max_new_tokens == first.max_new_tokens]
        like.sort(key=lambda one: abs(one.length - first.length))
        batch = like[: self._model.batch]
        self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    def _answer(self, batch: Sequence["_Request"]) -> list[str]:
        replies = self._model.answer([one.chat for one in batch], batch[0].max_new_tokens)
        return [reply.text for reply in replies]


class _Request:
    """A chat that waits for its answer."""

    def __init__(self, chat: Messages, max_new_tokens: int):
        self.chat, self.max_new_tokens = chat, max_new_tokens
        self.length = sum(len(message["content"]) for message in chat)
        self.reply: str | None = None


@modelapi(name="trimtab_agent")
class AgentAPI(ModelAPI):
    """An agent, with tools that inspect runs: a roles folder, or one model in the text format of the backbone.

    What the system says stands before the user's first message, for no role reads a system message of its own.

    Args:
        model_name: the folder of a roles.json, a builtin model, a folder or a hub id.
        model_args: `dtype` and `device_map`; `live` (`Roles` that are in memory already).
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        **model_args: Any,
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        how = LoadOptions(model_args.pop("dtype", "auto"), model_args.pop("device_map", None))
        self._roles: Roles = model_args.pop("live", None) or load_agent(model_name, how)
        if model_args:
            raise SuiteError(f"an agent has no setting {next(iter(model_args))!r}; it has dtype and device_map")
        self._busy = anyio.Lock()

    def max_connections(self) -> int:
        return 1

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        if config.temperature or config.top_p or config.top_k:
            raise SuiteError("an agent decodes greedily under inspect; leave out --temperature, --top-p and --top-k")
        found, new = _trajectory(input, tools), config.max_tokens or 512
        async with self._busy:
            done = await anyio.to_thread.run_sync(react, self._roles, found, new)
        calls = None
        if done.call is not None:
            given = parsed(done.call.arguments)
            fault = None if isinstance(given, dict) else f"the arguments are no JSON object: {done.call.arguments}"
            arguments = given if isinstance(given, dict) else {}
            calls = [ToolCall(f"call_{len(input)}", done.call.name, arguments, parse_error=fault)]
        content = done.thought if done.answer is None else done.answer
        said = ChatMessageAssistant(content=content, tool_calls=calls, model=self.model_name, source="generate")
        choice = ChatCompletionChoice(message=said, stop_reason="tool_calls" if calls else "stop")
        return ModelOutput(model=self.model_name, choices=[choice])


def _trajectory(input: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> Trajectory:
    """What was said and what is offered, as an agent reads it."""
    messages: list[dict[str, Any]] = []
    system = "\n\n".join(message.text for message in input if isinstance(message, ChatMessageSystem))
    for message in input:
        if isinstance(message, ChatMessageSystem):
            continue
        one: dict[str, Any] = {"role": message.role, "content": message.text}
        if isinstance(message, ChatMessageUser) and system:
            one["content"], system = f"{system}\n\n{message.text}", ""
        if isinstance(message, ChatMessageAssistant) and message.tool_calls:
            calls = [(call.id, {"name": call.function, "arguments": call.arguments}) for call in message.tool_calls]
            one["tool_calls"] = [{"type": "function", "id": key, "function": call} for key, call in calls]
        if isinstance(message, ChatMessageTool):
            failed = f"error: {message.error.message}" if message.error else message.text
            one |= {"tool_call_id": message.tool_call_id, "content": failed}
        messages.append(one)
    schemas = [
        {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters.model_dump(exclude_none=True),
        }
        for tool in tools
    ]
    return from_messages({"messages": messages, "tools": schemas}, "the messages of inspect")
