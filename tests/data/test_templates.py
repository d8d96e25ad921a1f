"""Every template that TRL ships, with every kind of conversation: what is learnt, behind which prompt.

What the template takes is learnt, each turn behind the very ids with which transformers would ask for it, and it ends
with an end token. From the first thing that the assistant says up to there, it is what TRL's training twin marks.
"""

import itertools
import json
from random import Random

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

import zoo
from tiny_table import table
from trimtab.core import IGNORE
from trimtab.data.rows import prepare
from trimtab.data.sources import DataError

REFUSED = {
    "Conversation roles must alternate user/assistant/user/assistant/...", "System role not supported",
    "str object has no element 0", "'str object' has no attribute 'text'",
    "Only user and assistant roles are supported!",
}  # fmt: skip
"""in the words of the templates"""
CALLS_UNWRITTEN = {
    "deepseek_r1_distill", "idefics3", "lfm2", "llama3", "phi3", "phi3_5", "qwen2_5_vl", "smolvlm",
}  # fmt: skip
"""templates that write nothing of a call"""


def answers(messages: list[dict]) -> list[int]:
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


def rows_of(tokenizer, messages: list[dict], turns: str):
    return prepare([{"messages": messages}], tokenizer, max_length=10**6, end_ids=zoo.ends(tokenizer), turns=turns)


def learnt(row: dict) -> list[int]:
    return [i for i, label in zip(row["input_ids"], row["labels"]) if label != IGNORE]


def asked(tokenizer, messages: list[dict]) -> list[tuple[list[int], bool]]:
    """How transformers may ask a model, in the forms that templates read; and whether thinking was switched for it."""
    found = []
    for form, switch in itertools.product((dict, _with_json, _in_parts), (None, True, False)):
        kwargs = {} if switch is None else {"enable_thinking": switch}
        given = [form(message) for message in messages]
        try:
            out = tokenizer.apply_chat_template(given, add_generation_prompt=True, return_dict=True, **kwargs)
        except (TypeError, TemplateError):
            continue
        found.append((out["input_ids"], switch is not None))
    return found


def _with_json(message: dict) -> dict:
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, **({"tool_calls": calls} if calls else {})}


def _in_parts(message: dict) -> dict:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def check(tokenizer, name: str, messages: list[dict]) -> None:
    try:
        prepared = rows_of(tokenizer, messages, "each")
    except DataError as error:
        if not any(str(error).endswith(reason) for reason in REFUSED):
            raise
        return
    unwritten = "calls" in prepared.counts.remarks
    assert unwritten == (name in CALLS_UNWRITTEN and any("tool_calls" in m for m in messages))
    turns = answers(messages)[1:] if unwritten else answers(messages)
    assert len(prepared.rows) == len(turns)
    assert prepared.counts.no_end == 0
    ends = {tokenizer.eos_token_id, *zoo.ends(tokenizer)}
    for row, i in zip(prepared.rows, turns):
        own = learnt(row)
        assert own[-1] in ends
        assert row["input_ids"][-len(own) :] == own  # nothing stands behind the end
        prompt = row["input_ids"][: -len(own)]
        ways = [switched for ids, switched in asked(tokenizer, messages[:i]) if ids == prompt]
        assert ways, tokenizer.decode(prompt)
        assert not all(ways) or "switched" in prepared.counts.remarks
        assert_says(messages[i], tokenizer.decode(own), prepared.counts.remarks)


def assert_says(message: dict, text: str, remarks: dict) -> None:
    said = message["content"].rpartition("</think>")[2].strip()
    assert said in text or remarks["texts"]
    if "</think>" in message["content"]:
        thought = message["content"].partition("</think>")[0].removeprefix("<think>").strip()
        assert text.count(thought) == 1
        assert text.count("</think>") == 1
    if "reasoning_content" in message:
        assert text.count(message["reasoning_content"]) == (0 if "thoughts" in remarks else 1)
    for call in message.get("tool_calls", ()):
        assert call["function"]["name"] in text
        assert "Rome" in text


@table("conversation", zoo.CONVERSATIONS)
@pytest.mark.parametrize("name", zoo.EVERY)
def test_each_turn_is_learnt_up_to_its_end_token_behind_the_ids_with_which_the_model_is_asked(name, conversation):
    check(zoo.of_bytes(name), name, zoo.CONVERSATIONS[conversation])


