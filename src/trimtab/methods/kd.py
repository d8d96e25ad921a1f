"""KD: match the teacher's whole distribution at every answer token, with a divergence of your choice."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.core import Method, MethodConfig, Plan, PlanError, Requirements, Signal, Teacher
from trimtab.objectives import divergence as d
from trimtab.objectives.matching import Match
from trimtab.objectives.segments import MatchSegments
from trimtab.signals.base import common_vocab
from trimtab.signals.other_tokenizer import OtherTokenizer

Divergence = Callable[[Tensor, Tensor], Tensor]

PARAMETERS: dict[str, dict[str, str]] = {
    "jsd": {"beta": "beta"},
    "skewed_forward_kl": {"skew": "skew"},
    "skewed_reverse_kl": {"skew": "skew"},
    "akl": {"akl_mu": "mu"},
    "todi": {"todi_beta": "beta"},
    "abkl": {"abkl_alpha": "alpha", "abkl_beta": "beta"},
}
"""of each divergence that has any: the setting, and the argument that it is"""


class Config(MethodConfig):
    divergence: Literal[
        "forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl", "akl", "todi", "abkl"
    ] = "forward_kl"
    """The divergence between teacher p and student q that is minimised; forward_kl is KL(p || q). akl and todi mix both
    KLs, akl by how far head and tail of p lie apart, todi by each id's ratio; abkl is the alpha-beta divergence."""
    beta: float = Field(0.5, gt=0, lt=1)
    """Teacher's share of the mixture; only for jsd."""
    skew: float = Field(0.1, ge=0, lt=1)
    """First distribution's share of the mixture; only for the skewed divergences."""
    akl_mu: float = Field(0.5, ge=0, le=1)
    """Share of the teacher's probability in its head; only for akl."""
    todi_beta: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Weight of KL(p || q) at an id is sigmoid(todi_beta log(p/q)); only for todi."""
    abkl_alpha: float = Field(1.0, allow_inf_nan=False)
    """Power of p in the alpha-beta divergence; (1, 0) is the forward KL, (0, 1) the reverse KL; only for abkl."""
    abkl_beta: float = Field(1.0, allow_inf_nan=False)
    """Power of q; only for abkl."""
    temperature: float = Field(1.0, gt=0)
    """Both distributions are softmax(logits / temperature); the loss is not rescaled by its square."""
    top_k: int | None = Field(None, ge=1)
    """The divergence is of K + 1 classes: the K most likely tokens, and all others together. Not with akl, which reads
    the order of all tokens. A teacher that is known by its most likely tokens alone brings its own K."""
    top_k_of: Literal["teacher", "student"] = "teacher"
    """Whose most likely tokens; only with top_k."""
    tokenizers: Literal["same", "different"] = "same"
    """different: teacher and student read each row with a tokenizer and a chat template of their own, and are compared
    where their tokens meet: over the tokens that both vocabularies have, other tokens counted as the common one that
    they begin with, where both begin at the same byte of the answer; and by the probability of whole stretches of text
    where tokens overlap."""
    sorted_rest: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Weight of the distance of the sorted probabilities of tokens that one vocabulary alone has (ULD); only with
    tokenizers: different."""
    cross_entropy: float = Field(0.0, ge=0, le=1)
    """Weight of the plain negative log-likelihood in the loss."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        own = [name for names in PARAMETERS.values() for name in names]
        of_teacher = ("divergence", "temperature", "top_k", "sorted_rest", *own)
        self.only(self.cross_entropy < 1, "a cross_entropy below 1", *of_teacher)
        self.only(self.top_k is not None, "top_k", "top_k_of")
        self.only(self.tokenizers == "different", "tokenizers: different", "sorted_rest")
        for divergence, names in PARAMETERS.items():
            skewed = divergence.startswith("skewed")
            of = "the skewed divergences" if skewed else f"divergence: {divergence}"
            self.only(self.divergence == divergence or (skewed and self.divergence.startswith("skewed")), of, *names)
        self._check_classes()
        return self

    def _check_classes(self) -> None:
        """What divergences of classes cannot be."""
        classes = f"top_k is {self.top_k}" if self.top_k is not None else "tokenizers is different"
        if self.divergence == "akl" and (self.top_k is not None or self.tokenizers == "different"):
            raise ValueError(
                f"{classes}, but divergence: akl reads the order of all tokens, which one class for the rest does not "
                "have; take todi or another divergence"
            )
        if self.top_k is not None and self.tokenizers == "different":
            raise ValueError("top_k has no effect with tokenizers: different, whose classes are the common tokens")


def build(config: Config, policy: nn.Module, teacher: Signal) -> Plan:
    parameters = {of: getattr(config, name) for name, of in PARAMETERS.get(config.divergence, {}).items()}
    divergence = partial(getattr(d, config.divergence), **parameters)
    if config.tokenizers == "different":
        return _across(config, divergence, teacher)
    models = [policy, *teacher.models] if policy is not None else []
    if config.top_k is not None and models and config.top_k > common_vocab(models):
        raise UserError(f"options.top_k: {config.top_k} is more than the vocabulary's {common_vocab(models):,} tokens")
    objective = Match(
        divergence, config.temperature, config.cross_entropy,
        top_k=config.top_k, top_k_of=config.top_k_of, ranks=config.divergence == "akl",
    )  # fmt: skip
    return Plan(objective, signals=(teacher,))


def _across(config: Config, divergence: Divergence, teacher: Signal) -> Plan:
    """The plan with a teacher that has another tokenizer."""
    if not isinstance(teacher, OtherTokenizer):
        raise PlanError(
            f"options.tokenizers: different needs a teacher that reads its own ids, an OtherTokenizer, and not a "
            f"{type(teacher).__name__}"
        )
    teacher.temperature = config.temperature
    common = teacher.common
    objective = MatchSegments(
        divergence, torch.tensor(common.student_classes), torch.tensor(common.teacher_classes),
        student_alone=_others(common.student, common.student_classes),
        teacher_alone=_others(common.teacher, common.teacher_classes),
        temperature=config.temperature, cross_entropy=config.cross_entropy, sorted_rest=config.sorted_rest,
    )  # fmt: skip
    return Plan(objective, signals=(teacher,))


def _others(ids: list[int], of_all: list[int]) -> torch.Tensor:
    """The ids that are not among these."""
    return torch.tensor(sorted(set(range(len(of_all))) - set(ids)), dtype=torch.long)


def _requirements(config: Config) -> Requirements:
    return Requirements(models=(Teacher(own_tokenizer=config.tokenizers == "different"),))


METHOD = Method(
    paper="arXiv:1503.02531",
    claim="The student learns from the teacher's whole distribution, not only from the one token that was sampled.",
    equation="L_t = (1 - c) D(p_t, q_t) - c log q(y_t)",
    config=Config,
    build=build,
    requires=_requirements,
)
