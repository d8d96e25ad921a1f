"""A session of edits: steps, each a run or two that start from the model of the last one, in one folder.

`steps/0001` ... hold the runs, `session.json` which step the session stands at, `model` that step's model. A step whose
loss or gradient is not finite, or that fails otherwise, leaves the session at the step before.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from trimtab import __version__
from trimtab.common.environment import environment
from trimtab.common.errors import Interrupted, UserError
from trimtab.common.files import read_json, write_atomic
from trimtab.common.terminal import say
from trimtab.common.workdir import Workdir
from trimtab.data import edit_rows
from trimtab.data.edits import Edit
from trimtab.data.tokens import prompt_ids
from trimtab.models import loading
from trimtab.models.inference import LoadOptions, load_for_inference
from trimtab.models.limits import check_prompts
from trimtab.runs.edit_chains import thoughts
from trimtab.runs.edit_recipes import EDIT_STAGES, EditMethod, EditStage, stages_of
from trimtab.runs.overrides import override_all
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe
from trimtab.runs.run import run
from trimtab.train.base import NotFinite

SESSION, STEPS, EVALS, CHAINS = "session.json", "steps", "evals", "chains.jsonl"


class EditError(UserError):
    """A session that cannot be begun, or go on."""


@dataclass(frozen=True)
class EditPlan:
    """What a session does; a resumed one does the same."""

    model: str
    method: EditMethod
    batch: int
    every: int
    seed: int
    cot_filter: bool
    max_new_tokens: int
    overrides: tuple[str, ...]
    edits: str
    """fingerprint of the edits"""
    how: LoadOptions
    """of models that write chains of thought, or are evaluated"""

    def signature(self) -> dict[str, str]:
        """Everything that the session depends on."""
        how = asdict(self.how)
        own = {key: value for key, value in asdict(self).items() if key not in ("how", "overrides")}
        words = " ".join(self.overrides) or "none"
        lines = {**own, "overrides": words, **how}
        return {"trimtab": __version__, **{key: str(value) for key, value in lines.items()}, **environment()}


@dataclass
class EditSession:
    """A session in its folder."""

    folder: Path
    plan: EditPlan
    edits: Sequence[Edit]
    console: Console

    @property
    def steps(self) -> int:
        return -(-len(self.edits) // self.plan.batch)

    def state(self) -> dict[str, Any]:
        return read_json(self.folder / SESSION)

    def at(self) -> int:
        """The step that the session stands at; 0 is the original model."""
        return int(self.state()["step"])

    def model_at(self, step: int) -> str:
        """The model after a step."""
        return self.plan.model if step == 0 else str(self.last_run(step) / "model")

    def step_folder(self, step: int) -> Path:
        return self.folder / STEPS / f"{step:04d}"

    def last_run(self, step: int) -> Path:
        """The run that made a step's model."""
        return self.step_folder(step) / EDIT_STAGES[self.plan.method][-1]

    def edits_of(self, step: int) -> Sequence[Edit]:
        return self.edits[(step - 1) * self.plan.batch : step * self.plan.batch]

    def made(self, step: int) -> Sequence[Edit]:
        """All edits up to a step."""
        return self.edits[: step * self.plan.batch]

    @contextmanager
    def open(self, resume: bool) -> Iterator[None]:
        """Hold the folder, which becomes that of this session, or is it already.

        Raises:
            EditError: if it holds other work or another session, another process writes there, or `resume` was asked
                for and there is nothing to resume, or not asked for and there is.
            Interrupted: after a Ctrl-C, with the step that the session stands at.
        """
        names = (SESSION, STEPS, EVALS, "model", "adapter", "report.html")
        work = Workdir(self.folder, "edit", names, error=EditError)
        work.way_out = work.elsewhere
        with work.open(self._said):
            there = work.signature.is_file()
            if there and not resume:
                raise EditError(f"{self.folder} holds a session of edits; add --resume, or choose another --out")
            if resume and not there:
                raise EditError(f"there is no session of edits in {self.folder} to resume or to roll back")
            work.sign(self.plan.signature())
            if not (self.folder / SESSION).is_file():
                self._keep({"step": 0, "failed": None})
            try:
                yield
            except Interrupted:
                raise Interrupted(f"stopped; {self._said('')}") from None
            finally:
                work.fresh = work.fresh and not any((self.folder / name).exists() for name in (STEPS, EVALS))

    def _said(self, first: str) -> str:
        """What is kept, what to do first, and how to go on."""
        begun = (self.folder / SESSION).is_file()
        kept = f"{self.folder} stands at step {self.at()} of {self.steps}" if begun else f"{self.folder} holds no step"
        return f"{f'{first} first; ' * bool(first)}{kept}: run the same command{' with --resume' * begun} to continue"

    def check(self) -> None:
        """Look for a mistake in the recipes, before anything is made or evaluated.

        Raises:
            UserError: naming the key, or a prompt that leaves a chain of thought no room in the model's context.
        """
        name, tokenizer = self.plan.model, loading.load_tokenizer(self.plan.model)
        recipes = [recipe for _, recipe in self._recipes(1, [], tokenizer)]
        if self.plan.method != "etcon":
            return
        longest = max(self.plan.max_new_tokens, int(recipes[-1].training["max_completion_length"]))
        prompts = [edit_rows.asked(one, bool(tokenizer.chat_template), True) for one in self.edits]
        ids = [prompt_ids(tokenizer, one, f"edit {i}") for i, one in enumerate(prompts, start=1)]
        for note in check_prompts(ids, longest, loading.limits(name), tokenizer, name, what="the prompt of edit"):
            say(self.console, note)

    def _keep(self, state: Mapping[str, Any]) -> None:
        write_atomic(self.folder / SESSION, json.dumps(state, indent=1, ensure_ascii=False) + "\n")

    def stand_at(self, step: int, failed: str | None = None) -> None:
        """Make a step's model the session's."""
        place = self.folder / "model"
        part = self.folder / "model.part"
        shutil.rmtree(part, ignore_errors=True)
        if step:
            shutil.copytree(self.model_at(step), part)
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(self.folder / "adapter", ignore_errors=True)
        if step:
            part.rename(place)
        if step == 1 and (adapter := self.last_run(1) / "adapter").is_dir():  # later ones are of edited models
            shutil.copytree(adapter, self.folder / "adapter")
        self._keep({**self.state(), "step": step, "failed": failed})

    def roll_back(self, step: int) -> None:
        """Stand at an earlier step; later ones are removed, and --resume makes them again.

        Raises:
            EditError: if the session is not past that step.
        """
        at = self.at()
        if not 0 <= step <= at:
            raise EditError(f"--rollback: {self.folder} stands at step {at}; choose a step from 0 to {at}")
        self.stand_at(step)
        for later in range(step + 1, self.steps + 1):
            shutil.rmtree(self.step_folder(later), ignore_errors=True)

    def go_on(self, after: Callable[[int], None]) -> None:
        """Make the steps that are left.

        Args:
            after: is called after each step with its number.

        Raises:
            EditError: for a step whose loss or gradient is not finite; the session stands at the one before.
        """
        began, first = time.monotonic(), self.at()
        for step in range(first + 1, self.steps + 1):
            try:
                self._make(step)
            except NotFinite as error:
                shutil.rmtree(self.step_folder(step), ignore_errors=True)
                self.stand_at(step - 1, failed=f"step {step}: {error}")
                raise EditError(
                    f"step {step} ({', '.join(one.id for one in self.edits_of(step))}): {error}. The session stands at "
                    f"step {step - 1} of {self.steps}, whose model is {self.model_at(step - 1)}"
                ) from error
            self.stand_at(step)
            after(step)
            left = (time.monotonic() - began) / (step - first) * (self.steps - step)
            say(
                self.console, f"step {step} of {self.steps}" + (f", about {left / 60:.1f} minutes left" if left else "")
            )

    def _make(self, step: int) -> None:
        folder, plan = self.step_folder(step), self.plan
        folder.mkdir(parents=True, exist_ok=True)
        model, edits = self.model_at(step - 1), self.edits_of(step)
        tokenizer = loading.load_tokenizer(model)
        chains: list[str] = []
        if plan.method == "etcon":
            chains, notes = thoughts(
                lambda: load_for_inference(model, plan.how), tokenizer, edits, folder / CHAINS, seed=plan.seed,
                max_new_tokens=plan.max_new_tokens, cot_filter=plan.cot_filter, chat=bool(tokenizer.chat_template),
            )  # fmt: skip
            for note in notes:
                say(self.console, note)
        for stage, recipe in self._recipes(step, chains, tokenizer):
            made = folder / stage.name
            if not (made / "report.html").is_file():
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in stage.rows)
                write_atomic(folder / f"{stage.name}.jsonl", lines)
                run(recipe, resume=(made / "recipe.yaml").is_file(), console=self.console)

    def _recipes(self, step: int, chains: Sequence[str], tokenizer: Any) -> list[tuple[EditStage, Recipe]]:
        """The runs of a step, without chains as if none had been kept."""
        plan, model, edits = self.plan, self.model_at(step - 1), self.edits_of(step)
        stages = stages_of(
            plan.method, model, edits, chains or [""] * len(edits), folder=self.step_folder(step), seed=plan.seed,
            layers=loading.load_config(model).get_text_config(decoder=True).num_hidden_layers,
            chat=bool(tokenizer.chat_template),
        )  # fmt: skip
        return [(stage, self._recipe(stage)) for stage in stages]

    def _recipe(self, stage: EditStage) -> Recipe:
        words = [word.partition(".") for word in self.plan.overrides]
        override_all(stage.tree, [own for name, _, own in words if name == stage.name])
        recipe = parse(stage.tree, f"the recipe of {stage.name}", stage.name)
        assert isinstance(recipe, Recipe)
        return recipe
