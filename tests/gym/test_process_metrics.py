"""Process metrics of trajectories made by hand, with values worked by hand."""

import math

import pytest

from trimtab.gym.process_metrics import process_metrics


def step(name, arguments=None, *, good=True, sessions=None, **observed):
    """A step without its number and time, which `trajectory` gives."""
    kind = "null" if name == "null" else "file"
    return {
        "took": 1.0,
        "action": {"name": name, "arguments": arguments or {}},
        "observation": {"success": good, "observation_type": kind, **observed},
        "tokens": None,
        "sessions": sessions or {},
    }


def trajectory(*steps):
    return [{"step": n, "seconds": 2.0 * n, **one} for n, one in enumerate(steps, start=1)]


def measured(*steps):
    return process_metrics(trajectory(*steps))


def scored(score, **more):
    return step("eval", overall_score=score, **more)


def edit(path="a.py"):
    return step("edit_file", {"path": path, "start": 1, "end": 1, "content": "x"}, file_path=path)


def opened(path="a.py"):
    return step("open_file", {"path": path}, file_path=path)


LIST = step("list_files")
REFUSED = step("run_command", {"command": "train"}, good=False)


def test_counts_tokens_and_time_are_those_of_the_steps():
    found = measured(LIST, {**LIST, "tokens": 30}, {**scored(10.0), "tokens": 12})
    assert (found.steps, found.first_eval_step, found.tokens, found.duration) == (3, 3, 42, 6.0)


def test_nothing_is_known_of_an_empty_trajectory():
    found = process_metrics([])
    assert (found.steps, found.duration, found.session_leak) == (0, 0.0, 0)
    assert [value for name, value in vars(found).items() if name not in ("steps", "duration", "session_leak")] == [
        None
    ] * (len(vars(found)) - 3)


def test_eval_abuse_is_the_share_of_pairs_of_evals_with_no_edit_between():
    found = measured(scored(1.0), step("run_command"), scored(1.0), edit(), scored(2.0), scored(2.0))
    assert found.eval_abuse == pytest.approx(2 / 3)
    failed = {**edit(), "observation": {"success": False, "observation_type": "file"}}
    assert measured(scored(1.0), failed, scored(1.0)).eval_abuse == 1.0
    assert measured(scored(1.0), edit()).eval_abuse is None


def test_score_gain_is_that_of_the_last_evaluation_over_the_first():
    beyond = scored(0.0, good=False)
    assert measured(scored(12.5), edit(), scored(50.0), edit(), scored(40.0), beyond).score_gain == 27.5
    assert measured(step("eval", good=False), scored(12.5)).score_gain is None


def test_sessions_leak_that_are_opened_and_never_closed():
    found = measured(
        step("run_command", sessions={"main": "busy"}),
        step("create_session", sessions={"main": "busy", "b": "idle"}),
        step("create_session", sessions={"main": "busy", "b": "idle", "c": "idle"}),
        step("close_session", sessions={"main": "idle", "c": "idle"}),
        step("create_session", sessions={"main": "idle", "c": "idle", "b": "idle"}),
    )
    assert (found.session_leak, found.reclaim_rate) == (3, 0.25)
    assert measured(LIST).reclaim_rate is None


def test_ten_looks_in_a_row_are_a_deadlock_and_nine_are_patience():
    looks = [
        step(name)
        for name in (
            "sleep", "check_session_idle", "get_session_status", "list_sessions", "get_session_output",
            "get_session_recent_output", "sleep", "list_sessions", "sleep",
        )
    ]  # fmt: skip
    assert measured(*looks, LIST, *looks).deadlock_ratio == 0.0
    assert measured(*looks, step("sleep"), LIST, *looks).deadlock_ratio == 10 / 20
    assert measured(LIST, *looks, *looks).deadlock_ratio == 18 / 19


def test_the_third_identical_failure_makes_a_blind_retry():
    other = step("run_command", {"command": "other"}, good=False)
    assert measured(REFUSED, REFUSED, LIST, REFUSED).blind_retry == 0.0
    assert measured(REFUSED, REFUSED, other, REFUSED).blind_retry == 0.0
    assert measured(LIST, REFUSED, REFUSED, REFUSED, REFUSED).blind_retry == 4 / 5
    well = step("run_command", {"command": "train"})
    assert measured(well, well, well).blind_retry == 0.0


def test_an_edit_is_read_before_when_its_file_was_opened_at_most_20_steps_ago():
    assert measured(opened("/workspace/a.py"), edit("./a.py")).read_before_edit == 1.0
    assert measured(opened(), *[LIST] * 19, edit()).read_before_edit == 1.0
    assert measured(opened(), *[LIST] * 20, edit()).read_before_edit == 0.0
    assert measured(opened("b.py"), edit(), edit("b.py")).read_before_edit == 0.5
    assert measured(step("file_scroll_down", file_path="a.py"), edit()).read_before_edit == 1.0
    made = step("create_file", {"filename": "a.py"}, file_path="a.py")
    assert measured(made).read_before_edit is None


def test_an_edit_is_rolled_back_when_its_file_is_edited_within_5_actions():
    assert measured(edit(), *[LIST] * 4, edit("/workspace/a.py")).edit_rollback == 0.5
    assert measured(edit(), *[LIST] * 5, edit()).edit_rollback == 0.0
    made = step("create_file", {"filename": "a.py"}, file_path="a.py")
    assert measured(made, edit("b.py"), edit()).edit_rollback == pytest.approx(1 / 3)
    assert measured(LIST).edit_rollback is None


def test_the_last_edit_is_verified_by_a_run_or_an_eval_after_it():
    assert measured(edit(), step("run_command")).post_fix_verification is True
    assert measured(edit(), scored(1.0)).post_fix_verification is True
    assert measured(step("run_command"), edit(), LIST).post_fix_verification is False
    assert measured(LIST).post_fix_verification is None


def test_the_effective_rate_leaves_out_malformed_calls_retries_and_deadlocks():
    null = step("null", {"reason": "there was no call of a tool"}, good=False)
    found = measured(null, LIST, REFUSED, REFUSED, REFUSED, *[step("sleep")] * 10, *[LIST] * 5)
    assert (found.format_fail_rate, found.blind_retry, found.deadlock_ratio) == (0.05, 0.15, 0.5)
    assert found.effective_step_rate == pytest.approx(0.3)
    assert measured(null, null, null).effective_step_rate == 0.0


def test_the_entropy_of_pairs_of_actions_is_in_bits():
    found = measured(LIST, edit(), LIST, edit(), LIST)  # list-edit twice, edit-list twice
    assert found.action_bigram_entropy == pytest.approx(1.0)
    found = measured(LIST, LIST, LIST, edit())  # 2/3 and 1/3
    assert found.action_bigram_entropy == pytest.approx(math.log2(3) - 2 / 3)
    assert measured(LIST, LIST).action_bigram_entropy == 0.0
    assert measured(LIST).action_bigram_entropy is None
