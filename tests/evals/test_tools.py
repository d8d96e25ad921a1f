"""The suite `tools`: what is asked at each turn, how roles go on, and every number by hand."""

import io
import json
from collections import Counter

import pytest
import torch
from markupsafe import escape
from rich.console import Console

import tiny_folder
from trimtab.commands.evaluate import evaluate_model
from trimtab.data.agent_roles import Prompter, samples
from trimtab.data.trajectories import INVALID, from_normalised, to_messages
from trimtab.evals import suites
from trimtab.evals.agent_turns import cut, joined
from trimtab.evals.models import HFModel, Reply
from trimtab.evals.runner import ask, check_spec, eval_spec, fitted, measures
from trimtab.evals.suite import Fit, SuiteError
from trimtab.evals.suites._tool_rows import ids_of
from trimtab.evals.suites.tools import SUITE, bound
from trimtab.models.limits import Limits
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.report.evaluation import read as read_page
from trimtab.report.evaluation import write
from trimtab.report.turns import differences, trajectories

TOOL = {"type": "function", "function": {"name": "look", "description": "sees", "parameters": {
    "type": "object", "properties": {"town": {"type": "string", "description": "which"}}}}}  # fmt: skip
SEND = {"type": "function", "function": {"name": "send", "description": "mails", "parameters": {
    "type": "object", "properties": {}}}}  # fmt: skip


def turns(*said):
    return [{"from": role, "value": value} for role, value in said]


BERN = {"id": "bern", "tools": [TOOL], "conversations": turns(
    ("user", "Weather in Bern?"),
    ("assistant", "I look.\n Next: caller."),
    ("caller", 'Action: look\nAction Input: {"town": "Bern"}'),
    ("observation", "12 C"),
    ("assistant", "Enough.\n Next: conclusion."),
    ("conclusion", "It is 12 C."),
)}  # fmt: skip
LOST = {"id": "lost", "tools": [TOOL, SEND], "conversations": turns(
    ("user", "Ping."),
    ("assistant", "I send.\n Next: caller."),
    ("caller", "Action: send\nAction Input: {}"),
    ("observation", "error"),
    ("assistant", "It fails.\n Next: give up."),
)}  # fmt: skip
REFERENCES = {
    "rows/bern.2": 'I look.\n Next: caller.</s>caller: Action: look\nAction Input: {"town": "Bern"}',
    "rows/bern.5": "Enough.\n Next: conclusion.</s>conclusion: It is 12 C.",
    "rows/lost.2": "I send.\n Next: caller.</s>caller: Action: send\nAction Input: {}",
    "rows/lost.5": "It fails.\n Next: give up.",
}


@pytest.fixture
def file(tmp_path) -> str:
    return tiny_folder.write_jsonl(tmp_path / "rows.jsonl", [BERN, LOST])


def items(*files, **settings):
    return SUITE.items(suites.check("tools", {"file": files, **settings}))


class Said:
    """Answers by the end of the prompt, which names the role, or one answer to all."""

    batch = 3

    def __init__(self, *answers):
        self.answers, self.prompts = answers, []

    def answer(self, chats, max_new_tokens):
        self.prompts += [chat[-1]["content"] for chat in chats]
        return [Reply(self._of(prompt[-1]["content"])) for prompt in chats]

    def _of(self, prompt):
        return next(text for end, text in self.answers if prompt.endswith(end))


def number(found, name, group="all"):
    one = next(one for one in found if (one.name, one.group) == (name, group))
    return one.value.estimate, one.number


# ---------------------------------------------------------------- items


def test_each_turn_of_the_planner_is_an_item_with_its_reference(file):
    found = items(file)
    assert {item.id: item.target[0] for item in found} == REFERENCES
    assert [item.groups for item in found[:2]] == [
        {"split": "rows", "plan": "call"},
        {"split": "rows", "plan": "finish"},
    ]
    assert found[1].data["steps"] == [[one["from"], one["value"]] for one in BERN["conversations"][:4]]


