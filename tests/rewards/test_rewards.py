"""Rewards as TRL calls them: what is right, what is refused and what is said then."""

import math
import sys

import pytest

from trimtab.rewards import verifiable as rewards
from trimtab.rewards.graded import NotGraded, which_are_correct
from trimtab.rewards.verifiable import Reward, RewardError, check_rows, load


def chat(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def call(reward: Reward, texts: list, **columns) -> list[float]:
    return reward([f"task {i}" for i in range(len(texts))], texts, [[0]] * len(texts), trainer_state=None, **columns)


# ---------------------------------------------------------------- those that come with trimtab


def test_exact_reads_the_final_answer_of_texts_and_of_chats():
    reward = load("exact")
    texts = ["2 + 2 = 4", "The answer is 5", chat("4.0"), chat(""), "<think>4</think> The answer is 3", "<think>4"]
    assert call(reward, texts, answer=["4"] * 6) == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert call(reward, ["It is 7/2.", "3"], answer=[3.5, 3]) == [1.0, 1.0]


def test_the_last_message_of_a_chat_counts_and_one_without_text_is_incorrect():
    tools = [{"role": "assistant", "content": "4"}, {"role": "tool", "content": "5"}]
    silent = [{"role": "assistant", "content": None}]
    assert call(load("exact"), [tools + chat("6"), silent, []], answer=["6", "6", "6"]) == [1.0, 0.0, 0.0]


def test_the_values_of_correct_and_incorrect_are_chosen():
    reward = load("exact", correct=1.0, incorrect=-1.0)
    assert call(reward, ["4", "5"], answer=["4", "4"]) == [1.0, -1.0]
    with pytest.raises(RewardError, match="correct=0 and incorrect=1"):
        load("exact", correct=0, incorrect=1)


def test_choice_reads_letters_and_offers_those_of_the_row():
    reward = load("choice")
    assert call(reward, ["The answer is B.", "(A)", "B or C"], answer=["B"] * 3) == [1.0, 0.0, 0.0]
    options = [{"A": "yes", "B": "no", "C": None}, ["red", "blue"], ["red", "blue"]]
    assert call(reward, ["A", "B", "C"], answer=["A", "blue", "B"], options=options) == [1.0, 1.0, 0.0]


def test_of_several_letters_in_passing_the_last_is_chosen():
    assert call(load("choice"), ["We can exclude A; B remains"] * 2, answer=["B", "A"]) == [1.0, 0.0]


def test_choice_of_several_wants_all_of_them_and_no_other():
    said = ["Answer: A, C", "Answer: C and A", "Answer: A", "Answer: A, B, C"]
    assert call(load("choice"), said, answer=["AC"] * 4) == [1.0, 1.0, 0.0, 0.0]


def test_math_judges_what_is_equal_and_logs_what_could_not_be_judged():
    logged = {}
    texts = [r"so \boxed{\frac{2}{4}}", "The answer is $1/3$", chat("no idea at all")]
    values = call(load("math", incorrect=-1.0), texts, answer=["1/2", "1/2", "1/2"], log_metric=logged.__setitem__)
    assert values == [1.0, -1.0, -1.0]
    assert logged == {"math/unparsed": pytest.approx(1 / 3), "math/timed_out": 0.0, "math/crashed": 0.0}


def test_the_name_is_what_trl_logs():
    assert load("exact").__name__ == "exact"


def test_no_completions_give_no_rewards():
    assert [load(name)([], [], [], answer=[]) for name in rewards.REWARDS] == [[]] * len(rewards.REWARDS)


# ---------------------------------------------------------------- names


def own(folder, body: str, signature: str = "completions, **columns") -> str:
    (folder / "mine.py").write_text(f"def score({signature}):\n    {body}\n")
    return f"{folder / 'mine.py'}:score"


def test_a_function_of_ones_own_is_found_in_a_file_or_a_module(tmp_path, monkeypatch):
    reward = load(own(tmp_path, "return [len(text) for text in completions]"))
    assert call(reward, ["ab", ""]) == [2.0, 0.0]
    assert reward.__name__ == "score"
    own(tmp_path, "return [float(a == b) for a, b in zip(completions, answer)]", "completions, answer, **columns")
    monkeypatch.syspath_prepend(tmp_path)
    other = load("mine:score")
    assert other.needs == ("answer",)
    assert call(other, ["B"], answer=["B"]) == [1.0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exakt", "no reward 'exakt'; did you mean 'exact'?"),
        ("zzz", "no reward 'zzz'; known rewards: exact, choice, math, reasoning_gym, edit, FILE.py:FUNCTION"),
        ("nowhere.py:f", "there is no file nowhere.py"),
        ("trimtab.nowhere:f", "importing trimtab.nowhere raised ModuleNotFoundError"),
        ("trimtab.rewards.final:finalanswer", "has no 'finalanswer'; did you mean 'final_answer'?"),
        ("trimtab.rewards.final:same", "must accept [*][*]columns"),
        ("math:pi", "must be a plain function"),
    ],
)
def test_a_name_that_leads_nowhere_is_reported(name, said):
    with pytest.raises(RewardError, match=said) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_an_asynchronous_function_and_values_for_ones_own_are_refused(tmp_path):
    (tmp_path / "later.py").write_text("async def score(**columns): ...\n")
    with pytest.raises(RewardError, match="must be a plain function"):
        load(f"{tmp_path / 'later.py'}:score")
    for values in ({"incorrect": -1.0}, {"correct": float("nan")}):
        with pytest.raises(
            RewardError, match="sets its own values.*; correct is the smallest value of a correct answer"
        ):
            load(own(tmp_path, "return [0]"), **values)
    assert call(load(own(tmp_path, "return [0]"), correct=-0.5), ["a"]) == [0.0]


