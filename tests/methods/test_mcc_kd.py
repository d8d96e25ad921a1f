"""MCC-KD: its options, its loss through the trainer under accumulation, runs with LoRA and runs that are resumed."""

import json

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

import tiny_folder
from tiny_runs import QUIET, cut_off, events, same_weights
from trimtab.core.batch import COMPARED, IGNORE
from trimtab.data.collate import Collator
from trimtab.data.rationales import draw, prepare_rationales
from trimtab.data.sources import DataError, load_rows
from trimtab.methods.mcc_kd import METHOD, Config
from trimtab.objectives.consistency import consistency
from trimtab.report.labels import LABELS, counted
from trimtab.rewards.places import place_of_answer
from trimtab.runs.parse import parse
from trimtab.runs.recipe import dump
from trimtab.runs.run import run
from trimtab.train.dataset import DrawnRationales

ROWS = load_rows("trimtab:worked_sums/train?rows=9&ways=3")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    tiny_folder.write_jsonl(folder / "rationales.jsonl", ROWS)
    return folder


def recipe(files, output, lora=None, **training):
    tree = {
        "method": "mcc_kd",
        "models": {"policy": str(files / "teacher"), **({"lora": lora} if lora else {})},
        "data": {"train": str(files / "rationales.jsonl"), "heldout": str(files / "rationales.jsonl"), "chat": True},
        "options": {"alpha": 0.5},
        "training": {
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 3, "max_steps": -1,
            "learning_rate": 0.01, "save_steps": 1, "save_total_limit": 20, "logging_steps": 1, "max_length": 128,
            **training,
        },
        "output": str(output),
    }  # fmt: skip
    return parse(tree, "test", "run")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"alpha": -1}, "greater than or equal"),
        ({"alpha": 0, "smoothing_eps": 7e-5}, "only used with an alpha above 0"),
        ({"temperature_on": "target"}, "a temperature other than 1"),
        ({"temperature": 0}, "greater than 0"),
        ({"smoothing_eps": 0}, "greater than 0"),
        ({"direction": "one"}, "both"),
    ],
)
def test_options_that_cannot_be_or_have_no_effect_are_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        Config(**options)


def test_its_plan_divides_each_term_by_its_own_count():
    plan = METHOD.build(Config(alpha=0.3, temperature=2.0, temperature_on="target"), None)
    assert plan.reduction == "pair_mean"
    assert plan.objective.pairs.alpha == 0.3
    assert plan.objective.pairs.temperature_on == "target"


def by_hand(files, epoch, indices):
    """The loss of rows of an epoch, from the model's own logits."""
    tokenizer = tiny_folder.byte_tokenizer()
    rows = prepare_rationales(ROWS, tokenizer, max_length=128, find=place_of_answer, chat=True).rows
    data = DrawnRationales(rows, seed=0)
    data.set_epoch(epoch)
    batch = Collator(0, tiny_folder.VOCAB, columns=(COMPARED,))([data[i] for i in indices])
    model = AutoModelForCausalLM.from_pretrained(files / "teacher").eval()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels, marks = batch["labels"], batch[COMPARED]
    nll = [
        torch.nn.functional.cross_entropy(logits[side::2, :-1].flatten(0, 1), labels[side::2, 1:].flatten())
        for side in (0, 1)
    ]
    inside = (labels != IGNORE) & (marks >= 0)
    first, second = (logits[side::2, :-1][inside[side::2, 1:]] for side in (0, 1))
    apart = consistency(first, second).mean()
    return ((nll[0] + nll[1]) / 2 + 0.5 * apart).item(), apart.item(), len(first)


