"""A scalar head, one score per token, instead of a language model's, and the objective inside its forward."""

import functools
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, PreTrainedModel

from trimtab.core import TokenBatch, reduce, weights
from trimtab.core.loss import checked
from trimtab.models.forward import ObjectiveCall, ObjectiveOutput, UnsupportedModel, read_layers


def with_scalar_head(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """The layers of a causal language model under a new linear head from hidden state to score.

    The result is transformers' own token classification model with one label and without dropout. A bias of its head
    is 0 and not trained. The layers are the given model's, not copies.

    Args:
        seed: of the head's weights, which are normal with the config's `initializer_range`.

    Raises:
        UnsupportedModel: if transformers has no token classification model of this architecture, or one of other parts.
    """
    config = model.config.get_text_config()
    settings = {key: value for key, value in config.to_dict().items() if key not in ("id2label", "label2id")}
    settings |= {"num_labels": 1, "classifier_dropout": 0.0, "tie_word_embeddings": False}
    config = type(config).from_dict(settings)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            scorer = AutoModelForTokenClassification.from_config(config)
    except ValueError:
        raise UnsupportedModel(
            f"transformers has no token classification model of type {config.model_type}; choose another base model, "
            "or a reward model that is a language model (options.head=logit or logprob, or method ipvrm)"
        ) from None
    backbone, head = model.base_model, _head(scorer)
    if type(scorer.base_model) is not type(backbone):
        raise UnsupportedModel(
            f"the token classification model of type {config.model_type} is based on "
            f"{type(scorer.base_model).__name__}, not on {type(backbone).__name__}"
        )
    setattr(scorer, scorer.base_model_prefix, backbone)
    backbone.config = scorer.config
    weight = next(backbone.parameters())
    with torch.random.fork_rng(devices=[]):
        new = nn.Linear(head.in_features, 1, bias=head.bias is not None, device=weight.device, dtype=weight.dtype)
    _initialise(new, config, seed)
    setattr(scorer, head_name(scorer), new)
    return scorer.eval()


@torch.no_grad()
def _initialise(head: nn.Linear, config: Any, seed: int) -> None:
    drawn = torch.empty(head.weight.shape)
    generator = torch.Generator().manual_seed(seed)
    head.weight.copy_(drawn.normal_(0.0, getattr(config, "initializer_range", 0.02), generator=generator))
    if head.bias is not None:
        head.bias.zero_()


def add_score_forward(model: PreTrainedModel, *, before: bool = False) -> None:
    """Let `model(..., objective_call=ObjectiveCall(...))` compute an objective on the scores of the answer tokens.

    The score of a token is read at its own hidden state, or with `before` at that of the token before it. The objective
    reads the scores as the signal "policy", [N] float32. The head's bias is frozen. Call it before PEFT, TRL or
    accelerate wrap the model; a second call changes nothing.
    """
    if getattr(model, "_trimtab_forward", False):
        return
    head = _head(model)
    if head.bias is not None:
        head.bias.requires_grad_(False)

    @functools.wraps(type(model).forward)
    def forward(self: PreTrainedModel, *args: Any, objective_call: ObjectiveCall | None = None, **kwargs: Any) -> Any:
        if objective_call is None:
            return MethodType(type(self).forward, self)(*args, **kwargs)
        kwargs["use_cache"] = False
        _, states, _ = read_layers(self.base_model, objective_call, args, kwargs, before=before)
        return compute_scores_objective(objective_call, states, getattr(self, head_name(self)))

    model.forward = MethodType(forward, model)  # type: ignore[method-assign]
    model._trimtab_forward = True  # type: ignore[assignment]


def as_critic(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A value model: the layers (not copied) of a language model, or of one with a scalar head, under a new head that
    reads the state before each token."""
    if model.get_output_embeddings() is not None:
        model = with_scalar_head(model, seed)
    else:
        _initialise(_head(model), model.config, seed)
    for name in ("forward", "_trimtab_forward", "_trimtab_uncast", "_trimtab_computes"):  # of the model it was
        vars(model).pop(name, None)
    model.requires_grad_(True)
    add_score_forward(model, before=True)
    return model


def compute_scores_objective(call: ObjectiveCall, states: Tensor, head: nn.Module) -> ObjectiveOutput:
    """The objective on scores of hidden states [N, D], one for each answer token; `head` gives one number for each."""
    scores = head(states)[:, 0].float()
    signals = {**call.signals, "policy": scores}
    batch = TokenBatch.from_labels(call.labels, signals, row_id=call.row_id, seed=call.seed, step=call.step)
    losses = checked(call.objective(batch), call.objective, batch)
    weight = weights(batch, call.reduction, call.total, call.objective.per)
    values = losses.values.detach().float()
    return ObjectiveOutput(loss=reduce(losses, weight), metrics=losses.metrics, unreduced=values)  # type: ignore[arg-type]


def head_name(model: PreTrainedModel) -> str:
    """The attribute of transformers' token classification models that is the head."""
    return "score" if hasattr(model, "score") else "classifier"


def _head(model: PreTrainedModel) -> nn.Linear:
    head = getattr(model, head_name(model), None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise UnsupportedModel(f"{type(model).__name__} has no linear head with one output")
    return head
