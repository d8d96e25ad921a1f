"""Whatever command asks a model, what the model cannot read is told before it is read."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

import tiny_folder
from trimtab.cli import app
from trimtab.commands.preview import preview_recipe
from trimtab.data.sources import DataError
from trimtab.models.limits import LimitError
from trimtab.models.loading import load_model
from trimtab.runs.job import load_job
from trimtab.runs.parse import parse
from trimtab.runs.policy import Shared
from trimtab.runs.run import run

QUIET = Console(quiet=True)


def call(*arguments) -> Exception | None:
    """The error that the command line would print in one line, or None."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments]).exception
    assert found is None or isinstance(found, ValueError), repr(found)
    return found


def lay_out(folder, rows, kind="llama", extra=True, **changes):
    folder.mkdir(exist_ok=True)
    tiny_folder.save(folder / "model", kind, **changes)
    tokenizer = tiny_folder.byte_tokenizer()
    if extra:
        tokenizer.add_tokens(["<extra>"])
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder / "model")
    tiny_folder.write_jsonl(folder / "train.jsonl", rows)
    return folder


def recipe(folder, method="sft", **changes):
    tree = tiny_folder.recipe(folder, method, **changes)
    tree["models"] = {"policy": str(folder / "model"), **changes.get("models", {})}
    tree["data"] = {"train": str(folder / "train.jsonl"), **changes.get("data", {})}
    tree["eval"] = changes.get("eval", {})
    tree["training"] = {
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "max_length": 256,
        **changes.get("training", {}),
    }
    return parse(tree, "recipe", "run")


EXTRA = [{"prompt": "a", "completion": "b <extra>"}] * 4


@pytest.mark.parametrize("rows", [EXTRA, [{"prompt": "a <extra>", "completion": "b"}] * 4])
def test_a_row_with_a_token_that_the_embedding_lacks_is_named_with_the_token_before_weights_are_read(tmp_path, rows):
    folder = lay_out(tmp_path, rows)
    (folder / "model/model.safetensors").unlink()
    with pytest.raises(DataError, match=r"row 1 has the token '<extra>' \(id 259\).*\(259 rows\).*models.resize"):
        load_job(recipe(folder), Shared(), QUIET)


@pytest.mark.slow
def test_padding_that_the_embedding_lacks_trains_as_any_other(tmp_path):
    rows = [{"prompt": "a", "completion": "b" * n} for n in (1, 5, 9, 2)]
    losses = []
    for name, extra in (("with", True), ("without", False)):
        folder = lay_out(tmp_path / name, rows, extra=extra)
        run(recipe(folder), console=QUIET)
        lines = (folder / "run/metrics.jsonl").read_text().split("\n")[:-1]
        losses.append([line["loss"] for line in map(json.loads, lines) if line["event"] == "train"])
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_resize_gives_tokens_rows_says_so_and_saves_them(tmp_path):
    folder = lay_out(tmp_path, EXTRA)
    run(recipe(folder, models={"resize": True}), console=QUIET)
    saved = load_model(str(folder / "run/model"))
    assert saved.get_input_embeddings().num_embeddings == saved.config.vocab_size == 261
    assert "embedding: 261 rows, models.resize" in (folder / "run/signature.txt").read_text()
    assert call("generate", "--model", folder / "run/model", "--prompt", "<extra>", "--max-new-tokens", 2) is None


def test_every_command_that_asks_names_the_prompt_with_such_a_token(tmp_path):
    folder = lay_out(tmp_path, [])
    model = folder / "model"
    tasks = tiny_folder.write_jsonl(folder / "tasks.jsonl", [{"prompt": "<extra> 1", "answer": "1"}])
    pairs = tiny_folder.write_jsonl(folder / "prompts.txt", [{"a": "<extra>"}])
    for arguments in (
        ("generate", "--model", model, "--prompt", "b", "--prompt", "<extra>", "--max-new-tokens", 2),
        ("collect", tasks, "--model", model, "--out", folder / "collected"),
        ("compare-decoding", "--model", model, "--prompts", pairs, "--out", folder / "page.html"),
    ):
        error = call(*arguments)
        assert isinstance(error, LimitError), arguments
        assert "'<extra>' (id 259)" in str(error)
    assert {path.name for path in folder.iterdir()} == {"model", "train.jsonl", "tasks.jsonl", "prompts.txt"}


