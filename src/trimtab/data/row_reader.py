"""One row as text, then as ids and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

from trimtab.core.batch import IGNORE
from trimtab.data.chat import CLOSED, THOUGHT, Chat, Turn, behind, is_contained
from trimtab.data.messages import Message, as_messages, is_answer, kwargs_of, messages_of, text_of, tools_of
from trimtab.data.said import stretches, within
from trimtab.data.sources import DataError
from trimtab.data.tokens import Coded, Coder

Turns = Literal["auto", "all", "last", "each"]
"""Which turns of the assistant are learnt, and whether in one row: see `prepare`."""
Piece = tuple[str, bool]
"""A stretch of text, and whether it is part of an answer."""


@dataclass
class RowTokens:
    """A row, or a turn of one, as ids and labels."""

    ids: list[int]
    labels: list[int]
    text: str = ""
    start: int = 0
    """where the first answer begins in the text"""
    spans: list[tuple[int, int]] | None = None
    said: list[bool] | None = None
    """of each token, whether it stands for what a message says; None where that was not asked or cannot be told"""

    @property
    def answers(self) -> bool:
        return any(label != IGNORE for label in self.labels)


@dataclass(frozen=True)
class RowText:
    """A row as text."""

    texts: list[str]
    """that are tokenised, as far as it is known before"""
    code: Callable[[], list[RowTokens]]
    """tokenises them; at least one sequence, without an answer where there is none"""


_NOTHING = RowText([], lambda: [RowTokens([], [])])


@dataclass
class RowReader:
    """Reads one row; `remarks` says what there was to remark."""

    coder: Coder
    ends: set[int]
    where: str
    remarks: Counter[str] = field(default_factory=Counter)
    switch: Mapping[str, bool] = field(default_factory=dict)
    """of thinking, for a pair whose other answer needs it"""
    switched: dict[str, bool] = field(default_factory=dict)
    """what was switched for a thought"""
    chat: bool = False
    """texts as prompt and completion are a question and its answer"""
    tells_said: bool = False
    """whether `RowTokens.said` is wanted"""
    stays_plain: bool = False
    """the row's texts stay texts though the tokenizer has a chat template"""

    def sequences(self, row: Mapping[str, Any], turns: Turns | Literal["together"]) -> list[RowTokens]:
        """At least one; one without an answer where there is none."""
        return self.read(row, turns).code()

    def read(self, row: Mapping[str, Any], turns: Turns | Literal["together"]) -> RowText:
        """The row as text, to be tokenised. `together` is `auto` that never parts a row."""
        if row.get("messages") is not None:
            messages = messages_of(row["messages"], "messages", self.where)
            return self._chat(row, messages, [m["role"] == "assistant" for m in messages], turns)
        if "prompt" in row and "completion" in row:
            prompt, completion = row["prompt"], row["completion"]
            texts = isinstance(prompt, str) and isinstance(completion, str)
            has_template = self.coder.tokenizer.chat_template is not None
            if texts and completion and has_template and not self.chat:
                self.stays_plain = True
            if isinstance(prompt, list) or isinstance(completion, list) or (texts and has_template and self.chat):
                before = messages_of(as_messages(prompt, "user"), "prompt", self.where)
                after = messages_of(as_messages(completion, "assistant"), "completion", self.where)
                answers = [False] * len(before) + [m["role"] == "assistant" for m in after]
                return self._chat(row, [*before, *after], answers, turns)
            if not isinstance(prompt, str) or not isinstance(completion or "", str):
                raise DataError(f"{self.where}: prompt and completion must be two texts or two lists of messages")
            return self._text([(prompt, False), (completion, True)]) if completion else _NOTHING
        if isinstance(row.get("text", 0), str | None):
            return self._text([(row["text"], True)]) if row["text"] else _NOTHING
        raise DataError(
            f"{self.where} has the columns {', '.join(map(str, row)) or 'none'}; "
            "expected text, messages, prompt and completion, or chosen and rejected"
        )

    def pair(self, sides: Sequence[Mapping[str, Any]]) -> RowText:
        """Both answers behind one prompt."""
        reads = [self.read(side, "together") for side in sides]
        return RowText([text for read in reads for text in read.texts], lambda: self._pair(sides, reads))

    def _pair(self, sides: Sequence[Mapping[str, Any]], reads: Sequence[RowText]) -> list[RowTokens]:
        """See `pair`.

        Raises:
            DataError: if the chat template asks for the two in different words.
        """
        found = [read.code()[0] for read in reads]
        if self.switched and _prompt(found[0]) != _prompt(found[1]):  # a thought in one of them
            self.switch = dict(self.switched)
            found = [self.sequences(side, "together")[0] for side in sides]
        if "rewritten" in self.remarks:  # an earlier turn of one of them is not as it was asked
            return found
        if all(one.answers for one in found) and _prompt(found[0]) != _prompt(found[1]):
            raise DataError(
                f"{self.where}: the chat template asks for the chosen and the rejected answer in different words; give "
                "the row as texts"
            )
        return found

    @cached_property
    def marks(self) -> list[str]:
        """The end tokens as texts."""
        return [self.coder.tokenizer.decode([end]) for end in sorted(self.ends & self.coder.added)]

    # ------------------------------------------------------------ plain text

    def _text(self, pieces: list[Piece]) -> RowText:
        before = [pieces[0][0]] if len(pieces) > 1 else []  # the seam is looked at too
        return RowText(["".join(piece for piece, _ in pieces), *before], lambda: [self._plain(pieces)])

    def _plain(self, pieces: list[Piece]) -> RowTokens:
        """Text begins and ends as the tokenizer's texts do, once each."""
        coded = self.coder.pieces(pieces, plain=True)
        if not coded.exact:
            self.remarks["seam"] += 1
        made = self._sequence(coded, pieces)
        end = self.coder.tokenizer.eos_token_id
        found = [i for i, (token, own) in enumerate(zip(made.ids, coded.answer)) if own and token in self.ends]
        last = found[-1] if found else -1
        if self.coder.first and made.spans and made.spans[0] != (0, 0):  # the text itself holds what begins texts
            self.remarks["marks"] += 1
        if last >= 0 and not self.coder.tokenizer.decode(made.ids[last + 1 :]).strip():
            self.remarks["marks"] += 1
            made.labels[last + 1 :] = [IGNORE] * (len(made.ids) - last - 1)
        elif end is not None:
            made.ids.append(int(end))  # type: ignore[arg-type]
            made.labels.append(int(end))  # type: ignore[arg-type]
            if made.spans is not None:
                made.spans.append((len(made.text), len(made.text)))
        return made

    def _sequence(self, coded: Coded, pieces: Sequence[Piece]) -> RowTokens:
        labels = [token if own else IGNORE for token, own in zip(coded.ids, coded.answer)]
        text = "".join(piece for piece, _ in pieces)
        start = len(pieces[0][0]) if not pieces[0][1] else 0
        return RowTokens(list(coded.ids), labels, text, start, coded.spans)

    # ------------------------------------------------------------ conversations

    def _chat(
        self,
        row: Mapping[str, Any],
        messages: list[Message],
        answers: Sequence[bool],
        turns: Turns | Literal["together"],
    ) -> RowText:
        tokenizer = self.coder.tokenizer
        if tokenizer.chat_template is None:
            raise DataError(
                f"{self.where} holds messages, but the tokenizer has no chat template; use prompt and completion texts"
            )
        picked = [i for i, (message, learnt) in enumerate(zip(messages, answers)) if learnt and is_answer(message)]
        if turns == "last":
            picked = picked[-1:]
        if not picked:
            return _NOTHING
        kwargs = {**kwargs_of(row, self.where), **self.switch}
        chat = Chat(tokenizer, self._unmarked(messages), self.where, tools_of(row, self.where), kwargs).fitted()
        if not all(is_contained(m, chat.render()) for m in chat.messages if m["role"] != "assistant"):
            self.remarks["texts"] += 1
        found = {}
        for i in picked:
            chat.remarks = Counter()
            turn = chat.turn(i)
            missing = chat.unwritten(i, turn.answer)
            self.remarks.update(missing)
            before, content, _ = turn.answer.partition(text_of(chat.messages[i]["content"]).strip() or "\0")
            if content and before.strip() and "add_generation_prompt" not in str(tokenizer.chat_template):
                self.remarks["headless"] += 1
            if "calls" not in missing:
                found[i] = self._ended(chat, i, turn)
                self.remarks.update(chat.remarks)
                self.switched |= turn.switch
        if not found:
            return _NOTHING
        read = self._read_turns(chat, found, turns)
        return RowText(read.texts, lambda: self._told(chat, found, read.code())) if self.tells_said else read

    def _read_turns(self, chat: Chat, found: Mapping[int, Turn], turns: Turns | Literal["together"]) -> RowText:
        if turns == "each" or len(found) == 1:
            return self._apart(found)
        pieces = self._in_turn(list(found.values()))
        whole = ["".join(piece for piece, _ in pieces)] if pieces else []
        return RowText(whole, lambda: self._in_one(chat, found, turns))

    def _told(self, chat: Chat, found: Mapping[int, Turn], made: list[RowTokens]) -> list[RowTokens]:
        """The sequences with `said`."""
        for one in made:
            places = stretches(chat, one.text, found) if one.spans is not None else []
            one.said = within(one.spans or [], places) if places else None
        return made

    def _apart(self, found: Mapping[int, Turn]) -> RowText:
        """A sequence for each turn."""
        texts = [turn.prompt + turn.answer for turn in found.values()]
        return RowText(texts, lambda: [self._turn(turn) for turn in found.values()])

    def _in_one(self, chat: Chat, found: Mapping[int, Turn], turns: Turns | Literal["together"]) -> list[RowTokens]:
        """All turns in one sequence, where it can hold them."""
        if together := self._together(chat, found, turns):
            return [together]
        self.remarks["split"] += 1
        return self._apart(found).code()

    def _ended(self, chat: Chat, i: int, turn: Turn) -> Turn:
        """The turn up to its end token; some templates end an answer with what begins the next message."""
        end = min(_ends_of(turn.answer, self.marks, chat.end_of(i, turn.answer)), default=None)
        if end is None and (next_one := chat.following(i)):
            begun = next((mark for mark in self.marks if next_one.startswith(mark)), "")
            return Turn(turn.prompt, turn.answer + begun)
        return Turn(turn.prompt, turn.answer[:end])

    def _unmarked(self, messages: list[Message]) -> list[Message]:
        """Without the end token that an answer of the row may hold already: the template writes it."""
        marks = tuple(self.marks)
        made = []
        for message in messages:
            content = message.get("content")
            if message["role"] == "assistant" and isinstance(content, str) and content.rstrip().endswith(marks):
                self.remarks["marks"] += 1
                mark = next(mark for mark in marks if content.rstrip().endswith(mark))
                message = {**message, "content": content.rstrip().removesuffix(mark)}
            made.append(message)
        return made

    def _turn(self, turn: Turn) -> RowTokens:
        pieces = [(turn.prompt, False), (turn.answer, True)]
        coded = self.coder.pieces(pieces, plain=False)
        if not coded.exact:
            self.remarks["seam"] += 1
        return self._until_end(self._sequence(coded, pieces))

    def _together(self, chat: Chat, found: Mapping[int, Turn], turns: Turns | Literal["together"]) -> RowTokens | None:
        """All turns in one sequence, if it can hold them as the model meets them, or has to."""
        pieces = self._in_turn(list(found.values()))
        coded = self.coder.pieces(pieces, plain=False) if pieces else None
        if turns == "auto" and (coded is None or not coded.exact):
            return None
        if pieces is None or coded is None:
            self.remarks["rewritten"] += 1
            pieces = self._in_the_end(chat, found)
            coded = self.coder.pieces(pieces, plain=False)
        if not coded.exact:
            self.remarks["seam"] += 1
        return self._until_end(self._sequence(coded, pieces))

    def _in_turn(self, found: Sequence[Turn]) -> list[Piece] | None:
        """Prompts and answers in turn, where each prompt begins with all that was before it."""
        pieces: list[Piece] = []
        done = ""
        for turn in found:
            if not turn.prompt.startswith(done):
                return None
            pieces += [(turn.prompt[len(done) :], False), (turn.answer, True)]
            done = turn.prompt + turn.answer
        return pieces

    def _in_the_end(self, chat: Chat, found: Mapping[int, Turn]) -> list[Piece]:
        """The last turn as the model meets it, and those before as they stand in its prompt."""
        *earlier, last = found
        text = found[last].prompt
        pieces: list[Piece] = []
        done = 0
        for i in earlier:
            said = text_of(chat.messages[i].get("content")).rpartition("</think>")[2].strip()
            prompt = found[i].prompt
            opened = THOUGHT.search(prompt) or CLOSED.search(prompt)
            prompt = prompt[: opened.start()] if opened else prompt
            start = len(prompt) if text.startswith(prompt) else behind(prompt, text, begin=done)
            at = text.find(said, start) if start is not None and said else -1
            ends = _ends_of(text, self.marks, max(at, start or 0) + len(said) * (at >= 0))
            if start is None or start < done or (at < 0 and not ends):
                raise DataError(
                    f"{self.where}: the chat template leaves nothing of message {i + 1} in the whole conversation, so "
                    "its turns cannot be learnt in one row; use data.turns: auto"
                )
            end = min(ends, default=at + len(said))
            pieces += [(text[done:start], False), (text[start:end], True)]
            done = end
        return [*pieces, (text[done:], False), (found[last].answer, True)]

    def _until_end(self, made: RowTokens) -> RowTokens:
        """What a template writes behind the end token of an answer is none."""
        at = 0
        for learnt, run in groupby(made.labels, key=lambda label: label != IGNORE):
            size = len(list(run))
            last = max((i for i in range(at, at + size) if made.ids[i] in self.ends), default=-1)
            if learnt and last >= 0:
                made.labels[last + 1 : at + size] = [IGNORE] * (at + size - last - 1)
            at += size
        return made


def _prompt(one: RowTokens) -> str:
    return one.text[: one.start]


def _ends_of(text: str, marks: Sequence[str], start: int = 0) -> list[int]:
    """Behind each of the marks that stands in the text from `start` on."""
    return [place + len(mark) for mark in marks if (place := text.find(mark, start)) >= 0]