def test_turns_that_are_no_samples_are_none(tmp_path):
    bad = {"tools": [TOOL], "conversations": turns(
        ("user", "x"), ("assistant", "a\n Next: caller."), ("caller", f"Action: {INVALID}\nAction Input: {{}}"),
        ("observation", "no"), ("assistant", "b\n Next: conclusion."), ("conclusion", "c"), ("assistant", "d"),
    )}  # fmt: skip
    assert [item.id for item in items(tiny_folder.write_jsonl(tmp_path / "bad.jsonl", [bad]))] == ["bad/1.5"]


def test_a_turn_that_says_not_who_goes_on_is_passed_over(tmp_path):
    """As in the authors' test files, where a chain may go on behind a turn of words alone."""
    row = {"tools": [TOOL], "conversations": turns(
        ("user", "x"), ("assistant", "I look. Next: caller."), ("caller", "Action: look\nAction Input: {}"),
        ("observation", "403"), ("user", "Try another one."), ("assistant", "I cannot. Anything else?\n"),
        ("assistant", "I stop. Next: give up."),
    )}  # fmt: skip
    found = items(tiny_folder.write_jsonl(tmp_path / "rows.jsonl", [row]))
    assert [(item.data["turn"], item.groups["plan"]) for item in found] == [(2, "call"), (7, "give up")]
    for prompt in ("backbone", "roles"):
        asked = SUITE.prompts[prompt][0](found[1], ())[0]["content"]
        assert ("Anything else?" in asked) == (prompt == "roles")  # one model's history has merged turns alone
        assert "Try another one." in asked


def test_messages_are_read_as_the_same_turns(file, tmp_path):
    rows = [to_messages(from_normalised(row, "here")) for row in (BERN, LOST)]
    again = items(tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows))
    assert again == items(file)


def test_tools_that_the_training_lacks_are_a_group(file, tmp_path):
    trained = tiny_folder.write_jsonl(tmp_path / "trained.jsonl", [BERN])
    groups = {item.id: item.groups["tools"] for item in items(file, trained_on=trained)}
    assert groups == {"rows/bern.2": "seen", "rows/bern.5": "seen", "rows/lost.2": "unseen", "rows/lost.5": "unseen"}


def test_ids_select_and_exclude_and_files_are_splits(file, tmp_path):
    (tmp_path / "ids.json").write_text('{"bern": 0}')
    ids = str(tmp_path / "ids.json")
    assert {item.data["trajectory"] for item in items(file, only=ids)} == {"rows/bern"}
    assert {item.data["trajectory"] for item in items(file, without=ids)} == {"rows/lost"}
    other = tiny_folder.write_jsonl(tmp_path / "other.jsonl", [BERN])
    assert {item.groups["split"] for item in items(file, other)} == {"rows", "other"}
    assert len(items(file, other, rows=1)) == 4
    twice = items(tiny_folder.write_jsonl(tmp_path / "twice.jsonl", [BERN, BERN]))
    assert [item.id for item in twice] == ["twice/bern.2", "twice/bern.5", "twice/bern#2.2", "twice/bern#2.5"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"file": []}, "tools.file"),
        ({"file": ["nowhere.jsonl"]}, "nowhere.jsonl"),
        ({"file": ["FILE"], "only": "nowhere.txt"}, "tools.only: there is no file nowhere.txt"),
        ({"file": ["FILE"], "rows": 0}, "tools.rows"),
        ({"file": ["FILE"], "run": True}, "tools.run: rows/bern is no row of trimtab:tools"),
        ({"file": ["FILE"], "templates": {"cook": "{history}"}}, "tools.templates"),
    ],
)
def test_what_is_wrong_is_named(file, settings, said):
    if settings.get("file") == ["FILE"]:
        settings = {**settings, "file": [file]}
    with pytest.raises(ValueError, match=said):
        SUITE.items(suites.check("tools", settings))


