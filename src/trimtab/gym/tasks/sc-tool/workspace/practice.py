"""Score outputs/scaffold.py on orders for practice: python3 practice.py [KEY]"""

import sys
from collections import Counter

from weak_model import CALLS, WeakModel

from serve import OutOfCalls, answered

ORDERS = 500


def main() -> None:
    sys.path.insert(0, "outputs")
    from scaffold import solve

    model = WeakModel(sys.argv[1] if len(sys.argv) > 1 else "practice", ORDERS)
    solved, calls, errors = 0, 0, Counter()
    for number, order in enumerate(model.orders):
        asked = []

        def ask(prompt: str, number: int = number, asked: list[str] = asked) -> str:
            if len(asked) == CALLS:
                raise OutOfCalls
            asked.append(prompt)
            return model.reply(number, len(asked) - 1, prompt)

        answer, error = answered(solve, order.question(), ask)
        solved += isinstance(answer, int | float) and abs(100 * answer - order.cents) < 0.5
        calls += len(asked)
        if error:
            errors[error] += 1
    print(f"success {solved / ORDERS:.3f}, {calls / ORDERS:.2f} calls an order")
    for error, times in errors.most_common(3):
        print(f"{times} orders: {error}")


if __name__ == "__main__":
    main()
