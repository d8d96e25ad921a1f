"""Asking: every item once, in steps, kept as it goes; errors asked again; numbers from what was kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.common.files import DataError, JsonLines
from trimtab.evals.models import Reply
from trimtab.evals.runner import EvalSpec, ask, measures
from trimtab.evals.suite import Item, Options, Suite, SuiteError, Verdict, lines, user


def kept(folder: Path) -> JsonLines:
    return JsonLines(folder / "samples.jsonl", "id")


def done(folder: Path) -> dict[str, dict]:
    return {row["id"]: row for row in kept(folder).rows}


def plain(item, answers):
    return user(f"{item.text}\n{lines(item.options)}")


def again(item, answers):
    return user(f"{item.text}\nnotes: {answers[0]}")


def score(item, text):
    letter = text.strip()[:1]
    value = float(letter in item.target) if letter in item.options else None
    return {"first": Verdict(letter if value is not None else None, value)}


SUITE = Suite("", "1", Options, lambda options: ITEMS, {"plain": (plain,), "two": (plain, again)}, score)
ITEMS = [
    Item(f"i{n}", "question " + "long " * n, {"A": "yes", "B": "no"}, ("AB"[n % 2],), {"half": str(n // 4)})
    for n in range(8)
]


class Scripted:
    """Answers A to everything; remembers what it was asked; fails on request."""

    batch = 3

    def __init__(self, fail: set[str] = frozenset(), stop_after: int | None = None):
        self.chats: list[str] = []
        self.batches: list[int] = []
        self.fail, self.stop_after = fail, stop_after

    def answer(self, chats, max_new_tokens):
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(len(chats))
        self.chats += [chat[-1]["content"] for chat in chats]
        return [
            Reply("", "no answer") if any(word in chat[-1]["content"] for word in self.fail) else Reply("A")
            for chat in chats
        ]

    def compare(self, chats, labels):
        self.batches.append(len(chats))
        return [{label: -1.0 - i for i, label in enumerate(of)} for of in labels]

    def facts(self):
        return {}


def eval_spec(prompt="plain", **changes):
    return EvalSpec(SUITE, ITEMS, prompt, **changes)


def test_each_item_is_asked_once_the_longest_first_and_comes_back_in_its_order():
    model = Scripted()
    found = ask(eval_spec(), model)
    assert [one.item.id for one in found] == [item.id for item in ITEMS]
    assert model.batches == [3, 3, 2]
    lengths = [len(chat) for chat in model.chats]
    assert lengths == sorted(lengths, reverse=True)
    assert [one.verdicts["first"].value for one in found] == [1.0, 0.0] * 4
    strict = {m.group: m.value.estimate for m in measures(SUITE, found) if m.name == "first strict"}
    assert strict == {"all": 0.5, "half=0": 0.5, "half=1": 0.5}


def test_items_with_answers_of_like_length_share_a_batch():
    asked = []

    class Noting(Scripted):
        def answer(self, chats, max_new_tokens):
            asked.append((len(chats), max_new_tokens))
            return super().answer(chats, max_new_tokens)

    items = [replace(item, max_new_tokens=300 if i == 3 else None) for i, item in enumerate(ITEMS)]
    found = ask(EvalSpec(SUITE, items, "plain"), Noting())
    assert asked == [(1, 300), (3, 64), (3, 64), (1, 64)]
    assert [one.item for one in found] == items
    asked.clear()
    ask(EvalSpec(SUITE, items, "plain", max_new_tokens=5), Noting())
    assert asked == [(3, 5), (3, 5), (2, 5)]


def test_a_second_step_sees_the_answer_to_the_first():
    model = Scripted()
    found = ask(eval_spec("two"), model)
    assert model.batches == [3, 3, 3, 3, 2, 2]
    assert sum("notes: A" in chat for chat in model.chats) == 8
    assert found[0].answers == ("A", "A")


def test_options_are_compared_after_the_steps_before_were_written():
    model = Scripted()
    rows = []
    found = ask(eval_spec("two", mode="loglikelihood"), model, keep=rows.extend)
    assert found[0].verdicts["options"] == Verdict("A", 1.0)
    assert found[1].verdicts["options"] == Verdict("A", 0.0)
    p = rows[0]["p"]
    assert p["A"] == pytest.approx(1 / (1 + 2.718281828**-1))
    assert rows[0]["mass"] == pytest.approx(2.718281828**-1 + 2.718281828**-2)
    assert rows[0]["answers"] == ["A"]


def test_stopped_and_resumed_nothing_is_asked_twice(tmp_path):
    answers = kept(tmp_path)
    first = Scripted(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        ask(eval_spec(), first, keep=answers.append)
    second = Scripted()
    found = ask(eval_spec(), second, done(tmp_path), answers.append)
    assert len(first.chats) == 6
    assert sorted(first.chats + second.chats) == sorted(plain(item, ())[0]["content"] for item in ITEMS)
    assert found == ask(eval_spec(), Scripted())
    assert len(kept(tmp_path)) == 8


def test_an_item_that_ended_in_an_error_is_asked_again(tmp_path):
    answers = kept(tmp_path)
    found = ask(eval_spec(), Scripted(fail={"long long long long long long long"}), keep=answers.append)
    assert [one.error for one in found] == [None] * 7 + ["no answer"]
    second = Scripted()
    found = ask(eval_spec(), second, done(tmp_path), answers.append)
    assert len(second.chats) == 1
    assert found[7].error is None
    assert found[7].verdicts["first"] == Verdict("A", 0.0)


def test_an_error_in_the_first_step_spares_the_second():
    model = Scripted(fail={"long long long long long long long"})
    found = ask(eval_spec("two"), model)
    assert found[7].error == "no answer"
    assert sum("notes" in chat for chat in model.chats) == 7


def test_a_torn_last_line_is_cut_off_and_others_are_named(tmp_path):
    path = tmp_path / "samples.jsonl"
    ask(eval_spec(), Scripted(), keep=kept(tmp_path).append)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "i9", "ite')
    assert len(kept(tmp_path)) == 8
    assert path.read_bytes() == whole
    path.write_bytes(b"nothing\n" + whole)
    with pytest.raises(DataError, match="line 1: not a row"):
        kept(tmp_path)


def test_verdicts_are_those_of_the_suite_as_it_is_now(tmp_path):
    """A parser that was mended counts old answers anew."""
    answers = kept(tmp_path)
    ask(eval_spec(), Scripted(), keep=answers.append)
    mended = Suite("", "2", Options, lambda o: ITEMS, SUITE.prompts, lambda item, text: {"new": Verdict(text, 1.0)})
    found = ask(EvalSpec(mended, ITEMS, "plain"), Scripted(), done(tmp_path))
    assert all(one.verdicts == {"new": Verdict("A", 1.0)} for one in found)


def test_rows_hold_all_that_a_report_shows():
    rows = []
    ask(eval_spec(), Scripted(), keep=rows.extend)
    row = json.loads(json.dumps(rows[0]))
    assert row["item"]["options"] == {"A": "yes", "B": "no"}
    assert row["chat"][0]["content"].startswith("question")
    assert row["verdicts"]["first"]["parsed"] == "A"


def test_mistakes_are_named():
    with pytest.raises(SuiteError, match="there is no prompt 'three'; there are: plain, two"):
        eval_spec("three")
    with pytest.raises(SuiteError, match="item open has no options"):
        EvalSpec(SUITE, [Item("open", "?")], "plain", "loglikelihood")
    with pytest.raises(SuiteError, match="1 items share the id of another"):
        EvalSpec(SUITE, [ITEMS[0], ITEMS[0]], "plain")
