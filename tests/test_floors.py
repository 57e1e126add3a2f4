"""The package's floors: who may import whom, and where heavy libraries and labels may appear.

A new module fails here until it is given its floor in ``FLOORS``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "rubric_arm_lite"
ROOT = Path(__file__).parents[1] / PACKAGE
FLOORS: dict[int, tuple[str, ...]] = {
    0: ("__init__", "errors", "types"),
    1: (
        "config",
        "policy_config",
        "recipe_file",
        "recipe_problems",
        "recipe_yaml",
        "prompts",
        "parsing",
        "pointwise",
        "teacher_texts",
        "rewards",
        "advantages",
        "schedule",
        "seeds",
        "ranking",
        "leaks",
    ),
    2: (
        "blocks",
        "data",
        "journal",
        "log_rows",
        "row_files",
        "rows",
        "rubric_cache",
        "run_commit",
        "run_dir",
        "run_states",
        "sources.*",
        "testbed.*",
    ),
    3: ("batching", "losses", "memory", "parallel", "prefix_tree", "tree_attention"),
    4: ("backends.*",),
    5: (
        "policy.__init__",
        "policy.dpo",
        "policy.evaluate",
        "policy.pairs",
        "policy.phase",
        "policy.players",
        "policy.referee",
        "policy.requests",
        "policy.rounds",
        "policy.state",
        "policy.statistics",
        "learner",
        "phases",
        "warmup",
        "evaluate",
        "judging",
        "pointwise_evaluate",
        "pointwise_phases",
        "verdicts",
        "comparing",
        "doubts",
        "score_desk",
        "scoring",
        "reward_model",
        "run_data",
        "run_evaluation",
        "versions",
        "trl_reward",
        "label",
        "synthesize",
        "benchmarks.*",
    ),
    6: ("alternating", "alternating_stage", "pipeline", "run_parts", "step_rows", "policy.online", "policy.pipeline"),
    7: (
        "bench.*",
        "cli",
        "cli_evaluate",
        "cli_bench",
        "cli_common",
        "cli_data",
        "cli_synthesize",
        "cli_judge",
        "cli_label",
        "cli_options",
        "cli_serve",
        "cli_survey",
        "cli_policy",
        "policy_report",
        "__main__",
        "doctor",
        "evaluation_text",
        "export",
        "plan",
        "plan_length",
        "plan_memory",
        "plan_shape",
        "plan_table",
        "progress",
        "push",
        "report",
        "report_benchmarks",
        "report_data",
        "report_figures",
        "report_lines",
        "report_panels",
        "report_showcase",
        "report_story",
        "report_text",
        "serve.*",
    ),
}
"""Modules by floor; ``name.*`` stands for a package with all in it."""

FIRST_TORCH_FLOOR = 3
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "unsloth", "vllm", "accelerate", "datasets"}
BACKENDS_ONLY = {"unsloth", "vllm", "bitsandbytes", "peft"}
ALWAYS_LAZY = {"unsloth", "vllm", "bitsandbytes"}
LABEL_READERS = {"types", "rewards"}


@dataclass(frozen=True)
class Import:
    """One import of a module: its dotted target, its line, and whether it runs when the module is imported."""

    target: str
    line: int
    at_import: bool


def name_of(path: Path) -> str:
    """The module's dotted name below the package, ``testbed.__init__`` for a package's own file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def floor_of(name: str) -> int | None:
    for floor, names in FLOORS.items():
        if name in names or f"{name.split('.')[0]}.*" in names:
            return floor
    return None


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


def test_every_module_has_a_floor_and_every_floor_its_modules() -> None:
    assert len(MODULES) > 20
    homeless = [name for name in MODULES if floor_of(name) is None]
    assert not homeless, f"give {homeless} a floor in FLOORS"
    named = [name for names in FLOORS.values() for name in names]
    assert len(set(named)) == len(named)
    assert "testbed.world" in MODULES and "backends.base" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_floor_or_below(name: str) -> None:
    own = floor_of(name)
    assert own is not None
    for found in imports_of(source_of(name)):
        other = module_of(found.target)
        if other is not None:
            floor = floor_of(other)
            assert floor is not None and floor <= own, f"{name}:{found.line} (F{own}) imports {other} (F{floor})"


@pytest.mark.parametrize("name", MODULES)
def test_heavy_libraries_stay_in_their_rooms(name: str) -> None:
    floor = floor_of(name)
    assert floor is not None
    for found in imports_of(source_of(name)):
        library = found.target.split(".")[0]
        where = f"{name}:{found.line} imports {library}"
        if library in HEAVY and found.at_import:
            assert floor >= FIRST_TORCH_FLOOR, f"{where} when it is imported, below F{FIRST_TORCH_FLOOR}"
            assert library not in ALWAYS_LAZY, f"{where} outside a function"
        if library in HEAVY - {"datasets"} and floor < FIRST_TORCH_FLOOR:
            assert name.startswith("testbed."), f"{where}, and is not of the testbed"
        if library in BACKENDS_ONLY:
            assert name.startswith("backends."), f"{where}, which only backends may"


@pytest.mark.parametrize("name", MODULES)
def test_only_rewards_read_which_response_is_preferred(name: str) -> None:
    reads = [
        node.lineno
        for node in ast.walk(ast.parse(source_of(name)))
        if isinstance(node, ast.Attribute) and node.attr == "preferred"
    ]
    assert name in LABEL_READERS or not reads, f"{name} reads .preferred in lines {reads}"


def loaded_by(statements: str) -> set[str]:
    """Top-level packages in ``sys.modules`` after ``statements`` ran in a fresh interpreter."""
    code = f"{statements}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by(f"import {PACKAGE}") & HEAVY


def test_importing_the_lower_floors_loads_nothing_heavy() -> None:
    lower = [name for name in MODULES if (floor_of(name) or 0) < FIRST_TORCH_FLOOR]
    statements = "\n".join(f"import {PACKAGE}.{name.removesuffix('.__init__')}" for name in lower if name != "__init__")
    assert not loaded_by(statements) & HEAVY


def test_the_checks_see_what_they_look_for() -> None:
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import trl\n"
        "try:\n    import peft\nexcept ImportError:\n    pass\nclass A:\n    import vllm\n    def f(self):\n"
        "        import unsloth\n        from rubric_arm_lite import parsing\n"
    )
    found = {i.target: i.at_import for i in imports_of(source)}
    assert found == {
        "typing.TYPE_CHECKING": True,
        "torch": False,
        "trl": True,
        "peft": True,
        "vllm": True,
        "unsloth": False,
        "rubric_arm_lite.parsing": False,
    }
    assert module_of("rubric_arm_lite.parsing.fold") == module_of("rubric_arm_lite.parsing") == "parsing"
    assert module_of("rubric_arm_lite.testbed.base_folder") == "testbed.__init__"
    assert module_of("rubric_arm_lite.__version__") == "__init__"
    assert module_of("torch.nn") is None
    assert floor_of("nowhere") is None
    with pytest.raises(AssertionError, match="absolute"):
        imports_of("from . import x")
