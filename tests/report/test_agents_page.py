"""The page of trajectories: each turn with who said it, from rows of agents and of trainings, and in a browser."""

import re

import pytest

import tiny_folder
from tiny_agent import CALL, ENOUGH, NO, PLANS, Tools, scripted
from trimtab.agents.loop import Agent
from trimtab.data.generators.tool_world import tools as rows_of
from trimtab.data.trajectories import Step
from trimtab.report.agents import turns_of


@pytest.fixture
def file(tmp_path):
    texts = [PLANS, NO, "<b>Other</b>.\n Next: caller.", ENOUGH]
    done = Agent(scripted(texts, [CALL, "Action: x\nAction Input: {}"], ["It is 12 C."]), Tools(), search="dfs")
    found = done.run("Weather in <script>Bern</script>?")
    rows = [
        found.row() | {"checked": {"state": True, "answer": False, "success": False}},
        next(iter(rows_of("train", 1))),
    ]
    return tiny_folder.write_jsonl(tmp_path / "made.jsonl", rows)


def test_turns_are_told_by_who_speaks_and_what_follows():
    steps = (Step("user", "?"), Step("assistant", PLANS), Step("caller", CALL), Step("observation", "error: no"))
    told = [(one.who, one.text, one.note, one.failed) for one in turns_of(steps)]
    assert told == [
        ("task", "?", "", False), ("planner", "I look.", "the caller goes on", False),
        ("caller", '{"town": "Bern"}', "look", False), ("tool", "error: no", "failed", True),
    ]  # fmt: skip
    assert turns_of([Step("caller", "hm")])[0].note == "no call"
    assert turns_of([Step("assistant", "hm")])[0].note == "no marker"


def test_a_page_holds_all_turns_and_no_markup_of_a_row(trimtab, file, tmp_path):
    code, out, err = trimtab("agent", "show", file)
    assert code == 0, err
    assert out == f"page: {tmp_path / 'made.html'}\n"
    page = (tmp_path / "made.html").read_text()
    assert "<script" not in page
    assert "0 of 1 task solved" in page
    assert "not solved, conclusion" in page
    assert "&lt;b&gt;Other&lt;/b&gt;." in page
    assert "Branch 1 that was left" in page
    assert not re.search(r"(src|href)=", page)


def test_what_an_evaluation_says_of_a_task_is_shown(trimtab, tmp_path):
    row = Agent(scripted([NO]), Tools()).run("?").row() | {"success": True, "state": True, "answer": True}
    code, _, err = trimtab("agent", "show", tiny_folder.write_jsonl(tmp_path / "runs.jsonl", [row]))
    assert code == 0, err
    assert "1 of 1 task solved" in (tmp_path / "runs.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl is no file to write a page beside; name the page: --out FILE.html"),
        (["nowhere.jsonl", "--out", "x.html"], "there is no file nowhere.jsonl"),
        ([], "FILE is missing: give rows of trajectories"),
    ],
)
def test_what_cannot_be_shown_costs_a_line(trimtab, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = trimtab("agent", "show", *words)
    assert code == 2
    assert said in err
    assert not list(tmp_path.iterdir())


def test_the_page_in_a_browser(trimtab, file, tmp_path, browser):
    trimtab("agent", "show", file)
    view = browser.new_page(viewport={"width": 420, "height": 900})
    view.goto((tmp_path / "made.html").as_uri())
    assert view.locator(".trajectory[open] > .turns > .turn").first.inner_text().startswith("task")
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    view.set_viewport_size({"width": 1200, "height": 1400})
    view.screenshot(path=str(tmp_path / "made.png"))
    view.close()
