"""The notebooks run from top to bottom, with runs short enough for a test, and say the same where they are the same."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebooks import badges
from rubric_arm_lite.data.testbed import base_folder
from tests.cli.test_cli import call
from tests.short_run import SHORT
from tests.warm import begin

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
SHORT_POLICY = (
    "data.train_prompts=24",
    "start.sft.max_steps=8",
    "start.sft.per_device_train_batch_size=8",
    "evaluation.prompts=8",
    "dpo.max_steps=2",
)
MAX_BYTES = 200_000
"""Of a notebook with its stored outputs."""


def run_cells(cells: list[str], folder: str) -> None:
    """Work for a process: the cells of a notebook; commands that it waits for run in this process."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[1:3] != ["-m", "rubric_arm_lite"]:
            return original(command, **options)
        done = call(*command[3:], folder=Path(folder))
        print(done.stderr)
        if options.get("check"):
            done.check_returncode()
        return done

    def system(line: str) -> None:
        words = shlex.split(shell.var_expand(line, depth=1))
        assert words[1:3] == ["-m", "rubric_arm_lite"], words
        print(run(words, check=True).stdout)

    original, subprocess.run = subprocess.run, run  # type: ignore[assignment]
    os.chdir(folder)
    os.environ["MPLBACKEND"] = "agg"
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.system = system
    for cell in cells:
        shell.run_cell(cell).raise_error()


def test_paths_in_shell_lines_may_have_blanks() -> None:
    """What a line inserts is quoted, or was joined by shlex."""
    joined = {"sets", "words", "launcher", "shlex.join(options)"}
    lines = [
        line.strip()
        for path in sorted(NOTEBOOKS.glob("*.ipynb"))
        for cell in code_cells(path.name)
        for line in cell.source.split("\n")
        if line.strip().startswith("!")
    ]
    assert len(lines) >= 9
    for line in lines:
        assert set(re.findall(r'(?<!")\{([^}]*)\}', line)) <= joined, line


def code_cells(name: str) -> list[Any]:
    return [cell for cell in nbformat.read(NOTEBOOKS / name, as_version=4).cells if cell.cell_type == "code"]


def is_parameters(cell: Any) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def execute(name: str, folder: Path, parameters: str) -> str:
    """Run a notebook with other parameters; returns what its cells printed."""
    cells = code_cells(name)
    assert sum(map(is_parameters, cells)) == 1
    source = "SOURCE = EXTRAS = ''\n"
    texts = [source + parameters if is_parameters(cell) else cell.source for cell in cells]
    log = folder / "log"
    process = begin(run_cells, texts, str(folder), log=log, environment={"IPYTHONDIR": str(folder / "ipython")})
    process.join(300)
    process.kill()
    assert process.exitcode == 0, log.read_text()
    return log.read_text()


@pytest.mark.slow
def test_quickstart_runs(finished_run: Path, tmp_path: Path) -> None:
    printed = execute("01_quickstart.ipynb", tmp_path, f"RUN = {str(finished_run)!r}\nSETS = {list(SHORT)!r}")
    assert "Nothing was installed" in printed
    assert "true principles:" in printed
    assert "trained: The response" in printed
    assert "Winner: Response" in printed


@pytest.mark.slow
def test_train_on_one_gpu_runs(tmp_path: Path) -> None:
    """The same cells with a base that is as small as they come, in a recipe and with pairs of the reader's own."""
    pairs, recipe = tmp_path / "pairs.jsonl", tmp_path / "mine.yaml"
    assert call("testbed", "pairs", pairs, "--split", "train", "--prompts", "30").returncode == 0
    recipe.write_text(f"extends: testbed.yaml\nname: mine\nmodel: {{base: {base_folder()}}}\n")
    sets = [*SHORT, "data.test_fraction=0.4", "schedule.cycles=1"]
    parameters = f"RECIPE = {str(recipe)!r}\nPAIRS = {str(pairs)!r}\nWARMUP = 'null'\nFOLDER = 'kept'\nSETS = {sets!r}"
    printed = execute("02_train_on_one_gpu.ipynb", tmp_path, parameters)
    assert "GPU: None. Recipe: " in printed and "It fits" in printed
    assert "warm-up:\n1. " in printed and "final:\n1. " in printed
    assert (tmp_path / "kept" / "mine" / "report.html").is_file()