def test_no_trajectory_that_is_left_is_an_error(file, tmp_path):
    (tmp_path / "ids.txt").write_text("paris\nrome\n")
    with pytest.raises(SuiteError, match="no trajectory is left"):
        items(file, only=str(tmp_path / "ids.txt"))
    assert ids_of(str(tmp_path / "ids.txt"), "k") == {"paris", "rome"}


def test_a_folder_of_toolbench_is_a_file_a_query(tmp_path):
    answer = {"query": "Weather?", "function": [{"name": "look", "description": "sees", "parameters": {}}],
              "train_messages": [[{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
                {"role": "function", "name": "look", "content": '{"response": "12 C"}'},
                {"role": "assistant", "content": "", "function_call": {"name": "Finish", "arguments":
                    '{"return_type": "give_answer", "final_answer": "12 C"}'}}]]}  # fmt: skip
    (tmp_path / "answer" / "G1").mkdir(parents=True)
    for query in (7, 8):
        file = tmp_path / "answer" / "G1" / f"{query}_DFS_woFilter_w2.json"
        file.write_text(json.dumps({"answer_generation": answer}))
    found = items(str(tmp_path / "answer"))
    assert [item.id for item in found] == ["answer/7.2", "answer/7.5", "answer/8.2", "answer/8.5"]
    assert found[1].target == (" Next: conclusion.</s>conclusion: 12 C",)
    (tmp_path / "test.json").write_text('["8"]')
    assert {
        item.data["trajectory"] for item in items(str(tmp_path / "answer"), without=str(tmp_path / "test.json"))
    } == {"answer/7"}


def test_without_a_file_the_small_worlds_are_asked():
    found = SUITE.items(suites.check("tools", {"rows": 5}))
    assert {item.groups["split"] for item in found} == {"heldout", "unseen_tools", "unseen_templates"}
    assert len({item.data["trajectory"] for item in found}) == 15


# ---------------------------------------------------------------- what is asked


def fit(most=None):
    return Fit(tiny_folder.byte_tokenizer(), most, 256, "roles")


def test_prompts_are_those_of_the_training(file):
    suite = bound(suites.check("tools", {"file": [file]}), fit())
    prompter = Prompter("<|end|>", tiny_folder.SPECIAL)
    wholes = {row["id"]: from_normalised(row, "here") for row in (BERN, LOST)}
    for prompt, role in (("backbone", "backbone"), ("roles", "planner")):
        for item in items(file):
            whole = wholes[item.data["trajectory"].split("/")[1]]
            trained = {one.turn: one.prompt for one in samples(whole, role, prompter, Counter())}
            (message,) = suite.prompts[prompt][0](item, ())
            assert message["role"] == "text"
            assert message["content"] == trained[item.data["turn"]]


@pytest.mark.parametrize("prompt", ["backbone", "roles", "instruct"])
def test_no_prompt_holds_anything_of_its_turn_or_a_later_one(file, prompt):
    for item in items(file):
        row = BERN if "bern" in item.id else LOST
        asked = SUITE.prompts[prompt][0](item, ())[0]["content"]
        for one in row["conversations"][item.data["turn"] - 1 :]:
            assert one["value"].partition("\n")[0] not in asked


def test_the_caller_reads_the_plan_that_was_made_and_not_the_reference(file):
    suite = bound(suites.check("tools", {"file": [file]}), fit())
    item = items(file)[0]
    (call,) = suite.prompts["roles"][1](item, ["I ask. Next: caller. And more"])
    assert call["content"].endswith(
        "user: Weather in Bern?<|end|>assistant: I ask. Next: caller.<|end|>\nplan: I ask. Next: caller.\n caller: "
    )
    assert "I look" not in call["content"]
    (answer,) = suite.prompts["roles"][1](item, ["Fine. Next: conclusion."])
    assert answer["content"].endswith("assistant: Fine. Next: conclusion.<|end|> conclusion: ")
    assert (call["speaker"], answer["speaker"]) == ("caller", "summarizer")
    assert suite.prompts["roles"][1](item, ["No. Next: give up."]) == []


@pytest.mark.parametrize(
    ("answer", "plan"),
    [
        ("I look. Next: caller.</s>", "I look. Next: caller."),
        ("a Next: caller. b Next: conclusion. c", "a Next: caller. b Next: conclusion."),
        ("a Next: conclusion. b Next: give up. c", "a Next: conclusion. b Next: give up."),
        ("I look", "I look Next: caller."),
        (": I look", "I look Next: caller."),
        (" .", "none Next: caller."),
        ("", "none Next: caller."),
    ],
)
def test_a_plan_ends_where_it_says_who_goes_on(answer, plan):
    assert cut(answer) == plan


def test_answers_of_roles_are_joined_as_the_paper_does():
    assert joined(["a Next: caller. x", ": Action: look"]) == "a Next: caller.</s>caller: Action: look"
    assert joined(["a Next: conclusion.", ""]) == "a Next: conclusion.</s>conclusion: none"
    assert joined(["a Next: give up. x", ""]) == "a Next: give up."
    assert joined(["what one model said"]) == "what one model said"


def test_long_histories_are_cut_and_task_and_tools_stay(tmp_path):
    long = json.loads(json.dumps(BERN))
    long["conversations"][3]["value"] = "12 C " * 200
    file = tiny_folder.write_jsonl(tmp_path / "long.jsonl", [long])
    spec = eval_spec("tools", {"file": [file], "max_input": 900})
    tokenizer, limits = tiny_folder.byte_tokenizer(), Limits(259, None, 4096)
    asked = fitted(spec, tokenizer, limits)
    prompt = asked.suite.prompts["backbone"][0](asked.items[1], ())[0]["content"]
    assert len(tokenizer(prompt).input_ids) <= 900
    assert "Weather in Bern?" in prompt
    assert '"Name": "look"' in prompt
    assert " [...]" in prompt
    assert check_spec("tools", asked, tokenizer, limits, "tiny") == [
        "tools: 1 prompts have a cut history, so as to fit"
    ]
    assert "at most 900 tokens" in asked.suite.facts["prompts"]


CHAT = (
    "{% for t in tools %}<tool>{{ t.function.name }}</tool>{% endfor %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RESPONSES = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>", "close_pattern": r"</tool_call>\s*", "repeats": True, "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|end\|>\s*", "content": "text"},
    },
}  # fmt: skip


