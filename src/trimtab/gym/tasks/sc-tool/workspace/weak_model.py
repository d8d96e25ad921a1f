"""A weak language model, scripted: it knows what an order holds, writes sloppily, and cannot do sums in its head."""

import random

CALLS = 4
"""times that it may be asked about one order"""
SHARES = {
    "right": 50,
    "cut off": 12, "words for numbers": 6, "wrong brackets": 6, "no call": 6,  # 30 % are malformed
    "a line is missing": 6, "a wrong price": 8, "a wrong count": 6,  # 20 % are well-formed and wrong
}  # fmt: skip
"""of a hundred replies"""
BEFORE = ("", "", "", "Sure! ", "Let me see. ", "The order is clear.\n")
AFTER = ("", "", "", " That should do it.", "\nI hope this helps!", " (all lines)")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Order:
    """What a customer bought: a name such as K-481, and lines of (count, price in cents)."""

    def __init__(self, draw: random.Random):
        self.name = f"{draw.choice('BDGKMPRT')}-{draw.randrange(100, 1000)}"
        self.lines = [(draw.randint(2, 9), draw.randrange(101, 10_000)) for _ in range(draw.randint(3, 6))]
        self.cents = sum(count * price for count, price in self.lines)

    def question(self) -> str:
        return f"Order {self.name} has {len(self.lines)} lines. What does it cost in all?"


class WeakModel:
    """Orders, and replies about them.

    Args:
        key: all that is drawn depends on it.
    """

    def __init__(self, key: str, orders: int):
        self.key = key
        self.orders = [Order(random.Random(f"{key} order {number}")) for number in range(orders)]
        self._kinds = []
        for call in range(CALLS):
            kinds = [kind for kind, share in SHARES.items() for _ in range(-(-orders * share // 100))]
            random.Random(f"{key} call {call}").shuffle(kinds)
            self._kinds.append(kinds)

    def reply(self, number: int, call: int, prompt: str) -> str:
        """What it says to a prompt, when it is asked about an order for the first (0), second (1) ... time."""
        order, draw = self.orders[number], random.Random(f"{self.key} reply {number} {call}")
        if order.name not in prompt:
            return "Which order do you mean?"
        kind = self._kinds[call][number] if "CALC(" in prompt else "no call"
        return draw.choice(BEFORE) + _written(kind, list(order.lines), draw) + draw.choice(AFTER)


def _written(kind: str, lines: list[tuple[int, int]], draw: random.Random) -> str:
    at = draw.randrange(len(lines))
    count, price = lines[at]
    if kind == "no call":
        cents = sum(count * price for count, price in lines)
        return f"It costs {(cents + draw.choice((-1, 1)) * draw.randrange(10, 5000)) / 100:.2f} in all."
    if kind == "a line is missing":
        del lines[at]
    if kind == "a wrong price":
        lines[at] = count, draw.choice([one for one in _swapped(price) if one != price] or [price + 10])
    if kind == "a wrong count":
        lines[at] = count + draw.choice((-1, 1)), price
    named = [WORDS[count] if kind == "words for numbers" else str(count) for count, _ in lines]
    text = " + ".join(f"{count}*{price / 100:.2f}" for count, (_, price) in zip(named, lines))
    if kind == "cut off":
        return "CALC(" + text[: draw.randrange(4, len(text) - 3)]
    return f"CALC[{text}]" if kind == "wrong brackets" else f"CALC({text})"


def _swapped(price: int) -> list[int]:
    """The price with two neighbouring digits swapped."""
    digits = f"{price:04}"
    return [int(digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]) for at in range(3)]