@pytest.mark.slow
def test_ablate_update_order_runs(tmp_path: Path) -> None:
    """With two arms and a seed; asking again for the finished sweep runs nothing."""
    arms = tmp_path / "two.yaml"
    arms.write_text("name: two\nrecipe: testbed\ngrid: {schedule.order: [judge_only, rubric_only]}\n")
    sets = [*SHORT, "schedule.cycles=1"]
    parameters = f"SWEEP = {str(arms)!r}\nSEEDS = '1'\nSETS = {sets!r}\nOUT = 'runs/two'"
    printed = execute("03_ablate_update_order.ipynb", tmp_path, parameters)
    assert "against judge_only" in printed
    assert (tmp_path / "runs" / "two" / "compare.html").is_file()


@pytest.mark.slow
def test_reward_model_at_work_runs(finished_run: Path, tmp_path: Path) -> None:
    """Comparing, ranking, labeling, DPO, TRL's trainer, the page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    printed = execute(
        "04_reward_model.ipynb",
        tmp_path,
        f"RUN = {str(finished_run)!r}\nSETS = {list(SHORT)!r}\nPOLICY = {str(tmp_path / 'policy')!r}\n"
        f"POLICY_SETS = {list(SHORT_POLICY)!r}\nSTEPS = 4\nPORT = {port}",
    )
    assert "12 judgements" in printed
    assert "pairs kept" in printed
    assert "oracle's mean score:" in printed and "after 4 updates" in printed
    with socket.socket() as page:
        assert page.connect_ex(("127.0.0.1", port)) != 0, "its last cell stops the page"


@pytest.mark.slow
def test_read_a_run_runs(finished_run: Path, tmp_path: Path) -> None:
    printed = execute("05_read_a_run.ipynb", tmp_path, f"RUN = {str(finished_run)!r}\nSETS = []")
    assert "the worst and the best of" in printed
    assert "pairs are wrong in at least one order" in printed


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_tells_its_story_on_a_code_host(name: str) -> None:
    """It defines nothing, says at its top where the package comes from, and has small stored outputs of a real run."""
    cells = code_cells(name)
    assert not any(re.search(r"^ *(def|class|async def) ", cell.source, re.MULTILINE) for cell in cells)
    assert is_parameters(cells[0]) and re.search(r'^SOURCE = ".*"$', cells[0].source, re.MULTILINE)
    assert cells[1].source == code_cells(NAMES[0])[1].source, "one cell installs the package, everywhere the same"
    assert (NOTEBOOKS / name).stat().st_size < MAX_BYTES
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    assert not re.search(r"/(root|home|work|tmp)/", str(outputs)), "nobody's folders"


def test_badges_are_those_of_the_address(tmp_path: Path) -> None:
    """The repository has its address in one file, and a command writes it to wherever it is needed."""
    assert badges.write(NOTEBOOKS, check=True) == [], "run python -m notebooks.badges"
    for path in NOTEBOOKS.iterdir():
        if path.suffix in (".ipynb", ".txt"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "source.txt").write_text("https://github.com/someone/rubric-arm-lite\n")
    assert sorted(path.name for path in badges.write(tmp_path)) == NAMES
    first = nbformat.read(tmp_path / NAMES[0], as_version=4).cells
    assert f"colab.research.google.com/github/someone/rubric-arm-lite/blob/main/notebooks/{NAMES[0]}" in first[0].source
    assert "kaggle.com/kernels/welcome?src=https://github.com/someone/rubric-arm-lite/blob/main/" in first[0].source
    assert 'SOURCE = "git+https://github.com/someone/rubric-arm-lite"' in first[1].source
    assert badges.write(tmp_path) == [], "written once"
    (tmp_path / "source.txt").write_text(badges.NONE + "\n")
    badges.write(tmp_path)
    assert all((tmp_path / name).read_bytes() == (NOTEBOOKS / name).read_bytes() for name in NAMES)