@pytest.mark.parametrize("name", zoo.EVERY)
def test_one_row_of_several_turns_is_made_of_the_rows_of_its_turns(name):
    tokenizer, messages = zoo.of_bytes(name), zoo.CONVERSATIONS["system, two turns"]
    if name == "gemma":  # it takes no system message
        messages = messages[1:]
    each, auto = (rows_of(tokenizer, messages, turns) for turns in ("each", "auto"))
    if "split" in auto.counts.remarks:
        assert [row["input_ids"] for row in auto.rows] == [row["input_ids"] for row in each.rows]
        return
    (row,) = auto.rows
    first, last = each.rows
    assert row["input_ids"] == last["input_ids"]
    assert row["input_ids"][: len(first["input_ids"])] == first["input_ids"]
    at = len(first["input_ids"])
    assert row["labels"] == [*first["labels"], *last["labels"][at:]]


def marked(tokenizer, name: str, messages: list[dict]) -> str | None:
    """What TRL's twin marks."""
    text = zoo.twin(name)
    if text is None:
        return None
    given = {**tokenizer.special_tokens_map, "add_generation_prompt": False}
    (whole,), (spans,) = render_jinja_template(
        [messages], chat_template=text, return_assistant_tokens_mask=True, **given
    )
    return "".join(whole[begin:end] for begin, end in spans)


@table("conversation", ["one turn", "system, two turns", "thought", "two thoughts", "reasoning", "call"])
@pytest.mark.parametrize("name", zoo.EVERY)
def test_what_is_learnt_is_what_trls_training_template_marks(name, conversation):
    tokenizer, messages = zoo.of_bytes(name), zoo.CONVERSATIONS[conversation]
    parts = name in ("idefics3", "smolvlm", "llava_next")  # whose templates read parts alone
    given = [_in_parts(message) for message in messages] if parts else messages
    if conversation == "call" and (parts or name == "diffusion_gemma"):
        pytest.skip("the twin reads no empty text, or marks no end")
    try:
        prepared = rows_of(tokenizer, messages, "each")
    except DataError:
        pytest.skip("the template does not take it")
    reference = marked(tokenizer, name, given)
    if reference is None:
        pytest.skip("TRL has no twin of it")
    turns = answers(messages)[1:] if "calls" in prepared.counts.remarks else answers(messages)
    for row, i in zip(prepared.rows, turns):
        own = tokenizer.decode(learnt(row))
        thought = {"hmm", "well"} & set(messages[i]["content"].split())
        said = messages[i]["content"].rpartition("</think>")[2].strip() or "weather"
        if name in ("deepseekv3", "glm4moe") or "nemotron" in name:  # whose twins drop thoughts of earlier turns
            thought = set()
        begin = thought.pop() if thought else said
        end = tokenizer.decode(row["input_ids"][-1:])
        before, found, reference = reference.partition(begin)
        assert found, (begin, before)
        if name == "gptoss":  # <|return|> becomes <|end|> once another turn follows
            reference = reference.replace("<|end|>", "<|return|>")
        assert own.endswith(begin + reference.partition(end)[0] + end)


# ---------------------------------------------------------------- conversations without a plan

WORDS = ("a", "d", "user", "assistant", "ho ho", "\n\nx", " y ", "<b>", "think", "end_of_turn", "4", "日本", "x\n")


def drawn(random: Random) -> list[dict]:
    """Turns with texts that templates also write, thoughts in both forms, calls of one and of two tools."""
    messages = [{"role": "system", "content": random.choice(WORDS)}] if random.random() < 0.3 else []
    for _ in range(random.randint(1, 3)):
        kind, text = random.random(), random.choice(WORDS)
        answer: dict = {"role": "assistant", "content": text}
        if kind < 0.2:
            gap, after = random.choice(["", "\n"]), random.choice(["", "\n\n"])
            answer["content"] = f"<think>{gap}{random.choice(WORDS)}{gap}</think>{after}{text}"
        elif kind < 0.4:
            answer["reasoning_content"] = random.choice(WORDS)
        elif kind < 0.6:
            names = random.choices(["f", "rain", "a"], k=random.randint(1, 2))
            calls = [{"type": "function", "function": {"name": one, "arguments": {"x": text}}} for one in names]
            answer |= {"content": random.choice(["", text]), "tool_calls": calls}
        messages += [{"role": "user", "content": random.choice(WORDS)}, answer]
        if "tool_calls" in answer:
            reply = {"role": "assistant", "content": random.choice(WORDS)}
            messages += [{"role": "tool", "content": random.choice(WORDS)}, reply]
    return messages


