"""Every command that reads rows reads the same files, and says the same of those that it cannot read."""

import json

import pytest
import yaml

import tiny_folder

HALF = {
    "prompt": "a \ud83d b", "completion": "c", "answer": "1", "question": "q", "options": ["x", "y"], "chosen": "a",
    "rejected": "b",
}  # fmt: skip
COMMANDS = {
    "preview": ["{recipe}"],
    "train": ["{recipe}"],
    "generate": ["--model", "{model}", "--prompts", "{rows}"],
    "eval": ["multiple_choice", "--model", "{model}", "--out", "{out}", "multiple_choice.file={rows}"],
    "collect": ["{rows}", "--model", "{model}", "--out", "{out}"],
    "score": ["{rows}", "--model", "{model}", "--out", "{out}"],
    "select-rationales": ["{rows}", "--out", "{out}.jsonl"],
    "clean": ["{rows}", "--out", "{out}.jsonl"],
    "compare-decoding": ["--model", "{model}", "--prompts", "{rows}", "--out", "{out}.html"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder.save(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({**HALF, "prompt": "fine"}) + "\n" + json.dumps(HALF) + "\n", "row 2 holds half of a character"),
        ('{"prompt": "a", "prompt": "b"}\n', "line 1 has an object with the key 'prompt' twice"),
        ('{"prompt": "a\u2028"}\n\n{"prompt": \n', "line 3 is not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_read_costs_one_line_and_leaves_nothing(trimtab, model, tmp_path, command, content, said):
    (tmp_path / "rows.jsonl").write_text(content, encoding="utf-8")
    recipe = {
        "method": "sft",
        "models": {"policy": str(model)},
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "output": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = sorted(tmp_path.iterdir())
    places = {
        "recipe": tmp_path / "recipe.yaml",
        "model": model,
        "rows": tmp_path / "rows.jsonl",
        "out": tmp_path / "out",
    }
    code, _, err = trimtab(command, *(word.format(**places) for word in COMMANDS[command]))
    assert code == 2
    assert said in err
    assert len(err.strip().split("\n")) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_prompts_from_windows_are_the_prompts_alone(trimtab, model, tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffone\u2028still one\r\n\r\ntwo\x0cstill two\r\n".encode())
    out = tmp_path / "o.jsonl"
    assert (
        trimtab("generate", "--model", model, "--prompts", tmp_path / "p.txt", "--max-new-tokens", 2, "--out", out)[0]
        == 0
    )
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == ["one\u2028still one", "two\x0cstill two"]


def test_an_evaluation_of_texts_with_odd_line_separators_is_reported(trimtab, model, tmp_path):
    rows = [{"question": f"sky{mark}what?", "options": ["red", "blue"], "answer": "B"} for mark in "\u2028\u2029\x85"]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "q.jsonl").write_text(text, encoding="utf-8")
    words = ["--model", model, "--out", tmp_path / "out", f"multiple_choice.file={tmp_path / 'q.jsonl'}"]
    assert trimtab("eval", "multiple_choice", *words, "--max-new-tokens", 4)[0] == 0
    (samples,) = (tmp_path / "out").rglob("samples.jsonl")
    kept = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert [row["item"]["text"] for row in kept] == [row["question"] for row in rows]
