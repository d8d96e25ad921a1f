"""Conversations become text: one way for training, asking, scoring and serving.

A conversation is written by the tokenizer's chat template. What an assistant's turn adds to the text that the model is
asked with is the answer that is learnt, whatever the template makes of that turn once others follow it."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import TemplateError, UndefinedError
from transformers import PreTrainedTokenizerBase

from trimtab.data.chat_date import chat_date, dated
from trimtab.data.messages import REASONING, Message, text_of
from trimtab.data.sources import DataError

THOUGHT = re.compile(r"(?P<open><\|?(?P<tag>[\w:]*(?:think|thought|reason)\w*)\|?>|\[(?P<mark>think)\])\s*$", re.I)
"""A thought that a generation prompt opens at its end."""
CLOSED = re.compile(r"(?:<(?P<tag>[\w:]*think\w*)>\s*)?</(?P<close>[\w:]*think\w*)>\s*$", re.I)
"""A thought that a generation prompt closes at its end, mostly an empty one."""
SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates are told whether the model thinks."""


class Turn(NamedTuple):
    """One turn of the assistant."""

    prompt: str
    """what the model is asked with, up to where it begins to write"""
    answer: str
    """what it has to write, and what the template writes after that"""
    switch: Mapping[str, bool] = MappingProxyType({})
    """a variable of the template that is not as it is by itself, for a thought"""