def chat_tokenizer():
    tokenizer = tiny_folder.byte_tokenizer(CHAT)
    tokenizer.response_template = RESPONSES
    return tokenizer


def chatting(file):
    spec = eval_spec("tools", {"file": [file]}, prompt="chat")
    return fitted(spec, chat_tokenizer(), Limits(259, None, 4096))


def test_a_chat_model_reads_messages_and_tools_by_its_own_template(file):
    spec = chatting(file)
    (message,) = spec.suite.prompts["chat"][0](spec.items[1], ())
    assert (message["role"], message["special"]) == ("text", "kept")
    assert message["content"] == (
        '<tool>look</tool><|user|>Weather in Bern?<|end|><|assistant|>I look.<tool_call>{"name": "look", "arguments": '
        '{"town": "Bern"}}</tool_call><|end|><|tool|>12 C<|end|><|assistant|>'
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('I look.<tool_call>{"name": "look", "arguments": {"town": "Bern"}}</tool_call><|end|>',
         'Action: look\nAction Input: {"town": "Bern"}'),
        ('<tool_call>{"name": "look", "arguments": {}}</tool_call><tool_call>{"name": "send"}</tool_call><|end|>',
         "Action: look\nAction Input: {}"),
        ("It is 12 C.<|end|>", "conclusion: It is 12 C."),
        ("<tool_call>{look</tool_call><|end|>", ""),
        ("<|end|>", ""),
    ],
)  # fmt: skip
def test_its_calls_are_found_by_its_tokenizer(file, answer, said):
    spec = chatting(file)
    assert spec.suite.joined(spec.items[0], [answer]) == said


