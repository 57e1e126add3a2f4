"""The notebooks run from top to bottom, with runs short enough for a test."""

from __future__ import annotations

import socket
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.short_run import SHORT

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SHORT_POLICY = (
    "data.train_prompts=24",
    "start.sft.max_steps=8",
    "start.sft.per_device_train_batch_size=8",
    "evaluation.prompts=8",
    "dpo.max_steps=2",
)


def execute(name: str, parameters: str) -> str:
    """Run a notebook with other parameters; returns what its cells printed."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    cells[0].source = parameters
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    return "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )


@pytest.mark.slow
def test_quickstart_runs(finished_run: Path) -> None:
    printed = execute("01_quickstart.ipynb", f"RUN = {str(finished_run)!r}\nSETS = {list(SHORT)!r}")
    assert "true principles:" in printed
    assert "trained: The response" in printed
    assert "Winner: Response" in printed


@pytest.mark.slow
def test_reward_model_at_work_runs(finished_run: Path, tmp_path: Path) -> None:
    """All of the second notebook: comparing, ranking, DPO, TRL's trainer, the page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    printed = execute(
        "02_reward_model.ipynb",
        f"RUN = {str(finished_run)!r}\nSETS = {list(SHORT)!r}\nPOLICY = {str(tmp_path / 'policy')!r}\n"
        f"POLICY_SETS = {list(SHORT_POLICY)!r}\nSTEPS = 4\nPORT = {port}",
    )
    assert "12 judgements" in printed
    assert "pairs kept" in printed
    assert "oracle's mean score:" in printed and "after 4 updates" in printed
    with socket.socket() as page:
        assert page.connect_ex(("127.0.0.1", port)) != 0, "its last cell stops the page"