def test_a_completion_that_a_reward_does_not_judge_has_none(tmp_path):
    assert call(load(own(tmp_path, "return [None, True]")), ["a", "b"]) == [None, 1.0]
    values = [[None, 2.0, float("nan")], [0.5, 5.0, 0.1]]
    assert which_are_correct(values, [3.0, 0.5], ["a", "b", "c"]) == [True, False, False]
    with pytest.raises(NotGraded, match="no reward grades a completion of 'c'"):
        which_are_correct([[1.0, None]], [1.0], ["a", "c"])


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return None", "returned None, expected a list of 2 numbers"),
        ("return 1.0", "returned 1.0, expected a list of 2 numbers"),
        ("return [1.0]", "returned 1 values for 2 completions, the first of 'first prompt'"),
        ("return [1.0, 2.0, 3.0]", "returned 3 values for 2 completions"),
        ("return [float('nan'), 1.0]", "returned nan for a completion of 'first prompt'"),
        ("return [1.0, -float('inf')]", "returned -inf for a completion of 'second"),
        ("return ['1', 1.0]", "returned '1' for a completion of 'first"),
        (
            "return [1.0 / len(text) for text in completions]",
            "ZeroDivisionError: .*; the completion is of 'second prompt",
        ),
    ],
)
def test_what_is_no_reward_is_named_with_the_function_and_the_row(tmp_path, body, said):
    reward = load(own(tmp_path, body))
    prompts = [
        "first prompt",
        [{"role": "system", "content": "x"}, {"role": "user", "content": "second prompt\nof many\n lines"}],
    ]
    with pytest.raises(RewardError, match=f"reward score.*{said}") as caught:
        reward(prompts, ["a", ""], [[1], []])
    assert "\n" not in str(caught.value)


def test_an_exception_of_the_whole_batch_alone_is_reported_as_such(tmp_path):
    reward = load(own(tmp_path, "return [1 / (len(completions) - 2)] * len(completions)"))
    with pytest.raises(RewardError, match="of 2 completions, none of which does so alone"):
        call(reward, ["a", "b"])


@pytest.mark.parametrize("body", ["return help_(completions)", "return (help_(text) for text in completions)"])
def test_an_exception_is_reported_with_the_line_of_the_users_file_that_it_came_from(tmp_path, body):
    more = "\n\ndef help_(text):\n    import json\n    return json.loads('{')\n"
    reward = load(own(tmp_path, body + more))
    with pytest.raises(RewardError, match="JSONDecodeError: Expecting") as caught:
        call(reward, ["a", "b"])
    assert f"({tmp_path / 'mine.py'}, line 6)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_imported_is_reported_with_its_line(tmp_path):
    (tmp_path / "mine.py").write_text("import math\n\nmath.nothing\n")
    with pytest.raises(RewardError, match=f"AttributeError: .*{tmp_path / 'mine.py'}, line 3"):
        load(f"{tmp_path / 'mine.py'}:score")
    (tmp_path / "mine.py").write_text("import math\n\ndef (\n")
    with pytest.raises(RewardError, match=r"SyntaxError: .*mine\.py, line 3"):
        load(f"{tmp_path / 'mine.py'}:score")


def test_a_message_of_many_lines_is_cut_to_its_first(tmp_path):
    with pytest.raises(RewardError, match="ValueError: one; |ValueError: one [(]") as caught:
        call(load(own(tmp_path, "raise ValueError('one\\ntwo')")), ["a"])
    assert "two" not in str(caught.value)


def test_a_long_prompt_is_cut(tmp_path):
    with pytest.raises(RewardError) as caught:
        load(own(tmp_path, "return ['1']"))(["x" * 500], ["a"], [[1]])
    assert "x" * 57 + "..." in str(caught.value)
    assert len(str(caught.value)) < 200


