"""A recipe's trajectories as the samples of one role of an agent."""

from collections import Counter
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from trimtab.common.count import count
from trimtab.data.agent_roles import ROLES, AgentRole, Prompter, Sample, prompter_of, samples, shortened
from trimtab.data.sources import DataError, Row
from trimtab.data.tokens import Coder, coder
from trimtab.data.trajectories import Trajectory, trajectory
from trimtab.runs.agent_key import AgentData


def role_rows(
    rows: Sequence[Row], agent: AgentData, tokenizer: PreTrainedTokenizerBase, max_length: int, source: str
) -> tuple[list[Row], str]:
    """Prompts and completions of the role's samples, and what is to be said of them.

    Raises:
        DataError: for a row that is no trajectory, or if no sample is left.
    """
    prompter, coded = prompter_of(tokenizer, agent.templates), coder(tokenizer)
    roles: Sequence[AgentRole] = ROLES if agent.role == "all" else (agent.role,)
    remarks, left_out, found = Counter[str](), Counter[str](), []
    for number, row in enumerate(rows, start=1):
        whole = trajectory(row, f"{source}: row {number}")
        remarks += whole.remarks
        for role in roles:
            for one in samples(whole, role, prompter, left_out):
                kept = _fitted(whole, one, prompter, coded, max_length, remarks) if agent.cut else one
                if kept is None:
                    left_out["longer than the limit on tokens even without their history"] += 1
                else:
                    found.append({"prompt": kept.prompt, "completion": kept.target})
    if not found:
        lost = ", ".join(f"{number} {what}" for what, number in left_out.items()) or "no turn is one"
        raise DataError(
            f"{source}: {count(len(rows), 'trajectory', 'trajectories')} hold no sample of a {agent.role}: {lost}"
        )
    return found, _note(source, agent.role, len(rows), len(found), remarks + prompter.remarks, left_out)


def _fitted(
    whole: Trajectory, one: Sample, prompter: Prompter, coded: Coder, limit: int, remarks: Counter
) -> Sample | None:
    def fits(sample: Sample) -> bool:
        return len(coded.prompt(sample.prompt + sample.target, True)) + 1 <= limit  # and the end token

    if fits(one):
        return one
    cut = shortened(whole, one.role, one.turn, prompter, fits)
    remarks["samples have a cut history, so as to fit"] += cut is not None
    return cut


def _note(source: str, role: str, rows: int, made: int, remarks: Counter, left_out: Counter) -> str:
    whose = "all roles" if role == "all" else f"the {role}"
    said = [f"{number} {what}" for what, number in remarks.items() if number]
    lost = [f"{number} {what}" for what, number in left_out.items() if number]
    return "; ".join(
        [
            f"{source}: {count(rows, 'trajectory', 'trajectories')} gave {count(made, 'sample')} of {whose}",
            *said,
            *([f"left out: {', '.join(lost)}"] if lost else []),
        ]
    )