def test_numbers_of_a_chat_model(file):
    spec = chatting(file)
    model = Said(("<|assistant|>", '<tool_call>{"name": "look", "arguments": {"town": "Bern"}}</tool_call><|end|>'))
    found = measures(spec.suite, ask(spec, model))
    assert number(found, "action EM") == (0.5, 2)
    assert number(found, "argument F1") == (0.5, 2)
    assert number(found, "undecided, read as calls") == (0, 4)


def test_special_tokens_stay_where_a_tokenizer_parses_the_answer(tmp_path):
    name = tiny_folder.save(tmp_path / "tiny", max_position_embeddings=512)
    model, tokenizer = load_model(name), load_tokenizer(name)
    prompt = tokenizer("ab", return_tensors="pt")
    third = int(model.generate(**prompt, max_new_tokens=3, do_sample=False)[0, -1])
    with torch.no_grad():  # where the model would say that token, it now ends
        model.get_input_embeddings().weight[0] = 1.5 * model.get_input_embeddings().weight[third]
    asked = {"role": "text", "content": "ab"}
    plain = HFModel(model, tokenizer).answer([[asked]], 9)[0].text
    ended, other = HFModel(model, tokenizer).answer([[{**asked, "special": "kept"}], [asked]], 9)
    assert ended.text == other.text == f"{plain}<|end|>"
    assert len(plain) <= 3


@pytest.mark.parametrize(
    ("template", "said"), [(None, "needs a chat template"), (CHAT, "needs the tokenizer's response_")]
)
def test_a_tokenizer_that_cannot_chat_with_tools_is_refused(file, template, said):
    spec = eval_spec("tools", {"file": [file]}, prompt="chat")
    with pytest.raises(SuiteError, match=said):
        fitted(spec, tiny_folder.byte_tokenizer(template), Limits(259, None, 4096))
    with pytest.raises(SuiteError, match="loaded here"):
        ask(spec, Said())


# ---------------------------------------------------------------- numbers


class Oracle:
    """Says what the reference says, in one text or role by role."""

    batch = 2

    def __init__(self, spec):
        self.known = {}
        for item in spec.items:
            plan, _, behind = item.target[0].partition("</s>")
            said = behind.partition(": ")[2]
            thought = plan.partition("\n Next")[0]
            one = f"{thought}\n{'conclusion: ' if 'conclusion' in plan else ''}{said or 'conclusion: give up.'}"
            asked = spec.suite.prompts["backbone"][0](item, ())[0]["content"]
            self.known[asked] = self.known[spec.suite.prompts["instruct"][0](item, ())[0]["content"]] = one
            first = spec.suite.prompts["roles"][0](item, ())[0]["content"]
            self.known[first] = plan
            for chat in [spec.suite.prompts["roles"][1](item, [plan])]:
                self.known |= {one["content"]: said for one in chat}

    def answer(self, chats, max_new_tokens):
        return [Reply(self.known[chat[0]["content"]]) for chat in chats]


@pytest.mark.parametrize("prompt", ["backbone", "roles", "instruct"])
def test_who_says_what_the_reference_says_is_right_in_all(file, prompt):
    spec = eval_spec("tools", {"file": [file]}, prompt=prompt)
    found = measures(spec.suite, ask(spec, Oracle(spec)))
    values = {one.name: one.value.estimate for one in found if one.group == "all"}
    assert values.pop("hallucination, per turn") == values.pop("hallucination, per call") == 0
    assert values.pop("undecided, read as calls") == 0
    assert len(values) == 7
    assert all(value == pytest.approx(1, abs=1e-8) for value in values.values())


