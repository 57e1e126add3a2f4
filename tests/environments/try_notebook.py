"""Makes an environment like Colab's or Kaggle's and runs notebooks in it, from the built wheel, as a reader would.

``python tests/environments/try_notebook.py colab --python python3.13`` builds the wheel, makes a virtual environment
with the packages of ``colab.txt`` (torch from a CPU index if ``--torch-index`` names one, else the registry's build),
puts notebooks and wheel into an empty folder, and executes them there in turn. It prints what the install cell changed,
the versions that were used, and the seconds of each part.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
path = sys.argv[1]
notebook = nbformat.read(path, as_version=4)
try:
    NotebookClient(notebook, timeout=3600, kernel_name="python3").execute()
finally:
    nbformat.write(notebook, path)
"""


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """The output of a command; its errors are shown if it fails."""
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command[:6]))} … failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def make_environment(image: str, python: str, folder: Path, torch_index: str | None) -> Path:
    """A virtual environment with the packages of an image and what executes a notebook; returns its interpreter."""
    (torch,) = re.findall(r"^torch==\S+", (HERE / f"{image}.txt").read_text("utf-8"), re.MULTILINE)
    run(python, "-m", "venv", folder)
    interpreter = folder / "bin" / "python"
    pip = (interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, torch, *(("--index-url", torch_index) if torch_index else ()))
    run(*pip, "-r", HERE / f"{image}.txt", "nbclient", "nbformat")
    return interpreter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", choices=["colab", "kaggle"])
    parser.add_argument("--python", default="python3", help="interpreter of the environment")
    parser.add_argument("--environment", type=Path, help="folder to make it in, or one that is there already")
    parser.add_argument("--torch-index", help="index with CPU builds of torch")
    parser.add_argument("--notebooks", nargs="+", default=["01_quickstart"], help="names without .ipynb")
    parser.add_argument("--keep", type=Path, help="folder for wheel, notebooks and runs, kept afterwards")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        seconds = {"start": time.monotonic()}
        folder = given.environment or Path(scratch, "environment")
        interpreter = folder.resolve() / "bin" / "python"
        if not interpreter.exists():
            interpreter = make_environment(given.image, given.python, folder, given.torch_index)
        seconds["environment"] = time.monotonic()
        place = (given.keep or Path(scratch, "content")).resolve()
        run(interpreter, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, ROOT)
        seconds["wheel"] = time.monotonic()
        for name in given.notebooks:
            notebook = Path(shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", place))
            run(interpreter, "-c", EXECUTE, notebook, folder=place)
            seconds[name] = time.monotonic()
            cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
            print(name, *(output.get("text", "") for output in cells[1].outputs), sep="\n")
        versions = json.loads(run(interpreter, "-m", "pip", "list", "--format", "json"))
    names = ("torch", "transformers", "peft", "trl", "datasets", "numpy", "accelerate", "torchao")
    print(run(interpreter, "--version").strip(), {v["name"]: v["version"] for v in versions if v["name"] in names})
    moments = list(seconds.items())
    print({name: round(at - moments[i][1]) for i, (name, at) in enumerate(moments[1:])}, "seconds")


if __name__ == "__main__":
    main()
