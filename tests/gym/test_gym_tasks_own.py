"""Tasks of the gym about trimtab's own business: what is malformed scores 0 with the reason, and the anchors hold."""

import json
import re

import pytest

from tiny_gym import engine, said, scored_outputs
from trimtab.gym.episode import Episode
from trimtab.gym.solutions import lay_over, solution_files
from trimtab.gym.task import TASKS, load_task

NAMES = ("tt-bug", "tt-divergence", "tt-psft", "tt-reward")


CHOICE = {
    "divergence": "forward_kl", "parameters": {}, "temperature": 1.0, "learning_rate": 0.01, "tokens_per_update": 512,
}  # fmt: skip


def choice(**changed):
    return {"outputs/choice.json": json.dumps(CHOICE | changed)}


MALFORMED = [
    ("tt-bug", {}, "outputs/losses.py is missing"),
    ("tt-bug", {"outputs/losses.py": ""}, "failed on every batch: AttributeError: .* no attribute 'sft'"),
    ("tt-bug", {"outputs/losses.py": "raise KeyError('x')"}, "gave no values: KeyError: 'x'"),
    ("tt-bug", {"outputs/losses.py": "import trimtab"}, "gave no values: ModuleNotFoundError"),
    ("tt-bug", {"outputs/losses.py": "import os; open('found.json', 'w').write('[1]'); os._exit(0)"}, "can be read"),
    ("tt-bug", {"outputs/losses.py": b"\xff"}, "no UTF-8 text"),
    ("tt-divergence", {}, "outputs/choice.json is missing"),
    ("tt-divergence", {"outputs/choice.json": "{"}, "choice.json is no JSON: Expecting property name"),
    ("tt-divergence", {"outputs/choice.json": "[" * 9999}, "choice.json is no JSON"),
    ("tt-divergence", {"outputs/choice.json": "{}"}, "a choice has these keys: divergence, learning_rate"),
    ("tt-divergence", choice(divergence="system"), "divergence is 'system'; expected one of forward_kl"),
    ("tt-divergence", choice(divergence=["akl"]), r"divergence is \['akl'\]; expected one of forward_kl"),
    ("tt-divergence", choice(parameters={"mu": 1}), "parameters of forward_kl may be: none"),
    ("tt-divergence", choice(tokens_per_update=1), "tokens_per_update is 1; expected a number from 64 to 8192"),
    ("tt-divergence", choice(tokens_per_update=64.5), "tokens_per_update is no whole number"),
    ("tt-divergence", choice(learning_rate=float("nan")), "learning_rate is nan; expected"),
    ("tt-divergence", choice(divergence="jsd", parameters={"beta": 2}), "beta must lie strictly between 0 and 1"),
    ("tt-psft", {}, "outputs/choice.json is missing"),
    ("tt-psft", {"outputs/choice.json": "{]"}, "choice.json is no JSON: Expecting property name"),
    ("tt-psft", {"outputs/choice.json": '{"epsilon": 1}'}, "a choice has these keys: epsilon, refresh"),
    ("tt-psft", {"outputs/choice.json": '{"epsilon": 0.2, "refresh": 49}'}, "refresh is 49; expected a number from 1"),
    ("tt-psft", {"outputs/choice.json": '{"epsilon": NaN, "refresh": 4}'}, "epsilon is nan; expected a number"),
    ("tt-psft", {"outputs/choice.json": '{"epsilon": 0.2, "refresh": 4.5}'}, "refresh is no whole number"),
    ("tt-reward", {}, "outputs/reward.py is missing"),
    ("tt-reward", {"outputs/reward.py": ""}, "fails on every batch: ImportError: cannot import name 'reward'"),
    ("tt-reward", {"outputs/reward.py": "def reward(completions, **_):\n    return 1"}, "TypeError: 'int'"),
    ("tt-reward", {"outputs/reward.py": "def reward(**_):\n    return [float('nan')] * 12"}, "12 finite numbers"),
    ("tt-reward", {"outputs/reward.py": "from trimtab.rewards import puzzles"}, "ModuleNotFoundError"),
]


