"""The wheel and the sdist: what they hold, and that the wheel works where no checkout is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from rubric_arm_lite import __version__
from tests.short_run import short_sets

ROOT = Path(__file__).resolve().parents[1]
STORED = "rubric_arm_lite/COMMIT"


def build(target: str, source: Path, folder: Path) -> Path:
    """The ``wheel`` or ``sdist`` of a source folder, by the build backend and without a network."""
    pytest.importorskip("hatchling", reason="hatchling, the build backend, is not installed; make test installs it")
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=source, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


def contents(wheel: Path) -> dict[str, str]:
    """Hashes of a wheel's files, without its list of them."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/RECORD")]
        return {name: sha256(archive.read(name)).hexdigest() for name in names}


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The checkout's files: those that git tracks, or would if they were added."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's packages alone."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def installed_command(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``rubric-arm`` of the wheel, called in another folder; the checkout is on no path."""
    code = f"import rubric_arm_lite as p; assert p.__file__.startswith({str(installed)!r}), p.__file__; "
    code += "from rubric_arm_lite.cli.main import main; main()"
    env = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=300, check=False)


def test_the_wheel_holds_the_package_and_its_recipes(wheel: Path, tracked: set[str]) -> None:
    expected = {name for name in tracked if name.startswith("rubric_arm_lite/")}
    expected |= {f"rubric_arm_lite/{name}" for name in tracked if name.startswith("recipes/")}
    found = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert found - {STORED} == expected
    for kind in ("prompts/templates/", "report/templates/", "data/testbed/assets/base/", "recipes/policy/"):
        assert any(name.startswith(f"rubric_arm_lite/{kind}") for name in found), kind
    assert {"rubric_arm_lite/py.typed", "rubric_arm_lite/data/formats.yaml"} <= found


def test_the_sdist_is_complete_and_builds_the_same_wheel(
    sdist: Path, wheel: Path, tracked: set[str], tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    found = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert found - {"PKG-INFO", STORED} == tracked
    assert {"constraints.txt", "constraints-unsloth.txt", "Makefile", "tests/short_run.py"} <= found
    assert contents(build("wheel", source, tmp_path / "wheel")) == contents(wheel)


def test_an_installed_wheel_names_its_commit(installed: Path, tmp_path: Path, tracked: set[str]) -> None:
    done = installed_command(installed, tmp_path, "--version")
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(rf"{re.escape(__version__)} \(commit (\S+)\)", done.stdout.strip())
    assert said and said[1] == (installed / STORED).read_text().strip(), done.stdout
    head = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    assert commit in said[1]


@pytest.mark.slow
def test_an_installed_wheel_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    shorter = ("schedule.cycles=1", "warmup.rubric.max_steps=4", "warmup.judge.max_steps=4")
    done = installed_command(installed, tmp_path, "demo", *short_sets(*shorter))
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.rglob("summary.json")
    assert (summary.parent / "report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "a run writes into its folder alone"
