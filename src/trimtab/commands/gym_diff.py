"""Compare two snapshots of runs of `trimtab gym run`, such as of two branches."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from trimtab.common.settings import CommandSettings

if TYPE_CHECKING:
    from trimtab.gym.snapshots import Side


class GymDiffSettings(CommandSettings):
    """Which snapshots."""

    positional = ("before", "after")
    words: ClassVar[str] = "RUN[@STEP] RUN[@STEP]"
    alone = False
    before: str
    """Folder of a run, for its last snapshot, or with @STEP that of a step."""
    after: str
    """The other one."""


SETTINGS = GymDiffSettings


def main(settings: GymDiffSettings) -> None:
    """Print the files that differ, and what was used and submitted."""
    from rich.console import Console

    from trimtab.common.terminal import cells, table_of
    from trimtab.gym.snapshots import diff

    found, console = diff(_side(settings.before), _side(settings.after)), Console()
    files = table_of("", "file", "bytes before", "after", box=None, pad_edge=False)
    for path, before, after in found.files:
        what = "added" if before is None else "removed" if after is None else "changed"
        files.add_row(*cells((what, path, _shown(before), _shown(after))))
    console.print(files if found.files else "no file differs")
    used = table_of("", "before", "after", box=None, pad_edge=False)
    for key, (before, after) in found.budget.items():
        used.add_row(*cells((key, f"{before:,.6g}", f"{after:,.6g}")))
    for number, before, after in found.submissions:
        used.add_row(
            *cells((f"score of submission {number}", *("" if one is None else f"{one:.2f}" for one in (before, after))))
        )
    console.print(used)


def _side(word: str) -> "Side":
    """A run and its snapshot."""
    from trimtab.gym.snapshots import read

    run, _, step = word.rpartition("@")
    if not (run and step.isdigit()):
        return Path(word), read(Path(word))
    return Path(run), read(Path(run), int(step))


def _shown(size: int | None) -> str:
    return "" if size is None else f"{size:,}"
