"""The page of runs in the gym, of run folders made by hand: what it says, how large it gets, and in a browser."""

import json
import re

import pytest

from trimtab.gym.trajectory import GymRunError
from trimtab.report.gym import write
from trimtab.report.gym_steps import Room, cells, conversation, lanes
from trimtab.report.reading import ReportError


def step(number, name, arguments, kind="file", *, good=True, seconds=None, said=None, sessions=None, **fields):
    message = {"message": "done"} if good else {"error_message": "it is <refused>"}
    return {
        "step": number,
        "seconds": 10.0 * number if seconds is None else seconds,
        "took": 0.1,
        "action": {"name": name, "arguments": arguments},
        "observation": {
            "success": good, "observation_type": kind, "timestamp": 1.0, "source": name, **message, **fields
        },
        "said": said,
        "tokens": 7,
        "sessions": sessions or {},
    }  # fmt: skip


STEPS = [
    step(1, "run_command", {"command": "train"}, "run", sessions={"main": "busy"}, said="I <b>begin</b>."),
    step(2, "open_file", {"path": "a.py"}, sessions={"main": "busy"}, content="     1  x = '</script>'\n"),
    step(3, "null", {"reason": "no call"}, "null", good=False, sessions={"main": "idle"}),
    step(4, "eval", {}, "eval", overall_score=62.5),
]


def submission(number, score, seconds, **more):
    return {
        "number": number, "sha256": "0123456789abcdef", "task": "guess", "version": "v1", "seconds": seconds,
        "score": score, "private_score": score / 2, "metrics": {"accuracy": score / 125},
        "private_metrics": {"accuracy": score / 250}, "message": "", "final": False, **more,
    }  # fmt: skip


def result(**more):
    return {
        "task": "guess", "version": "v1", "isolation": "bwrap", "final": 75.0, "private": 37.5, "best": 75.0,
        "best_private": 37.5, "hint_seen": False, "over": "the agent has finished", "error": "",
        "budget": {"seconds": 50.0, "cpu_seconds": 3.0, "steps": 4}, "agent": "react", "model": "m-1b", "seed": 4,
        "title": "Guess <all> labels",
        "submissions": [submission(1, 62.5, 40.0), submission(2, 75.0, 50.0, final=True, message="2 & more")], **more,
    }  # fmt: skip


def made(folder, steps=(), **more):
    folder.mkdir(parents=True)
    (folder / "gym.json").write_text(json.dumps(result(**more)))
    (folder / "trajectory.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps))
    return folder


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.split("</head>")[1].split("<script>")[0]))


def test_a_page_says_what_was_done_and_scored(tmp_path):
    output = write([made(tmp_path / "one", STEPS)])
    assert output == tmp_path / "one/report.html"
    page = output.read_text()
    text = text_of(page)
    assert "Guess &lt;all&gt; labels: 75.0 of 100 points" in text
    assert "one react, m-1b, seed 4 75.0 37.5 75.0 37.5 4 2 50.0 s" in text
    assert "1 40.0 s 62.5 31.2 accuracy 0.500, 0.250" in text
    assert "final 50.0 s 75.0 37.5 accuracy 0.600, 0.300 2 &amp; more" in text
    assert "tokens Read and written by the agent's model. 28" in text.replace("&#39;", "'")
    assert "format-fail rate Malformed calls. 25%" in text
    assert "I &lt;b&gt;begin&lt;/b&gt;." in page
    assert "x = &#39;&lt;/script&gt;&#39;" in page
    assert not re.search(r"(src|href)=\"[^#]", page)
    assert [m.group(1) for m in re.finditer(r'title="(\d.*?)"', page)] == [
        "1, at 10.0 s: run_command train → done",
        "2, at 20.0 s: open_file a.py → done",
        "3, at 30.0 s: null no call → it is &lt;refused&gt;",
        "4, at 40.0 s: eval → done",
    ]


def test_sessions_are_bars_from_one_observation_to_the_next():
    assert [tuple(lane) for lane in lanes(STEPS, 50.0)] == [("main", [(20.0, 40.0, True), (60.0, 20.0, False)])]
    assert lanes([], 50.0) == []


def test_a_run_that_has_done_nothing_and_one_that_still_runs(tmp_path):
    output = write([made(tmp_path / "one", final=None, private=None, best=None, submissions=[], error="it broke")])
    text = text_of(output.read_text())
    assert "Guess &lt;all&gt; labels: no final score" in text
    assert "one has no final score: it broke" in text
    for said in ("The agent has done nothing.", "Nothing has been submitted.", "No session was opened."):
        assert said in text
    running = made(tmp_path / "two", STEPS, final=None, over=None, submissions=[])
    with (running / "trajectory.jsonl").open("a") as file:
        file.write('{"step": 5, "sec')
    before = (running / "trajectory.jsonl").read_bytes()
    assert "still running" in text_of(write([running]).read_text())
    assert (running / "trajectory.jsonl").read_bytes() == before


