"""KD: match the teacher's whole distribution at every answer token, with a divergence of your choice."""

from functools import partial
from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.common.errors import UserError
from trimtab.core import Method, MethodConfig, Plan, Requirements, Signal, Teacher
from trimtab.objectives import divergence as d
from trimtab.objectives.matching import Match
from trimtab.signals.base import common_vocab

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
    cross_entropy: float = Field(0.0, ge=0, le=1)
    """Weight of the plain negative log-likelihood in the loss."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        own = [name for names in PARAMETERS.values() for name in names]
        self.only(self.cross_entropy < 1, "a cross_entropy below 1", "divergence", "temperature", "top_k", *own)
        self.only(self.top_k is not None, "top_k", "top_k_of")
        for divergence, names in PARAMETERS.items():
            skewed = divergence.startswith("skewed")
            of = "the skewed divergences" if skewed else f"divergence: {divergence}"
            self.only(self.divergence == divergence or (skewed and self.divergence.startswith("skewed")), of, *names)
        if self.divergence == "akl" and self.top_k is not None:
            raise ValueError(
                f"top_k is {self.top_k}, but divergence: akl reads the order of all tokens, which one class for the "
                "rest does not have; leave top_k out, or take todi or another divergence"
            )
        return self


def build(config: Config, policy: nn.Module, teacher: Signal) -> Plan:
    parameters = {of: getattr(config, name) for name, of in PARAMETERS.get(config.divergence, {}).items()}
    divergence = partial(getattr(d, config.divergence), **parameters)
    models = [policy, *teacher.models] if policy is not None else []
    if config.top_k is not None and models and config.top_k > common_vocab(models):
        raise UserError(f"options.top_k: {config.top_k} is more than the vocabulary's {common_vocab(models):,} tokens")
    objective = Match(
        divergence, config.temperature, config.cross_entropy,
        top_k=config.top_k, top_k_of=config.top_k_of, ranks=config.divergence == "akl",
    )  # fmt: skip
    return Plan(objective, signals=(teacher,))


METHOD = Method(
    paper="arXiv:1503.02531",
    claim="The student learns from the teacher's whole distribution, not only from the one token that was sampled.",
    equation="L_t = (1 - c) D(p_t, q_t) - c log q(y_t)",
    config=Config,
    build=build,
    requires=Requirements(models=(Teacher(),)),
)