@pytest.mark.parametrize(("name", "files", "why"), MALFORMED)
@pytest.mark.fast("*is missing*", "*UTF-8*", "*is no JSON: Exp*")
def test_outputs_of_an_own_task_that_are_malformed_score_0_with_the_reason(tmp_path, name, files, why):
    found = scored_outputs(tmp_path, load_task(TASKS / name), files)
    assert (found.score, found.private_score) == (0, 0)
    assert re.search(why, found.message), found.message


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_anchors_of_an_own_task_hold(tmp_path, name):
    engine()
    for which, points, off in (("baseline", 0, 5), ("reference", 80, 8)):
        with Episode(load_task(TASKS / name), tmp_path / which) as episode:
            lay_over(episode, which)
            result = episode.end()
        assert result["error"] == ""
        record = result["submissions"][-1]
        for found in (record["metrics"], record["private_metrics"]):
            metrics = episode.task.settings.metrics
            total = sum(one.weight * one.points(found[one.name]) for one in metrics) / sum(
                one.weight for one in metrics
            )
            assert abs(total - points) <= off, (which, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_commands_of_an_own_task_import_trimtab_and_see_no_task(tmp_path, name):
    engine()
    script = "import os, trimtab; print(os.listdir(f'{trimtab.__path__[0]}/gym/tasks'))"
    with Episode(load_task(TASKS / name), tmp_path / "run") as episode:
        assert said(episode, f'python3 -c "{script}"')["output"] == "[]"


BEST = {
    "logprobs = logits[:, :-1].log_softmax": "logprobs = logits[:, :-1].float().log_softmax",
    "teacher.detach()[": "teacher.detach().clamp(min=-1e9)[",
    "(student[": "(student.clamp(min=-1e9)[",
    "torch.log(torch.sigmoid(beta * margins))": "torch.nn.functional.logsigmoid(beta * margins)",
}


@pytest.mark.slow
def test_losses_that_hold_in_extremes_score_100_and_each_alone_a_third_of_the_rest(tmp_path):
    task = load_task(TASKS / "tt-bug")
    ((path, place),) = solution_files(task, "reference").items()
    text = place.read_text()
    for old, new in BEST.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    assert scored_outputs(tmp_path / "all", task, {path: text}).score == pytest.approx(100)
    text = text.replace("theirs - ours", "ours - theirs").replace("(ours - theirs)", "(theirs - ours)")
    assert scored_outputs(tmp_path / "two", task, {path: text}).metrics["correct"] == pytest.approx(2 / 3)


REWARD = """
import re
from fractions import Fraction

TOKEN = re.compile(r"[0-9]{1,3}|[-+*/()]")


def reward(completions, numbers, target, **_):
    return [float(correct(*each)) for each in zip(completions, numbers, target)]


def correct(completion, numbers, target):
    at = completion.rfind("<answer>")
    answer, closed, _ = completion[at + 8:].partition("</answer>")
    if at < 0 or not closed or len(answer) > 300:
        return False
    text, equals, claimed = answer.translate(str.maketrans("×÷−", "*/-")).partition("=")
    tokens = TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", "") or (equals and claimed.strip() != str(target)):
        return False
    if sorted(int(one) for one in tokens if one.isdigit()) != sorted(numbers):
        return False
    try:
        return value(tokens) == target and not tokens
    except (ArithmeticError, IndexError, ValueError):
        return False


def value(tokens, depth=0):
    total = term(tokens, depth)
    while tokens and tokens[0] in "+-":
        sign = 1 if tokens.pop(0) == "+" else -1
        total += sign * term(tokens, depth)
    return total


def term(tokens, depth):
    product = factor(tokens, depth)
    while tokens and tokens[0] in "*/":
        product = product * factor(tokens, depth) if tokens.pop(0) == "*" else product / factor(tokens, depth)
    return product


def factor(tokens, depth):
    token = tokens.pop(0)
    if token != "(":
        return Fraction(int(token))
    if depth > 30:
        raise ValueError
    inner = value(tokens, depth + 1)
    if tokens.pop(0) != ")":
        raise ValueError
    return inner
"""


@pytest.mark.slow
def test_a_reward_that_reads_what_the_policy_wrote_is_fair_to_all_kinds(tmp_path):
    found = scored_outputs(tmp_path, load_task(TASKS / "tt-reward").seeded(5), {"outputs/reward.py": REWARD})
    assert (found.metrics, found.private_metrics) == ({"fair": 1.0}, {"fair": 1.0})
    assert (found.score, found.private_score) == (100, 100)


@pytest.mark.slow
@pytest.mark.parametrize("given", [0, 1])
def test_a_reward_that_says_the_same_of_all_is_worth_nothing(tmp_path, given):
    text = f"def reward(completions, **_):\n    return [{given}] * len(completions)"
    found = scored_outputs(tmp_path, load_task(TASKS / "tt-reward"), {"outputs/reward.py": text})
    assert (found.score, found.private_score) == (0, 0)


@pytest.mark.slow
def test_a_better_divergence_and_smaller_updates_beat_the_reference(tmp_path):
    better = choice(
        divergence="todi", parameters={"beta": 1}, temperature=1.5, learning_rate=0.02, tokens_per_update=64
    )
    found = scored_outputs(tmp_path, load_task(TASKS / "tt-divergence"), better)
    assert found.score > 88
    assert found.private_score > 88


@pytest.mark.slow
def test_a_shorter_window_and_a_wider_clip_beat_the_reference(tmp_path):
    better = {"outputs/choice.json": '{"epsilon": 0.5, "refresh": 10}'}
    found = scored_outputs(tmp_path, load_task(TASKS / "tt-psft"), better)
    assert found.score > 85
    assert found.private_score > 85
