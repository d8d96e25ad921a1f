"""Numbers of things in messages."""


def count(number: int, noun: str, plural: str = "") -> str:
    """ "1 row", "1,200 rows"; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def exact(number: float) -> str:
    """A number without needless digits, by which it can be told apart from any other."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))
