"""A frozen teacher that is read as a distribution, and as maps of which tokens of the prompt its answer rests on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core import LazyLogits, PlanError, Signal
from trimtab.models.classifier import plain
from trimtab.models.forward import input_embeddings, resolve_head
from trimtab.objectives.answer_maps import MAPS, TeacherMaps, answer_maps, answers_at, attributable, draw_views
from trimtab.signals.frozen import FrozenModel


class AttributedTeacher(Signal):
    """The distribution of a frozen model, and its attribution maps, from one forward and a gradient for each view.

    Args:
        teacher: without a store: nothing of its inside is kept.
        positions: answer tokens drawn from each row, at which single next tokens are attributed; None to attribute the
            answer as a whole.
        candidates: its most likely next tokens at each of them.
        top: dimensions of a token that count; None for all.
        norm: p of a map's norm.
    """

    def __init__(
        self, teacher: FrozenModel, positions: int | None = None, candidates: int = 1, top: int | None = None,
        norm: int = 2,
    ):  # fmt: skip
        if not isinstance(teacher, FrozenModel) or teacher.store is not None or not teacher.distribution:
            raise PlanError(
                "attribution maps are made inside the teacher, with each batch: it must be one FrozenModel that reads "
                f"distributions and keeps none, not a {type(teacher).__name__}"
            )
        self.teacher, self.positions, self.candidates, self.top, self.norm = teacher, positions, candidates, top, norm
        self.provides = frozenset({teacher.name, MAPS})
        self._at = (0, 0)

    @property
    def models(self) -> list[Any]:
        return self.teacher.models

    @property
    def vocab_size(self) -> int:
        return self.teacher.vocab_size

    def before_update(self, policy: nn.Module, step: int, seed: int) -> None:
        self._at = (seed, step)

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        head, labels = resolve_head(self.teacher.model), inputs["labels"]
        vocab = head.vocab_size
        if policy is not None:
            vocab = min(vocab, resolve_head(plain(policy)).vocab_size)
        mask = attributable(inputs)
        with torch.enable_grad(), torch.autocast(labels.device.type, enabled=False):
            with input_embeddings(self.teacher.model) as embedded:
                states = self.teacher.states(inputs)
            views = None
            if self.positions is not None:
                seed, step = self._at
                at = (seed, step if policy is None or policy.training else 0)  # held-out rows are drawn alike each time
                views = draw_views(labels, inputs["row_id"], self.positions, self.candidates, states, head, vocab, *at)
            values = answers_at(states, head, labels, vocab, views)
            maps = torch.stack(list(answer_maps(values, embedded[0], mask, self.top, self.norm)))
        known = TeacherMaps(maps.detach(), mask, vocab, views)
        return {self.teacher.name: LazyLogits(states.detach(), self.teacher.project, head.vocab_size), MAPS: known}
