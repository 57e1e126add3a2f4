"""What a run's folder gives to those who use its adapters, however far the run has come."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rubric_arm_lite.errors import BackendError, CheckpointError
from rubric_arm_lite.recipe.load import dump_recipe, load_recipe
from rubric_arm_lite.runs.directory import RunState
from rubric_arm_lite.runs.states import adapter_folder, recipe_of, states_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folders of a finished run with one checkpoint; of its adapters only the places matter here."""
    folder = tmp_path / "run"
    for role in ("rubric", "judge"):
        (folder / "adapters" / role).mkdir(parents=True)
        for name in (role, f"{role}_ref"):
            (folder / "checkpoints" / "state-000004" / name).mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_recipe(load_recipe("testbed", ["seed=9"])))
    (folder / "state.json").write_text(RunState("", ("warmup",), "state-000004").dumps())
    return folder


def test_states_of_a_run(run: Path, tmp_path: Path) -> None:
    assert states_of(run) == ["warm-up", "state-000004", "final"]
    assert states_of(tmp_path) == []
    assert adapter_folder(run, "judge", "state-000004") == adapter_folder(run, "judge", "latest")
    shutil.rmtree(run / "adapters")
    assert states_of(run) == ["warm-up", "state-000004", "latest"]


def test_a_state_that_is_not_there(run: Path) -> None:
    with pytest.raises(BackendError, match="'best' is not one of final, warm-up, latest, or a kept checkpoint"):
        adapter_folder(run, "judge", "best")
    with pytest.raises(CheckpointError, match="has no state-000005 adapter `judge` yet"):
        adapter_folder(run, "judge", "state-000005")
    (run / "state.json").write_text(RunState("").dumps())
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        adapter_folder(run, "judge", "latest")
    (run / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        adapter_folder(run, "judge", "warm-up")


def test_the_recipe_of_a_run_of_a_file_or_of_a_name(run: Path, tmp_path: Path) -> None:
    assert recipe_of(run).seed == recipe_of(run / "recipe.yaml").seed == 9
    assert recipe_of("testbed") == load_recipe("testbed")
    with pytest.raises(CheckpointError, match=r"is not a run directory: it has no recipe\.yaml"):
        recipe_of(tmp_path)