def test_numbers_by_hand(file):
    spec = eval_spec("tools", {"file": [file]})
    model = Said((" assistant: ", 'I look.\nAction: look\nAction Input: {"town": "Rome", "day": 1}'))
    found = measures(spec.suite, ask(spec, model))
    assert number(found, "plan accuracy") == (0.5, 4)  # both calls
    assert number(found, "action EM") == (0.5, 2)
    assert number(found, "hallucination, per turn") == (0, 4)
    assert number(found, "argument F1") == (pytest.approx((2 * 0.5 * 0.25 / 0.75 + 0) / 2), 2)  # s = 1/2 of 1, of 2
    assert number(found, "argument F1, hard") == number(found, "argument F1")  # of the wrong name too
    assert number(found, "argument F1, easy") == (0, 1)
    assert number(found, "ROUGE-L, words") == (0, 1)
    assert number(found, "plan accuracy", "plan=finish") == (0, 1)
    unknown = measures(spec.suite, ask(spec, Said((" assistant: ", "Action: fly"))))
    assert number(unknown, "hallucination, per turn") == number(unknown, "hallucination, per call") == (1, 4)
    silent = measures(spec.suite, ask(spec, Said((" assistant: ", "hm"))))
    assert number(silent, "hallucination, per turn") == (0, 4)
    assert number(silent, "plan accuracy") == (0.5, 4)  # as the paper reads it
    assert number(silent, "undecided, read as calls") == (1, 4)
    assert not any(one.name == "hallucination, per call" for one in silent)  # nothing was called


def test_intervals_are_over_trajectories(tmp_path):
    """One long trajectory is one draw, however many turns it has."""
    turn = BERN["conversations"][1:4]
    one = {"tools": [TOOL], "conversations": [BERN["conversations"][0], *turn * 30, *BERN["conversations"][4:]]}
    file = tiny_folder.write_jsonl(tmp_path / "one.jsonl", [one])
    spec = eval_spec("tools", {"file": [file]})
    found = ask(spec, Said((" assistant: ", "Action: look")))
    (value,) = [one.value for one in measures(spec.suite, found) if (one.name, one.group) == ("plan accuracy", "all")]
    assert value.estimate == pytest.approx(30 / 31)
    assert not value.known


def test_roles_are_asked_one_after_the_other_and_nobody_behind_who_gives_up(file):
    spec = eval_spec("tools", {"file": [file]}, prompt="roles", limit=2)
    model = Said((" assistant: ", "No.\n Next: give up."))
    found = ask(spec, model)
    assert len(model.prompts) == 2
    assert [one.answers for one in found] == [("No.\n Next: give up.", "")] * 2
    assert found[0].verdicts["plan"].parsed == "give up"
    model = Said((" assistant: ", "x Next: caller."), (" caller: ", "Action: look\nAction Input: {}"))
    found = ask(spec, model)
    assert len(model.prompts) == 4
    assert found[0].verdicts["action"] == ("look", 1.0)
    assert found[0].verdicts["arguments"] == ("{}", 0.0)


# ---------------------------------------------------------------- the command


def test_the_command_evaluates_and_goes_on_where_it_was_stopped(file, tmp_path):
    folder = tiny_folder.save(tmp_path / "tiny", max_position_embeddings=2048)
    how = {"options": {"tools": {"file": [file]}}, "max_new_tokens": 4, "out": tmp_path / "out"}
    console = Console(file=io.StringIO(), width=200)
    evaluate_model(folder, "tools", limit=2, console=console, **how)
    samples = tmp_path / "out" / "tools" / "samples.jsonl"
    first = samples.read_text().splitlines()
    evaluate_model(folder, "tools", console=console, **how)
    shown = console.file.getvalue()
    assert "2 of 4 items are already answered" in shown
    assert "plan accuracy" in shown
    lines = samples.read_text().splitlines()
    assert lines[:2] == first
    assert len(lines) == 4
    assert samples.with_name("report.html").is_file()


