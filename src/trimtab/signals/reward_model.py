"""A trained reward model that scores each answer token, and the small file that says how to read its scores."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, PreTrainedModel

from trimtab.common import fingerprint
from trimtab.common.errors import UserError
from trimtab.core import LabelLogits, LabelLogprobs, Losses, Objective, Signal, TokenBatch
from trimtab.models.builtin import ModelNotFound
from trimtab.models.forward import add_objective_forward, crop_to
from trimtab.models.loading import DTYPES, cast, load_config, load_model, locate
from trimtab.models.scalar_head import add_score_forward
from trimtab.models.student import keep_layers, layer_indices
from trimtab.objectives.reward_models import Gathered, RewardObjective, Source, gather
from trimtab.signals.base import common_vocab
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import read_with

FILE = "trimtab_reward.json"
"""file in a reward model's folder"""


class RewardModelError(UserError):
    """A folder without a reward model, or one whose reference is not the model it was trained against."""


@dataclass(frozen=True)
class ScoreSpec:
    """How the scores of a reward model are read."""

    source: Source
    """source of the token scores, see `trimtab.objectives.reward_models`"""
    gathered: Gathered
    """how training aggregated an answer's scores"""
    beta: float
    """value = beta times the aggregated score"""
    outcomes: bool
    """whether it was trained on outcomes, so that sigma(value) is the probability of a correct answer"""
    reference: str | dict[str, Any] | None = None
    """for source ratio: the reference model, by name, or as {from, layers}"""
    reference_fingerprint: str | None = None
    method: str = ""
    squash: bool = False
    """whether training used sigma of the token scores; values then use it too, and their mean is taken"""

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def score_spec_of(objective: RewardObjective, **known: Any) -> ScoreSpec:
    """How to read the model that this objective trains; `known` are further fields."""
    outcomes = "outcome" in objective.needs
    return ScoreSpec(objective.source, objective.gathered, objective.beta, outcomes, squash=objective.squash, **known)


class HeadScore(Objective):
    """value = the score of a scalar head."""

    def __call__(self, batch: TokenBatch) -> Losses:
        return Losses(batch.logprobs(), {})


READERS = {"scalar": HeadScore(), "logit": LabelLogits(), "logprob": LabelLogprobs(), "ratio": LabelLogprobs()}


class TokenRewardModel(Signal):
    """The score of each answer token under a frozen reward model, as the signal "token_scores".

    Args:
        model: with `add_score_forward`, or `add_objective_forward` if the source is a language model's.
        reference: for source ratio, read at the answer tokens.
    """

    provides = frozenset({"token_scores"})

    def __init__(self, model: PreTrainedModel, spec: ScoreSpec, reference: FrozenModel | None = None):
        if (reference is None) != (spec.source != "ratio"):
            raise RewardModelError(
                f"scores of source {spec.source} need {'a' if reference is None else 'no'} reference"
            )
        self.model, self.spec = model.eval().requires_grad_(False), spec
        self.as_trained = False
        self.reference = reference

    def scores_as_trained(self) -> "TokenRewardModel":
        """The same model, with token scores as its training used them: sigma of them if it squashed them."""
        self.as_trained = True
        return self

    @property
    def models(self) -> list[PreTrainedModel]:
        return [self.model, *(self.reference.models if self.reference else ())]

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        with torch.autocast(inputs["labels"].device.type, enabled=False):
            scores = read_with(READERS[self.spec.source], self.model, inputs, {})
            if self.reference is not None:
                scores = scores - self.reference(None, inputs)["reference"]
        squashed = self.spec.squash and self.as_trained
        return {"token_scores": scores.sigmoid() if squashed else scores}

    def values(self, batch: TokenBatch, scores: Tensor) -> Tensor:
        """[N]: the value of each prefix: beta times the mean of its scores (or of their sigma), their sum, or its last
        score, as training aggregated them over whole answers."""
        scores = scores.sigmoid() if self.spec.squash and not self.as_trained else scores
        match self.spec.gathered:
            case "last":
                found = scores
            case "sum":
                found = batch.prefix_sum(scores)
            case _:
                found = gather(batch, scores, "prefix_mean")
        return self.spec.beta * found


def load_reward_model(
    name: str, *, dtype: str = "float32", reference: str | None = None, device_map: str | None = None
) -> TokenRewardModel:
    """Load a reward model from its folder: trimtab's own, or any token classification model with one label, whose
    scores are read as they are.

    Args:
        dtype, device_map: as in `loading.load_model`.
        reference: where the reference model is now, if it has moved.

    Raises:
        RewardModelError: if it is not a reward model, or its reference is missing or is not the one of its training.
    """
    path = Path(locate(name)) / FILE
    if not path.is_file():
        config = load_config(name)
        kinds = getattr(config, "architectures", None) or []
        if not any("TokenClassification" in kind for kind in kinds) or config.num_labels != 1:
            raise RewardModelError(
                f"{name} is not a reward model: it has no {FILE} and is not a token classifier with one label "
                f"(it is {', '.join(kinds) or 'of unknown kind'}); train one with method q_rm, ipvrm or reward_model"
            )
        spec = ScoreSpec("scalar", "mean", 1.0, outcomes=False)
    else:
        try:
            spec = ScoreSpec(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RewardModelError(f"{path} does not describe how to read the model: {error}") from error
    if spec.source == "scalar":
        model = load_model(name, dtype=dtype, kind=AutoModelForTokenClassification, device_map=device_map)
        add_score_forward(model)
        return TokenRewardModel(model, spec)
    model = load_model(name, dtype=dtype, device_map=device_map)
    add_objective_forward(model)
    if spec.source != "ratio":
        return TokenRewardModel(model, spec)
    start = _reference(name, spec, reference, str(model.dtype).removeprefix("torch."))
    known = common_vocab([model, *start.models])
    for one in (model, *start.models):  # as training read them
        crop_to(one, known)
    return TokenRewardModel(model, spec, start)


def _reference(name: str, spec: ScoreSpec, moved: str | None, dtype: str) -> FrozenModel:
    """The reference model of log-ratios, checked to have the weights that it had in training."""
    place, prints = moved or spec.reference, []
    for rounded in _dtypes(name) if spec.reference_fingerprint else ("float32",):
        try:
            found = _start(name, place, rounded)
        except ModelNotFound as error:
            raise RewardModelError(
                f"the reference model {place} of {name} was not found ({error}); pass its location with --reference "
                "PLACE"
            ) from error
        prints.append(fingerprint.of_model(found))
        if spec.reference_fingerprint in (None, prints[-1]):
            return FrozenModel(cast(found, dtype), name="reference", reads="answers")
    raise RewardModelError(
        f"the reference of {name} has the fingerprint {spec.reference_fingerprint}, and {place} has {prints[0]}: the "
        "weights differ, so every value would be wrong; pass the model that its training started from"
    )


def _dtypes(name: str) -> list[str]:
    """Dtypes in which training may have fingerprinted the reference, the model's own first."""
    own = str(getattr(load_config(name), "dtype", None)).removeprefix("torch.")
    return sorted(DTYPES, key=lambda one: one != own)


def _start(name: str, place: str | dict[str, Any] | None, dtype: str) -> PreTrainedModel:
    if not place:
        raise RewardModelError(f"{name} does not name its reference model; pass it with --reference PLACE")
    if isinstance(place, str):
        return load_model(place, dtype=dtype)
    whole = load_model(place["from"], dtype=dtype)
    return keep_layers(whole, layer_indices(whole, place["layers"]))
