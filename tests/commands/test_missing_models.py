"""Commands miss a model before they import anything heavy."""

import os
import re
import subprocess
import sys

import pytest

from trimtab.models.builtin import ModelNotFound
from trimtab.models.places import check_there, place_of

COMMANDS = {
    "--model": ["generate --prompt x", "eval personality", "compare-decoding --out o", "collect s.jsonl --out o",
                "score s.jsonl --out o", "contamination c.jsonl --control f.jsonl --out o"],
    "--aligned": ["generate --prompt x --model smollm2-135m --strength 0.5"],
    "--judge": ["compare-decoding --out o --model smollm2-135m"],
    "--reference": ["score s.jsonl --out o --model smollm2-135m"],
    "--adapter": ["compare-decoding --out o --model smollm2-135m", "score s.jsonl --out o --model smollm2-135m"],
    "--rewriter": ["clean q.jsonl --out o.jsonl"],
    "--reader": ["clean q.jsonl --out o.jsonl"],
}  # fmt: skip
CASES = [(option, words) for option, all_words in COMMANDS.items() for words in all_words]


@pytest.mark.fast("--model-contamination*", "--model-eval*", "--rewriter*", "--adapter-score*")
@pytest.mark.parametrize(("option", "words"), CASES)
def test_a_missing_model_is_told_by_its_option_at_once(option, words, tmp_path, imported):
    said, heavy = imported(*words.split(), option, "./nowhere")
    assert re.search(rf"error: {option}: there is no folder ./nowhere", said), said
    assert not heavy
    assert not list(tmp_path.iterdir())


NO_MODELS = [  # what lies at ./it, and what is said of it
    ([], "there is no folder ./it"),
    (["it/"], "the folder ./it holds no config.json"),
    (["it/notes.txt"], "the folder ./it holds no config.json"),
    (["it/a.gguf"], "the folder ./it holds no config.json.*GGUF .a.gguf."),
    (["it"], "./it is a file; a model is a folder with config.json"),
    (["it/model/config.json", "it/recipe.yaml"], "the folder ./it is a run; did you mean ./it/model"),
    (["it/sft/model/config.json"], "the folder ./it is a run; did you mean ./it/sft/model"),
    (["it/recipe.yaml"], "the folder ./it is a run without a finished model"),
    (["it/checkpoints/checkpoint-4/config.json", "it/recipe.yaml"], "did you mean ./it/checkpoints/checkpoint-4"),
]


@pytest.mark.parametrize(("files", "said"), NO_MODELS, ids=[" ".join(files) or "nothing" for files, _ in NO_MODELS])
def test_what_is_no_model_is_named_with_the_way_out(files, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in files:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("{}")
    with pytest.raises(ModelNotFound, match=said):
        check_there("./it", "--model")
    with pytest.raises(ModelNotFound, match=said):
        place_of("./it")


@pytest.mark.parametrize("name", ["x.gguf", "sub/x.gguf", "x.safetensors", "model.bin"])
def test_a_file_of_weights_is_told_from_a_hub_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    with pytest.raises(ModelNotFound, match=f"there is no file {name}, and a model is a folder with config.json"):
        check_there(name, "--model")
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match=f"{name} is a file; a model is a folder with config.json"):
        check_there(name, "--model")


def test_a_builtin_model_whose_converter_is_not_installed_is_told_at_once(tmp_path):
    hide = (
        "import sys, importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: n != 'gguf' and f(n, *a) or None"
    )
    code = (
        f"{hide}\nfrom trimtab.models import builtin\nbuiltin.wheel_file = lambda name: 'x.gguf'\n"
        "sys.argv = ['trimtab', 'generate', '--model', 'smollm2-135m', '--prompt', 'x']\n"
        "from trimtab.cli import main\nmain()"
    )
    environment = {**os.environ, "TRIMTAB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "'smollm2-135m' needs gguf to be converted: pip install" in done.stderr
    assert not list(tmp_path.iterdir())
