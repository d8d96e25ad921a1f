"""Heads are padded, each model's to another length: whatever reads a second model works both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_folder
from tiny_rollout_runs import REWARD, lines, parsed, run, tree
from trimtab.commands.precompute import precompute
from trimtab.common import fingerprint
from trimtab.core import IGNORE
from trimtab.data.collate import Collator
from trimtab.data.rows import prepare, sequences
from trimtab.models.loading import load_model
from trimtab.models.scalar_head import with_scalar_head
from trimtab.signals.base import without_unknown
from trimtab.signals.reward_model import ScoreSpec, load_reward_model

TOKENS, PADDED = tiny_folder.VOCAB, 400  # a policy of random weights draws padding for every third token
WAYS = {"policy padded": (PADDED, TOKENS), "other padded": (TOKENS, PADDED)}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Models of both sizes: a language model, one that came of it, and reward models."""
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    tiny_folder.write_jsonl(folder / "tasks.jsonl", [{"prompt": f"count {i}", "answer": str(i)} for i in range(16)])
    tiny_folder.write_jsonl(folder / "pairs.jsonl", tiny_folder.pair_rows(8))
    (folder / "own.py").write_text(REWARD)
    for size in (TOKENS, PADDED):
        start = tiny_folder.save(folder / f"start{size}", seed=1, vocab_size=size)
        tiny_folder.save(folder / f"ratio{size}", seed=2, vocab_size=size)
        known = {"reference": start, "reference_fingerprint": fingerprint.of_model(load_model(start))}
        ScoreSpec("ratio", "prefix_mean", 10.0, True, method="ipvrm", **known).write(folder / f"ratio{size}")
        with_scalar_head(load_model(start), seed=0).save_pretrained(folder / f"scalar{size}")
        tiny_folder.byte_tokenizer().save_pretrained(folder / f"scalar{size}")
        ScoreSpec("scalar", "mean", 1.0, False, method="q_rm").write(folder / f"scalar{size}")
    return folder


ROLLOUTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "distrl": ({"online": "after"}, {"reward_model": "ratio"}),
    "distrl, kl": ({"kl": 0.1, "kl_threshold": 0.0}, {"reward_model": "ratio", "reference": "start"}),
    "lco": ({"advantage": "q_rm", "candidates": "model"}, {"reward_model": "ratio"}),
    "lco, policy's": ({"advantage": "q_rm", "candidates": "policy", "loss": "mse"}, {"reward_model": "ratio"}),
    "lco, measured": ({"advantage": "dpo_rm"}, {"reward_model": "ratio"}),
    "reinforce": ({"token_reward": "tokens", "center": True}, {"reward_model": "scalar"}),
    "ppo": ({"kl_coef": 0.1}, {"reward_model": "scalar", "reference": "start"}),
    "grpo": ({"kl": 0.1}, {"reference": "start"}),
    "opd": ({}, {"teacher": "start"}),
}


@pytest.mark.fast("grpo*")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ROLLOUTS)
def test_what_learns_from_own_answers_reads_models_of_another_size(files, tmp_path, name, way):
    own, other = WAYS[way]
    options, models = ROLLOUTS[name]
    made = tree(files, tmp_path / "run", name.partition(",")[0], options=options)
    made["models"] = {
        "policy": str(files / f"start{own}"),
        **{r: str(files / f"{m}{other}") for r, m in models.items()},
    }
    made["training"] |= {"max_steps": 2}
    made["eval"] = {"answers": 1}
    train = [event for event in lines(run(made) / "metrics.jsonl") if event["event"] == "train"]
    assert all(isinstance(event["loss"], float) for event in train)
    assert train[0]["grad_norm"] > 0
    # tokens that the other model does not know are not learnt, and counted
    assert any(event.get("unknown_tokens", 0) > 0 for event in train) == (way == "policy padded")


SUPERVISED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "kd": ({}, ("teacher",)),
    "hpd": ({}, ("teacher",)),
    "hpd, mini-batches": ({"mini_batches": 2}, ("teacher",)),
    "trra": ({}, ("reference", "aligned")),
    "wspo": ({}, ("weak_reference", "weak_aligned")),
    "sft": ({}, ("teacher",)),
    "dpo": ({}, ("reference",)),
    "clm": ({}, ("reference",)),
    "inra": ({"loss": "trra"}, ("reference", "aligned")),
    "ipvrm": ({}, ("reference",)),
    "reward_model": ({"kind": "dpo_rm"}, ("reference",)),
}


