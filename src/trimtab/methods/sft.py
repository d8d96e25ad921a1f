"""SFT: raise the likelihood of the answers, the baseline that every other method is held against."""

from torch import nn

from trimtab.core import Losses, Method, MethodConfig, Plan, TokenBatch


class Config(MethodConfig):
    """SFT has no settings of its own."""


class SFT:
    """loss = -log q(y_t)"""

    needs = frozenset()
    per = "token"

    def __call__(self, batch: TokenBatch) -> Losses:
        nll = -batch.logprobs()
        return batch.losses(nll, nll=nll)


def build(config: Config, policy: nn.Module) -> Plan:
    return Plan(SFT())


METHOD = Method(
    paper="maximum likelihood",
    claim="The student imitates the text of the answers, token by token.",
    equation="L_t = -log q(y_t)",
    config=Config,
    build=build,
)
