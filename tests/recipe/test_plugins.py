"""Plug-ins: found as a module or as a file beside the recipe, refused with one error, and never imported unasked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rubric_arm_lite.cli.main import app
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe import Recipe, dump_recipe, load_plugin, load_recipe, load_settings
from rubric_arm_lite.training import train


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


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("no_such_plugin:f", "", "cannot be imported (No module named 'no_such_plugin'). Install the module, add its"),
        ("no_such.plugin:f", "", "cannot be imported (No module named 'no_such')"),
        ("json.no_such:f", "", "cannot be imported (No module named 'json.no_such')"),
        ("my_plugin.json:f", "", "cannot be imported (No module named 'my_plugin.json')"),
        ("json.decoder:Decoder", "", "json.decoder has no function 'Decoder'. It has the functions: JSONDecodeError, "),
        ("none.py:f", "", "there is no file {cwd}/none.py. Give a path from here, or beside the recipe."),
        ("my_plugin.py:f", "def f(:", "the code of {cwd}/my_plugin.py fails (SyntaxError: "),
        ("my_plugin.py:f", "def f(): pass\n\0", "the code of {cwd}/my_plugin.py fails ("),
        ("my_plugin.py:f", CODE, "{cwd}/my_plugin.py has no function 'f'. It has the functions: Answer, answer."),
        ("my_plugin:f", "def _f(): f = 1", "my_plugin has no function 'f'. It has the functions: none."),
    ],
)
@pytest.mark.parametrize("field", ["data.format", "warmup.format", "reward.function", "phases.judge", "phases.rubric"])
def test_a_recipe_with_a_wrong_plugin_does_not_load(
    plugin: Callable[[str], Path], field: str, name: str, code: str, expected: str
) -> None:
    """Before a model is loaded, hours before a phase would ask for it."""
    path = plugin(code)
    recipe = path.with_name("r.yaml")
    recipe.write_text("data: {source: rows.jsonl}\nwarmup: {source: rows.jsonl}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, [f"{field}={name}"])
    message = str(caught.value)
    assert message.startswith(f"--set {field}={name}: {field}: ") and "\n" not in message
    assert expected.format(cwd=path.parent) in message
    assert load_settings(Recipe, recipe, [f"{field}={name}"], check_names=False), "a finished run can be read without"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("my_plugin.py:f", "from os.path import *"),
        ("my_plugin:f", "def __getattr__(name): return print"),
        ("my_plugin.py:f", "globals()['f'] = print"),
        ("my_plugin.py:f", "\ufeffif True:\n    from os.path import join as f\nraise SystemExit"),
        ("json:loads", ""),
        ("json.decoder:JSONDecoder", ""),
        ("math:sqrt", ""),
        ("sys:exit", ""),
    ],
)
def test_what_only_its_code_can_tell_is_not_refused(plugin: Callable[[str], Path], name: str, code: str) -> None:
    recipe = plugin(code).with_name("r.yaml")
    recipe.write_text(f"reward: {{function: '{name}'}}\n")
    assert load_recipe(recipe).reward.function is not None


def test_every_wrong_name_of_a_recipe_is_listed_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("reward:\n  function: none.py:f\nprompts:\n  judge_template: nonsense\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, ["phases.judge=nomod:f", "phases.rubric=nonsense"])
    first, *lines = str(caught.value).split("\n  ")
    assert first == "4 problems in the recipe:" and len(lines) == 4
    assert "--set phases.rubric=nonsense: phases.rubric: 'nonsense' names no function. Write my_module:my_" in str(
        caught.value
    )
    assert any(line.startswith(f"{recipe}, line 2: reward.function: there is no file ") for line in lines)
    template = f"{recipe}, line 4: prompts.judge_template: `nonsense` is neither a built-in template nor a file. Use "
    assert any(
        line.startswith(f"{template}one of judge, judge_paper, judge_openrubrics, judge_short, or the")
        for line in lines
    )


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (
            "judge_template",
            "rubric",
            "`rubric` is neither a built-in template nor a file. Use one of judge, judge_paper",
        ),
        ("rubric_template", "judge", "Use one of rubric, rubric_short, or the path"),
        (
            "pointwise_template",
            "none.jinja",
            "none.jinja` is neither a built-in template nor a file. Use one of pointwise",
        ),
        (
            "judge_template",
            "mine.jinja",
            "mine.jinja` has placeholders ['instruction']; it needs exactly ['instruction', ",
        ),
    ],
)
def test_a_recipe_with_a_wrong_template_does_not_load(tmp_path: Path, field: str, value: str, expected: str) -> None:
    (tmp_path / "mine.jinja").write_text("{{ instruction }}")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"prompts:\n  {field}: {value}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe)
    assert str(caught.value).startswith(f"{recipe}, line 2: prompts.{field}: ") and expected in str(caught.value)


@pytest.mark.parametrize("verb", ["show-recipe", "plan", "run"])
def test_the_verbs_refuse_it_at_once(tmp_path: Path, verb: str) -> None:
    options = ["--run-dir", str(tmp_path / "run")] if verb == "run" else []
    done = CliRunner().invoke(app, [verb, "testbed", "--set", "prompts.judge_template=nonsense", *options])
    assert isinstance(done.exception, ConfigError)
    assert "Use one of judge, judge_paper, judge_openrubrics" in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_train_refuses_it_in_a_loaded_recipe(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"phases": {"judge": "nomod:f"}})
    with pytest.raises(ConfigError, match="No module named 'nomod'"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_names_a_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def f(): ...\nr = J = f\nraise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_module.py").write_text("def f(): ...\nraise SystemExit('imported')")
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
