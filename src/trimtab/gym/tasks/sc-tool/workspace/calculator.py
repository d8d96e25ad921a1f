"""The calculator: sums, differences and products of numbers."""

import ast
import operator

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def calculate(expression: str) -> float:
    """The value of an expression such as "3*12.50 + 4*8.30".

    Raises:
        ValueError: if it is anything else.
    """
    try:
        return float(_value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, RecursionError, MemoryError, OverflowError):
        raise _Unclear(expression) from None


class _Unclear(ValueError):
    def __init__(self, expression: object):
        super().__init__(f"this is no expression that a calculator knows: {str(expression)[:80]!r}")


def _value(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float()):
            return node.value
        case ast.BinOp() if type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise _Unclear(ast.unparse(node))