@dataclass
class Chat:
    """Messages and all that the template is given with them.

    Args:
        messages: as `messages_of` makes them.
        where: for messages of errors.
        kwargs: further variables of the template.
        remarks: counts what a user should hear of, see `trimtab.data.rows.REMARKS`.
    """

    tokenizer: PreTrainedTokenizerBase
    messages: list[Message]
    where: str
    tools: list[Any] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)
    _texts: dict[tuple[int, bool], str] = field(init=False, default_factory=dict)

    def render(self, upto: int | None = None, *, prompt: bool = False) -> str:
        """The text of the first messages, and where `prompt` is true what the model is asked with after them.

        Raises:
            DataError: in the template's words.
        """
        key = (len(self.messages) if upto is None else upto, prompt)
        if key not in self._texts:
            self._texts[key] = self._rendered(*key)
        return self._texts[key]

    def _rendered(self, upto: int, prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                self.messages[:upto],
                tools=self.tools,
                chat_template=dated(self.tokenizer.get_chat_template(tools=self.tools), chat_date(self.tokenizer)),
                tokenize=False,
                add_generation_prompt=prompt,
                **self.kwargs,
            )
        except Exception as error:  # a template is a stranger's program, and may fail in any way
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise DataError(f"{self.where}: the chat template does not take these messages: {reason}") from error
        assert isinstance(text, str)
        return text

    def fitted(self, *, prompt: bool = False) -> Chat:
        """The same conversation in the form that the template writes whole.

        Templates differ in what they read: content as a text or as parts, arguments as a mapping or as JSON. The first
        form of which nothing is left unwritten is taken, and if there is none, the first that the template takes at
        all.

        Raises:
            DataError: if it takes none.
        """
        taken, refused = None, None
        for messages in forms(self.messages):
            form = replace(self, messages=messages)
            try:
                text = form.render(prompt=prompt)
            except DataError as error:
                refused = error if refused is None or (_in_its_words(error) and not _in_its_words(refused)) else refused
                continue
            if all(_is_written(message, text) for message in messages):
                return form
            taken = taken or form
        if taken is None:
            assert refused is not None
            raise refused
        return taken

    # ------------------------------------------------------------ answers

    def turn(self, i: int) -> Turn:
        """The answer in message `i`, as the model has to write it when it is asked with those before.

        Raises:
            DataError: if the template takes the messages in no form, or changes the text of the answer.
        """
        after = self.render(i + 1)
        try:
            before = self.render(i, prompt=True)
        except DataError:  # of nothing, for one, most templates make nothing
            at = self._place(i, after)
            return Turn(after[:at], after[at:])
        if not after.startswith(before):
            return self._switched(i, before) or self._behind(i, before, after)
        found = self._with_thought(i, before, after[len(before) :])
        dropped = CLOSED.search(before) and "thoughts" in self.unwritten(i, found.answer)
        return (self._switched(i, before) if dropped else None) or found

    def unwritten(self, i: int, answer: str) -> list[str]:
        """What of message `i` an answer does not hold: `calls`, `thoughts`, `texts`."""
        message = self.messages[i]
        thoughts = [reasoning(message), _inner(text_of(message.get("content")).rpartition("</think>")[0])]
        found = {
            "calls": self._writes_calls(i),
            "thoughts": all(thought.strip() in answer for thought in thoughts),
            "texts": is_contained(message, answer),
        }
        return [what for what, is_written in found.items() if not is_written]

    def _writes_calls(self, i: int) -> bool:
        """Whether each call of message `i` makes a difference to what the template writes of it."""
        calls = self.messages[i].get("tool_calls", [])
        for place, call in enumerate(calls):
            other = {**_other_call(call), **({"id": "x" * len(call["id"])} if isinstance(call.get("id"), str) else {})}
            message = {**self.messages[i], "tool_calls": [*calls[:place], other, *calls[place + 1 :]]}
            try:
                text = replace(self, messages=[*self.messages[:i], message]).render()
            except DataError:  # it looks at what is called, so it writes it
                continue
            if text == self.render(i + 1):
                return False
        return True

    def following(self, i: int) -> str:
        """What the template writes behind message `i` once another one follows; nothing where it cannot be told."""
        message = self.messages[i]
        bare = {**{k: v for k, v in message.items() if k not in REASONING}, "content": _visible(message)}
        after = {"role": "tool" if message.get("tool_calls") else "user", "content": "?"}
        other = replace(self, messages=[*self.messages[:i], bare, *(self.messages[i + 1 : i + 2] or [after])])
        try:
            done, text = other.render(i + 1), other.render()
        except DataError:  # roles may have to alternate in another way
            return ""
        return text[len(done) :] if text.startswith(done) else ""

    def end_of(self, i: int, answer: str) -> int:
        """How many characters of an answer hold what message `i` says; the rest is the template's."""
        message = self.messages[i]
        texts = (_visible(message).strip(), reasoning(message).strip(), *_names(message))
        places = [answer.find(text) + len(text) for text in texts if text and text in answer]
        return max([0, *places])

    def _place(self, i: int, text: str, start: int = 0) -> int:
        """Where the text of the last turn, message `i`, stands in the text of a conversation, from `start` on.

        Raises:
            DataError: if it cannot be found.
        """
        visible, names = _visible(self.messages[i]), _names(self.messages[i])
        texts = [visible, visible.strip(), *names[:1]]
        end = len(text)  # an end token may hold what a short answer says
        while mark := next((m for m in self.tokenizer.all_special_tokens if text[:end].rstrip().endswith(m)), ""):
            end = len(text[:end].rstrip()) - len(mark)
        at = next((at for one in texts if one.strip() and (at := text.rfind(one, start, end)) >= 0), -1)
        if at < 0 and not visible.strip():  # a call that is not written at all, or a thought and nothing else
            return len(text)
        if at < 0:
            raise DataError(
                f"{self.where}: the chat template writes the answer in message {i + 1} otherwise than it asks for one, "
                "so what the model has to write cannot be told; give the row as prompt and completion texts"
            )
        return at

    def _with_thought(self, i: int, before: str, answer: str) -> Turn:
        """A template may drop the thought even of the last turn, or write it behind another one, which is empty."""
        message, opened = self.messages[i], THOUGHT.search(before)
        content = text_of(message.get("content"))
        head, close, tail = content.rpartition("</think>")
        if close and opened and content.strip() in answer and content.lstrip().startswith(opened["open"]):
            at = answer.find(content.strip()) + content.strip().rfind(close) + len(close)
            return Turn(before, self._closing(message, opened, answer[at:]))  # opened twice
        if close and not CLOSED.search(before) and "</think>" not in answer and _inner(head) not in answer:
            return Turn(before, head + close + _joined(tail, answer))
        if opened and not close and not reasoning(message) and answer.lstrip().startswith(_close_of(opened)):
            self.remarks["emptied"] += 1
        return Turn(before, answer)

    def _switched(self, i: int, before: str) -> Turn | None:
        """With another value of the template's switch for thoughts, unless the row itself sets that."""
        message = self.messages[i]
        thoughtful = bool(reasoning(message)) or "</think>" in text_of(message.get("content"))
        for switch in SWITCHES if THOUGHT.search(before) or CLOSED.search(before) else ():
            if switch in self.kwargs or switch not in str(self.tokenizer.chat_template):
                continue
            for value in (True, False):
                other = replace(self, kwargs={**self.kwargs, switch: value}, remarks=Counter())
                found = other.turn(i)
                fits = other.render(i + 1).startswith(found.prompt)
                if (
                    found.prompt != before
                    and (fits or thoughtful)
                    and "thoughts" not in other.unwritten(i, found.answer)
                ):
                    self.remarks += other.remarks
                    self.remarks["switched"] += 1
                    return found._replace(switch={switch: value, **found.switch})
        return None

    def _behind(self, i: int, before: str, after: str) -> Turn:
        """What stands behind the text with which the template asks, where that does not begin its text of the turn:
        earlier turns are written anew once there is an answer, or the prompt has opened a thought, or closed one."""
        message, done = self.messages[i], self.render(i)
        place = self._place(i, after, len(done) if after.startswith(done) else 0)
        opened, closed = THOUGHT.search(before), CLOSED.search(before)
        thought = opened or closed
        asked = before[: thought.start()] if thought else before
        start, shared = behind(asked, after, end=place), self._shared(asked, after[:place])
        start = shared or None if start is None or start < shared else start  # no answer begins within what is shared
        rest = after[place:] if start is None else after[start:]
        if start is not None and opened:
            return Turn(before, self._closing(message, opened, rest))
        if start is not None and not closed:
            return Turn(before, rest)
        if _visible(message) != text_of(message.get("content")) or reasoning(message):
            self.remarks["thoughts"] += 1
        _, close, visible = rest.partition(f"</{closed['close']}>" if closed else "\0")
        return Turn(before, visible.lstrip("\n") if close else after[place:])

    def _shared(self, one: str, other: str) -> int:
        """How many characters two texts begin with alike, cut between tokens that stand for marks."""
        shared = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
        tokenizer: Any = self.tokenizer
        for mark in tokenizer.get_added_vocab():
            places = range(1, min(len(mark), shared + 1))
            shared -= next((j for j in places if other.startswith(mark, shared - j)), 0)
        return shared

    def _closing(self, message: Message, opened: re.Match[str], rest: str) -> str:
        """The answer behind a prompt that has opened a thought.

        Args:
            rest: what the template writes of the turn, from where the thought was opened.
        """
        opening, closing = opened["open"], _close_of(opened)
        gap = opened.group()[len(opening) :]
        if rest.lstrip().startswith((opening, closing)) and closing in rest:  # what the template itself made of it
            rest = rest.partition(closing)[2]
        head, close, tail = text_of(message.get("content")).rpartition(closing)
        if close:
            thought = head.lstrip().removeprefix(opening) if opening in head else head
            return (thought.removeprefix(gap) if opening in head else thought) + close + _joined(tail, rest)
        own = reasoning(message).strip("\n")
        if not own:
            self.remarks["emptied"] += 1
        return f"{own}\n{closing}\n\n{rest.lstrip()}" if gap else f"{own}{closing}{rest}"


