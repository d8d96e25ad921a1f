"""Verifiable rewards with TRL's GRPOTrainer signature: built-in ones by name, or your own functions."""

import inspect
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trimtab.common import fingerprint, user_code
from trimtab.common.errors import UserError, nearest
from trimtab.data.generators import reasoning
from trimtab.data.sources import line_of
from trimtab.rewards import edit
from trimtab.rewards._marks import without_reasoning
from trimtab.rewards.final import is_correct
from trimtab.rewards.graded import beginning
from trimtab.rewards.options import correct, lettered
from trimtab.rewards.parsing import letters
from trimtab.rewards.pool import MATHEMATICS, MathPool

LETTERS = "ABCDE"
"""options of `choice` for rows without a column `options`"""
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
"""what TRL passes to every reward function besides the columns of the rows"""


class RewardError(UserError):
    """An unknown reward, rows that it cannot grade, or values that are not rewards."""


Grader = Callable[[Sequence[str], Sequence[Mapping[str, Any]]], Sequence[bool]]
"""grade(texts, their rows) -> which are correct"""


class Reward:
    """A reward function with every call checked.

    Args:
        name: in logs and messages.
        function: `function(prompts, completions, completion_ids, **columns)` gives a number for each completion, or
            None for one that it does not grade.
        needs: columns that must not be empty in any row.
        check: raises a ValueError for a row that it cannot grade.
        files: source files of a user's own function, with those they import.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        needs: Sequence[str],
        check: Callable[[Mapping[str, Any]], Any] = lambda row: None,
        files: Sequence[Path] = (),
    ):
        self.__name__ = name
        self.function, self.needs, self.check, self.files = function, tuple(needs), check, tuple(files)
        self.source = fingerprint.of_files(files) if files else None
        """fingerprint of the files; None for a built-in reward"""

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        """One finite number for each completion, or None.

        Args:
            prompts, completions: texts, or chats as lists of messages.
            columns: one value for each completion; and whatever else TRL passes.

        Raises:
            RewardError: naming the function and the row, for a row without a needed column, an exception, the wrong
                number of values, or a value that is not a finite number.
        """
        given = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, **columns}
        for place in range(len(prompts)):
            row = {"prompt": prompts[place], **_row(columns, place, len(prompts))}
            _check(self, row, f"row {place + 1} of the batch")
        try:
            values = self.function(**given)
            values = list(values) if isinstance(values, Iterable) else values  # a generator raises only here
        except Exception as error:
            where = self._raising(given, len(prompts))
            raise RewardError(f"reward {self.__name__}: {user_code.raised(error)}; {where}") from error
        if not isinstance(values, list):
            raise RewardError(
                f"reward {self.__name__} returned {values!r:.60}, expected a list of {len(prompts)} numbers"
            )
        values = [_plain(value) for value in values]
        if len(values) != len(prompts):
            raise RewardError(
                f"reward {self.__name__} returned {len(values)} values for {len(prompts)} completions, the first of "
                f"{beginning(prompts[0])}" if len(prompts) else f"reward {self.__name__} returned values for nothing"
            )  # fmt: skip
        for prompt, value in zip(prompts, values):
            if value is not None and (not isinstance(value, numbers.Real) or not math.isfinite(value)):
                raise RewardError(
                    f"reward {self.__name__} returned {value!r:.60} for a completion of {beginning(prompt)}, expected "
                    "a finite number, or None"
                )
        return [None if value is None else float(value) for value in values]

    def _raising(self, given: Mapping[str, Any], count: int) -> str:
        """Names the row at which the function raises."""
        for place in range(count):
            try:
                found = self.function(**{key: _one(value, place, count) for key, value in given.items()})
                _ = list(found) if isinstance(found, Iterable) else None
            except Exception:
                return f"the completion is of {beginning(given['prompts'][place])}"
        return f"of {count} completions, none of which does so alone"


def _plain(value: Any) -> Any:
    """A number of numpy or torch as a Python number."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def load(
    name: str, correct: float = 1.0, incorrect: float = 0.0, options: Mapping[str, Any] = MappingProxyType({})
) -> Reward:
    """Load a reward by its name, FILE.py:FUNCTION or package.module:FUNCTION.

    `exact`, `choice` and `math` read a column `answer`, `reasoning_gym` the column `task` of rows from
    `reasoning_gym:NAME`, which it grades with the generator's own scorer. Reasoning between <think> tags is ignored.

    Args:
        name: as above.
        correct, incorrect: values of a correct and an incorrect answer; LCO's rule reward is 1 and -1. Your own
            function sets its values itself, and so does `edit` (see `trimtab.rewards.edit`): an answer counts as
            correct if its value is at least `correct`.
        options: of `edit`.

    Raises:
        RewardError: if there is no such reward, or it cannot be loaded or called as TRL does.
    """
    if options and name != "edit":
        raise RewardError(f"reward {name} has no options; leave them out")
    if name == "edit":
        return _edit(options, incorrect)
    if ":" in name:
        if incorrect != 0.0 or not math.isfinite(correct):
            raise RewardError(
                f"reward {name} sets its own values, got correct={correct} and incorrect={incorrect}; correct is the "
                f"smallest value of a correct answer, and incorrect is only for {', '.join(REWARDS)}"
            )
        return _user_function(name)
    if not (math.isfinite(correct) and math.isfinite(incorrect) and correct > incorrect):
        raise RewardError(f"correct must be greater than incorrect, got correct={correct} and incorrect={incorrect}")
    if name not in REWARDS:
        hint = nearest(
            name,
            [*REWARDS, "edit"],
            f"known rewards: {', '.join(REWARDS)}, edit, FILE.py:FUNCTION and package.module:FUNCTION",
        )
        raise RewardError(f"there is no reward {name!r}; {hint}")
    make, needs, check = REWARDS[name]
    grade = make()

    def function(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        texts = [completion_text(completion) for completion in completions]
        rows = [_row(columns, place, len(prompts)) for place in range(len(prompts))]
        return [correct if good else incorrect for good in grade(texts, rows)]

    return Reward(name, function, needs, check)


def check_rows(reward: Reward, rows: Iterable[Mapping[str, Any]], source: str = "") -> None:
    """Refuse rows that the reward could not grade, before anything is generated.

    Args:
        source: of the rows, for messages.

    Raises:
        RewardError: naming the first such row by its file, number, line and prompt, and what is missing.
    """
    for number, row in enumerate(rows, start=1):
        try:
            _check(reward, row, "")
        except RewardError as error:
            at = f"{source}: row {number}{line_of(source, number)}" if source else f"row {number}"
            raise RewardError(f"{at}{error}") from None


def completion_text(completion: Any) -> str:
    """The text of a completion (for a chat, its last message) without reasoning.

    Raises:
        RewardError: for anything else.
    """
    text = completion[-1].get("content") if isinstance(completion, list) and completion else completion
    if text is None or text == []:  # a chat that ends with a call of a tool, or an empty one
        return ""
    if not isinstance(text, str):
        raise RewardError(f"a completion is {completion!r:.80}, expected a text or messages with texts")
    return without_reasoning(text)


# ---------------------------------------------------------------- built-in rewards


def _exact() -> Grader:
    return lambda texts, rows: [is_correct(text, str(row["answer"])) for text, row in zip(texts, rows)]


def _choice() -> Grader:
    def grade(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        found = []
        for text, row in zip(texts, rows):
            offered, target = _target(row)
            found.append(set(letters(text, offered, several=len(target) > 1)) == set(target))
        return found

    return grade


def _target(row: Mapping[str, Any]) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The options by letter, and the correct ones."""
    if row.get("options"):
        options = lettered(row["options"])
        return options, correct(options, row["answer"])
    target = letters(str(row["answer"]), LETTERS, several=True)
    if not target:
        raise RewardError(f"answer {row['answer']!r:.40} names none of {', '.join(LETTERS)}; give a column `options`")
    return dict.fromkeys(LETTERS, ""), target


def _pooled(name: str, module: str, column: str) -> Grader:
    pool = MathPool(grader=module)

    def grade(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        outcomes = pool.grade(texts, [str(row[column]) for row in rows])
        log = rows[0].get("log_metric") if rows else None
        if log is not None:
            for outcome in ("unparsed", "timed out", "crashed"):
                log(f"{name}/{outcome.replace(' ', '_')}", outcomes.count(outcome) / len(outcomes))
        return [outcome == "correct" for outcome in outcomes]

    return grade


def _edit(options: Mapping[str, Any], incorrect: float) -> Reward:
    """The four-part reward of EtCon."""
    if incorrect != 0.0:
        raise RewardError("reward edit sets its own values; leave out incorrect")
    settings = edit.settings_of(options)

    def function(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        texts = [completion_text(completion) for completion in completions]
        rows = [_row(columns, place, len(prompts)) for place in range(len(prompts))]
        return [one.reward for one in edit.graded(texts, rows, settings)]

    return Reward("edit", function, ["answer"])


REWARDS: dict[str, tuple[Callable[[], Grader], list[str], Callable[[Mapping[str, Any]], Any]]] = {
    "exact": (_exact, ["answer"], lambda row: None),
    "choice": (_choice, ["answer"], _target),
    "math": (partial(_pooled, "math", MATHEMATICS, "answer"), ["answer"], lambda row: None),
    "reasoning_gym": (
        partial(_pooled, "reasoning_gym", "trimtab.rewards.puzzles", "task"),
        ["task"],
        lambda row: reasoning.place_of(row["task"]),
    ),
}


# ---------------------------------------------------------------- a user's own


def _user_function(name: str) -> Reward:
    place, _, attribute = name.rpartition(":")
    module = user_code.load(place, "reward", name, "FILE.py:FUNCTION", RewardError)
    function = getattr(module, attribute, None)
    if function is None:
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        hint = nearest(attribute, known, f"its functions: {', '.join(known) or 'none'}")
        raise RewardError(f"reward {name}: {place} has no {attribute!r}; {hint}")
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise RewardError(f"reward {name} must be a plain function, not {function!r:.60}")
    parameters = inspect.signature(function).parameters.values()
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
        raise RewardError(f"reward {name} must accept **columns; TRL passes it every column of the rows by name")
    required = [one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    needs = [column for column in required if column not in GIVEN]
    return Reward(attribute, function, needs, files=user_code.files([module, _defined_in(function)]))


def _defined_in(function: Callable[..., Any]) -> Any:
    """The module that defines a function, which may differ from the one it was loaded from."""
    plain = inspect.unwrap(function.func if isinstance(function, partial) else function)
    defined = sys.modules.get(getattr(plain, "__module__", None) or "")
    if not inspect.isroutine(plain) and not inspect.isclass(plain):  # an object that can be called
        defined = sys.modules.get(type(plain).__module__)
    return defined


# ---------------------------------------------------------------- rows


def _check(reward: Reward, row: Mapping[str, Any], where: str) -> None:
    prompt = beginning(row.get("prompt", ""))
    for column in reward.needs:
        value = row.get(column)
        value = value.strip() if isinstance(value, str) else value
        if value is None or (isinstance(value, (str, list, dict)) and not value):
            raise RewardError(
                f"{where} (prompt {prompt}) has no `{column}`, which reward {reward.__name__} reads; its columns: "
                f"{', '.join(key for key in row if key not in GIVEN)}"
            )
    try:
        reward.check(row)
    except ValueError as error:
        raise RewardError(f"{where} (prompt {prompt}): {error}") from None


def _row(columns: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    return {key: value[place] if _listed(value, count) else value for key, value in columns.items()}


def _one(value: Any, place: int, count: int) -> Any:
    return value[place : place + 1] if _listed(value, count) else value


def _listed(value: Any, count: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == count
