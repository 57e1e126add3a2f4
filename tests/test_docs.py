"""The documentation agrees with the code: commands, fields, errors and caveats that it names exist; none is missing.

Costly commands are not run here: ``EXECUTED`` says which test runs each verb, and ``ELSEWHERE`` what else is needed.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from rubric_arm_lite import errors
from rubric_arm_lite.cli.main import app
from rubric_arm_lite.recipe import AlarmSettings, PolicyRecipe, Recipe, TripwireSettings, shipped_recipes

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rubric_arm_lite"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]
EXECUTED = {
    "bench": "cli/test_outputs.py",
    "compare": "report/test_compare.py",
    "cross-play": "evaluation/test_cross_play.py",
    "data check": "cli/test_data.py",
    "data convert": "cli/test_data.py",
    "data synthesize": "training/test_synthesize.py",
    "demo": "short_run.py",
    "doctor": "cli/test_cli.py",
    "evaluate": "cli/test_cli.py",
    "export": "reward_model/test_export.py",
    "judge": "cli/test_cli.py",
    "label": "reward_model/test_label.py",
    "plan": "cli/test_cli.py",
    "play": "cli/test_serve.py",
    "policy dpo": "training/test_policy_run.py",
    "policy grpo": "training/test_policy_server.py",
    "policy iterdpo": "training/test_policy_run.py",
    "probe variance": "training/test_variance.py",
    "report": "cli/test_cli.py",
    "rubric": "cli/test_cli.py",
    "run": "cli/test_cli.py",
    "score": "cli/test_cli.py",
    "serve": "cli/test_serve.py",
    "show-recipe": "cli/test_cli.py",
    "sweep": "training/test_sweep.py",
    "testbed pairs": "cli/test_cli.py",
}
"""The test in which each verb that the documentation shows is executed."""
ELSEWHERE = {
    "make": "what CI runs (.ci/run)",
    "source": "the shell",
    "pip": "network",
    "mkdocs": "CI, with the extra docs",
    "vllm": "tests/models/test_vllm.py, where vLLM is installed",
    "torchrun": "tests/models/test_parallel.py, in processes of its own",
    "python": "scripts of this repository",
}
"""Commands of other programs, and where they run."""


ATTRIBUTES = {"reward.total"}
"""Of objects in examples; they are no fields of a recipe."""


def console_lines(page: Path) -> Iterator[str]:
    """Commands in the console blocks of a page, continued lines joined."""
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if line.startswith("$ "):
                yield line.removeprefix("$ ")


COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line[:60]}")
    for page in PAGES
    if page.name != "cli.md"
    for line in console_lines(page)
]


def parse(words: list[str]) -> str:
    """The verb of a command of ours, whose options and arguments must be those that it has."""
    command: Any = typer.main.get_command(app)
    verb = []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no verb {' '.join([*verb, words[0]])}"
        verb.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    context = typer.Context(command, info_name=" ".join(verb))
    values, rest, _ = command.make_parser(context).parse_args(args=words)  # raises for an unknown option
    missing = [p.name for p in command.params if p.required and values.get(p.name) is None]
    assert not missing, f"missing: {missing}"
    assert not rest or verb == ["bench"], f"too many arguments: {rest}"
    return " ".join(verb)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_exists_as_it_is_written(line: str) -> None:
    """And it is executed by a test, or it is known what it needs."""
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "rubric-arm":
        verb = parse(words[1:])
        assert verb in EXECUTED, f"say which test executes {verb}"
        test = (ROOT / "tests" / EXECUTED[verb]).read_text("utf-8")
        assert all(f'"{word}"' in test for word in verb.split()), EXECUTED[verb]
        recipe = words[1 + len(verb.split())] if verb in ("run", "plan", "show-recipe") else ""
        assert recipe.endswith(".yaml") or not recipe or recipe in shipped_recipes()
        return
    assert words[0] in ELSEWHERE, f"say what {words[0]} needs"
    if words[0] == "python":
        assert (ROOT / words[1]).is_file() or words[1] == "-m", words[1]
    if words[0] == "torchrun":
        assert parse(words[words.index("rubric_arm_lite") + 1 :]) == "run"


def test_the_page_of_the_command_line_is_current() -> None:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == page.cli_page(), "run python docs/generate.py"


def test_the_failure_guide_names_every_caveat_alarm_and_error() -> None:
    guide = (ROOT / "docs" / "failures.md").read_text("utf-8")
    functions = [
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_caveats")
    ]
    classes = {
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in vars(errors) for base in node.bases)
    }
    assert len(functions) >= 2 and {"RubricArmError", "RefusedRequest", "RowError"} <= classes | {"RubricArmError"}
    alarms = [f"schedule.tripwire.{name}" for name in TripwireSettings.model_fields]
    alarms += [f"alarms.{name}" for name in AlarmSettings.model_fields]
    limits = [name for name in alarms if name.rpartition(".")[2] not in ("action", "groups", "factor")]
    missing = [name for name in (*functions, *classes, "RubricArmError", *limits) if f"`{name}`" not in guide]
    assert not missing, missing


def sections(model: type[BaseModel]) -> dict[str, Any]:
    return {name: field.annotation for name, field in model.model_fields.items()}


def has_field(model: type[BaseModel], path: list[str]) -> bool:
    for name in path:
        fields = {field.alias or key: field.annotation for key, field in model.model_fields.items()}
        fields |= sections(model)
        if name not in fields:
            return False
        inside = [part for part in (fields[name], *get_args(fields[name])) if isinstance(part, type)]
        model = next((part for part in inside if issubclass(part, BaseModel)), BaseModel)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_fields_that_a_page_names_exist(page: Path) -> None:
    """In backticks: ``section.field`` with a section of a recipe, a policy's included."""
    roots = {*sections(Recipe), *sections(PolicyRecipe)}
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)[`:=]", page.read_text("utf-8")))
    files = re.compile(r"\.(py|md|json|jsonl|yaml|csv|txt)$")
    named = {name for name in named if name.split(".")[0] in roots and not files.search(name)} - ATTRIBUTES
    unknown = [n for n in sorted(named) if not any(has_field(kind, n.split(".")) for kind in (Recipe, PolicyRecipe))]
    assert not unknown, unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]


def test_the_index_for_assistants_lists_every_page() -> None:
    """``llms.txt`` names each page of the documentation and each notebook once, and nothing that is not there."""
    text = (ROOT / "llms.txt").read_text("utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    there = [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb"))]
    assert sorted(link for link in links if link.startswith(("docs/", "notebooks/"))) == sorted(there)
    assert all((ROOT / link).exists() for link in links if "://" not in link)
    assert len((ROOT / "AGENTS.md").read_text("utf-8").splitlines()) <= 60, "one page"
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200
