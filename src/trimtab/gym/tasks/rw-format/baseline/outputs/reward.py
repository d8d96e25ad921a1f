"""A reward for completions of the right length."""


def reward(prompt, completion):
    """How good a completion such as "1234567." is for a prompt such as "3172654"."""
    return -abs(len(completion) - 8)
