"""Models that call tools: what each kind is asked with, and how its calls are read."""

import json

import pytest
from test_tools import CHAT, RESPONSES

import tiny
import tiny_folder
from tiny_agent import CALL, ENOUGH, PLANS, scripted
from trimtab.common.errors import Unanswered, UserError
from trimtab.evals.chat_models import LocalChat, RolesChat, by_text, load_chat
from trimtab.evals.models import HFModel, Reply
from trimtab.evals.suite import SuiteError
from trimtab.gym.agents.react import Called

TOOL = {
    "name": "look", "description": "sees", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}
}  # fmt: skip
TASK = [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Weather?"}]
CALLED = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"town": "Bern"}'}}
HISTORY = [
    *TASK,
    {"role": "assistant", "content": "I look.", "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "call_1", "content": "12 C"},
]
BERN = Called("look", {"town": "Bern"})


def local(template: str | None = tiny_folder.TEMPLATE, says: str | None = None) -> LocalChat:
    """A tiny model, which says what it is made to say."""
    tokenizer = tiny_folder.byte_tokenizer(template)
    model = HFModel(
        tiny.model("llama", 0, vocab_size=tiny_folder.VOCAB, max_position_embeddings=2048), tokenizer, "tiny"
    )
    if says is not None:
        model.answer = lambda chats, most: [Reply(says)]  # type: ignore[method-assign]
    return LocalChat(model)


def test_a_server_is_asked_with_tools_and_its_first_message_is_read(server):
    message = {"role": "assistant", "content": None, "tool_calls": [CALLED]}
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    server.script = [(200, json.dumps(answer))]
    model = load_chat(f"{server.url}#m")
    turn = model.ask(HISTORY, [TOOL], 100, 7)
    assert turn == ("", [Called("look", '{"town": "Bern"}')], 35)
    (asked,) = server.seen
    assert asked["tools"] == [{"type": "function", "function": TOOL}]
    assert asked["messages"] == HISTORY
    assert (asked["max_tokens"], asked["seed"], asked["temperature"]) == (100, 7, 0.0)
    assert model.ask(TASK, [TOOL], 100, 7).text == "you said Weather?"
    assert model.count(HISTORY, [TOOL]) > model.count(TASK, [TOOL]) > model.count(TASK, [])
    server.script = [(400, '{"error": {"message": "too long"}}')]
    with pytest.raises(SuiteError, match="too long"):
        model.ask(TASK, [TOOL], 100, 7)
    server.script = [(500, "{}")] * 2
    model.model.tries, model.model.pause = 2, 0.0
    with pytest.raises(Unanswered, match="in 2 tries"):
        model.ask(TASK, [TOOL], 100, 7)


def test_a_template_that_knows_tools_writes_them_and_its_tokenizer_reads_the_calls():
    said = 'Now.<tool_call>{"name": "look", "arguments": {"town": "Bern"}}</tool_call><|end|>'
    model = local(CHAT, said)
    assert model.knows_tools
    assert model.ask(TASK, [TOOL], 10, 0)[:2] == (
        'Now.<tool_call>{"name": "look", "arguments": {"town": "Bern"}}</tool_call>'.partition("<")[0], [BERN]
    )  # fmt: skip
    model.model.tokenizer.response_template = RESPONSES
    assert model.ask(TASK, [TOOL], 10, 0)[1] == [BERN]
    model.model.answer = lambda chats, most: [Reply("Only words.<|end|>")]
    assert model.ask(TASK, [TOOL], 10, 0)[:2] == ("Only words.", [])


def test_a_template_that_knows_no_tools_is_told_of_them_by_text():
    asked = []
    model = local()
    assert not model.knows_tools
    model.model.answer = lambda chats, most: asked.extend(chats) or [Reply('<tool_call>{"name": "look", oops}<|end|>')]
    assert model.ask(HISTORY, [TOOL], 10, 0)[:2] == ("", [Called("look", '{"name": "look", oops}')])
    system, user, assistant, result = asked[0]["prompt"]
    assert json.dumps(TOOL) in system["content"]
    assert user["content"] == "Weather?"
    assert assistant["content"] == 'I look.\n<tool_call>{"name": "look", "arguments": {"town": "Bern"}}</tool_call>'
    assert result == {"role": "user", "content": "<tool_response>12 C</tool_response>"}
    assert [one["role"] for one in by_text([*HISTORY, {"role": "user", "content": "?"}], [])] == [
        "system", "user", "assistant", "user"
    ]  # fmt: skip


def test_a_model_in_memory_counts_its_tokens_and_draws_from_the_seed():
    model = local()
    first = model.ask(TASK, [TOOL], 8, 1)
    assert first == model.ask(TASK, [TOOL], 8, 1)
    assert model.context == 2048
    assert model.count(TASK, [TOOL]) < first.tokens <= model.count(TASK, [TOOL]) + 8 * 4
    with pytest.raises(UserError, match="has no chat template"):
        local(None)


def test_roles_plan_call_and_conclude():
    roles = scripted([PLANS, ENOUGH], [CALL], ["It is 12 C."])
    model = RolesChat(roles)
    assert model.ask(TASK, [TOOL], 10, 0)[:2] == ("I look.", [Called("look", '{"town": "Bern"}')])
    assert model.ask(HISTORY, [TOOL], 10, 0)[:2] == ("It is 12 C.", [])
    assert "12 C" in roles.speakers["planner"].prompts[1]


def test_an_address_without_a_model_is_refused():
    with pytest.raises(UserError, match=r"is written as http://HOST/v1#MODEL"):
        load_chat("http://127.0.0.1:1/v1")
