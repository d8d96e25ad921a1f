"""A server that answers with another model than the one that was asked: refused in one line by every command that asks
one, with nothing left behind, unless its name is given."""

import json

import pytest

import tiny_folder
from trimtab.rewriting.by_name import RewritingServer


def commands(tmp_path) -> dict[str, list]:
    rows = [{"question": f"Which number follows {i}?", "options": ["1", "2"], "answer": "A"} for i in range(3)]
    source = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    return {
        "eval": ["eval", "socialbench", "--limit", 2, "--model", "m", "--out", out],
        "clean": ["clean", source, "--rewriter", "m", "--detector", "none", "--out", tmp_path / "out.jsonl", "n_par=1"],
    }


@pytest.mark.parametrize("name", ["eval", "clean"])
def test_another_model_is_refused_by_its_name_and_allowed_by_it(trimtab, server, tmp_path, name):
    server.name = "m-mini"
    words = [*commands(tmp_path)[name], "--endpoint", server.url]
    before = sorted(tmp_path.iterdir())
    code, _, err = trimtab(*words)
    assert (code, err.count("\n")) == (2, 1), err
    assert "answered as 'm-mini', but 'm' was asked" in err
    assert "add --served-as m-mini" in err
    assert sorted(tmp_path.iterdir()) == before
    code, _, err = trimtab(*words, "--served-as", "m-mini")
    assert code == 0, err
    server.name = "m-2026-01-01"  # a dated version is the model itself
    assert trimtab(*words, "--force")[0] == 0


@pytest.mark.parametrize("name", ["eval", "clean"])
def test_the_name_of_a_served_model_needs_a_server(trimtab, tmp_path, name):
    code, _, err = trimtab(*commands(tmp_path)[name], "--served-as", "x")
    assert (code, "--served-as is about a server; name it: --endpoint URL" in err) == (2, True), err


def test_only_the_rewriter_answers_under_the_name_that_is_given():
    server = RewritingServer("http://127.0.0.1:9/v1", "m", "m-mini")
    assert server.model("m").served_as == "m-mini"
    assert server.model("judge").served_as == "judge"
    assert RewritingServer(server.url, "m").model("m").served_as == "m"


def test_several_models_do_not_answer_under_one_name(trimtab, tmp_path):
    source = tiny_folder.write_jsonl(tmp_path / "clean.jsonl", [json.loads('{"question": "x"}')])
    words = ["contamination", source, "--model", "m", "--model", "n", "--control", source, "--out", tmp_path / "out"]
    code, _, err = trimtab(*words, "--endpoint", "http://127.0.0.1:9/v1", "--served-as", "x")
    assert (code, "--served-as is the name of one model, and several are asked" in err) == (2, True), err
