"""Numbers of things in messages."""


def count(number: int, noun: str, plural: str = "") -> str:
    """ "1 row", "1,200 rows"; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
