"""Asking a server for many answers at once: each is stored when it comes, and nothing is asked twice."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from rich.console import Console

from trimtab.common.count import count
from trimtab.common.errors import GIVE_UP, Unanswered, UserError
from trimtab.common.files import JsonLines
from trimtab.common.progress import advance, bar
from trimtab.common.terminal import say
from trimtab.evals.openai_model import REFUSED, OpenAIModel
from trimtab.evals.spending import BudgetReached, Usage, described, prompt_tokens

Row = dict[str, Any]


def ask_server(
    wanted: Sequence[tuple[int, int]],
    chats: Sequence[Any],
    model: OpenAIModel,
    lines: JsonLines,
    *,
    seed: int,
    max_new_tokens: int,
    console: Console,
) -> tuple[dict[tuple[int, int], Row], str]:
    """(task, which of its answers) -> row, of answers that are stored or come now; and why the work has stopped early,
    if the budget is reached. `model.batch` requests are under way at a time.

    Args:
        wanted: (task, which of its answers); its place gives the seed.
        chats: by task.
        lines: rows of earlier runs; those with an error are asked again. New rows are appended as they come.

    Raises:
        UserError: if the server refuses, or another model answers; with what is kept.
        Unanswered: if it is not there, or the last `GIVE_UP` requests all failed; with what is kept.
    """
    rows = {(row["task"], row["number"]): row for row in lines.rows}
    open_ = [(place, key) for place, key in enumerate(wanted) if key not in rows or rows[key].get("error")]
    if len(open_) < len(wanted):
        say(console, f"{len(wanted) - len(open_)} of {count(len(wanted), 'answer')} are there already")
    if not open_:
        return rows, ""
    _announce(model, [chats[task] for _, (task, _) in open_], max_new_tokens, console)
    storing = threading.Lock()

    def one(place: int, key: tuple[int, int]) -> Row:
        row = _row(model, chats[key[0]], key, seed + place, max_new_tokens)
        with storing:  # here, so that it is kept whatever happens to the others
            lines.append([row])
        return row

    failed = 0
    stopped: Exception | None = None
    with bar(console) as progress:
        shown: Any = progress.add_task("answers", total=len(open_), note="answers")
        for found in _at_once(one, open_, model):
            if isinstance(found, Exception):
                stopped = stopped or found
                continue
            rows[found["task"], found["number"]] = found
            advance(progress, shown, 1)
            error = found.get("error", "")
            failed = failed + 1 if error and not error.startswith(REFUSED) else 0
            if failed >= GIVE_UP and stopped is None:
                stopped = Unanswered(f"{model.url}: the last {failed} requests failed, the last with: {error}")
                model.stopped.set()
    say(console, f"used so far: {described(model.budget.spent, model.budget.prices)}")
    kept = f"kept in {lines.path}: {count(sum(not row.get('error') for row in rows.values()), 'answer')}"
    if isinstance(stopped, BudgetReached) and not rows:
        raise NoRequestAllowed(f"{stopped}; no answer is there yet: raise the budget, or lower --max-new-tokens")
    if isinstance(stopped, BudgetReached):
        return rows, f"stopped by {stopped}; {kept}; the same command with a larger budget continues"
    if stopped is not None:
        again = "" if "same command again" in str(stopped) else "; run the same command again to continue"
        raise type(stopped)(f"{stopped}; {kept}{again}") from None
    return rows, ""


class NoRequestAllowed(UserError):
    """A budget that allows no request."""


def _announce(model: OpenAIModel, chats: Sequence[Any], max_new_tokens: int, console: Console) -> None:
    """What the open requests cost at most, before the first is sent."""
    most = Usage(len(chats), sum(map(prompt_tokens, chats)), len(chats) * max_new_tokens)
    say(console, f"estimate, at most: {described(most, model.budget.prices)}")


def _row(model: OpenAIModel, chat: Any, key: tuple[int, int], seed: int, max_new_tokens: int) -> Row:
    reply, usage = model.sample(chat, max_new_tokens, seed)
    more = {"error": reply.error} if reply.error else {}
    cut = {"cut": True} if reply.cut else {}
    return {"task": key[0], "number": key[1], "text": reply.text, **cut, **more, "usage": usage.row()}


def _at_once(
    one: Callable[[int, tuple[int, int]], Row], open_: Sequence[tuple[int, tuple[int, int]]], model: OpenAIModel
) -> Iterator[Row | Exception]:
    """Results as they come. After the first exception, and on Ctrl-C, no further request begins, and those under way
    are waited for: their answers are paid."""
    model.stopped.clear()
    asked, running = iter(open_), set[Future[Row]]()
    with ThreadPoolExecutor(max_workers=model.batch) as pool:
        try:
            while True:
                free = 0 if model.stopped.is_set() else model.batch - len(running)
                running |= {pool.submit(one, *item) for item in islice(asked, free)}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    found = _result(future)
                    if isinstance(found, Exception):
                        model.stopped.set()
                    yield found
        finally:
            model.stopped.set()


def _result(future: Future[Row]) -> Row | Exception:
    try:
        return future.result()
    except (UserError, Unanswered, BudgetReached) as error:
        return error
