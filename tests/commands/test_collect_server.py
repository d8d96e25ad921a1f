"""Collecting a teacher's text from a server: what is kept, what it costs, and what ends it."""

import io
import json
import re
import threading
from pathlib import Path

import pytest
from rich.console import Console

import tiny_folder
from trimtab.commands.collect import CollectSettings, collect
from trimtab.common.errors import Unanswered, UserError
from trimtab.evals.openai_model import OpenAIModel

QUIET = Console(quiet=True)
CLEAN = {"write": "completions", "heldout": 0.0, "max_new_tokens": 8, "batch": 1}


@pytest.fixture
def source(tmp_path) -> str:
    return str(tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": f"say {i}"} for i in range(6)]))


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """What would have been waited."""
    found: list[float] = []
    monkeypatch.setattr(OpenAIModel, "rest", lambda _, seconds: found.append(seconds))
    return found


def made(server, source, out, **changes) -> CollectSettings:
    return CollectSettings(**{"model": "m", "source": source, "out": out, "endpoint": server.url, **CLEAN, **changes})


def rows(folder: Path, name: str = "samples.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def said(asked: dict) -> str:
    return asked["messages"][-1]["content"]


def usage(prompt: int, completion: int):
    return lambda asked: {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def test_each_whole_answer_is_a_row_with_its_prompt(server, source, tmp_path):
    counts = collect(made(server, source, tmp_path / "out", batch=4), console=QUIET)
    found = rows(tmp_path / "out", "train.jsonl")
    assert [row["prompt"][-1]["content"] for row in found] == [f"say {i}" for i in range(6)]
    assert [row["completion"][0]["content"] for row in found] == [f"you said say {i}" for i in range(6)]
    assert (counts.tasks, counts.completions) == (6, 6)
    assert rows(tmp_path / "out", "heldout.jsonl") == []


def test_so_many_requests_are_under_way_at_a_time(server, source, tmp_path):
    meeting = threading.Barrier(3, timeout=10)  # nobody is answered before three have asked
    server.reply = lambda asked: f"{meeting.wait()}"
    collect(made(server, source, tmp_path / "out", batch=3), console=QUIET)
    assert len(server.seen) == 6


def test_what_is_there_is_not_asked_again_after_a_kill(server, source, tmp_path):
    out = tmp_path / "out"
    collect(made(server, source, out), console=QUIET)
    whole = (out / "train.jsonl").read_bytes()
    kept = (out / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (out / "samples.jsonl").write_bytes(b"".join(kept[:3]) + kept[3][:9])
    server.seen.clear()
    collect(made(server, source, out), console=QUIET)
    assert sorted(map(said, server.seen)) == ["say 3", "say 4", "say 5"]
    assert (out / "train.jsonl").read_bytes() == whole


def test_empty_cut_and_failed_answers_are_no_rows_and_only_the_failed_are_asked_again(server, source, tmp_path):
    empty, failed = json.dumps({"choices": [{"message": {"content": " "}, "finish_reason": "stop"}]}), (503, "{}")
    cut = json.dumps({"choices": [{"message": {"content": "so"}, "finish_reason": "length"}]})
    filtered = json.dumps({"choices": [{"message": {"content": "so"}, "finish_reason": "content_filter"}]})
    server.script = [(200, empty), (200, cut), failed, failed, (200, filtered)]
    out = tmp_path / "out"
    counts = collect(made(server, source, out, tries=2), console=QUIET)
    assert (counts.completions, counts.empty, counts.truncated, counts.errors) == (2, 1, 1, 2)
    assert [row["prompt"][0]["content"] for row in rows(out, "train.jsonl")] == ["say 4", "say 5"]
    server.seen.clear()
    counts = collect(made(server, source, out, tries=2), console=QUIET)
    assert sorted(map(said, server.seen)) == ["say 2", "say 3"]
    assert (counts.completions, counts.empty, counts.truncated, counts.errors) == (4, 1, 1, 0)


def test_pauses_are_those_that_the_server_asks_for(server, source, tmp_path, pauses):
    server.headers = {"Retry-After": "17"}
    server.script = [(429, "{}"), (503, "{}")]
    collect(made(server, source, tmp_path / "out"), console=QUIET)
    assert pauses == [17.0, 17.0]


def test_nobody_waits_for_a_server_that_asks_for_an_hour(server, source, tmp_path, pauses):
    server.headers = {"Retry-After": "3600"}
    server.script = [(429, "{}")]
    counts = collect(made(server, source, tmp_path / "out"), console=QUIET)
    assert pauses == []
    assert (counts.completions, counts.errors) == (5, 1)
    (row,) = [row for row in rows(tmp_path / "out") if row.get("error")]
    assert "in 1 try" in row["error"]
    assert "asks to wait 3,600 seconds" in row["error"]


def test_a_server_that_limits_the_rate_for_ever_ends_it_and_what_came_is_kept(server, tmp_path):
    source = tiny_folder.write_jsonl(tmp_path / "many.jsonl", [{"prompt": f"say {i}"} for i in range(40)])
    answer = json.dumps({"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]})
    server.script = [(200, answer)] * 2 + [(429, '{"error": {"message": "too many"}}')] * 500
    out = tmp_path / "out"
    message = (
        r"the last 8 requests failed, the last with: RateLimitError in 2 tries.*kept in .*samples.jsonl: 2 answers"
    )
    with pytest.raises(Unanswered, match=message):
        collect(made(server, str(source), out, tries=2), console=QUIET)
    assert len(server.seen) == 2 + 8 * 2
    assert not (out / "train.jsonl").exists()
    server.script = []
    assert collect(made(server, str(source), out, answers=1), console=QUIET).completions == 40


def test_a_server_that_dies_ends_it_with_what_is_kept(server, source, tmp_path):
    def reply(asked):
        if said(asked) == "say 3":
            server.socket.close()
            raise ConnectionAbortedError
        return "yes"

    server.reply = reply
    server.handle_error = lambda *args: None
    with pytest.raises(Unanswered, match=r"cannot be reached \(.*give the same command again; kept in .*: 3 answers$"):
        collect(made(server, source, tmp_path / "out", tries=3), console=QUIET)
    assert [row["text"] for row in rows(tmp_path / "out") if not row.get("error")] == ["yes"] * 3


@pytest.mark.parametrize(("name", "fits"), [("m", True), ("m-2024-08-06", True), ("m-0613", True), ("m-mini", False)])
def test_another_model_than_the_one_asked_for_ends_it_and_its_text_is_not_kept(server, source, tmp_path, name, fits):
    server.name, out = name, tmp_path / "out"
    if fits:
        assert collect(made(server, source, out), console=QUIET).completions == 6
        return
    with pytest.raises(UserError, match=r"answered as 'm-mini', but 'm' was asked.*--served-as m-mini.*: 0 answers"):
        collect(made(server, source, out), console=QUIET)
    assert len(server.seen) == 1
    assert not out.exists()
    assert collect(made(server, source, out, served_as="m-mini"), console=QUIET).completions == 6


# ---------------------------------------------------------------- budgets


def test_a_budget_of_requests_counts_failed_ones_and_those_of_earlier_runs(server, source, tmp_path):
    server.script = [(500, "{}")]
    out = tmp_path / "out"
    counts = collect(made(server, source, out, budget_requests=4), console=QUIET)
    assert len(server.seen) == 4
    assert (counts.completions, counts.unasked) == (3, 3)
    facts = json.loads((out / "collection.json").read_text())
    assert re.search(r"--budget-requests 4: 4 are sent; kept in .*: 3 answers", facts["stopped"])
    collect(made(server, source, out, budget_requests=4), console=QUIET)
    assert len(server.seen) == 4
    assert collect(made(server, source, out, budget_requests=7), console=QUIET).completions == 6
    assert len(server.seen) == 7
    assert "stopped" not in json.loads((out / "collection.json").read_text())


@pytest.mark.parametrize("batch", [1, 4])
def test_no_request_is_sent_that_could_exceed_a_budget_of_tokens(server, source, tmp_path, batch):
    server.counts = usage(10, 5)  # 10 is as many as are estimated, and 8 new tokens are the most
    counts = collect(made(server, source, tmp_path / "out", budget_tokens=60, batch=batch), console=QUIET)
    assert counts.completions == 3  # 45 are used, and 18 more might be
    assert json.loads((tmp_path / "out" / "collection.json").read_text())["usage"]["prompt"] == 30


def test_a_cost_is_estimated_before_and_counted_after(server, source, tmp_path):
    server.counts = usage(10, 5)
    console = Console(record=True, width=200, file=io.StringIO())
    prices = {"price_prompt": 1000.0, "price_completion": 100000.0}
    counts = collect(made(server, source, tmp_path / "out", budget_cost=2.4, **prices), console=console)
    assert counts.completions == 4  # 4 x 0.51, and the next might take 0.81
    text = console.export_text()
    assert "estimate, at most: 6 requests, 60 prompt tokens and 48 completion tokens, 4.86 at the given prices" in text
    assert "used so far: 4 requests, 40 prompt tokens and 20 completion tokens, 2.04 at the given prices" in text
    assert "stopped by --budget-cost 2.4: 2.04 is spent and the next request may not fit; kept in" in text


def test_a_server_that_does_not_count_cannot_be_kept_to_tokens(server, source, tmp_path):
    with pytest.raises(UserError, match="hold no usage.*--budget-requests; kept in .*: 1 answer;"):
        collect(made(server, source, tmp_path / "out", budget_tokens=1000), console=QUIET)
    assert len(server.seen) == 1


def test_a_budget_that_allows_nothing_is_said(server, source, tmp_path):
    with pytest.raises(UserError, match="--budget-tokens 5: 0 are used.*raise the budget"):
        collect(made(server, source, tmp_path / "out", budget_tokens=5), console=QUIET)
    assert not server.seen
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the key, and settings


def test_the_key_comes_from_the_named_variable_and_stands_nowhere(server, source, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret\n")
    collect(made(server, source, tmp_path / "out", key_env="MY_KEY"), console=QUIET)
    assert set(server.keys) == {"Bearer sk-secret"}
    assert not any("secret" in path.read_text() for path in (tmp_path / "out").iterdir() if path.is_file())
    server.script = [(401, '{"error": {"message": "incorrect key sk-secret"}}')]
    with pytest.raises(UserError, match=r"incorrect key \*\*\*.*MY_KEY"):
        collect(made(server, source, tmp_path / "other", key_env="MY_KEY"), console=QUIET)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key_env": "NOT_THERE_AT_ALL"}, "--key-env NOT_THERE_AT_ALL: there is no such"),
        ({"endpoint": None, "budget_tokens": 5}, "--budget-tokens is about a server; name it: --endpoint"),
        ({"budget_cost": 1.0}, "needs both --price-prompt and --price-completion"),
        ({"price_prompt": 1.0}, "needs both --price-prompt and --price-completion"),
        ({"write": "graded", "answers": 1}, "takes at least 2; or --write completions"),
        ({"pairs": 3}, "--pairs: only for graded rows"),
    ],
)
def test_settings_that_do_not_fit_are_refused(server, source, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        made(server, source, tmp_path / "out", **changes)


def test_a_model_in_memory_gives_completions_of_which_cut_ones_are_left_out(tmp_path, source):
    tiny_folder.save(tmp_path / "model")
    how = {**CLEAN, "answers": 2, "max_new_tokens": 1}
    counts = collect(
        CollectSettings(model=str(tmp_path / "model"), source=source, out=tmp_path / "out", **how), console=QUIET
    )
    assert counts.truncated + counts.empty + counts.completions + counts.repeated == 12
    assert counts.truncated > 0