@pytest.mark.fast("kd*")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SUPERVISED)
def test_what_learns_from_rows_reads_models_of_another_size(files, tmp_path, name, way):
    own, other = WAYS[way]
    options, roles = SUPERVISED[name]
    made = tiny_folder.recipe(files, name.partition(",")[0], output=str(tmp_path / "run"), options=options)
    made["models"] = {"policy": str(files / f"start{own}"), **{role: str(files / f"start{other}") for role in roles}}
    made["training"] |= {"max_steps": 2, "save_steps": 2, "logging_steps": 2}
    made["eval"] = {"every": None, "prompts": []}
    rows = {"dpo": "pairs", "clm": "pairs", "reward_model": "pairs"}.get(name, "train")
    made["data"] = {"train": str(files / f"{rows}.jsonl")}
    if name == "ipvrm":
        labelled = [{**row, "label": i % 2} for i, row in enumerate(tiny_folder.chat_rows(8))]
        made["data"]["train"] = tiny_folder.write_jsonl(tmp_path / "labelled.jsonl", labelled)
    (event,) = [event for event in lines(run(made) / "metrics.jsonl") if event["event"] == "train"]
    assert isinstance(event["loss"], float)


def test_a_prompt_with_a_token_that_the_reward_model_does_not_know_is_named(files, tmp_path):
    policy = tmp_path / "policy"
    tiny_folder.save(policy, seed=1, vocab_size=PADDED)
    tokenizer = tiny_folder.byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(policy)
    made = tree(files, tmp_path / "run", "reinforce", options={"token_reward": "tokens", "center": True})
    made["models"] = {"policy": str(policy), "reward_model": str(files / f"scalar{TOKENS}")}
    made["data"] = {
        "train": tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": "a"}, {"prompt": "b <new>"}])
    }
    with pytest.raises(
        ValueError, match=r"row 2 has the token id 259, which is not in the reward_model's vocabulary \(259\)"
    ):
        run(made)
    assert not (tmp_path / "run").exists()


def test_an_unknown_id_is_read_as_another_and_the_rest_as_it_is():
    inputs = {"input_ids": torch.tensor([[3, 48, 5]]), "labels": torch.tensor([[IGNORE, IGNORE, 5]])}
    assert without_unknown(inputs, 40)["input_ids"].tolist() == [[3, 0, 5]]
    assert without_unknown(inputs, 49)["input_ids"].tolist() == [[3, 48, 5]]
    assert inputs["input_ids"].tolist() == [[3, 48, 5]]


def test_answers_that_are_all_padding_to_another_model_are_counted_and_judged(files, tmp_path):
    made = tree(files, tmp_path / "run", "opd")
    made["models"] = {"policy": str(files / f"start{PADDED}"), "teacher": str(files / f"start{TOKENS}")}
    made["training"] |= {"max_steps": 2, "max_completion_length": 1}
    made["data"]["heldout_rows"] = 16
    made["eval"] = {"answers": 1, "every": None}
    (before, _) = [event for event in lines(run(made) / "metrics.jsonl") if event["event"] == "eval"]
    assert (before["rows"], before["completion_length"]) == (16, 1.0)
    assert 0 < before["entropy"] < 6


def over(name: str, row: tuple[list[int], list[int]], vocab: int) -> torch.Tensor:
    """Log-probabilities of the answer's tokens, from the logits of the ids below `vocab`."""
    ids, labels = (torch.tensor([one]) for one in row)
    with torch.no_grad():
        logits = load_model(name)(input_ids=ids).logits[0, :-1, :vocab]
    mask = labels[0, 1:] != IGNORE
    return logits.log_softmax(-1).gather(1, ids[0, 1:, None])[mask, 0]


def of_one_step(made: dict[str, Any]) -> dict[str, Any]:
    made["training"] |= {"max_steps": 1, "save_steps": 1, "per_device_train_batch_size": 4}
    made["eval"] = {"every": None, "prompts": []}
    (event,) = [event for event in lines(run(made) / "metrics.jsonl") if event["event"] == "train"]
    return event