@pytest.mark.parametrize("name", zoo.EVERY)
def test_every_message_is_learnt_behind_its_prompt_or_is_remarked(name):
    tokenizer, random = zoo.of_bytes(name), Random(name)
    ends = {tokenizer.eos_token_id, *zoo.ends(tokenizer)}
    for _ in range(12):
        messages = drawn(random)
        try:
            prepared = rows_of(tokenizer, messages, "each")
        except DataError as error:
            assert "the chat template does not take these messages" in str(error)  # noqa: PT017
            continue
        remarks = prepared.counts.remarks
        if "calls" in remarks:
            continue
        turns = answers(messages)
        assert len(prepared.rows) == len(turns)
        for row, i in zip(prepared.rows, turns):
            own = learnt(row)
            assert own[-1] in ends
            assert row["input_ids"][: -len(own)] in [ids for ids, _ in asked(tokenizer, messages[:i])]
            text, said = tokenizer.decode(own), messages[i]["content"].rpartition("</think>")[2].strip()
            assert said in text or "texts" in remarks
            assert messages[i].get("reasoning_content", "").strip() in text or "thoughts" in remarks
            assert text.count("</think>") <= 1


# ---------------------------------------------------------------- with their own tokenizers


@pytest.mark.zoo
@table("conversation", zoo.CONVERSATIONS)
@pytest.mark.fast("qwen2_5", "deepseekv3", "mistral")
@pytest.mark.parametrize("name", zoo.REAL)
def test_with_its_own_tokenizer_each_turn_is_learnt_behind_the_ids_with_which_the_model_is_asked(name, conversation):
    tokenizer = zoo.real(name)
    if name == "mistral" and any(m["role"] in ("system", "tool") for m in zoo.CONVERSATIONS[conversation]):
        with pytest.raises(DataError, match="Only user and assistant roles are supported!"):
            rows_of(tokenizer, zoo.CONVERSATIONS[conversation], "each")
        return
    check(tokenizer, name, zoo.CONVERSATIONS[conversation])


@pytest.mark.zoo
@table("conversation", ["one turn", "system, two turns", "thought", "two thoughts", "call"])
@pytest.mark.fast("qwen2_5", "deepseekv3")
@pytest.mark.parametrize("name", [name for name in zoo.REAL if name != "mistral" and zoo.twin(name)])
def test_with_its_own_tokenizer_the_ids_are_those_that_trls_training_template_marks(name, conversation):
    tokenizer, messages = zoo.real(name), zoo.CONVERSATIONS[conversation]
    found = tokenizer.apply_chat_template(
        messages, chat_template=zoo.twin(name), return_dict=True, return_assistant_tokens_mask=True
    )
    runs: list[list[int]] = [[]]
    for token, own in zip(found["input_ids"], found["assistant_masks"]):
        if own:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    runs = [run[: run.index(tokenizer.eos_token_id) + 1] for run in runs if run]
    prepared = rows_of(tokenizer, messages, "each")
    turns = answers(messages)[1:] if "calls" in prepared.counts.remarks else answers(messages)
    for row, i, wanted in zip(prepared.rows, turns, runs[-len(turns) :]):
        said = messages[i]["content"].rpartition("</think>")[2].strip() or "weather"
        number = len(tokenizer(said, add_special_tokens=False).input_ids)
        assert row["input_ids"][-number - 1 :] == wanted[-number - 1 :]


@pytest.mark.zoo
@pytest.mark.fast("qwen2_5", "deepseekv3", "mistral")
@pytest.mark.parametrize("name", ["mistral", "qwen2_5", "llama3", "deepseekv3"])
def test_a_text_with_its_own_tokenizer_has_the_ids_of_the_whole_with_one_begin_and_one_end(name):
    tokenizer = zoo.real(name)
    begin = tokenizer("").input_ids
    for row, whole in (
        ({"text": "Rain falls. 你好 🙂\n\n  x"}, "Rain falls. 你好 🙂\n\n  x"),
        ({"prompt": "Q: x\nA:", "completion": " yes no"}, "Q: x\nA: yes no"),
        ({"prompt": "Q: x\n", "completion": "yes no"}, "Q: x\nyes no"),
    ):
        ids = prepare([row], tokenizer, max_length=99).rows[0]["input_ids"]
        plain = tokenizer(whole, add_special_tokens=False).input_ids
        assert ids == [*begin, *plain, tokenizer.eos_token_id]
