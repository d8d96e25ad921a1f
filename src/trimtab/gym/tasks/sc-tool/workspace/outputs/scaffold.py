"""One shot: ask the model once, and calculate what it says."""

import re

from calculator import calculate

PROMPT = "{question} Write the sum as CALC(...), such as CALC(3*12.50 + 4*8.30)."


def solve(question, ask):
    """The total of an order.

    Args:
        question: such as "Order K-481 has 4 lines. What does it cost in all?"
        ask: takes a prompt and returns the model's reply; it raises when the calls for this order are used up.
    """
    found = re.search(r"CALC\(([^)]*)\)", ask(PROMPT.format(question=question)))
    return calculate(found[1]) if found else None
