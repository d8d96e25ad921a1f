"""Which tokens of a conversation stand for what its messages say; the rest is the chat template's."""

from collections.abc import Collection
from dataclasses import replace

from trimtab.data.chat import Chat
from trimtab.data.messages import Message, text_of
from trimtab.data.sources import DataError

MARK = "\ue0f0\ue0f1\ue0f2"
"""what no message says"""


def stretches(chat: Chat, text: str, picked: Collection[int]) -> list[tuple[int, int]]:
    """The characters [start, end) of `text` that messages say, besides those in `picked`.

    A message is found by writing the conversation with a mark in its place: up to there both are alike.

    Args:
        text: what the template made of the conversation, up to one of the messages in `picked`.
        picked: answers, by number.
    """
    found = []
    for number, message in enumerate(chat.messages):
        content = text_of(message.get("content"))
        if number in picked or not content.strip():
            continue
        other = replace(chat, messages=[*chat.messages[:number], _marked(message), *chat.messages[number + 1 :]])
        for upto in (one for one in picked if one > number):
            start = _place(other, text, upto)
            said = next((one for one in (content, content.strip()) if start >= 0 and text.startswith(one, start)), "")
            if said:
                found.append((start, start + len(said)))
                break
    return found


def _marked(message: Message) -> Message:
    content = message["content"]
    return {**message, "content": MARK if isinstance(content, str) else [{"type": "text", "text": MARK}]}


def _place(chat: Chat, text: str, upto: int) -> int:
    """Where the mark stands in the text with which the model is asked for message `upto`; -1 if not in `text`."""
    try:
        asked = chat.render(upto, prompt=True)
    except DataError:
        return -1
    at = asked.find(MARK)
    return at if at >= 0 and text.startswith(asked[:at]) else -1


def within(spans: Collection[tuple[int, int]], found: Collection[tuple[int, int]]) -> list[bool]:
    """For each token, by its characters, whether it stands for some of a stretch."""
    return [any(begin < end and begin < stop and end > start for start, stop in found) for begin, end in spans]
