"""What a run has committed: the fields of its ``state.json``, and how that file is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rubric_arm_lite.errors import CheckpointError

STATE = "state.json"
RECIPE = "recipe.yaml"


@dataclass(frozen=True, slots=True)
class RunState:
    """What is committed: the stages done, the checkpoint that holds them, and how far the logs go.

    ``position`` is the (slot, step) at which the alternating stage goes on.
    """

    recipe_hash: str
    stages: tuple[str, ...] = ()
    checkpoint: str | None = None
    position: tuple[int, int] = (0, 0)
    logs: Mapping[str, int] = field(default_factory=dict)

    def dumps(self) -> str:
        """The state as JSON."""
        value = {
            "recipe_hash": self.recipe_hash,
            "stages": list(self.stages),
            "checkpoint": self.checkpoint,
            "position": list(self.position),
            "logs": dict(self.logs),
        }
        return json.dumps(value, indent=1)

    @classmethod
    def loads(cls, text: str) -> RunState:
        """The state that :meth:`dumps` wrote; raises ValueError, KeyError or TypeError for anything else."""
        value = json.loads(text)
        slot, step = value["position"]
        logs = {str(k): int(v) for k, v in dict(value["logs"]).items()}
        stages, checkpoint = value["stages"], value["checkpoint"]
        if not isinstance(stages, list) or not isinstance(checkpoint, str | None):
            raise TypeError("stages must be a list and checkpoint a name or null")
        return cls(str(value["recipe_hash"]), tuple(map(str, stages)), checkpoint, (int(slot), int(step)), logs)


def read_state(file: Path, recipe_hash: str) -> RunState:
    """What a file says is committed of a run of this recipe.

    Raises:
        CheckpointError: if it is damaged, or of a run of another recipe.
    """
    try:
        state = RunState.loads(file.read_text("utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}). Start anew with --if-exists overwrite."
        ) from error
    if state.recipe_hash != recipe_hash:
        raise CheckpointError(
            f"{file.parent} was made with another recipe (its copy is {file.parent / RECIPE}). Continue it with that "
            "one, or choose another name."
        )
    return state


def nothing_done(state_file: Path) -> bool:
    """Whether a state says that no stage was finished and no checkpoint written."""
    try:
        state = RunState.loads(state_file.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return not state.stages and state.checkpoint is None
