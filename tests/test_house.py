"""The house: ten rooms in order, no circles, heavy libraries and labels where they belong, imports through doors."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "rubric_arm_lite"
CHECKOUT = Path(__file__).parents[1]
ROOT = CHECKOUT / PACKAGE
ROOMS = (
    "recipe",
    "prompts",
    "runs",
    "data",
    "models",
    "reward_model",
    "evaluation",
    "training",
    "report",
    "cli",
)
"""From the ground up: a room imports from itself and from rooms before it."""
GROUND = {"__init__", "errors", "types"}
"""Modules of the package root, from which every room may import; ``__main__`` stands on top."""

HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "unsloth", "vllm", "accelerate", "datasets"}
MODELS_ONLY = {"unsloth", "vllm", "bitsandbytes", "peft"}
ALWAYS_LAZY = {"unsloth", "vllm", "bitsandbytes"}
LABEL_READERS = {"types", "training.rewards"}


@dataclass(frozen=True)
class Import:
    """One import of a module: its dotted target, its line, and whether it runs when the module is imported."""

    target: str
    line: int
    at_import: bool


def name_of(path: Path) -> str:
    """The module's dotted name below the package, ``data.__init__`` for a room's door."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def room_of(name: str) -> int:
    """The room's place in the order; 0 for the package root, above all rooms for ``__main__``."""
    first = name.split(".")[0]
    if first == "__main__":
        return len(ROOMS) + 1
    return 0 if name in GROUND else 1 + ROOMS.index(first)


def imports_of(source: str) -> list[Import]:
    """Every import of a module, those inside functions and under ``TYPE_CHECKING`` included."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            runs = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                for inner in child.body:
                    yield from walk(ast.Module([inner], []), False)
                for inner in child.orelse:
                    yield from walk(ast.Module([inner], []), runs)
            elif isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, runs) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"line {child.lineno}: write absolute imports"
                for alias in child.names:
                    yield Import(f"{child.module}.{alias.name}", child.lineno, runs)
            else:
                yield from walk(child, runs)

    return list(walk(ast.parse(source), True))


def module_of(target: str) -> str | None:
    """The module of this package that a dotted target means, or None if it is another package's."""
    parts = target.split(".")
    if parts[0] != PACKAGE:
        return None
    for length in range(len(parts), 0, -1):
        inside = ".".join(parts[1:length])
        for name in (inside, f"{inside}.__init__" if inside else "__init__"):
            if name in MODULES:
                return name
    raise AssertionError(f"{target} is no module of the package")


def source_of(name: str) -> str:
    return MODULES[name].read_text("utf-8")


def imported_modules(name: str) -> set[str]:
    """Modules of the package that a module imports, itself left out."""
    targets = (module_of(found.target) for found in imports_of(source_of(name)))
    return {target for target in targets if target is not None} - {name}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, directly or not."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        open_names = list(arrows[start])
        while open_names:
            name = open_names.pop()
            if name not in seen:
                seen.add(name)
                open_names += arrows[name]
        return seen

    reached = {name: reach(name) for name in arrows}
    groups = {
        tuple(sorted(b for b in arrows if b in reached[a] and a in reached[b])) for a in arrows if a in reached[a]
    }
    return [list(group) for group in sorted(groups)]


