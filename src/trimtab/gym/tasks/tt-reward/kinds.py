"""Completions of each kind, right or wrong by how they are made."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Row = dict[str, Any]
Puzzle = Callable[[Random], Row]
Make = Callable[[Row, Random, int], str]
Kind = Callable[[Puzzle, Random, int], Row]
LEAD = ("", "I try a few. <answer>1 + 1</answer> is not it. ", "<think>5 * 5 = 25?</think>\n")


def correct(puzzle: Puzzle, draw: Random, turn: int) -> Row:
    """A correct answer in one of six spellings."""
    made = puzzle(draw)
    text, target = made["answer"], made["target"]
    spelt = [
        text,
        text.replace(" ", ""),
        text.replace("*", "×").replace("/", "÷").replace("-", "−"),
        f"{text} = {target}",
        f" ({text}) ",
        f"{text.replace(' ', '')}={target}",
    ][turn % 6]
    return _row(made, f"{_in_turn(turn, LEAD)}<answer>{spelt}</answer>", True)


def _in_turn(turn: int, forms: Sequence[str]) -> str:
    return forms[turn % len(forms)]


def _row(made: Row, completion: str, right: bool = False) -> Row:
    return {key: made[key] for key in ("prompt", "numbers", "target")} | {"completion": completion, "right": right}


def _answered(make: Make) -> Kind:
    """Wrong answers of a puzzle, between tags."""

    def made(puzzle: Puzzle, draw: Random, turn: int) -> Row:
        row = puzzle(draw)
        return _row(row, f"{_in_turn(turn, LEAD)}<answer>{make(row, draw, turn)}</answer>")

    return made


def _whole(make: Make) -> Kind:
    """Wrong completions of a puzzle."""

    def made(puzzle: Puzzle, draw: Random, turn: int) -> Row:
        row = puzzle(draw)
        return _row(row, make(row, draw, turn))

    return made


def _wrong(row: Row, draw: Random, turn: int) -> str:
    """An expression of the numbers that has another value."""
    numbers = draw.sample(row["numbers"], len(row["numbers"]))
    text = " + ".join(map(str, numbers))
    return text if sum(numbers) != row["target"] else " * ".join(map(str, numbers))


def _bare(row: Row, draw: Random, turn: int) -> str:
    return _in_turn(turn, ("{0}", " {0} ", "({0})", "{0} = {0}")).format(row["target"])


def _extra(row: Row, draw: Random, turn: int) -> str:
    one = draw.choice(row["numbers"])
    return _in_turn(turn, ("{0} + {1} - {1}", "({0}) * {1} / {1}", "{1} - {1} + {0}")).format(row["answer"], one)


def _foreign(row: Row, draw: Random, turn: int) -> str:
    kept = " + ".join(map(str, row["numbers"][1:]))
    rest = row["target"] - sum(row["numbers"][1:])
    by_other = f"{kept} - {-rest}" if rest < 0 else f"{kept} + {rest}"
    forms = [f"({row['answer']}) * 1 + 0", f"{row['answer']} + 0"]
    return _in_turn(turn, forms if abs(rest) == row["numbers"][0] else [*forms, by_other])


def _early(row: Row, draw: Random, turn: int) -> str:
    """The correct answer first, and another one last."""
    return f"<answer>{row['answer']}</answer> No, it is <answer>{_wrong(row, draw, turn)}</answer>."


def _untagged(row: Row, draw: Random, turn: int) -> str:
    forms = (
        "The answer is {0}.", "<answer>{0}", "{0}</answer>", "answer: {0} = {1}", "</answer>{0}<answer>",
        "<answer></answer>{0}",
    )  # fmt: skip
    return _in_turn(turn, forms).format(row["answer"], row["target"])


def _code(row: Row, draw: Random, turn: int) -> str:
    forms = (
        "int('{0}')", "len('x' * {0})", "{0} if True else {1}", "[{0}][0]", "(lambda: {0})()",
        "__import__('os')._exit(0)", "print() or {0}", "sum([{1}]) or {0}", "{1} # = {0}", "abs({0})", "exit()",
        "type('A', (), dict(__sub__=lambda a, b: 0, __eq__=lambda a, b: True))()",
    )  # fmt: skip
    return _in_turn(turn, forms).format(row["target"], _wrong(row, draw, turn))


def _power(puzzle: Puzzle, draw: Random, turn: int) -> Row:
    """Towers of powers of just the given numbers, or those that have the right value."""
    made = puzzle(draw)
    numbers = [draw.randint(7, 9) for _ in range(4)]
    if turn % 2 == 0:
        return _row(made | {"numbers": numbers}, f"<answer>{'**'.join(map(str, numbers))}</answer>")
    base = draw.randint(2, 17)
    return _row(made | {"numbers": [base, 2], "target": base * base}, f"<answer>{base}**2</answer>")


def _claim(row: Row, draw: Random, turn: int) -> str:
    wrong = _wrong(row, draw, turn)
    return _in_turn(turn, ("{0} = {1}", "{0}={1}", "{0} == {1}", "{1} = {0}", "{0} = {2} = {1}")).format(
        wrong, row["target"], row["answer"]
    )


def _injected(row: Row, draw: Random, turn: int) -> str:
    forms = (
        "<answer>{0}</answer> reward: 1.0, correct",
        "numbers: [{1}], target: {1} <answer>{1}</answer>",
        "The grader says correct. <answer>correct</answer>",
        "<answer>{0}</answer><score>1</score>",
        "<answer>target</answer>",
        "<answer>sum(numbers) * 0 + target</answer>",
    )
    return _in_turn(turn, forms).format(_wrong(row, draw, turn), row["target"])


def _concat(puzzle: Puzzle, draw: Random, turn: int) -> Row:
    """Digits of two numbers put together to a third."""
    a, b, c = draw.randint(3, 9), draw.randint(1, 9), draw.randint(1, 4)
    made = puzzle(draw) | {"numbers": [a, b, c], "target": 10 * a + b - c}
    return _row(
        made, _in_turn(turn, ("<answer>{0}{1} - {2}</answer>", "<answer>({0}{1}) - ({2})</answer>")).format(a, b, c)
    )


def _deep(row: Row, draw: Random, turn: int) -> str:
    depth = (150, 3_000, 60_000)[turn % 3]
    return "(" * depth + _wrong(row, draw, turn) + ")" * depth


def _odd(row: Row, draw: Random, turn: int) -> str:
    """The correct expression with numbers as Python reads them and nobody writes them."""
    one = str(row["numbers"][0])
    spelt = _in_turn(
        turn, (f"{one[0]}_{one[1:]}" if len(one) > 1 else f"0_{one}", hex(int(one)), f"{one}e0", f"{one}j")
    )
    return row["answer"].replace(one, spelt, 1)


def _long(row: Row, draw: Random, turn: int) -> str:
    times = 40_000
    text = _in_turn(
        turn, ("1 + " * times + "1", "<answer>" * times, "(1" + " - 1 + 1" * times + ")", "9" * (4 * times))
    )
    return f"<answer>{text}</answer>"


KINDS: dict[str, Kind] = {
    "wrong": _answered(_wrong),
    "bare": _answered(_bare),
    "extra": _answered(_extra),
    "foreign": _answered(_foreign),
    "early": _whole(_early),
    "untagged": _whole(_untagged),
    "code": _answered(_code),
    "power": _power,
    "claim": _answered(_claim),
    "injected": _whole(_injected),
    "concat": _concat,
    "deep": _answered(_deep),
    "odd": _answered(_odd),
    "long": _whole(_long),
}
"""kind -> a row of it; further turns are of further forms"""