def test_several_runs_stand_side_by_side(tmp_path):
    folders = [made(tmp_path / "a/x", STEPS), made(tmp_path / "b/x", final=80.0, version="v2", isolation="none")]
    output = write(folders)
    assert output == tmp_path / "comparison.html"
    text = text_of(output.read_text())
    assert "2 runs: b/x leads with 80.0 of 100 points" in text
    assert "guess differs between the runs (v1, v2): their scores do not compare" in text
    assert "b/x ran without a sandbox" in text
    assert "steps Actions, malformed calls too. 4 0" in text
    other = made(tmp_path / "c/x", task="other", final=20.0)
    assert "3 runs at 2 tasks: 58.3 points on average" in text_of(write([*folders, other]).read_text())


def test_a_page_of_4000_steps_stays_small(tmp_path):
    long = "x" * 2_500
    steps = [step(n, "open_file", {"path": "a"}, sessions={"main": "idle"}, content=long) for n in range(1, 4001)]
    page = write([made(tmp_path / "one", steps)]).read_text()
    assert len(page) < 3_500_000
    assert page.count("<details>") == 1000
    assert "3,000 steps are left out here" in page
    assert page.count("data-step=") == 4000
    shown, hidden = conversation(steps, Room.of([4000]))
    assert [one and one.number for one in shown[499:502]] == [500, None, 3501]
    assert hidden == 3000
    assert max(len(text) for one in shown if one for _, text in one.texts) < 1_100
    assert len(conversation(steps, Room.of([4000] * 100))[0]) == 21
    assert len(cells(steps, Room.of([4000] * 100))[0]) == 101


def test_what_is_no_run_costs_a_line(tmp_path):
    with pytest.raises(ReportError, match="name at least one folder"):
        write([])
    with pytest.raises(GymRunError, match="is not a run"):
        write([tmp_path])
    for row, said in (
        ({}, "line 1: not a step"),
        ({**STEPS[0], "action": "sleep"}, "step 1: its action has no name"),
        ({**STEPS[0], "observation": {}}, "step 1: its observation says neither"),
        ({**STEPS[0], "action": {"name": "sleep"}}, "step 1: its action has no arguments"),
        ({**STEPS[0], "seconds": None}, "step 1: its seconds are no number"),
        ({**STEPS[0], "took": "1"}, "step 1: its took is no number"),
        ({**STEPS[0], "sessions": ["main"]}, "step 1: its sessions are no states"),
        (step(1, "eval", {}, "eval"), "step 1: its evaluation has no score"),
    ):
        folder = made(tmp_path / said.replace(" ", "-"), [row])
        with pytest.raises(GymRunError, match=said):
            write([folder])
        assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    "wrong", [{"final": "?"}, {"budget": None}, {"budget": {"steps": 1}}, {"submissions": [{"number": 1}]}]
)
def test_a_result_that_is_none_costs_a_line(tmp_path, wrong):
    folder = made(tmp_path / "one", STEPS, **wrong)
    with pytest.raises(
        GymRunError, match=r"gym\.json is not what `trimtab gym run` writes: (final|budget|submissions)$"
    ):
        write([folder])


def test_the_gym_page_in_a_browser(tmp_path, browser):
    path = write([made(tmp_path / "one", STEPS)])
    context = browser.new_context(offline=True, viewport={"width": 390, "height": 800})
    view = context.new_page()
    asked, problems = [], []
    view.on("request", lambda request: asked.append(request.url))
    view.on("console", lambda message: problems.append(message.text))
    view.goto(path.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    strip = view.locator(".strip")
    strip.focus()
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowLeft"):
        view.keyboard.press(key)
    assert view.locator(".told").inner_text() == "3, at 30.0 s: null no call → it is <refused>"
    view.keyboard.press("Enter")
    assert view.locator(".steps details[open]").count() == 1
    assert view.locator("#r0-3 details").evaluate("e => e.open")
    strip.locator("i").nth(1).click()
    assert view.locator("#r0-2 pre").inner_text() == "     1  x = '</script>'\n"
    view.get_by_text("Unfold all").click()
    assert view.locator(".steps details[open]").count() == 4
    assert (asked, problems) == ([path.as_uri()], [])
    context.close()