def behind(prompt: str, text: str, begin: int = 0, end: int | None = None) -> int | None:
    """Where in `text` stands what follows the end of `prompt`: behind the longest piece of that end that is there.

    Args:
        begin, end: the piece stands between these characters; with an `end` it is the last such piece, else the first.

    Returns:
        A place in the text; None if what is there of the prompt is next to nothing.
    """
    find = text.find if end is None else text.rfind
    low, high = 0, min(len(prompt), (len(text) if end is None else end) - begin)
    while low < high:  # a shorter piece is there wherever a longer one is
        middle = (low + high + 1) // 2
        low, high = (middle, high) if find(prompt[-middle:], begin, end) >= 0 else (low, middle - 1)
    return find(prompt[-low:], begin, end) + low if low >= min(4, len(prompt)) and low else None


def _close_of(opened: re.Match[str]) -> str:
    """What closes a thought that a prompt has opened."""
    if opened["mark"]:
        return f"[/{opened['mark']}]"
    opening = opened["open"]
    return opening.replace("START", "END") if "START" in opening else opening.replace("<", "</", 1)


def _joined(tail: str, rest: str) -> str:
    """`rest`, which begins with the text `tail`, with the white space that `tail` begins with."""
    space = tail[: len(tail) - len(tail.lstrip())]
    return rest if rest.startswith(space) else space + rest


