"""A run's saved model stops where answers end, in any tool that reads its generation config, and keeps what it had."""

import json

import pytest
from rich.console import Console

import tiny_folder
from trimtab.models.loading import load_tokenizer
from trimtab.runs.parse import parse
from trimtab.runs.run import run

OWN = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.3}


@pytest.fixture
def root(tmp_path):
    """A base model: its config and tokenizer call another token the end than its template ends turns with."""
    folder = tiny_folder.lay_out(tmp_path)
    tokenizer = tiny_folder.byte_tokenizer()
    tokenizer.eos_token, tokenizer.pad_token = "<|user|>", "<|assistant|>"
    tokenizer.save_pretrained(folder / "teacher")
    for file, more in (("config.json", {}), ("generation_config.json", OWN)):
        path = folder / "teacher" / file
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": 1, "pad_token_id": 2, **more}))
    return folder


@pytest.mark.fast("lora1")
@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["q_proj"]}])
def test_all_end_tokens_are_in_the_saved_models_and_said(root, lora):
    tree = tiny_folder.recipe(root, "sft", models={"student": None, "teacher": None}, eval={"prompts": ["hi"]})
    tree["models"] = {"policy": str(root / "teacher"), **({"lora": lora} if lora else {})}
    tree["training"] |= {"max_steps": 2, "save_steps": 1}
    console = Console(record=True, width=400)
    run(parse(tree, "recipe", "ends"), console=console)
    out = console.export_text()
    assert "end tokens: answers end at '<|end|>', '<|user|>'" in out
    assert "named '<|user|>'" in out
    assert "end without an end token" not in out
    folders = [root / "run" / "model", *(() if lora else (root / "run" / "checkpoints").glob("checkpoint-*"))]
    assert len(folders) == (1 if lora else 3)
    for folder in folders:
        saved = json.loads((folder / "generation_config.json").read_text())
        assert saved["eos_token_id"] == [0, 1], folder
        assert saved["pad_token_id"] == 2
        assert {name: saved.get(name, False) for name in OWN} == OWN
    assert load_tokenizer(str(root / "run" / "model")).eos_token == "<|user|>"


def test_a_run_whose_answers_have_no_end_token_says_so(root):
    text_alone = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    tiny_folder.byte_tokenizer(text_alone).save_pretrained(root / "teacher")
    tree = tiny_folder.recipe(root, "sft", eval={"prompts": []})
    tree["models"] = {"policy": str(root / "teacher")}
    tree["data"].pop("heldout")
    tree["training"] |= {"max_steps": 1}
    console = Console(record=True, width=400)
    run(parse(tree, "recipe", "ends"), console=console)
    assert "end token; the model does not learn to stop there" in console.export_text()
