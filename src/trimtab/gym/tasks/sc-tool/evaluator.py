"""The model stays here, with orders that are drawn by a hidden key; the scaffold asks it from a sandbox of its own.

It sees a question, and whatever the model replies. Calls are counted here.
"""

from typing import Any

from trimtab.gym.judging import Rejected, Submitted

ORDERS = 800
"""of each split"""
SECONDS = 50.0
PROMPT = 4000
"""characters"""


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    submitted.text("outputs/scaffold.py", 200_000)
    key = (submitted.hidden / "key.txt").read_text().strip()
    return {
        split: [{"name": "success", "value": success(submitted, f"{key} {split} {submitted.seed}")}]
        for split in ("public", "private")
    }


def success(submitted: Submitted, key: str) -> float:
    """Share of the orders whose total is right to a cent."""
    weak_model = submitted.module("workspace/weak_model.py")
    model = weak_model.WeakModel(key, ORDERS)
    names = ("serve.py", "calculator.py")
    given = {name: submitted.task / "workspace" / name for name in names}
    solved, errors = 0, []
    with submitted.talk(["python3", "serve.py"], SECONDS, given) as talk:
        for number, order in enumerate(model.orders):
            calls = 0
            said = talk.ask({"question": order.question()})
            while isinstance(said, dict) and isinstance(prompt := said.get("prompt"), str):
                within = calls < weak_model.CALLS
                said = talk.ask({"reply": model.reply(number, calls, prompt[:PROMPT]) if within else None})
                calls += 1
            if not isinstance(said, dict) or "answer" not in said:
                raise Rejected("outputs/scaffold.py wrote neither a prompt nor an answer")
            solved += is_total(said["answer"], order.cents)
            errors += [said.get("error")] if said.get("error") else []
    if len(errors) == ORDERS:
        raise Rejected(f"outputs/scaffold.py failed at every order; at the first one: {str(errors[0])[:300]}")
    return solved / ORDERS


def is_total(answer: Any, cents: int) -> bool:
    number = isinstance(answer, int | float) and not isinstance(answer, bool) and abs(answer) < 1e9
    return number and abs(100 * answer - cents) < 0.5
