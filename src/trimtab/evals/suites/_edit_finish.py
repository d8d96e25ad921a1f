"""Numbers of the suite `edit` for which models are asked: a judge's, the drift, and the score over prefixes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trimtab.common.count import count
from trimtab.data.edits import load_edits
from trimtab.evals import JUDGEMENTS
from trimtab.evals.judges import ToJudge, conclusion, judged
from trimtab.evals.suite import Answered, Estimate, SuiteError
from trimtab.evals.suites._edit_before import load_before
from trimtab.evals.suites._edit_measures import SHORT, agreement, by_mode, judged_measures, known, over_edits
from trimtab.metrics.intervals import Interval, mean_of

if TYPE_CHECKING:
    from trimtab.evals.models import Model

SAME = ("decoding", "generation", "max_new_tokens", "template", "dtype")
"""of two evaluations whose answers are compared"""


def finish(settings: Any, answered: Sequence[Answered], model: "Model", work: Any, console: Any) -> list[Estimate]:
    """Further numbers, after all is answered.

    Raises:
        Unanswered: if the judge is not there; its judgements so far are kept.
        SuiteError: if the original is not the model that answered before.
    """
    from trimtab.common.terminal import say

    edits = load_edits(settings.file, conflicts=settings.conflicts)
    for note in edits.notes:
        say(console, note)
    found = [Estimate("rows left out", "all", Interval(edits.left_out, math.nan, math.nan), edits.left_out)]
    if settings.judge:
        found += _by_judge(settings, answered, work, console)
    weights = getattr(model, "model", None)
    if weights is None:
        left = [name for name, wanted in (("legacy", settings.legacy), ("drift", settings.before)) if wanted]
        if left:
            say(console, f"edit: {' and '.join(left)} need a model in memory and are not measured on a server")
        return found
    if settings.legacy:
        found += legacy(answered, model)
    if settings.before and settings.drift:
        found += _drift(settings, model, console)
    return found


# ---------------------------------------------------------------- judge


def _by_judge(settings: Any, answered: Sequence[Answered], work: Any, console: Any) -> list[Estimate]:
    from trimtab.common.progress import advance, bar
    from trimtab.common.terminal import say

    some = [one for one in answered if one.item.target and one.answers[-1].strip()]
    kept = work.records(JUDGEMENTS, "key", "correct", what="judgements")
    with bar(console) as progress:
        task: Any = progress.add_task("judge", total=len(some), note="answers")
        verdicts = judged(
            [question_of(one) for one in some],
            _judge(settings),
            kept,
            advance=lambda number: advance(progress, task, number),
        )
    value_of = {one.item.id: verdict for one, verdict in zip(some, verdicts, strict=True)}
    open_ = [name for name, verdict in value_of.items() if verdict is None]
    if open_:
        say(
            console,
            f"edit: {count(len(open_), 'answer')} got no judgement and count for nothing there, such as {open_[0]}; "
            "requests that failed are asked again by the same command",
        )

    def value(one: Answered) -> float | None:
        """No judgement counts for nothing; an empty reply is incorrect and needs none."""
        if one.item.id not in value_of:
            return 0.0
        verdict = value_of[one.item.id]
        return None if verdict is None else float(verdict)

    found = []
    for group, members in by_mode(answered).items():
        found += judged_measures("judge", group, members, value)
        found += [agreement("judge", rule, group, members, value) for rule in ("match", "contains")]
    return found


def question_of(one: Answered) -> ToJudge:
    """What the judge is asked: of a long text whether it gives the new fact."""
    reply, asked = one.answers[-1], one.item.data.get("fact", one.item.text)
    return ToJudge(asked, one.item.target, conclusion(reply) if one.item.groups["mode"] == "reasoning" else reply)


def _judge(settings: Any) -> "Model":
    if settings.judge.startswith(("http://", "https://")):
        from trimtab.evals.openai_model import OpenAIModel

        return OpenAIModel(
            settings.judge, settings.judge_model, key_env=settings.judge_key_env,
            served_as=settings.judge_served_as or settings.judge_model, served_by="edit.judge_served_as=",
        )  # fmt: skip
    from trimtab.evals.models import HFModel
    from trimtab.models import loading
    from trimtab.models.inference import load_for_inference

    return HFModel(load_for_inference(settings.judge), loading.load_tokenizer(settings.judge), settings.judge)


# ---------------------------------------------------------------- of the model's distributions


def legacy(answered: Sequence[Answered], model: Any) -> list[Estimate]:
    """The score over prefixes of the target, which gives them away, behind the prompts that were asked; not step by
    step, where the target does not follow the prompt."""
    from trimtab.evals import suites
    from trimtab.evals.prefixes import teacher_forced

    (ask,) = suites.load("edit").prompts["edit"]
    asked = [one for one in answered if one.item.groups["mode"] != "reasoning" and not known(one)]
    asked = [one for one in asked if one.item.groups["probe"] in SHORT]
    scores = teacher_forced(model.model, model.tokenizer, [(ask(one.item, ()), one.item.target[0]) for one in asked])
    of = {one.item.id: score for one, score in zip(asked, scores, strict=True)}
    found = []
    for group, members in by_mode(asked).items():
        for kind in SHORT:
            some = [one for one in members if one.item.groups["probe"] == kind]
            if some:
                name = f"{kind} (legacy: over prefixes of the target)"
                found.append(over_edits(name, group, some, lambda one: of[one.item.id]))
    return found


def _drift(settings: Any, model: Any, console: Any) -> list[Estimate]:
    """On the first everyday answers that are held out."""
    from trimtab.common import fingerprint
    from trimtab.common.terminal import say
    from trimtab.data.synthetic import everyday
    from trimtab.evals.prefixes import drift
    from trimtab.models.inference import load_for_inference

    before = load_before(settings.before)
    differ = [
        key for key in SAME if before.signature.get(key, "") != model.facts().get(key, "") and key in model.facts()
    ]
    if differ:
        say(console, f"edit: before and after differ in {', '.join(differ)}; identical answers say less")
    if " at http" in before.signature.get("model", ""):
        say(console, "edit: the original was asked on a server; the drift is not measured")
        return []
    original = load_for_inference(before.model)
    if before.signature.get("model") != f"{before.model} {fingerprint.of_model(original)}":
        raise SuiteError(
            f"edit.before: {before.model} is not the model that answered in {before.folder} any more; evaluate it "
            "again with --force"
        )
    rows = everyday("heldout")[: settings.drift]
    found = drift(model.model, original, model.tokenizer, rows)
    return [
        Estimate("drift: KL(original || model), nats a token", "all", mean_of([one.kl for one in found]), len(found)),
        Estimate("drift: same likeliest token", "all", mean_of([one.same for one in found]), len(found)),
    ]