def _visible(message: Message) -> str:
    """The text of a message without its thought."""
    return text_of(message.get("content")).rpartition("</think>")[2]


def _inner(thought: str) -> str:
    return thought.rpartition("<think>")[2].strip()


def reasoning(message: Mapping[str, Any]) -> str:
    """The thought that a message holds besides its content."""
    return next((message[key] for key in REASONING if isinstance(message.get(key), str) and message[key].strip()), "")


def _other_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Another call, of the same form."""
    function, more = call.get("function", call), {"zq": 7}
    arguments = json.dumps(more) if isinstance(function.get("arguments"), str) else more
    other = {**function, "name": "zqxv", "arguments": arguments}
    return {**call, "function": other} if "function" in call else other


def _in_its_words(error: DataError) -> bool:
    """Whether the template itself refused, and did not fail."""
    cause = error.__cause__
    return isinstance(cause, TemplateError) and not isinstance(cause, UndefinedError)


def _is_written(message: Message, text: str) -> bool:
    if isinstance(message.get("content"), list) and re.search(r"\{'type': ?'text'", text):
        return False  # the list itself, and not what it says
    return is_contained(message, text) and all(name in text for name in _names(message))


def is_contained(message: Message, text: str) -> bool:
    """Whether a text contains the text of a message."""
    content = message.get("content")
    pieces = [part["text"] for part in content] if isinstance(content, list) else [text_of(content)]
    pieces = [re.sub(r"^\s*<think>", "", piece.rpartition("</think>")[2]).strip() for piece in pieces]
    return all(any(form in text for form in (piece, _escaped(piece), _escaped(piece, True))) for piece in pieces)


def _names(message: Message) -> list[str]:
    calls = message.get("tool_calls", ())
    return [call["function"]["name"] if "function" in call else call["name"] for call in calls]


def _escaped(text: str, ascii_alone: bool = False) -> str:
    return json.dumps(text, ensure_ascii=ascii_alone)[1:-1]


def forms(messages: list[Message]) -> Iterator[list[Message]]:
    """The messages in all forms that templates may want, the documented one first."""
    of_calls = (False, True) if any(m.get("tool_calls") for m in messages) else (False,)
    for in_parts, is_flat, is_absent, as_json in itertools.product((False, True), of_calls, of_calls, of_calls):
        yield [_form(message, in_parts, is_flat, is_absent, as_json) for message in messages]


def _form(message: Message, in_parts: bool, is_flat: bool, is_absent: bool, as_json: bool) -> Message:
    made = dict(message)
    if in_parts:
        made["content"] = [{"type": "text", "text": made["content"]}]
    if calls := made.get("tool_calls"):
        made["tool_calls"] = [_call(call, is_flat, as_json) for call in calls]
        if is_absent and not text_of(made.get("content")):
            made.pop("content", None)
    return made


def _call(call: Mapping[str, Any], is_flat: bool, as_json: bool) -> dict[str, Any]:
    function = dict(call["function"])
    if as_json and not isinstance(function["arguments"], str):
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {**{k: call[k] for k in call if k == "id"}, **function} if is_flat else {**call, "function": function}
