"""`trimtab eval`: folders of evaluations, gone on with and never mixed; pages that open without a network."""

import json
import math
import shutil
import threading
from collections import Counter
from dataclasses import asdict

import pytest
from filelock import FileLock
from rich.console import Console

import tiny_folder
from trimtab.commands import evaluate
from trimtab.common import fingerprint
from trimtab.common.workdir import read_signature, write_signature
from trimtab.evals.openai_model import OpenAIModel
from trimtab.evals.runner import EvalSpec
from trimtab.evals.suite import Estimate, Item, Options, Suite, plain, user
from trimtab.metrics.intervals import Interval
from trimtab.report import evaluation as page
from trimtab.report.reading import ReportError
from trimtab.runs.parse import parse
from trimtab.runs.run import run

FEW = ("socialbench", "--limit", "6", "--max-new-tokens", "4", "--batch", "4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder.save(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return tiny_folder.save(tmp_path_factory.mktemp("model") / "other", seed=5, max_position_embeddings=4096)


def strict_json(text):
    """As any reader of JSON takes it, to whom NaN and Infinity are nothing."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_what_cannot_be_computed_is_null_in_the_file(trimtab, model, tmp_path):
    """Halves of two repetitions that oppose each other have a reliability of minus infinity."""
    code, _, err = trimtab(
        "eval", "personality", "personality.traits=[E]", "personality.repeats=1", "--mode", "loglikelihood",
        "--batch", "8",
        "--model", model, "--out", tmp_path / "one",
    )  # fmt: skip
    assert (code, err) == (0, ""), err
    facts = strict_json((tmp_path / "one" / "personality" / "evaluation.json").read_text())
    assert any(None in one["value"][:1] for one in facts["measures"])


def test_an_infinite_measure_is_written_as_null():
    one = Estimate("split-half", "all", Interval(-math.inf, math.nan, math.nan), 12)
    assert plain(one)["value"] == [None, None, None]


@pytest.fixture
def done(trimtab, model, tmp_path):
    code, out, err = trimtab("eval", *FEW, "--model", model, "--out", tmp_path / "one")
    assert (code, err) == (0, ""), err
    return tmp_path / "one" / "socialbench", out


def test_a_folder_holds_every_answer_every_number_and_a_page(done):
    folder, out = done
    facts = json.loads((folder / "evaluation.json").read_text())
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert facts["finished"]
    assert facts["signature"]["decoding"] == "greedy"
    assert {m["name"] for m in facts["measures"]} >= {"robust strict", "official strict", "robust unparsed"}
    assert "socialbench  4/6 items" in out
    assert "robust strict" in out
    assert "(random)" in out
    assert "signature:" in out
    assert f"report: {folder / 'report.html'}" in out


def test_the_same_command_again_asks_nothing_and_says_so(done, trimtab, model, monkeypatch):
    folder, _ = done
    before = (folder / "samples.jsonl").read_bytes()
    monkeypatch.setattr("trimtab.evals.models.HFModel.answer", None)
    code, out, _ = trimtab("eval", *FEW, "--model", model, "--out", folder.parent)
    assert code == 0
    assert "6 of 6 items are already answered" in out
    assert (folder / "samples.jsonl").read_bytes() == before


def test_a_killed_evaluation_is_gone_on_with(done, trimtab, model):
    folder, _ = done
    whole = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    (folder / "report.html").unlink()
    code, out, _ = trimtab("eval", *FEW, "--model", model, "--out", folder.parent)
    assert code == 0
    assert "4 of 6 items are already answered" in out
    again = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {row["id"]: row["answers"] for row in again} == {row["id"]: row["answers"] for row in whole}
    assert (folder / "report.html").is_file()


@pytest.mark.fast("words0*")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-new-tokens", "5"], "different max_new_tokens (4 there, 5 here"),
        (["--limit", "5"], "different items (6"),
        (["--decoding", "penalty"], "different decoding (greedy"),
    ],
)
def test_another_evaluation_is_never_mixed_in(done, trimtab, model, words, said):
    folder, _ = done
    before = (folder / "samples.jsonl").read_bytes()
    code, _, err = trimtab("eval", *FEW, *words, "--model", model, "--out", folder.parent)
    assert code == 2
    assert said in err
    assert "choose another --out" in err
    assert (folder / "samples.jsonl").read_bytes() == before


def test_a_larger_limit_asks_only_the_items_that_are_new(done, trimtab, model, tmp_path):
    folder, _ = done
    before = (folder / "samples.jsonl").read_text()
    ten = [*FEW[:1], "--limit", "10", *FEW[3:]]
    code, out, err = trimtab("eval", *ten, "--model", model, "--out", folder.parent)
    assert code == 0, err
    assert "6 of 10 items are already answered" in out
    after = (folder / "samples.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 10
    assert trimtab("eval", *ten, "--model", model, "--out", tmp_path / "ten")[0] == 0
    whole = (tmp_path / "ten" / "socialbench" / "samples.jsonl").read_text()
    said = [{row["id"]: row["answers"] for row in map(json.loads, text.splitlines())} for text in (after, whole)]
    assert said[0] == said[1]
    assert read_signature(folder)["items"] == read_signature(tmp_path / "ten" / "socialbench")["items"]


def test_only_the_first_of_the_same_items_are_extended():
    items = [Item(f"{n}", f"{n}?", {"A": "1", "B": "2"}, ("A",)) for n in range(4)]
    suite = Suite("", "1", Options, lambda options: items, {"plain": (lambda item, _: user(item.text),)}, None)
    asked = EvalSpec(suite, items, "plain")
    first, others = (fingerprint.of_each(map(asdict, some)) for some in (items[:2], items[2:]))
    assert evaluate._extends({"items": f"2, {first}"}, asked, {})
    assert not evaluate._extends({"items": f"2, {others}"}, asked, {})
    assert not evaluate._extends({"items": f"4, {fingerprint.of_each(map(asdict, items))}"}, asked, {})
    assert not evaluate._extends({"items": f"2, {first}"}, asked, {"generation": "do_sample=True, top_p=0.9"})
    assert not evaluate._extends(None, asked, {})


def test_sampled_answers_are_not_extended(trimtab, model, tmp_path):
    words = ["--model", model, "--out", tmp_path, "--decoding", "top_p"]
    assert trimtab("eval", *FEW, *words)[0] == 0
    code, _, err = trimtab("eval", *FEW[:1], "--limit", "10", *FEW[3:], *words)
    assert code == 2
    assert "different items (6" in err
    assert "--force" in err


def test_answers_are_not_added_to_those_that_another_version_of_the_suites_file_judged(done, trimtab, model):
    folder, _ = done
    signature = read_signature(folder)
    assert signature["code"].startswith("socialbench.py ")
    write_signature(folder, "eval", signature | {"code": "socialbench.py 0000000000000000"})
    code, _, err = trimtab("eval", *FEW, "--model", model, "--out", folder.parent)
    assert code == 2
    assert "a different code (socialbench.py 0000000000000000 there, socialbench.py" in err


def test_another_model_is_never_mixed_in(done, trimtab, other):
    folder, _ = done
    code, _, err = trimtab("eval", *FEW, "--model", other, "--out", folder.parent)
    assert code == 2
    assert "a different model (" in err


def test_two_evaluations_at_once_do_not_share_a_folder(done, trimtab, model):
    folder, _ = done
    with FileLock(folder / ".lock"):
        code, _, err = trimtab("eval", *FEW, "--model", model, "--out", folder.parent)
    assert code == 2
    assert "is being written by another process" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["socialbnch"], "did you mean 'socialbench'"),
        (["socialbench", "socialbench.nothing=1"], "has no setting 'nothing'"),
        (["socialbench", "geomrel.seed=1"], "is a setting of geomrel, which is not selected"),
        (["geomrel", "seed=1"], "seed could mean --seed or geomrel.seed; write one of them"),
        (["socialbench", "--prompt", "x"], "there is no prompt 'x'"),
        (["socialbench", "--mode", "loglikelihood"], "has no options to compare"),
        (["socialbench", "--decoding", "adaptiv"], "did you mean 'adaptive'"),
        (["socialbench", "decoding.k=3"], "name it: --decoding NAME"),
        (["socialbench", "--endpoint", "http://127.0.0.1:9/v1", "--mode", "loglikelihood"], "use --mode generate"),
        (["socialbench", "--endpoint", "http://127.0.0.1:9/v1", "--decoding", "sample"], "needs a model in memory"),
        (["x=1"], "unknown setting 'x'"),
    ],
)
def test_mistakes_cost_one_line(trimtab, model, tmp_path, words, said):
    code, _, err = trimtab("eval", *words, "--model", model, "--out", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.rglob("samples.jsonl"))


def test_options_are_compared_where_all_items_have_some(trimtab, model, tmp_path):
    code, out, err = trimtab(
        "eval", "socialbench", "socialbench.dimensions=[SP Pos.]", "--limit", "4", "--mode", "loglikelihood",
        "--model", model, "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    row = json.loads((tmp_path / "socialbench" / "samples.jsonl").read_text().splitlines()[0])
    assert sum(row["p"].values()) == pytest.approx(1)
    assert 0 < row["mass"] < 1
    assert "options strict" in out


@pytest.mark.slow
def test_a_policy_is_asked_before_and_after_training(tmp_path):
    tiny_folder.lay_out(tmp_path)
    asked = {"personality": {"limit": 4, "mode": "loglikelihood", "options": {"repeats": 1}}}
    tree = tiny_folder.recipe(tmp_path, "sft", eval={"suites": asked})
    result = run(parse(tree, "test", "test"), console=Console(quiet=True))
    events = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    measured = [event for event in events if event["event"] == "eval"]
    assert [event["step"] for event in measured if "personality" in event] == [0, 6]
    titles = [event["title"] for event in events if event["event"] == "table"]
    assert titles == ["personality at step 0", "personality at step 6"]
    samples = [json.loads(line) for line in (result.folder / "samples.jsonl").read_text().splitlines()]
    assert sum(sample["kind"] == "suite" for sample in samples) == 8
    assert "suite personality: " in (result.folder / "signature.txt").read_text()
    assert "personality at step 6" in result.report.read_text()


def test_a_suite_that_is_not_there_is_named_before_anything_is_loaded(trimtab):
    code, _, err = trimtab("train", "tiny_sft", "eval.suites.personalty.limit=3")
    assert code == 2
    assert "did you mean 'personality'" in err


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def pair(model, other, tmp_path_factory):
    """Evaluations of two models on the same items."""
    out = tmp_path_factory.mktemp("pair")
    for name, path in (("one", model), ("two", other)):
        how = {"limit": 40, "max_new_tokens": 4, "batch": 8}
        evaluate.evaluate(evaluate.EvaluateSettings(suites=("socialbench",), model=path, out=out / name, **how))
    return [out / "one" / "socialbench", out / "two" / "socialbench"]


def test_models_are_compared_item_by_item(pair, trimtab, tmp_path):
    code, _, _ = trimtab("report", *pair, "--out", tmp_path / "both.html")
    assert code == 0
    html = (tmp_path / "both.html").read_text()
    assert "Against" in html
    first, second = map(page.read, pair)
    change, number = page.differences(first, second)
    assert number == 40
    ours, theirs = (one.value("robust strict").estimate for one in (first, second))
    assert change.estimate == pytest.approx(theirs - ours)


def test_a_folder_of_several_suites_stands_for_all(pair):
    assert page.expand([pair[0].parent]) == [pair[0]]


def test_equal_names_are_told_apart(pair, tmp_path):
    copy = shutil.copytree(pair[0], tmp_path / "copy")
    page.write([pair[0], copy], tmp_path / "x.html")
    assert "[2]" in (tmp_path / "x.html").read_text()


def test_an_unfinished_evaluation_is_not_reported(pair, tmp_path):
    copy = shutil.copytree(pair[0], tmp_path / "copy")
    facts = json.loads((copy / "evaluation.json").read_text())
    (copy / "evaluation.json").write_text(json.dumps(facts | {"finished": False}))
    with pytest.raises(ReportError, match="was interrupted"):
        page.read(copy)


def test_texts_of_models_cannot_become_markup(pair, tmp_path):
    copy = shutil.copytree(pair[0], tmp_path / "copy")
    rows = [json.loads(line) for line in (copy / "samples.jsonl").read_text().splitlines()]
    rows[0]["answers"] = ["</script><script>document.title = 'taken'</script>"]
    (copy / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.write([copy], tmp_path / "x.html")
    assert "</script><script>document" not in (tmp_path / "x.html").read_text()


def test_items_can_be_filtered_and_turned_over_in_a_browser(pair, tmp_path, browser):
    page.write(pair, tmp_path / "both.html")
    context = browser.new_context(offline=True)
    tab = context.new_page()
    problems = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    tab.goto((tmp_path / "both.html").as_uri())
    assert tab.locator(".item").count() == 20
    tab.get_by_role("button", name="→").click()
    assert tab.get_by_text("21 to 40 of 40").is_visible()
    tab.get_by_label("dimension").select_option("SA Style")
    shown = tab.locator(".item").count()
    rows = page.read(pair[0]).rows.values()
    assert shown == sum(row["item"]["groups"]["dimension"] == "SA Style" for row in rows)
    tab.locator(".item > summary").first.click()
    assert tab.locator(".item .card").count() == 2 * shown
    assert tab.locator(".item .card").first.is_visible()
    assert problems == []
    context.close()


# ---------------------------------------------------------------- who does not answer

DEAD = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "socialbench", "--limit", "20"],
        ["collect", "ROWS"],
        ["clean", "ROWS", "--detector", "none", "n_par=2", "pivots=[]"],
    ],
)
def test_a_server_that_is_down_costs_one_line_and_exit_code_1(trimtab, tmp_path, monkeypatch, words):
    pytest.importorskip("openai")
    waits: Counter[int] = Counter()  # thread -> seconds that it would have waited
    monkeypatch.setattr(OpenAIModel, "rest", lambda _, seconds: waits.update({threading.get_ident(): seconds}))
    rows = [
        {"question": f"What is {i}?", "prompt": f"What is {i}?", "answer": "2", "options": ["1", "2"]} for i in "ab"
    ]
    source = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    name = "--rewriter" if words[0] == "clean" else "--model"
    out = tmp_path / ("out.jsonl" if words[0] == "clean" else "out")
    words = [source if word == "ROWS" else word for word in words]
    code, _, err = trimtab(*words, name, "m", "--endpoint", DEAD, "--out", out)
    assert code == 1
    assert err.startswith(f"error: {DEAD} cannot be reached (")
    assert "refused" in err
    assert err.count("\n") == 1
    assert 0 < max(waits.values()) < 30
    assert not list(tmp_path.glob("**/report.html"))
    assert not out.is_file()


def test_where_every_item_is_an_error_the_first_cause_is_told(trimtab, server, tmp_path):
    server.script = [(400, '{"error": {"message": "max_tokens is not known here"}}')] * 500
    words = ["eval", "socialbench", "--limit", "100", "--batch", "10", "--model", "m", "--endpoint", server.url]
    code, _, err = trimtab(*words, "--out", tmp_path / "out")
    assert code == 1
    assert "m: the first 10 requests failed, the first with: refused:" in err
    assert "max_tokens is not known here" in err
    assert len(server.seen) == 10
    assert not (tmp_path / "out" / "socialbench" / "report.html").exists()


def test_one_item_that_stays_an_error_does_not_end_a_resumed_evaluation(trimtab, server, tmp_path):
    words = ["eval", "socialbench", "--limit", "4", "--batch", "1", "--model", "m", "--endpoint", server.url]
    server.script = [(200, ""), (200, ""), (200, ""), (400, '{"error": {"message": "filtered"}}')]
    assert trimtab(*words, "--out", tmp_path / "out")[0] == 0
    server.script = [(400, '{"error": {"message": "filtered"}}')]
    code, out, _ = trimtab(*words, "--out", tmp_path / "out")
    assert code == 0
    out = " ".join(out.split())
    assert "1 of 4 items failed with an error and are excluded, the first with: refused:" in out, out
    assert "filtered" in out


# ---------------------------------------------------------------- whose numbers they are


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("runs/mine/model", "mine"),
        ("runs/mine/adapter", "mine-adapter"),
        ("runs/mine/checkpoints/checkpoint-20", "mine-checkpoint-20"),
        ("runs/all/2-dpo/model/", "2-dpo"),
        ("llama", "llama"),
    ],
)
def test_evaluations_are_named_after_the_run_that_made_the_model(tmp_path, monkeypatch, place, name):
    (tmp_path / place).mkdir(parents=True)
    assert evaluate.folder_name(str(tmp_path / place)) == name
    monkeypatch.chdir(tmp_path / place)
    assert evaluate.folder_name(".") == name


def test_models_that_lie_in_no_folder_keep_their_name():
    assert evaluate.folder_name("org/model-1b") == "model-1b"
    assert evaluate.folder_name("smollm2-135m") == "smollm2-135m"


def test_two_runs_are_evaluated_into_two_folders(trimtab, model, other, tmp_path, monkeypatch):
    for name, path in (("one", model), ("two", other)):
        shutil.copytree(path, tmp_path / "runs" / name / "model")
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        code, out, err = trimtab("eval", *FEW, "--model", f"runs/{name}/model")
        assert (code, err) == (0, "")
        assert f"report: runs/eval/{name}/socialbench/report.html" in out


# ---------------------------------------------------------------- beside runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tiny_folder.lay_out(folder)
    return run(parse(tiny_folder.recipe(folder, "sft"), "test", "test"), console=Console(quiet=True)).folder


@pytest.mark.slow
def test_a_report_of_a_run_and_an_evaluation_shows_both(trained, pair, trimtab, tmp_path):
    for order in ([trained, pair[0], pair[1].parent], [pair[0], trained, pair[1]]):
        page_file = tmp_path / "both.html"
        code, out, err = trimtab("report", *order, "--out", page_file)
        assert (code, err) == (0, "")
        text = page_file.read_text()
        assert "sft trained" in text
        assert "Evaluation: socialbench" in text
        assert text.count("robust strict") >= 1
        assert str(pair[0] / "report.html") in text
        assert str(pair[1] / "report.html") in text
        assert out.count("socialbench, ") == 2


def test_a_run_whose_folder_holds_evaluations_is_still_a_run(trained, pair, trimtab, tmp_path):
    whole = shutil.copytree(trained, tmp_path / "mine")
    shutil.copytree(pair[0], whole / "socialbench")
    code, _, _ = trimtab("report", whole)
    assert code == 0
    assert "Evaluation: socialbench" in (tmp_path / "comparison.html").read_text()
    assert "sft trained" in (tmp_path / "comparison.html").read_text()


def test_a_folder_that_is_neither_is_named(trained, pair, trimtab, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = trimtab("report", pair[0], tmp_path / "empty")
    assert code == 2
    assert "empty: not a run folder" in err


# ---------------------------------------------------------------- probabilities where they are known

PAIRS = ("eval", "personality", "personality.traits=[E]", "personality.repeats=1", "--limit", "12")


def asked_of_a_server(trimtab, server, out, *words):
    code, said, err = trimtab(*PAIRS, "--model", "m", "--endpoint", server.url, "--out", out, *words)
    assert (code, err) == (0, ""), err
    facts = json.loads((out / "personality" / "evaluation.json").read_text())
    rows = [json.loads(line) for line in (out / "personality" / "samples.jsonl").read_text().splitlines()]
    return said, facts["signature"], rows


def test_personality_compares_options_in_memory_and_text_is_kept(trimtab, model, tmp_path):
    for words, mode, key in (((), "loglikelihood", "options"), (("--mode", "generate"), "generate", "integer")):
        out = tmp_path / mode
        code, _, err = trimtab(*PAIRS, "--model", model, "--out", out, *words)
        assert (code, err) == (0, "")
        assert json.loads((out / "personality" / "evaluation.json").read_text())["signature"]["mode"] == mode
        row = json.loads((out / "personality" / "samples.jsonl").read_text().splitlines()[0])
        assert list(row["verdicts"]) == [key]


def test_a_named_strategy_writes_its_answers(trimtab, model, tmp_path):
    assert trimtab(*PAIRS, "--model", model, "--out", tmp_path, "--decoding", "sample")[0] == 0
    assert json.loads((tmp_path / "personality" / "evaluation.json").read_text())["signature"]["mode"] == "generate"


def test_personality_reads_a_server_s_probabilities_where_it_tells_them(trimtab, server, tmp_path):
    server.tokens = lambda asked: [("5", 0.5), (" 5", 0.1), ("3", 0.2), ("Well", 0.1)]
    said, signature, rows = asked_of_a_server(trimtab, server, tmp_path)
    assert signature["mode"] == "loglikelihood"
    assert signature["options"] == "by the 20 likeliest first tokens"
    assert "fall-back" not in said
    assert rows[0]["p"] == pytest.approx({"5": 0.75, "3": 0.25} | dict.fromkeys("12467", 0.0))
    assert rows[0]["mass"] == pytest.approx(0.8)
    (verdict,) = rows[0]["verdicts"].values()
    assert verdict["value"] in (pytest.approx(4.5), pytest.approx(3.5))  # 8 less that where the scale is turned round
    assert {request["max_tokens"] for request in server.seen} == {1}
    assert {request["top_logprobs"] for request in server.seen} == {20}


def test_without_probabilities_the_text_is_read_and_that_is_said(trimtab, server, tmp_path):
    server.reply = lambda asked: "I would say 6."
    said, signature, rows = asked_of_a_server(trimtab, server, tmp_path)
    assert "personality: fall-back: the server tells no probabilities of tokens; generated answers are parsed" in said
    assert signature["mode"] == "generate (fall-back: the server tells no probabilities of tokens)"
    assert rows[0]["verdicts"]["integer"]["parsed"] == 6
    page_of = (tmp_path / "personality" / "report.html").read_text()
    assert "fall-back: the server tells no probabilities" in page_of
    said, _, _ = asked_of_a_server(trimtab, server, tmp_path)
    assert "12 of 12 items are already answered" in said


def test_a_server_that_refuses_logprobs_is_read_by_its_text(trimtab, server, tmp_path):
    server.script = [(400, '{"error": {"message": "logprobs is not supported"}}')]
    server.reply = lambda asked: "2"
    _, signature, _ = asked_of_a_server(trimtab, server, tmp_path)
    assert signature["mode"].startswith("generate (fall-back")


def test_an_answer_that_begins_with_no_label_is_no_answer(trimtab, server, tmp_path):
    told = iter([[("4", 1.0)]] + [[("As", 0.9)]] * 100)
    server.tokens = lambda asked: next(told)
    _, signature, rows = asked_of_a_server(trimtab, server, tmp_path)
    assert signature["mode"] == "loglikelihood"
    assert all(row["p"] == {} and row["mass"] == 0 for row in rows)
    assert all(row["verdicts"]["options"]["value"] is None for row in rows)
    measures = json.loads((tmp_path / "personality" / "evaluation.json").read_text())["measures"]
    assert next(one for one in measures if one["name"] == "answer rate")["value"][0] == 0
