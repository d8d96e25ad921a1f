"""What commands load: torch and transformers, and TRL only where something is trained."""

import json
import subprocess
import sys

import pytest

import tiny_folder

SCRIPT = """
import sys
from trimtab import cli

def call(*words):
    sys.argv = ["trimtab", *words]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert "trl" not in loaded, words
    assert "transformers" in loaded, words

folder = sys.argv[1]
model = ["--model", folder + "/policy"]
short = ["--max-new-tokens", "2"]
call("generate", *model, "--prompt", "hi", *short)
call("collect", folder + "/tasks.jsonl", *model, "--answers", "2", "--out", folder + "/collected", *short)
call("eval", "socialbench", *model, "--limit", "2", "--out", folder + "/evaluated", *short)
call("clean", folder + "/rows.jsonl", "--detector", "none", "n_par=1", "--out", folder + "/clean.jsonl")
call("score", folder + "/pairs.jsonl", "--model", folder + "/rm", "--out", folder + "/scored")
words = ["--prompts", folder + "/lines.txt", "--strategies", "greedy", "--out", folder + "/page.html"]
call("compare-decoding", *model, *words, *short)
call("preview", folder + "/recipe.json")
call("precompute", folder + "/recipe.json", "--out", folder + "/columns.jsonl")
"""


@pytest.mark.slow  # eight commands in a process that imports torch; the import contracts keep the packages apart
def test_a_command_that_does_not_train_does_not_import_trl(tmp_path):
    from trimtab.models.loading import load_model
    from trimtab.models.scalar_head import with_scalar_head

    place = tiny_folder.save(tmp_path / "policy", max_position_embeddings=4096)
    with_scalar_head(load_model(place), seed=0).save_pretrained(tmp_path / "rm")
    tiny_folder.byte_tokenizer().save_pretrained(tmp_path / "rm")
    tiny_folder.write_jsonl(tmp_path / "pairs.jsonl", tiny_folder.pair_rows(3))
    tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": "1+1?", "answer": "2"}])
    tiny_folder.write_jsonl(
        tmp_path / "rows.jsonl", [{"question": "What is one?", "answer": "1", "options": ["1", "2"]}]
    )
    recipe = {"method": "dpo", "models": {"policy": place}, "data": {"train": str(tmp_path / "pairs.jsonl")}}
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, "training": {"max_length": 64, "learning_rate": 1e-4}}))
    (tmp_path / "lines.txt").write_text("count to three\n")
    words = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
