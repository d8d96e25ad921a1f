"""A tiny model with a dial, its exported folder, a run that trains one, and the command that exports it."""

import sys
from pathlib import Path

import pytest
import torch

import tiny
import tiny_folder
import tiny_runs
from trimtab import cli
from trimtab.models.identity_layer import identity_layer, insert_identity_layer
from trimtab.runs.exporting import export_dial, source_of
from trimtab.runs.parse import parse
from trimtab.runs.run import run


def expanded(kind: str = "llama_tied", **changes):
    """A model whose identity layer was changed, and the original one; both know the tokens of bytes."""
    changes = {"vocab_size": tiny_folder.VOCAB, "eos_token_id": 0, "bos_token_id": None, "pad_token_id": 0, **changes}
    original = tiny.model(kind, **{"max_position_embeddings": 512, **changes})
    model = insert_identity_layer(original)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in identity_layer(model).parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return model, original


def save(folder: Path, kind: str = "llama_tied", tokenizer=None, **changes) -> Path:
    """An ordinary folder with such a model, as a run writes it."""
    model, _ = expanded(kind, **changes)
    model.save_pretrained(folder)
    (tokenizer or tiny_folder.byte_tokenizer()).save_pretrained(folder)
    return folder


def export(folder: Path, kind: str = "llama_tied", recommended=None, **changes) -> Path:
    """The exported folder of such a model."""
    export_dial(source_of(save(folder / "trained", kind, **changes)), folder / "dial", recommended)
    return folder / "dial"


def changes(model, original, prompt, ids, strength=1.0):
    """log p at a strength minus log p at 0, of each token of an answer."""
    whole, labels = torch.tensor([prompt + ids]), torch.tensor(ids)
    with torch.no_grad():
        z0, z1 = original(whole).logits[0], model(whole).logits[0]
    mixed = (1 - strength) * z0 + strength * z1
    change = (mixed.log_softmax(-1) - z0.log_softmax(-1))[len(prompt) - 1 : -1]
    return change[torch.arange(len(ids)), labels].tolist()


def trained_run(folder, method="clm", **models):
    """A finished run of a few steps, whose policy is the folder `teacher`."""
    files = tiny_folder.lay_out(folder)
    tiny_folder.write_jsonl(files / "pairs.jsonl", tiny_folder.pair_rows(12))
    tree = tiny_folder.recipe(files, method, output=str(folder / "run"))
    tree["models"] = {"policy": str(files / "teacher"), **models}
    tree["data"] = {"train": str(files / "pairs.jsonl"), "heldout": str(files / "pairs.jsonl")}
    tree["training"] |= {"max_steps": 2, "bf16": False}
    tree["eval"] = {}
    run(parse(tree, "test", "run"), console=tiny_runs.QUIET)
    return folder / "run"


def command(capsys, monkeypatch, *words):
    """Exit code, and what stdout and stderr say."""
    monkeypatch.setattr(sys, "argv", ["trimtab", "export", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def refused(capsys, monkeypatch, folder, *words):
    """The one line; nothing was written into the folder."""
    before = sorted(path.name for path in folder.iterdir())
    code, out, err = command(capsys, monkeypatch, *words)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before
    return err