@pytest.mark.parametrize("size, steps", [(8, 1), (2, 4), (1, 8)])
def test_the_first_update_has_the_loss_worked_by_hand_however_it_is_split(files, tmp_path, size, steps):
    made = recipe(
        files, tmp_path / "run", per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=1,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    folder = run(made, console=QUIET).folder
    (first,) = events(folder, "train")
    loss, apart, _ = by_hand(files, 0, range(8))
    assert first["loss"] == pytest.approx(loss, rel=1e-4)
    assert first["consistency"] == pytest.approx(apart, rel=1e-3)


@pytest.mark.parametrize("size", [20, 1])
def test_packed_rows_have_the_same_loss(files, tmp_path, size):
    """In one batch of all packs, and in an update of micro-batches of one pack; the sides of a pair stay together."""
    training = {"packing": True, "max_length": 220, "max_steps": 1, "per_device_train_batch_size": size}
    folder = run(
        recipe(files, tmp_path / "run", gradient_accumulation_steps=20 // size, **training), console=QUIET
    ).folder
    (first,) = events(folder, "train")
    loss, apart, _ = by_hand(files, 0, range(9))
    assert first["loss"] == pytest.approx(loss, rel=1e-4)
    assert first["consistency"] == pytest.approx(apart, rel=1e-3)


def test_the_pace_of_a_run_can_be_measured(trimtab, files, tmp_path):
    made = tmp_path / "recipe.yaml"
    made.write_text(dump(recipe(files, tmp_path / "run")))
    code, said, err = trimtab("train", made, "--dry-run", "--time")
    assert code == 0, err
    assert "a step" in said


@pytest.mark.parametrize("workers", [0, 1])
def test_the_second_epoch_draws_anew_also_in_workers_of_the_loader(files, tmp_path, workers):
    more = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True} if workers else {}
    made = recipe(
        files, tmp_path / "run", per_device_train_batch_size=9, gradient_accumulation_steps=1, max_steps=2,
        train_sampling_strategy="sequential", learning_rate=0.0, **more,
    )  # fmt: skip
    folder = run(made, console=QUIET).folder
    found = [event["loss"] for event in events(folder, "train")]
    assert found == pytest.approx([by_hand(files, epoch, range(9))[0] for epoch in (0, 1)], rel=1e-4)
    assert abs(found[0] - found[1]) > 1e-4


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_rationales(files, tmp_path):
    whole = run(recipe(files, tmp_path / "whole"), console=QUIET).folder
    assert [event["step"] for event in events(whole, "train")] == list(range(1, 10))
    cut_off(whole, tmp_path / "stopped", 4)  # in the second epoch
    run(recipe(files, tmp_path / "stopped"), resume=True, console=QUIET)
    assert same_weights(whole, tmp_path / "stopped")


@pytest.mark.slow
def test_adapters_learn_it_and_held_out_rationales_are_measured_one_by_one(files, tmp_path):
    lora = {"r": 4, "target_modules": "all-linear", "lora_dropout": 0.1}
    made = recipe(files, tmp_path / "run", lora, max_steps=12, save_steps=12, num_train_epochs=1)
    folder = run(made, console=QUIET).folder
    assert (folder / "adapter").is_dir()
    before, *_, after = events(folder, "eval")
    assert before["rows"] == 3 * len(ROWS)
    assert after["nll"] < before["nll"]


@pytest.mark.slow
def test_consistency_is_measured_on_held_out_questions_that_have_two_rationales(files, tmp_path):
    """By hand, from full logits, of the first two rationales; the third row has one, so it is measured without."""
    rows = [*ROWS[:2], {**ROWS[2], "rationales": ROWS[2]["rationales"][:1]}, *ROWS[3:5]]
    made = recipe(files, tmp_path / "run", max_steps=1, save_steps=1, learning_rate=0.0)
    made.data.heldout = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    folder = run(made, console=QUIET).folder
    model = AutoModelForCausalLM.from_pretrained(files / "teacher").eval()
    tokenizer = tiny_folder.byte_tokenizer()
    kept = [0, 1, 3, 4]
    read = prepare_rationales([rows[i] for i in kept], tokenizer, max_length=128, find=place_of_answer, chat=True).rows
    wanted = {}
    for place, row in zip(kept, read):
        batch = Collator(0, tiny_folder.VOCAB, columns=(COMPARED,))([draw(row, 0, 1)])
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        inside = ((batch["labels"] != IGNORE) & (batch[COMPARED] >= 0))[:, 1:]
        one, other = logits[0][inside[0]], logits[1][inside[1]]
        same = (one.argmax(-1) == other.argmax(-1)).float().mean().item()
        wanted[place] = consistency(one, other).mean().item(), same
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    found = {one["row_id"]: one for one in samples if one["kind"] == "heldout" and "consistency" in one}
    assert found.keys() == wanted.keys()
    for place, (apart, same) in wanted.items():
        assert found[place]["consistency"] == pytest.approx(apart, rel=1e-4)
        assert found[place]["answer_agreement"] == pytest.approx(same)
    mean = sum(apart for apart, _ in wanted.values()) / 4
    assert events(folder, "eval")[-1]["consistency"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"prompt": "a", "rationales": ["so it is 1"], "answer": "1"}],
            "no held-out row has two different rationales",
        ),
        ([{"prompt": "a", "completion": "1"}], "no held-out row has two different rationales"),
        (
            [{"prompt": "a", "rationales": ["so it is 1", "it is two"], "answer": "1"}],
            "no two rationales with one answer",
        ),
        ([{"prompt": "a", "rationales": ["so it is 1", "it is 1"], "answer": "7"}], "was found in none"),
    ],
)
def test_why_held_out_consistency_is_not_measured_is_said(files, tmp_path, rows, said):
    made = recipe(files, tmp_path / "run", max_steps=1)
    made.data.heldout = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    folder = run(made, console=QUIET).folder
    assert any(
        "held-out consistency is not measured" in e["text"] and said in e["text"] for e in events(folder, "note")
    )
    assert "consistency" not in events(folder, "eval")[-1]


def test_rows_with_one_rationale_are_refused_with_their_number_before_anything_is_written(files, tmp_path):
    rows = [*ROWS[:3], {**ROWS[3], "rationales": ROWS[3]["rationales"][:1]}]
    made = recipe(files, tmp_path / "run")
    made.data.train = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match="row 4 has 1 rationale, and two different ones are compared"):
        run(made, console=QUIET)
    assert not (tmp_path / "run").exists()


def test_the_report_and_the_log_tell_how_far_apart_the_answers_are(files, tmp_path):
    folder = run(recipe(files, tmp_path / "run", max_steps=2), console=QUIET).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all({"consistency", "answer_agreement", "nll"} <= one.keys() for one in lines if one["event"] == "train")
    page = (folder / "report.html").read_text()
    assert "Divergence between the answers" in page
    assert "Agreement of the answers" in page


def test_every_remark_of_rationales_has_words_in_the_report():
    remarks = ("blank", "copies", "unanswered", "cut_answer", "unlike")
    found = counted({"train": {"rows": 9, "remarks": dict.fromkeys(remarks, 2), "first": dict.fromkeys(remarks, 3)}})
    assert all(f"training rows: {LABELS[one]}" in found for one in remarks)