def test_numbers_of_other_libraries_are_numbers(tmp_path):
    body = "import numpy; return numpy.array([0.5, 2], dtype='float32')"
    values = call(load(own(tmp_path, body)), ["a", "b"])
    assert values == [0.5, 2.0]
    assert all(type(value) is float for value in values)
    body = "import numpy, torch; return [torch.tensor(0.5), numpy.array([True, False])[0]]"
    assert call(load(own(tmp_path, body)), ["a", "b"]) == [0.5, 1.0]
    assert call(load(own(tmp_path, "import torch; return torch.tensor([0.5, 2.0])")), ["a", "b"]) == [0.5, 2.0]


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("missing", [{}, {"answer": None}, {"answer": " "}, {"answer": []}])
def test_a_row_without_truth_is_named_before_anything_is_generated(missing):
    rows = [{"prompt": "one", "answer": "1"}, {"prompt": chat("two"), "source": "s", **missing}]
    with pytest.raises(RewardError, match="row 2 .prompt 'two'. has no `answer`, which reward exact reads.*source"):
        check_rows(load("exact"), rows)
    check_rows(load("exact"), [{"prompt": "zero", "answer": 0}])


def test_the_same_is_reported_for_a_batch():
    with pytest.raises(RewardError, match="row 2 of the batch .prompt 'task 1'. has no `answer`"):
        call(load("exact"), ["1", "2"], answer=["1", None])


def test_rows_are_held_against_the_columns_that_a_function_asks_for(tmp_path):
    reward = load(
        own(tmp_path, "return [1.0] * len(completions)", "prompts, completions, level, log_metric, x=1, **columns")
    )
    assert reward.needs == ("level",)
    with pytest.raises(RewardError, match="row 1 .* has no `level`, which reward score reads"):
        check_rows(reward, [{"prompt": "a", "answer": "b"}])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": "G"}, "names none of A, B, C, D, E; give a column `options`"),
        ({"answer": "C", "options": ["x", "y"]}, "row 1 .prompt 'p'.: .*C"),
        ({"answer": "A", "options": ["x"]}, "two or more"),
    ],
)
def test_choices_without_a_right_option_are_named(row, said):
    with pytest.raises(RewardError, match=said):
        check_rows(load("choice"), [{"prompt": "p", **row}])


def test_trl_takes_a_reward_and_its_name(tmp_path):
    from trl.trainer.utils import get_callable_name

    assert get_callable_name(load("exact")) == "exact"
    assert math.isfinite(call(load("exact"), ["1"], answer=["1"])[0])


def test_a_reward_of_ones_own_is_known_by_the_files_that_it_is_written_in(tmp_path, monkeypatch):
    body = "def half(prompts, completions, **columns):\n    return [0.5] * len(prompts)\n"
    (tmp_path / "rewards_inner.py").write_text(body)
    (tmp_path / "rewards_outer.py").write_text("from rewards_inner import half\n")
    (tmp_path / "object.py").write_text(
        "class Half:\n    def __call__(self, prompts, completions, **columns):\n        return [0.5]\nhalf = Half()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def sources() -> list[str | None]:
        for name in ("rewards_inner", "rewards_outer"):
            sys.modules.pop(name, None)
        return [
            load(name).source for name in ("rewards_inner:half", "rewards_outer:half", f"{tmp_path}/object.py:half")
        ]

    before = sources()
    assert None not in before
    assert len(set(before)) == 3
    assert sources() == before
    (tmp_path / "rewards_inner.py").write_text(body.replace("0.5", "0.25"))  # another length: no stale bytecode
    after = sources()
    assert [one == other for one, other in zip(before, after)] == [False, False, True]
    assert load("exact").source is None


def test_a_row_without_an_answer_is_named_with_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "1"}\n\n\n{"prompt": "b"}\n')
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b"}]
    with pytest.raises(RewardError, match=rf"^{path}: row 2, line 4 \(prompt 'b'\) has no `answer`"):
        check_rows(load("exact"), rows, str(path))
    with pytest.raises(RewardError, match=r"^ORG/NAME: row 2 \(prompt 'b'\) has no `answer`"):
        check_rows(load("exact"), rows, "ORG/NAME")


def test_an_error_in_a_reward_names_its_file_and_line(tmp_path):
    reward = load(own(tmp_path, "x = 1\n    return [len(text) / 0 for text in completions]"))
    with pytest.raises(RewardError, match=rf"ZeroDivisionError: division by zero \({tmp_path}/mine.py, line 3\)"):
        call(reward, ["ab"])


def test_a_reward_may_import_what_lies_beside_its_file_and_a_package_may_lie_where_the_command_is_started(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "lengths_beside.py").write_text("def score(c): return float(len(c))\n")
    (tmp_path / "mine" / "own.py").write_text(
        "from lengths_beside import score\ndef reward(completions, **_): return [score(c) for c in completions]\n"
    )
    (tmp_path / "package_here.py").write_text("def one(completions, **_): return [1.0 for _ in completions]\n")
    reward = load("mine/own.py:reward")
    assert reward(["a", "a"], ["bc", "d"]) == [2.0, 1.0]
    assert {path.name for path in reward.files} == {"own.py", "lengths_beside.py"}
    assert load("package_here:one")(["a"], ["b"]) == [1.0]
