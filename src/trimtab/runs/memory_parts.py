"""Parts of the memory that a run needs, and the phases in which they are there."""

from dataclasses import dataclass, field

from trimtab.runs.recipe import Recipe

FRAGMENTED = 0.5
"""heap that fragmentation may cost, as a share of the activations; 0.1 to 0.55 measured, most with frozen weights"""
PHASES = ("forward", "backward", "update", "rollouts", "evaluation", "saving")
BOTH_PASSES = PHASES[:2]


@dataclass
class MemoryPart:
    """A part of the memory use."""

    name: str
    size: int
    """bytes, at its full size"""
    share: dict[str, float] = field(default_factory=dict)
    """phase -> share of it that is allocated; 0 by default"""
    host: bool = False
    """in main memory, wherever the models are"""


@dataclass
class MemoryEstimate:
    """Of one run."""

    recipe: Recipe
    parts: list[MemoryPart]
    device: str
    rows: int
    length: int
    split: str = ""
    """how several processes share the work, such as "8 devices, FSDP2"; empty for one"""

    def peak(self, host: bool | None = None) -> tuple[str, int]:
        """The phase with the highest memory use, and its bytes.

        Args:
            host: only of main memory, or of the device; of both where they are one if not given.
        """
        parts = [part for part in self.parts if host is None or part.host == host]
        needs = {phase: sum(int(part.size * part.share.get(phase, 0)) for part in parts) for phase in PHASES}
        phase = max(PHASES, key=lambda one: needs[one])
        return phase, needs[phase]

    def fragmentation(self) -> int:
        """Bytes of main memory that heap fragmentation may cost; on accelerators it is little."""
        kept = (part.size for part in self.parts if part.name.startswith("activations"))
        return int(FRAGMENTED * sum(kept)) if self.device == "cpu" else 0


def always() -> dict[str, float]:
    return dict.fromkeys(PHASES, 1.0)


def during(*phases: str) -> dict[str, float]:
    return dict.fromkeys(phases, 1.0)
