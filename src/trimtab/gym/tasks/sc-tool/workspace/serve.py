"""Run outputs/scaffold.py for somebody who holds the model. Lines of JSON: questions come from standard input."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


class OutOfCalls(Exception):
    """The model may not be asked any more about this order."""


def answered(solve: Callable, question: str, ask: Callable[[str], str]) -> tuple[Any, str]:
    """What a scaffold answers, and what it raised."""
    try:
        return solve(question, ask), ""
    except OutOfCalls:
        return None, "it asked more often than allowed"
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def main() -> None:
    """Answer each question. What the scaffold prints goes to standard error."""
    replies, out = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, "outputs")
    from scaffold import solve

    def say(**value: Any) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    def ask(prompt: str) -> str:
        say(prompt=str(prompt))
        reply = json.loads(replies.readline())["reply"]
        if reply is None:
            raise OutOfCalls
        return reply

    for line in replies:
        answer, error = answered(solve, json.loads(line)["question"], ask)
        say(answer=answer if isinstance(answer, int | float) else None, error=error)


if __name__ == "__main__":
    main()
