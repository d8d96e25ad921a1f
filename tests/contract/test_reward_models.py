"""Every kind of reward model is read as it was trained: what its loss prefers, its scores prefer."""

from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import tiny
import tiny_folder
from trimtab import methods
from trimtab.common import fingerprint
from trimtab.core import Plan, TokenBatch
from trimtab.data.collate import Collator
from trimtab.data.rows import prepare
from trimtab.evals.scoring import score
from trimtab.models.loading import load_model
from trimtab.models.scalar_head import add_score_forward, with_scalar_head
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.reward_model import load_reward_model, score_spec_of

LENGTHS = ((3, 9), (12, 2), (5, 5), (1, 14), (7, 3), (2, 4))
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"say {i}"}],
        "chosen": [{"role": "assistant", "content": "bcdfg"[i % 5] * one}],
        "rejected": [{"role": "assistant", "content": "hjklm"[(i + 2) % 5] * other}],
    }
    for i, (one, other) in enumerate(LENGTHS * 4)
]


def kinds() -> dict[str, tuple[str, dict[str, Any]]]:
    """Each method that trains a reward model, with each of its kinds and heads."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in methods.names():
        config = methods.load(name).config
        fields = config.model_fields
        every = get_args(fields["kind"].annotation) if "kind" in fields else (None,)
        heads = get_args(fields["head"].annotation) if "head" in fields else (None,)
        for kind in every:
            for head in heads:
                options = {key: value for key, value in (("kind", kind), ("head", head)) if value is not None}
                try:
                    made = config(**options)
                except ValueError:  # an option that this kind does not have
                    continue
                if methods.load(name).requirements(made).scores:
                    found[" ".join(filter(None, (name, kind, head)))] = name, options
    return found


KINDS = kinds()


def language_model(seed: int) -> Any:
    """Whose logits neither saturate a squash nor lie in its straight part."""
    changes = {"vocab_size": tiny_folder.VOCAB, "eos_token_id": 0, "bos_token_id": None, "pad_token_id": 0}
    return tiny.model("llama", seed, initializer_range=0.2, max_position_embeddings=512, **changes)


def plan(name: str, options: dict[str, Any], reference: Any) -> Plan:
    method = methods.load(name)
    config = method.config(**options)
    given = {name: FrozenModel(reference, name=name) for name in method.requirements(config).provides}
    return method.build(config, None, **given)


@cache
def inputs() -> dict[str, Tensor]:
    rows = prepare(PAIRS, tiny_folder.byte_tokenizer(), max_length=64, pairs=True).rows
    return Collator(0, tiny_folder.VOCAB)(rows)


def trained_scores(objective: Any, model: Any, reference: Any) -> dict[str, Tensor]:
    """What the objective is made of, from full logits."""
    given = {"input_ids": inputs()["input_ids"], "attention_mask": inputs()["attention_mask"]}
    labels = inputs()["labels"]
    with torch.no_grad():
        logits = model(**given).logits
        if objective.source == "scalar":
            return {"policy": logits[:, 1:, 0][labels[:, 1:] != -100]}
        batch = TokenBatch.align(logits, labels)
        found = {"policy": batch.logprobs()}
        if objective.source == "logit":
            found["policy"] = batch.logits().gather(1, batch.targets[:, None])[:, 0]
        if objective.source == "ratio":
            found["reference"] = TokenBatch.align(reference(**given).logits, labels).logprobs()
    return found


def losses_if_preferred(objective: Any, known: dict[str, Tensor], first: int) -> Tensor:
    """[P]: the loss of each pair if its first (0) or second (1) answer were the better one.

    Pairwise losses are taken of the pair in that order. Others judge an answer by itself: of the better one, as right,
    and where they judge every prefix, of the whole answer.
    """
    order = torch.arange(len(inputs()["labels"])).view(-1, 2)
    order = (order if first == 0 else order.flip(1)).flatten()
    row = TokenBatch.from_labels(inputs()["labels"]).row
    places = torch.cat([torch.nonzero(row == one)[:, 0] for one in order.tolist()])
    signals = {name: value[places] for name, value in known.items()}
    number = len(places)
    rating = torch.full((number,), float("nan"))
    batch = TokenBatch.from_labels(inputs()["labels"][order])
    last = batch.position + 1 == batch.lengths[batch.row]
    rating[last] = 1.0
    batch = batch.with_signals(**signals, outcome=torch.ones(number), rating=rating)
    values = objective(batch).values
    return values[last][::2] if objective.per == "prefix" else values[::2]


@pytest.mark.fast(
    *("ipvrm", "q_rm logit", "reward_model orm scalar", "reward_model focal logprob", "reward_model pgtg logit"),
    *("reward_model dpo_rm scalar", "reward_model orm_pointwise logit", "reward_model implicit_prm scalar"),
    "reward_model step_prm logprob",
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_better_of_two_answers_by_its_loss_is_the_better_one_by_its_score(kind, tmp_path: Path):
    name, options = KINDS[kind]
    reference = language_model(1)
    reference.save_pretrained(tmp_path / "start")
    model = language_model(2)
    built = plan(name, options, language_model(1))
    objective: Any = built.objective
    if objective.source == "scalar":
        model = with_scalar_head(model, seed=0)
        with torch.no_grad():
            model.score.weight.mul_(3 if options.get("kind") == "step_prm" else 8)
        add_score_forward(model)
    model.save_pretrained(tmp_path / "model")
    tiny_folder.byte_tokenizer().save_pretrained(tmp_path / "model")
    known: dict[str, Any] = {}
    if "reference" in objective.needs:
        print_of = fingerprint.of_model(load_model(str(tmp_path / "start")))
        known = {"reference": str(tmp_path / "start"), "reference_fingerprint": print_of}
    score_spec_of(objective, method=name, **known).write(tmp_path / "model")

    credit = load_reward_model(str(tmp_path / "model"))
    found = {(one.row, one.side): one.values[-1] for one in score(credit, tiny_folder.byte_tokenizer(), PAIRS)}
    difference = torch.tensor([found[i, "chosen"] - found[i, "rejected"] for i in range(len(PAIRS))])
    scores = trained_scores(objective, model, reference)
    preferred = losses_if_preferred(objective, scores, 1) - losses_if_preferred(objective, scores, 0)
    clear = (preferred.abs() > 1e-5) & (difference.abs() > 1e-6)  # a saturated loss tells no two answers apart
    assert clear.sum() >= len(PAIRS) // 2
    assert torch.equal(preferred[clear] > 0, difference[clear] > 0)
    assert (difference > 0).any()
    assert (difference < 0).any()


def test_the_squash_and_the_factor_are_in_the_folder(tmp_path):
    squashed = score_spec_of(plan("reward_model", {"kind": "pgtg"}, None).objective)
    assert (squashed.squash, squashed.gathered) == (True, "mean")
    factor = score_spec_of(
        plan("reward_model", {"kind": "dpo_rm", "beta": 0.3}, language_model(1)).objective, reference="x"
    )
    assert (factor.beta, factor.squash, factor.gathered) == (0.3, False, "sum")
    assert score_spec_of(plan("q_rm", {"beta": 0.4}, None).objective).beta == 0.4
    squashed.write(tmp_path)
    assert '"squash": true' in (tmp_path / "trimtab_reward.json").read_text()