def test_the_root_has_ten_rooms_and_two_files_beside_its_door() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(ROOMS)
    assert {path.stem for path in ROOT.glob("*.py")} == GROUND | {"__main__"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_door_that_says_what_it_is(room: str) -> None:
    lines = (ast.get_docstring(ast.parse(source_of(f"{room}.__init__"))) or "").splitlines()
    for start in ("Input: ", "Output: "):
        assert any(line.startswith(start) for line in lines), f"say what the room is for, and {start}what it is"


@pytest.mark.parametrize("name", [name for name in MODULES if "lazy_door(" in source_of(name)])
def test_a_lazy_door_loads_what_it_shows_to_type_checkers(name: str) -> None:
    package = ".".join([PACKAGE, *name.split(".")[:-1]])
    door = ast.parse(source_of(name))
    (table,) = [node for node in ast.walk(door) if isinstance(node, ast.Dict)]
    exports = ast.literal_eval(table)
    loaded = {f"{package}.{module}.{export}" for module in exports for export in exports[module]}
    assert loaded == {found.target for found in imports_of(source_of(name)) if not found.at_import}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_room_or_those_before_it(name: str) -> None:
    if name == "__init__":
        return  # the public door, lazy: it leads into every room
    for found in imports_of(source_of(name)):
        other = module_of(found.target)
        if other is not None:
            assert room_of(other) <= room_of(name), f"{name}:{found.line} imports {other}, a room further on"


def test_there_is_no_circle_of_imports() -> None:
    arrows = {name: imported_modules(name) for name in MODULES if name != "__init__"}
    for targets in arrows.values():
        targets.discard("__init__")
    assert circles(arrows) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_a_file_needs_few_other_rooms() -> None:
    others = [
        len({room_of(other) for other in imported_modules(name)} - {0, room_of(name)})
        for name in MODULES
        if room_of(name) and not name.endswith("__init__")
    ]
    assert sum(others) / len(others) <= 3.0


FIRST_TORCH_ROOM = 1 + ROOMS.index("models")


@pytest.mark.parametrize("name", MODULES)
def test_heavy_libraries_stay_in_their_rooms(name: str) -> None:
    for found in imports_of(source_of(name)):
        library = found.target.split(".")[0]
        where = f"{name}:{found.line} imports {library}"
        if library in HEAVY and found.at_import:
            assert room_of(name) >= FIRST_TORCH_ROOM, f"{where} when it is imported, before the room of models"
            assert library not in ALWAYS_LAZY, f"{where} outside a function"
        if library in HEAVY - {"datasets"} and room_of(name) < FIRST_TORCH_ROOM:
            assert name.startswith("data.testbed."), f"{where}, and is not of the testbed"
        if library in MODELS_ONLY:
            assert name.startswith("models."), f"{where}, which only the room of models may"


@pytest.mark.parametrize("name", MODULES)
def test_only_rewards_read_which_response_is_preferred(name: str) -> None:
    reads = [
        node.lineno
        for node in ast.walk(ast.parse(source_of(name)))
        if isinstance(node, ast.Attribute) and node.attr == "preferred"
    ]
    assert name in LABEL_READERS or not reads, f"{name} reads .preferred in lines {reads}"


def code_blocks(path: Path) -> list[str]:
    """The Python of a page or a notebook, one text per block or cell."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        return [re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source) for source in sources]  # magics and shell commands
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")), *sorted(CHECKOUT.glob("notebooks/*.ipynb"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_and_notebooks_import_from_doors(page: Path) -> None:
    doors = {PACKAGE, *(f"{PACKAGE}.{room}" for room in ROOMS), f"{PACKAGE}.data.testbed"}
    for block in code_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                assert node.module in doors, f"{page.name} imports from {node.module}, which is no door"


def loaded_by(statements: str) -> set[str]:
    """Top-level packages in ``sys.modules`` after ``statements`` ran in a fresh interpreter."""
    code = f"{statements}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(done.stdout.split())


def test_importing_the_first_rooms_loads_nothing_heavy() -> None:
    first = [name for name in MODULES if room_of(name) < FIRST_TORCH_ROOM]
    statements = "\n".join(f"import {PACKAGE}.{name.removesuffix('.__init__')}" for name in first if name != "__init__")
    assert not loaded_by(statements) & (HEAVY | {"pyarrow", "pandas"})


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    """The client of servers is imported once one is used."""
    assert not loaded_by(f"import {PACKAGE}.cli.main, {PACKAGE}.models.server") & (HEAVY | {"openai"})


def test_the_checks_see_what_they_look_for() -> None:
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import trl\n"
        "try:\n    import peft\nexcept ImportError:\n    pass\nclass A:\n    import vllm\n    def f(self):\n"
        "        import unsloth\n        from rubric_arm_lite.prompts import parsing\n"
    )
    found = {i.target: i.at_import for i in imports_of(source)}
    assert found == {
        "typing.TYPE_CHECKING": True,
        "torch": False,
        "trl": True,
        "peft": True,
        "vllm": True,
        "unsloth": False,
        "rubric_arm_lite.prompts.parsing": False,
    }
    assert module_of("rubric_arm_lite.prompts.parsing.fold") == "prompts.parsing"
    assert module_of("rubric_arm_lite.data.testbed.base_folder") == "data.testbed.__init__"
    assert module_of("rubric_arm_lite.__version__") == "__init__"
    assert module_of("torch.nn") is None
    with pytest.raises(AssertionError, match="absolute"):
        imports_of("from . import x")
