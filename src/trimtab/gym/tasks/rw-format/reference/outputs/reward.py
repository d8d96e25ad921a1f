"""A dense reward: the share of digits that are there and of neighbours in order, and less for a wrong end."""

from collections import Counter
from itertools import pairwise


def reward(prompt, completion):
    digits = completion.rstrip(".")
    there = (Counter(digits) & Counter(prompt)).total() / len(prompt)
    ordered = sum(a <= b for a, b in pairwise(digits)) / max(len(digits) - 1, 1)
    too_many = abs(len(digits) - len(prompt))
    return there + ordered - 0.3 * too_many - 0.5 * (not completion.endswith("."))
