"""Features of a reply: how long it is."""


def features(prompt, response):
    """Numbers that tell a good reply from a bad one."""
    return [len(response.split())]
