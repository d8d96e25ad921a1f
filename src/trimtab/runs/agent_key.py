"""The recipe's `data.agent`: which role of a tool agent is learnt from trajectories."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from trimtab.runs.models_key import RecipeSection

if TYPE_CHECKING:
    from trimtab.core import Requirements
    from trimtab.runs.recipe import Recipe


class AgentData(RecipeSection):
    """Rows are trajectories of a tool agent, and become the samples of one role, in the text format of alpha-UMi."""

    role: Literal["planner", "caller", "summarizer", "backbone", "all"]
    """`planner`: thoughts, and who speaks next; `caller`: calls of tools; `summarizer`: answers; `backbone`: one model
    that writes all of it; `all`: one model that is asked as each of the three."""
    cut: bool = True
    """Cut the history of samples that are longer than training.max_length: the oldest observations first, then the
    oldest calls; the task, the documentation of the tools and the target stay. Otherwise such rows lose the end of
    their answer or are dropped, as all rows do."""
    templates: dict[Literal["planner", "caller", "summarizer", "backbone"], str] = Field(default_factory=dict)
    """Other prompts, by role, with the placeholders {doc}, {tool_names}, {history} and {thought}."""

    @field_validator("templates")
    @classmethod
    def _with_history(cls, given: dict[str, str]) -> dict[str, str]:
        for role, text in given.items():
            if "{history}" not in text:
                raise ValueError(f"templates.{role} has no place for {{history}}, without which the role sees no turn")
        return given


def role_alone(given: Any) -> Any:
    """The role by itself stands for the section."""
    return {"role": given} if isinstance(given, str) else given


def fault(recipe: "Recipe", loop: str, required: "Requirements") -> str | None:
    """Why the recipe cannot learn a role; None if it can, or does not ask for one."""
    data = recipe.data
    if data.agent is None:
        return None
    kind = {"pairs": "pairs", "rationales": "rationales", "outcomes": "outcomes", "steps": "steps"}.get(required.rows)
    rules = (
        (loop != "supervised" or required.rows == "labelled", f"method {recipe.method} does not learn from answers"),
        (kind, f"method {recipe.method} learns from {kind}"),
        (required.columns, "columns hold numbers of a row's own answer, and samples have others"),
        (data.teacher_column, "data.teacher_column is of rows"),
        (data.teacher_prompt, "data.teacher_prompt is of rows"),
        (data.chat, "data.chat writes prompts by the chat template, and samples have the text format"),
    )
    why = next((why for wrong, why in rules if wrong), None)
    return None if why is None else f"data.agent: {why}; a role is learnt from plain samples; leave one of them out"