@pytest.mark.slow
@pytest.mark.parametrize("where", ["live", "column", "memory"])
@pytest.mark.parametrize("way", WAYS)
def test_wspo_is_over_the_ids_that_all_of_its_models_know(files, tmp_path, way, where):
    own, other = WAYS[way]
    names = {"policy": f"start{own}", "reference": f"ratio{other}", "weak_aligned": f"ratio{own}"}
    names["weak_reference"] = f"start{other}"
    made = tiny_folder.recipe(files, "wspo", output=str(tmp_path / "run"), options={"gamma": 0.5})
    made["models"] = {role: str(files / name) for role, name in names.items()}
    made["data"] = {"train": tiny_folder.write_jsonl(tmp_path / "rows.jsonl", tiny_folder.chat_rows(4))}
    if where == "column":
        precompute(parsed(made), tmp_path / "stored.jsonl", command="test")
        made["data"]["train"] = str(tmp_path / "stored.jsonl")
        made["options"]["weak"] = "column"
        made["models"] = {"policy": made["models"]["policy"], "reference": "column"}
    if where == "memory":
        made["models"]["teacher_cache"] = "memory"
    event = of_one_step(made)
    rows = prepare(tiny_folder.chat_rows(4), tiny_folder.byte_tokenizer(), max_length=10**6).rows
    errors = []
    for row in (sequences(row)[0] for row in rows):
        found = {role: over(str(files / name), row, TOKENS) for role, name in names.items()}
        strong, weak = found["policy"] - found["reference"], found["weak_aligned"] - found["weak_reference"]
        errors.append((0.5 * strong - weak).square().mean())
    assert event["loss"] == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_reward_model_is_read_over_the_ids_that_it_was_trained_over(files, tmp_path, way):
    own, other = WAYS[way]
    made = tiny_folder.recipe(files, "reward_model", output=str(tmp_path / "run"), options={"kind": "dpo_rm"})
    made["models"] = {"policy": str(files / f"ratio{own}"), "reference": str(files / f"start{other}")}
    made["data"] = {"train": tiny_folder.write_jsonl(tmp_path / "rows.jsonl", tiny_folder.pair_rows(4))}
    of_one_step(made)
    credit = load_reward_model(str(tmp_path / "run" / "model"))
    rows = prepare(tiny_folder.pair_rows(4), tiny_folder.byte_tokenizer(), max_length=10**6, pairs=True).rows
    inputs = Collator(0, TOKENS)(rows)
    wanted = [
        over(str(tmp_path / "run" / "model"), row, TOKENS) - over(str(files / f"start{other}"), row, TOKENS)
        for pair in rows
        for row in sequences(pair)
    ]
    torch.testing.assert_close(credit(None, inputs)["token_scores"], torch.cat(wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_dpo_is_over_the_ids_that_both_models_know(files, tmp_path, way):
    own, other = WAYS[way]
    made = tiny_folder.recipe(files, "dpo", output=str(tmp_path / "run"), options={"beta": 0.5})
    made["models"] = {"policy": str(files / f"start{own}"), "reference": str(files / f"ratio{other}")}
    made["data"] = {"train": tiny_folder.write_jsonl(tmp_path / "rows.jsonl", tiny_folder.pair_rows(4))}
    event = of_one_step(made)
    losses = []
    for pair in prepare(tiny_folder.pair_rows(4), tiny_folder.byte_tokenizer(), max_length=10**6, pairs=True).rows:
        ratios = [
            (over(made["models"]["policy"], row, TOKENS) - over(made["models"]["reference"], row, TOKENS)).sum()
            for row in sequences(pair)
        ]
        losses.append(-torch.nn.functional.logsigmoid(0.5 * (ratios[0] - ratios[1])))
    assert event["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_columns_of_more_ids_than_the_policy_knows_are_refused(files, tmp_path):
    made = tiny_folder.recipe(files, "dpo", output=str(tmp_path / "run"))
    made["models"] = {"policy": str(files / f"start{PADDED}")}
    made["data"] = {"train": str(files / "pairs.jsonl")}
    precompute(parsed(made), tmp_path / "stored.jsonl", command="test")
    made["models"] = {"policy": str(files / f"start{TOKENS}"), "reference": "column"}
    made["data"] = {"train": str(tmp_path / "stored.jsonl")}
    with pytest.raises(ValueError, match=r"covers 400 token ids, but the policy has 259; make it"):
        run(made)
    assert not (tmp_path / "run").exists()
