"""List the research tasks that come with trimtab."""

from typing import ClassVar

from trimtab.common.settings import CommandSettings


class GymListSettings(CommandSettings):
    """There are none."""

    words: ClassVar[str] = ""
    alone = False


SETTINGS = GymListSettings


def main(settings: GymListSettings) -> None:
    """Print names, what they are about, and what an agent may use."""
    from rich.console import Console

    from trimtab.common.terminal import cells, table_of
    from trimtab.gym.finding import bundled, find_task

    table = table_of("task", "domain", "what it is", "minutes", "submissions", box=None, pad_edge=False)
    for name in bundled():
        of = find_task(name).settings
        table.add_row(*cells((name, of.domain, of.title, f"{of.budget.seconds / 60:g}", of.budget.submissions)))
    Console().print(table)
