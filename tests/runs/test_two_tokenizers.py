"""Runs of kd whose teacher has another tokenizer."""

import json
from pathlib import Path

import pytest

import tiny
import tiny_folder
from tiny_runs import QUIET, cut_off, events, recipe, same_weights
from tiny_tokenizers import LLAMA, TEXTS, chat, metaspace
from trimtab.data.sources import DataError
from trimtab.models.tokenizers import TokenizerMismatch
from trimtab.runs.estimate import estimates
from trimtab.runs.recipe import RecipeError
from trimtab.runs.run import run

DIFFERENT = {"tokenizers": "different"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A policy of bytes, and a teacher with spaces as ▁ and a token that begins texts."""
    folder = tmp_path_factory.mktemp("files")
    tiny_folder.save(folder / "policy")
    save_teacher(folder / "teacher")
    rows = [chat(text, f"question {i}") for i in range(4) for text in (*TEXTS, "see 🦊!")]
    tiny_folder.write_jsonl(folder / "train.jsonl", rows)
    tiny_folder.write_jsonl(folder / "heldout.jsonl", rows[:4])
    return folder


def save_teacher(folder: Path, template: str = LLAMA) -> None:
    tokenizer = metaspace(template)
    model = tiny.model("llama", 1, vocab_size=len(tokenizer) + 1, max_position_embeddings=256, bos_token_id=1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def asked(files: Path, output: Path, **changes):
    models = {"student": str(files / "policy"), "teacher": str(files / "teacher"), **changes.pop("models", {})}
    training = {"max_length": 128, **changes.pop("training", {})}
    return recipe(files, output, "kd", models=models, training=training, **{"options": DIFFERENT, **changes})


def test_a_run_learns_from_a_teacher_of_another_tokenizer_and_logs_what_matched(files, tmp_path):
    folder = run(asked(files, tmp_path / "run"), console=QUIET).folder
    steps = events(folder, "train")
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    for step in steps:
        assert 0 < step["matched"] < step["aligned"] <= 1
        assert step["divergence"] > 0
    assert steps[-1]["divergence"] < steps[0]["divergence"]
    held = events(folder, "eval")
    assert "nll" in held[0]
    assert "forward_kl" not in held[0]  # there is none between different vocabularies
    signature = (folder / "signature.txt").read_text()
    assert "teacher's tokenizer:" in signature
    assert "teacher's chat template:" in signature
    assert "matched" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_bit_for_bit(files, tmp_path):
    whole = run(asked(files, tmp_path / "run"), console=QUIET).folder
    cut_off(whole, tmp_path / "killed", 4)
    run(asked(files, tmp_path / "killed"), resume=True, console=QUIET)
    assert same_weights(whole, tmp_path / "killed")


@pytest.mark.fast("disk")
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_the_teachers_states_may_be_kept(files, tmp_path, cache):
    plain = run(asked(files, tmp_path / "plain"), console=QUIET).folder
    kept = run(asked(files, tmp_path / "kept", models={"teacher_cache": cache}), console=QUIET).folder
    for one, other in zip(events(plain, "train"), events(kept, "train"), strict=True):
        assert one["divergence"] == pytest.approx(other["divergence"], rel=1e-4)


@pytest.mark.slow
def test_packs_hold_the_same_rows_and_the_teacher_reads_each_alone(files, tmp_path):
    """All rows are one update, however they are packed."""
    whole = {"max_steps": 1, "save_steps": 1, "gradient_accumulation_steps": 1}
    plain = run(asked(files, tmp_path / "plain", training={**whole, "per_device_train_batch_size": 16}), console=QUIET)
    packs = {**whole, "packing": True, "per_device_train_batch_size": 64, "max_length": 256}
    packed = run(asked(files, tmp_path / "packed", training=packs), console=QUIET)
    (one,), (other,) = (events(folder.folder, "train") for folder in (plain, packed))
    for name in ("divergence", "matched", "aligned", "nll"):
        assert one[name] == pytest.approx(other[name], rel=1e-4)


def test_the_memory_of_such_a_run_is_estimated(files, tmp_path):
    (found,) = estimates(asked(files, tmp_path / "run"))
    assert any(part.name.startswith("teacher ") for part in found.parts)


def test_other_tokenizers_are_refused_with_the_option_unless_it_is_chosen(files, tmp_path):
    with pytest.raises(TokenizerMismatch, match="different tokenizers.*options.tokenizers: different"):
        run(asked(files, tmp_path / "run", options={}), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_several_answers_in_a_row_are_refused(files, tmp_path):
    with pytest.raises(RecipeError, match="data.turns: all puts several answers into one row"):
        run(asked(files, tmp_path / "run", data={"turns": "all"}), console=QUIET)


def test_rows_whose_answers_the_templates_write_differently_are_left_out_with_a_note_or_refused(files, tmp_path):
    teacher = tmp_path / "teacher"
    quiet = "('' if 'Größe' in m['content'] else m['content'])"  # leaves out one answer of four
    save_teacher(teacher, LLAMA.replace("' ' + m['content'] + ' ' + eos", f"' ' + {quiet} + '?' * 0 + ' ' + eos"))
    changed = {"models": {"teacher": str(teacher)}}
    with pytest.raises(DataError, match="4 rows of 16 left out .first: row 3."):
        run(asked(files, tmp_path / "refused", **changed), console=QUIET)
    folder = run(asked(files, tmp_path / "run", data={"max_dropped": 0.3}, **changed), console=QUIET).folder
    notes = json.dumps(events(folder, "note") or (folder / "metrics.jsonl").read_text())
    assert "4 rows of 16 left out (first: row 3)" in notes