# ---------------------------------------------------------------- positions

LONG = [{"prompt": "x" * 30, "completion": "y" * 10}] * 3 + [{"prompt": "x" * 30, "completion": "y" * 70}]
GPT2 = {"kind": "gpt2", "n_positions": 64, "extra": False}


def test_rows_beyond_learnt_positions_are_counted_as_too_long_with_the_true_reason(tmp_path):
    folder = lay_out(tmp_path, LONG, **GPT2)
    for look in (lambda r: preview_recipe(r, 0, "train", QUIET), lambda r: load_job(r, Shared(), QUIET)):
        with pytest.raises(DataError, match=r"1 truncated \(first: row 4\).*64 .* position embeddings of the policy"):
            look(recipe(folder))
    job = load_job(recipe(folder, data={"max_dropped": 0.5}), Shared(), QUIET)
    assert (job.train.max_length, job.train.counts.truncated, job.train.counts.longest) == (64, 1, 64)
    short = load_job(recipe(folder, data={"max_dropped": 1}, training={"max_length": 40}), Shared(), QUIET).train
    assert (short.max_length, short.limited_by) == (40, "training.max_length")


def test_rows_must_fit_a_teacher_with_learnt_positions_too(tmp_path):
    folder = lay_out(tmp_path, LONG, extra=False)
    tiny_folder.save(folder / "teacher", "gpt2", n_positions=64)
    with pytest.raises(DataError, match="by the position embeddings of the teacher"):
        load_job(recipe(folder, "kd", models={"teacher": str(folder / "teacher")}), Shared(), QUIET)


def test_rotary_positions_beyond_the_training_are_said_once(tmp_path):
    folder = lay_out(tmp_path, LONG, extra=False, max_position_embeddings=64)
    job = load_job(recipe(folder), Shared(), QUIET)
    assert (job.train.counts.truncated, job.train.counts.longest) == (0, 101)
    assert sum("was trained for 64" in note for note in job.notes) == 1


def test_prompts_of_evaluations_must_fit(tmp_path):
    folder = lay_out(tmp_path, LONG[:3], **GPT2)
    with pytest.raises(LimitError, match=r"eval\.prompts: prompt 1 and its answer need"):
        load_job(recipe(folder, eval={"prompts": ["hi"], "max_new_tokens": 64}), Shared(), QUIET)


@pytest.mark.parametrize("new", [3, 80])
def test_every_command_that_asks_names_a_prompt_that_does_not_fit(tmp_path, new):
    folder = lay_out(tmp_path, [], **GPT2)
    model, text = folder / "model", "h" * (80 if new == 3 else 2)
    tasks = tiny_folder.write_jsonl(folder / "tasks.jsonl", [{"prompt": text, "answer": "1"}])
    prompts, page = folder / "prompts.txt", folder / "page.html"
    prompts.write_text(text)
    for arguments in (
        ("generate", "--model", model, "--prompt", text, "--max-new-tokens", new),
        ("collect", tasks, "--model", model, "--out", folder / "collected", "--max-new-tokens", new),
        (
            "compare-decoding",
            "--model",
            model,
            "--prompts",
            prompts,
            "--out",
            page,
            "--max-new-tokens",
            new,
        ),
        ("eval", "geomrel", "--model", model, "--out", folder / "evaluated", "--max-new-tokens", new + 60),
    ):
        error = call(*arguments)
        assert "reads at most 64" in str(error), (arguments, error)
    assert not (folder / "evaluated").exists()
    assert not (folder / "collected").exists()