def test_the_page_shows_each_trajectory_turn_by_turn(file, tmp_path):
    folder = tiny_folder.save(tmp_path / "tiny", max_position_embeddings=2048)
    how = {"options": {"tools": {"file": [file]}}, "max_new_tokens": 4}
    for number in (1, 2):
        evaluate_model(folder, "tools", out=tmp_path / str(number), **how)
    output = write([tmp_path / "1" / "tools", tmp_path / "2" / "tools"], tmp_path / "both.html")
    page = output.read_text()
    assert "2 of 2 trajectories" in page
    assert "no difference shown" in page
    assert "the 95% interval over trajectories" in page
    for item in items(file):
        assert escape(item.target[0]) in page
    shown = trajectories([read_page(tmp_path / "1" / "tools").rows])
    assert [(one.id, one.task, len(one.turns)) for one in shown] == [
        ("rows/bern", "Weather in Bern?", 2), ("rows/lost", "Ping.", 2),
    ]  # fmt: skip
    assert [turn.before for turn in shown[0].turns] == [[("user", "Weather in Bern?")], [("observation", "12 C")]]


def rows_of(spec, *said):
    """Of an evaluation in which each item is answered with what stands at its place."""
    asked = {spec.suite.prompts["backbone"][0](item, ())[0]["content"]: text for item, text in zip(spec.items, said)}
    kept = []

    class Known:
        batch = 4

        def answer(self, chats, max_new_tokens):
            return [Reply(asked[chat[0]["content"]]) for chat in chats]

    ask(spec, Known(), keep=kept.extend)
    return {row["id"]: json.loads(json.dumps(row)) for row in kept}


def test_evaluations_are_compared_on_the_turns_that_both_were_asked(file):
    spec = eval_spec("tools", {"file": [file]})
    right = rows_of(spec, 'Action: look\nAction Input: {"town": "Bern"}', "conclusion: It is 12 C.", "Action: send",
                    "conclusion: give up")  # fmt: skip
    worse = rows_of(spec, "Action: look", "conclusion: 12 C", "hm", "")
    found = {name: (round(change.estimate, 9), turns) for name, change, turns in differences(right, worse)}
    assert found == {
        "plan accuracy": (-0.25, 4), "action EM": (-0.5, 2), "argument F1": (-1.0, 2),
        "ROUGE-L, words": (round(2 * 2 / (4 + 2) - 1, 9), 1),
    }  # fmt: skip
    values = {name: change for name, change, _ in differences(right, worse)}
    assert (values["argument F1"].low, values["argument F1"].high) == (-1, -1)
    assert values["plan accuracy"].low == -0.5  # the trajectory of the two that has a wrong plan, drawn twice
    same = {name: tuple(change) for name, change, _ in differences(right, right)}
    assert same["plan accuracy"] == (0, 0, 0)
    del worse["rows/lost.2"], worse["rows/lost.5"]
    assert {name: turns for name, _, turns in differences(right, worse)} == {
        "plan accuracy": 2, "action EM": 1, "argument F1": 1, "ROUGE-L, words": 1,
    }  # fmt: skip


def test_a_turn_is_right_where_plan_tool_and_arguments_are(file):
    spec = eval_spec("tools", {"file": [file]})
    said = {"rows/bern.2": 'Action: look\nAction Input: {"town": "Bern"}', "rows/bern.5": "conclusion: so",
            "rows/lost.2": "Action: look", "rows/lost.5": " "}  # fmt: skip
    kept = rows_of(spec, *(said[item.id] for item in spec.items))
    shown = trajectories([kept])
    assert [one.marks for one in shown] == [[("✓", "right"), ("✓", "right")], [("✗", "wrong"), ("✗", "wrong")]]
    assert shown[0].turns[0].said[0][2] == "plan 1, action 1, arguments 1, tool exists 1"
    assert shown[1].turns[1].said[0][2] == "not understood"
