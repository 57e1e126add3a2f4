"""Plug-ins: found as a module or as a file beside the recipe, refused with one error, and never imported unasked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe import Recipe, dump_recipe, load_plugin, load_recipe


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes ``my_plugin.py``, and makes it importable as a module, too."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_plugin", raising=False)

    def write(code: str) -> Path:
        path = tmp_path / "my_plugin.py"
        path.write_text(code)
        return path

    return write


CODE = """
from dataclasses import dataclass
@dataclass
class Answer:
    value: int = 7
def answer():
    return Answer().value
value = 3
"""


def test_a_module_and_a_file(plugin: Callable[[str], Path]) -> None:
    path = plugin(CODE)
    assert load_plugin("my_plugin:answer", "data.format")() == 7
    assert load_plugin("my_plugin.py:answer", "data.format")() == 7
    assert load_plugin(f"{path}:answer", "data.format")() == 7
    path.write_text(CODE.replace("= 7", "= 8"))
    assert load_plugin("my_plugin.py:answer", "data.format")() == 8, "a file is read anew"


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("my_plugin", "", "data.format: 'my_plugin' names no function. Write my_module:my_function or file.py:"),
        ("my_plugin:", "", "names no function"),
        ("my_plugin:a b", "", "names no function"),
        (":f", "", "names no function"),
        ("no_such_plugin:f", "", "cannot be imported (No module named 'no_such_plugin'). Install the module, add its"),
        ("none.py:f", "", "there is no file none.py. Give a path from here, or beside the recipe."),
        ("z" * 5000 + ".py:f", "", "there is no file zzz"),
        ("a\0.py:f", "", "there is no file a"),
        ("my_plugin.py:f", "open('none')", "the code of my_plugin.py fails (FileNotFoundError: "),
        ("my_plugin.py:f", "import no_such_library", "cannot be imported (No module named 'no_such_library')"),
        ("my_plugin.py:f", "def f(:", "the code of my_plugin.py fails (SyntaxError: "),
        ("my_plugin:f", "raise KeyError('x')", "the code of my_plugin fails (KeyError: 'x'). Correct it."),
        ("my_plugin.py:f", CODE, "my_plugin.py has no function 'f'. It has the functions: dataclass, Answer, answer."),
        ("my_plugin:value", CODE, "has something that cannot be called under the name 'value'."),
    ],
)
def test_one_clear_error(plugin: Callable[[str], Path], name: str, code: str, expected: str) -> None:
    plugin(code)
    with pytest.raises(ConfigError) as caught:
        load_plugin(name, "data.format")
    message = str(caught.value)
    assert message.startswith("data.format: ") and expected in message and "\n" not in message


def test_a_recipe_names_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "data: {source: rows.jsonl, format: mine.py:f}\nwarmup: {source: rows.jsonl, format: 'my_module:f'}\n"
        "reward: {function: mine.py:r}\nphases: {judge: mine.py:J}\n"
    )
    loaded = load_recipe(recipe)
    assert loaded.data.format == f"{tmp_path / 'mine.py'}:f" and loaded.warmup.format == "my_module:f"
    assert (loaded.reward.function, loaded.phases.judge, loaded.phases.rubric) == (
        f"{tmp_path / 'mine.py'}:r",
        f"{tmp_path / 'mine.py'}:J",
        None,
    )
    recipe.write_text(dump_recipe(loaded))
    assert load_recipe(recipe) == loaded
    assert load_recipe(recipe, ["data.format=auto"]).data.format == "auto"


@pytest.mark.parametrize("value", ["csv", "mine.py", "mine.py:", "mine.py:a b", ":f", "'a:b\n'"])
def test_other_formats_are_refused(tmp_path: Path, value: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: {source: rows.jsonl}\nwarmup: {source: null}\nname: x\n")
    with pytest.raises(ConfigError, match=r"`data.format` is .* Allowed: auto, pairs, openrubric, .* or text"):
        load_recipe(recipe, [f"data.format={value}"])
    assert Recipe().data.format == "auto"
