"""CLM: preference-tune one inserted layer, so that alignment strength becomes a dial at decoding time."""

from pydantic import Field

from trimtab.core import Method, MethodConfig, Reference, Requirements
from trimtab.objectives.preference import dpo_plan


class Config(MethodConfig):
    beta: float = Field(0.01, gt=0)
    """Beta of DPO, whose reference is the same network without the layer."""


METHOD = Method(
    paper="arXiv:2503.04346",
    claim="One trained layer before the first one carries the alignment; mixing both paths' logits sets its strength.",
    equation="L = DPO on the identity layer;  z = (1 - lambda) z_unaligned + lambda z_aligned",
    config=Config,
    build=dpo_plan,
    requires=Requirements(rows="pairs", trains="identity_layer", models=(Reference(),)),
)
