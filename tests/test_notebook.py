"""The notebooks run from top to bottom, with runs short enough for a test."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.cli.test_cli import call
from tests.short_run import SHORT
from tests.warm import begin

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SHORT_POLICY = (
    "data.train_prompts=24",
    "start.sft.max_steps=8",
    "start.sft.per_device_train_batch_size=8",
    "evaluation.prompts=8",
    "dpo.max_steps=2",
)


def run_cells(cells: list[str]) -> None:
    """Work for a process: the cells of a notebook; commands that it waits for run in this process."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return call(*command[3:]) if command[1:3] == ["-m", "rubric_arm_lite"] else original(command, **options)

    original, subprocess.run = subprocess.run, run  # type: ignore[assignment]
    os.chdir(NOTEBOOKS)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    for cell in cells:
        shell.run_cell(cell).raise_error()


def execute(name: str, folder: Path, parameters: str) -> str:
    """Run a notebook with other parameters; returns what its cells printed."""
    cells = [cell for cell in nbformat.read(NOTEBOOKS / name, as_version=4).cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    texts = [parameters if "parameters" in cell.metadata.get("tags", []) else cell.source for cell in cells]
    log = folder / "log"
    process = begin(run_cells, texts, log=log, environment={"IPYTHONDIR": str(folder / "ipython")})
    process.join(300)
    process.kill()
    assert process.exitcode == 0, log.read_text()
    return log.read_text()


@pytest.mark.slow
def test_quickstart_runs(finished_run: Path, tmp_path: Path) -> None:
    printed = execute("01_quickstart.ipynb", tmp_path, f"RUN = {str(finished_run)!r}\nSETS = {list(SHORT)!r}")
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
        tmp_path,
        f"RUN = {str(finished_run)!r}\nSETS = {list(SHORT)!r}\nPOLICY = {str(tmp_path / 'policy')!r}\n"
        f"POLICY_SETS = {list(SHORT_POLICY)!r}\nSTEPS = 4\nPORT = {port}",
    )
    assert "12 judgements" in printed
    assert "pairs kept" in printed
    assert "oracle's mean score:" in printed and "after 4 updates" in printed
    with socket.socket() as page:
        assert page.connect_ex(("127.0.0.1", port)) != 0, "its last cell stops the page"
