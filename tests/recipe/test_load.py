"""Recipe files: what loads, what each mistake is told, and that a written recipe reads back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe import load as recipe_file
from rubric_arm_lite.recipe.fields import GRPOSettings, LoraSettings, ModelSettings, Recipe
from rubric_arm_lite.recipe.load import (
    dump_recipe,
    load_recipe,
    load_settings,
    recipe_hash,
    recipes_folder,
    resolve_recipe_path,
    shipped_recipes,
)

IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipes folder as a wheel has it, in place of the real one."""
    package = tmp_path / "site" / "rubric_arm_lite"
    folder = package / "recipes"
    (folder / "ablations").mkdir(parents=True)
    (folder / "testbed.yaml").write_text("name: testbed\nseed: 5\n")
    (folder / "qwen3-0.6b-t4.yaml").write_text("name: qwen\n")
    (folder / "ablations" / "no-kl.yaml").write_text("extends: ../testbed.yaml\njudge: {beta: 0}\n")
    (folder / "notes.txt").write_text("no recipe")
    monkeypatch.setattr(recipe_file, "_PACKAGE", package)
    return folder


def write(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def message_of(path: Path | str, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    text = str(caught.value)
    text.encode("utf-8")
    assert "pydantic" not in text
    assert "http" not in text
    return text


# --- finding --------------------------------------------------------------------------------------------------------


def test_shipped_recipes_are_found_by_name_with_or_without_suffix(shipped: Path) -> None:
    assert recipes_folder() == shipped
    names = ["ablations/no-kl", "qwen3-0.6b-t4", "testbed"]
    assert shipped_recipes() == {name: shipped / f"{name}.yaml" for name in names}
    assert resolve_recipe_path("testbed") == resolve_recipe_path("testbed.yaml") == shipped / "testbed.yaml"
    assert resolve_recipe_path("qwen3-0.6b-t4") == shipped / "qwen3-0.6b-t4.yaml"
    assert load_recipe("ablations/no-kl").judge.beta == 0
    assert load_recipe("ablations/no-kl").seed == 5


def test_a_checkout_keeps_recipes_beside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_file, "_PACKAGE", tmp_path / "rubric_arm_lite")
    assert recipes_folder() == tmp_path / "recipes"
    assert shipped_recipes() == {}


def test_a_file_wins_with_suffix_and_the_shipped_recipe_without(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "testbed").mkdir()
    write(tmp_path, "name: mine\n", "testbed.yaml")
    assert resolve_recipe_path("testbed") == shipped / "testbed.yaml"
    assert load_recipe("testbed.yaml").name == "mine"
    assert load_recipe(Path("testbed.yaml")).name == "mine"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("testbet", "There is no recipe 'testbet'. Did you mean `testbed`?"),
        ("no-such-thing", "a shipped recipe: ablations/no-kl, qwen3-0.6b-t4, testbed."),
        ("dir/none.yaml", "There is no recipe 'dir/none.yaml'."),
        ("", "There is no recipe ''."),
        ("a\0b", r"There is no recipe 'a\x00b'."),
        ("z" * 5000, "There is no recipe 'zzz"),
    ],
)
def test_a_missing_recipe_lists_the_shipped_ones(shipped: Path, name: str, expected: str) -> None:
    assert expected in message_of(name)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert "is a folder, not a recipe" in message_of(tmp_path)


def test_an_unreadable_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "seed: 1\n")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "r.yaml cannot be read (Permission denied)" in message_of(path)


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("1e-3", "judge.learning_rate", 1e-3),
        ("1E-5", "judge.learning_rate", 1e-5),
        ("1e-05", "judge.learning_rate", 1e-5),
        ("1.5e-4", "judge.learning_rate", 1.5e-4),
        (".5", "judge.learning_rate", 0.5),
        ("2", "judge.learning_rate", 2.0),
        ("null", "judge.max_steps", None),
        ("", "judge.max_steps", None),
        ("~", "data.evaluation", None),
        ("0x10", "seed", 16),
        ("007", "seed", 7),
        ("1_000", "seed", 1000),
        ("true", "model.gradient_checkpointing", True),
        ("False", "model.gradient_checkpointing", False),
        ("[q_proj, v_proj]", "model.lora.target_modules", ("q_proj", "v_proj")),
        ("'null'", "description", "null"),
        ("yes", "description", "yes"),
        ("2024-01-01", "description", "2024-01-01"),
        ("=", "description", "="),
        ("!!str 8", "description", "8"),
        ('"\\u00e9 \\ud83d\\ude00"', "description", "é 😀"),
    ],
)
def test_yaml_values_mean_the_same_in_a_file_and_in_set(tmp_path: Path, text: str, field: str, value: Any) -> None:
    keys = field.split(".")
    lines = [f"{'  ' * depth}{key}:" for depth, key in enumerate(keys)]
    in_file = load_recipe(write(tmp_path, "\n".join(lines) + f" {text}\n"))
    by_set = load_recipe(write(tmp_path, "name: run\n"), [f"{field}={text}"])
    assert in_file == by_set
    found: Any = in_file
    for key in keys:
        found = getattr(found, key)
    assert found == value
    assert type(found) is type(value)


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 3\r\n")
    assert load_recipe(path).seed == 3


def test_overrides_apply_in_order_and_merge(tmp_path: Path) -> None:
    path = write(tmp_path, "judge: {beta: 0.5, epsilon: 0.3}\n")
    recipe = load_recipe(
        path, ["judge.beta=0.1", " judge . beta =0.2", "judge={num_generations: 4}", "description=a=b"]
    )
    assert (recipe.judge.beta, recipe.judge.epsilon, recipe.judge.num_generations) == (0.2, 0.3, 4)
    assert recipe.description == "a=b"
    assert load_recipe(path, ["schedule.until.at_least=0.5"]).schedule.until is not None


# --- extends --------------------------------------------------------------------------------------------------------


def test_extends_merges_deeply_and_the_later_wins(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(
        tmp_path, "seed: 1\nname: base\njudge: {beta: 0.1, epsilon: 0.11}\nschedule: {until: {every: 9}}\n", "base.yaml"
    )
    write(tmp_path, "extends: ../base.yaml\nseed: 2\njudge: {beta: 0.2}\n", "deep/middle.yaml")
    path = write(tmp_path, "extends: deep/middle.yaml\njudge: {num_iterations: 3}\nschedule: {until: null}\n")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.seed, recipe.schedule.until) == ("base", 2, None)
    assert (recipe.judge.beta, recipe.judge.epsilon, recipe.judge.num_iterations) == (0.2, 0.11, 3)


def test_extends_may_name_a_shipped_recipe(shipped: Path, tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "extends: testbed\n")).seed == 5
    assert load_recipe(write(tmp_path, "extends: testbed.yaml\n")).seed == 5


def test_a_cycle_of_extends_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "seed: 1\nextends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    message = message_of(tmp_path / "a.yaml")
    assert "b.yaml, line 1: extends" in message
    assert "extends this file in turn" in message
    own = write(tmp_path, "\nextends: own.yaml\n", "own.yaml")
    assert "own.yaml, line 2: extends" in message_of(own)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("nowhere.yaml", "r.yaml, line 2: extends 'nowhere.yaml', but there is no file"),
        ("[a, b]", "r.yaml, line 2: extends is a list. Give the name of one YAML file."),
        ("null", "r.yaml, line 2: extends is null."),
        ("''", "r.yaml, line 2: extends is ''."),
        ("{a: 1}", "r.yaml, line 2: extends is a section of fields."),
    ],
)
def test_a_bad_extends_is_reported_at_its_line(shipped: Path, tmp_path: Path, value: str, expected: str) -> None:
    message = message_of(write(tmp_path, f"seed: 1\nextends: {value}\n"))
    assert expected in message


def test_an_error_in_the_extended_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, "seed: 1\njudge:\n  beta: high\n", "base.yaml")
    message = message_of(write(tmp_path, "extends: base.yaml\n"))
    assert message.startswith(f"{tmp_path / 'base.yaml'}, line 3: `judge.beta` is 'high'.")


# --- errors ---------------------------------------------------------------------------------------------------------

BAD_FILES = [
    (
        "judge:\n  num_generation: 4\n",
        "line 2: `judge.num_generation` is not a field. Did you mean `judge.num_generations`?",
    ),
    ("seed: 1\nsede: 2\n", "line 2: `sede` is not a field. Did you mean `seed`?"),
    ("beta: 0.1\n", "line 1: `beta` is not a field. Did you mean `judge.beta` or `rubric.beta`?"),
    ("judge:\n  zzz: 1\n", "line 2: `judge.zzz` is not a field. Allowed in `judge`: num_generations, max_completion_"),
    ("zzz: 1\n", "line 1: `zzz` is not a field. Allowed: name, description, seed, threads, report_to, model,"),
    ("model:\n  lora: {rr: 4}\n", "line 2: `model.lora.rr` is not a field. Did you mean `model.lora.r`?"),
    ("<<: {seed: 1}\n", "line 1: `<<` is not a field."),
    ("1: 2\n", "line 1: `1` is not a field."),
    ('"a\\nb": 2\n', r"line 1: `a\nb` is not a field."),
    ('"\\ud800": 2\n', r"line 1: '\ud800' has half of a surrogate pair."),
    ("schedule: {until: {paris: 3}}\n", "`schedule.until.paris` is not a field. Did you mean `schedule.until.pairs`?"),
    ("judge:\n  beta: high\n", "line 2: `judge.beta` is 'high'. Allowed: a finite number, at least 0."),
    ("judge:\n  beta: high\n", "leave it out for the default, 0.001."),
    ("judge:\n  beta: '0.1'\n", "line 2: `judge.beta` is '0.1'. Allowed: a finite number"),
    ("judge: {beta: .inf}\n", "`judge.beta` is inf. Allowed: a finite number, at least 0."),
    ("judge: {beta: .nan}\n", "`judge.beta` is nan."),
    ("seed: 1.0\n", "line 1: `seed` is 1.0. Allowed: a whole number, at least 0."),
    ("seed: true\n", "line 1: `seed` is true. Allowed: a whole number"),
    ("seed: '8'\n", "line 1: `seed` is '8'."),
    ("threads: zero\n", "line 1: `threads` is 'zero'. Allowed: a whole number, at least 1 or null."),
    (
        "data:\n  world:\n    topics: 9\n",
        "line 3: `data.world.topics` is 9. Allowed: a whole number, at least 2 and at most 6.",
    ),
    ("data: {test_fraction: 1}\n", "`data.test_fraction` is 1. Allowed: a finite number, above 0 and below 1."),
    ("model: {gradient_checkpointing: yes}\n", "is 'yes'. Allowed: true or false. Correct it"),
    (
        "model:\n  checkpoints: {judge: j}\n",
        "line 2: `model.checkpoints.rubric` is missing. Give text, or leave out `model.checkpoints`.",
    ),
    ("model: {checkpoints: {judge: 3, rubric: r}}\n", "`model.checkpoints.judge` is 3. Allowed: text."),
    ("model: {dtype: fp16}\n", "`model.dtype` is 'fp16'. Allowed: auto, float32, bfloat16, float16."),
    (
        "model: {lora: {target_modules: q}}\n",
        "`model.lora.target_modules` is 'q'. Allowed: all-linear or a list of text.",
    ),
    (
        "model: {lora: {target_modules: [q, 1]}}\n",
        "`model.lora.target_modules` is a list. Allowed: all-linear or a list",
    ),
    ("model: {lora: {target_modules: [{a: 1}]}}\n", "`model.lora.target_modules` is a list."),
    ("name: a b\n", "line 1: `name` is 'a b'. Allowed: text that matches ^[A-Za-z0-9]"),
    ("name: {x: 1}\n", "line 1: `name` is a section of fields. Allowed: text"),
    ("description: null\n", "line 1: `description` is null. Allowed: text."),
    (
        "judge:\nseed: 1\n",
        "line 1: `judge` is null. Allowed: a section of fields. Put fields under it, or leave it out",
    ),
    ("warmup: null\n", "line 1: `warmup` is null. Allowed: a section of fields. To turn it off write warmup: {source"),
    ("data: null\n", "line 1: `data` is null. Allowed: a section of fields. Put fields under it"),
    ("judge: [1]\n", "line 1: `judge` is a list. Allowed: a section of fields."),
    ("schedule:\n  until: soon\n", "line 2: `schedule.until` is 'soon'. Allowed: a section of fields or null."),
    ("description: |\n  a\n\n  b\nseed: -1\n", "line 5: `seed` is -1."),
    ("seed: " + "'" + "x" * 100 + "'\n", f"`seed` is '{'x' * 57}...'."),
    # checks across fields
    ("seed: 1\njudge:\n  num_generations: 1\n", "line 3: judge.num_generations: 1 gives zero advantage"),
    ("data:\n  world:\n    topics: 5\n", "line 3: data.world.attributes: 8 is too few for 5 topics"),
    ("data:\n  world:\n    liked: 0.9\n", "line 3: data.world: liked + disliked is 1.25, above 1."),
    ("model:\n  max_context: 100\n", "line 2: judge.max_completion_length: 512 leaves no room"),
    ("data:\n  source: a.jsonl\n", "line 2: warmup.source: testbed writes trajectories"),
    ("judge: {\n  pairs_per_prompt: 9}\n", "r.yaml: pairs_per_prompt: 9 is more than data.world.pairs_per_prompt"),
    # YAML
    ("name: x\nseed: 1\nseed: 2\n", "line 3: 'seed' is set twice, first in %PATH%, line 2. Keep one of them."),
    ("judge:\n  beta: 0\n  beta: 0\n", "line 3: 'beta' is set twice"),
    ("seed: 1\njudge: [\n", "line 3: not YAML (expected the node content, but found '<stream end>')"),
    ("seed: 1\nname: a: b\n", "line 2: not YAML (mapping values are not allowed here). Correct the syntax"),
    ("\tseed: 1\n", "line 1: not YAML (found character '\\t' that cannot start any token)"),
    ("seed: 1\nname: a\x01b\n", "line 2: not YAML (a control character)."),
    ('seed: 1\nname: "\\UFFFFFFFF"\n', "not YAML ("),
    ("a: 1\n---\nb: 1\n", "line 2: not YAML (but found another document)"),
    ("[" * 1000, "line 1: nested too deeply."),
    ("", "r.yaml is empty. A recipe needs at least one field"),
    ("# nothing\n", "r.yaml is empty."),
    ("- a\n", "line 1: a recipe is a mapping of fields to values, not a list."),
    ("hello\n", "line 1: a recipe is a mapping of fields to values, not 'hello'."),
    ("3\n", "line 1: a recipe is a mapping of fields to values, not 3."),
    ("seed: 1\n? [a, b]\n: 1\n", "line 2: a list or mapping as key."),
    ("seed: 1\njudge: &j {beta: 0}\nrubric: *j\n", "line 2: &j: a recipe has no anchors. Write the value out."),
    ("seed: &a 1\nthreads: &a 2\n", "line 1: &a: a recipe has no anchors."),
    ("a: &x [*x]\n", "line 1: &x: a recipe has no anchors."),
    ("seed: 1\nrubric: *j\n", "line 2: not YAML (found undefined alias 'j')"),
    (
        "seed: 1\nname: !!python/name:os.system x\n",
        "line 2: a recipe has no values with the tag tag:yaml.org,2002:python/name:os.system.",
    ),
    ("name: !!binary aGk=\n", "line 1: a recipe has no values with the tag tag:yaml.org,2002:binary."),
    ("name: !mine x\n", "line 1: a recipe has no values with the tag !mine. Remove the tag."),
    ("seed: !!int x\n", "line 1: 'x' does not fit its tag tag:yaml.org,2002:int."),
    ("seed: !!bool x\n", "line 1: 'x' does not fit its tag tag:yaml.org,2002:bool."),
    ("seed: 99999999999999999999\n", "line 1: a whole number beyond 64 bits."),
    ("seed: 0x" + "F" * 9000 + "\n", "line 1: a whole number beyond 64 bits."),
    ("seed: " + "9" * 5000 + "\n", "line 1: '99999"),
    ('name: x\ndescription: "\\ud800"\n', r"line 2: '\ud800' has half of a surrogate pair."),
]


@pytest.mark.parametrize(("text", "expected"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_bad_file_is_told_where_and_what(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    message = message_of(path)
    assert message.startswith(str(path))
    expected = expected.replace("%PATH%", str(path))
    assert message.startswith(f"{path}, {expected}") if expected.startswith("line") else expected in message
    assert "\n" not in message


BAD_OVERRIDES = [
    ("judge.beta", "not of the form field=value"),
    ("=1", "not of the form field=value"),
    ("", "not of the form field=value"),
    ("judge.=1", "not of the form field=value"),
    (".beta=1", "not of the form field=value"),
    ("judge..beta=1", "not of the form field=value"),
    ("judge.betta=1", "`judge.betta` is not a field. Did you mean `judge.beta`?"),
    ("lr=1", "`lr` is not a field. Allowed: name,"),
    ("learning_rate=1", "Did you mean `warmup.rubric.learning_rate` or `warmup.judge.learning_rate` or `judge."),
    (
        "judge.beta=high",
        "`judge.beta` is 'high'. Allowed: a finite number, at least 0. Correct it, or leave it out for the recipe's",
    ),
    ("judge.beta=[", "not YAML (expected the node content"),
    ("judge.beta=", "`judge.beta` is null."),
    ("judge=null", "`judge` is null. Allowed: a section of fields."),
    ("name.x=1", "`name` is a section of fields. Allowed: text"),
    ("name=&a x", "&a: a recipe has no anchors."),
    ("description=a: b: c", "not YAML (mapping values are not allowed here)"),
    ("description=\ud800", "has half of a surrogate pair"),
    ("\ud800=1", "has half of a surrogate pair"),
    ("description=a\0", "not YAML (a control character)"),
    ("extends=base.yaml", "extends belongs in a file"),
    ("judge.num_generations=1", "judge.num_generations: 1 gives zero advantage everywhere."),
    ("rubric.max_completion_length=9999", "rubric.max_completion_length: 9999 leaves no room for a prompt"),
]


@pytest.mark.parametrize(("override", "expected"), BAD_OVERRIDES)
def test_a_bad_override_is_told_as_it_was_given(tmp_path: Path, override: str, expected: str) -> None:
    message = message_of(write(tmp_path, "seed: 1\n"), [override])
    shown = override.replace("\ud800", r"\ud800").replace("\0", r"\x00")
    assert message.startswith(f"--set {shown}: ")
    assert expected in message


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: -1\njudge:\n  betta: 1\n  epsilon: big\n")
    lines = message_of(path, ["threads=0"]).splitlines()
    assert lines[0] == "4 problems in the recipe:"
    assert sorted(line.split("`")[0].strip() for line in lines[1:]) == [
        "--set threads=0:",
        f"{path}, line 1:",
        f"{path}, line 3:",
        f"{path}, line 4:",
    ]


def test_a_check_across_fields_names_every_line_that_takes_part(tmp_path: Path) -> None:
    write(tmp_path, "data:\n  world:\n    disliked: 0.5\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\n")
    message = message_of(path, ["data.world.liked=0.6"])
    assert message.startswith(f"--set data.world.liked=0.6; {tmp_path / 'base.yaml'}, line 3: data.world: liked + ")


def test_a_file_that_is_not_utf8_is_reported_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("seed: 1\nname: caf\xe9\n".encode("latin-1"))
    assert message_of(path).startswith(f"{path}, line 2: not UTF-8 (")


def test_a_file_too_large_for_a_recipe_is_not_parsed(tmp_path: Path) -> None:
    path = write(tmp_path, "# " + "x" * 2**20)
    assert "has 1048578 bytes; a recipe has at most 262144" in message_of(path)


def test_nested_aliases_fail_before_they_expand(tmp_path: Path) -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 30))
    assert "line 1: &l0: a recipe has no anchors" in message_of(write(tmp_path, "l0: &l0 [x]\n" + levels))


YAML_PIECES = st.sampled_from(
    [
        *(
            "a",
            "seed",
            "judge",
            ": ",
            ":\n",
            "\n",
            "\n  ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "&a ",
            "*a",
            "!!int ",
            "!x ",
        ),
        *("'", '"', "\\", "\\x", "\\ud800", "|", ">-\n", "# ", "%YAML 1.1\n", "---\n", "...", "? ", "<<", "=", "~"),
        *("1", "1e400", "0x", "0o8", "_", ".inf", "-", "12:30", "2024-13-45", "\t", "\r", "\x85", "\u2028", "\ufeff"),
        *("é", "extends"),
    ]
)


@IN_ONE_FOLDER
@given(text=st.one_of(st.binary(max_size=60), st.lists(YAML_PIECES, max_size=14).map(lambda p: "".join(p).encode())))
def test_any_file_loads_or_raises_a_config_error(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(text)
    try:
        load_recipe(path)
    except ConfigError as error:
        assert str(error).strip()
        str(error).encode("utf-8")


@IN_ONE_FOLDER
@given(
    override=st.one_of(
        st.text(st.characters(), max_size=30), st.lists(YAML_PIECES, max_size=8).map(lambda p: "seed=" + "".join(p))
    )
)
def test_any_override_loads_or_raises_a_config_error(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, "seed: 1\n")
    try:
        load_recipe(path, [override])
    except ConfigError as error:
        str(error).encode("utf-8")


# --- paths ----------------------------------------------------------------------------------------------------------

PATH_FIELDS = ["prompts.rubric_template", "prompts.judge_template", "data.source", "data.evaluation", "warmup.source"]


def value_of(recipe: Recipe, field: str) -> Any:
    value: Any = recipe
    for key in field.split("."):
        value = getattr(value, key)
    return value


def unchecked(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe, whatever its paths lead to."""
    return load_settings(Recipe, path, overrides, check_names=False)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes that is not the working directory."""
    folder, cwd = tmp_path / "recipes", tmp_path / "cwd"
    (folder / "files").mkdir(parents=True)
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    for name in ("files/here", "testbed", "rubric", "judge", "judge_paper"):
        write(folder, "x", name)
    return folder


@pytest.mark.parametrize("field", [*PATH_FIELDS, "model.base"])
def test_a_path_beside_the_recipe_becomes_absolute(elsewhere: Path, field: str) -> None:
    section, key = field.split(".")
    path = write(elsewhere, f"{section}:\n  {key}: files/here\n")
    overrides = {
        "warmup.source": ["data.source=other.jsonl"],
        "data.source": ["warmup.source=null"],
        "data.evaluation": ["data.source=other.jsonl", "warmup.source=null"],
    }
    assert value_of(unchecked(path, overrides.get(field, [])), field) == str((elsewhere / "files" / "here").resolve())


def test_checkpoints_beside_the_recipe_become_absolute(elsewhere: Path) -> None:
    path = write(elsewhere, "model:\n  checkpoints: {rubric: files/here, judge: owner/name}\n")
    pair = load_recipe(path).model.checkpoints
    assert pair is not None
    assert (pair.rubric, pair.judge) == (str((elsewhere / "files" / "here").resolve()), "owner/name")


@pytest.mark.parametrize("field", [*PATH_FIELDS, "model.base"])
@pytest.mark.parametrize("value", ["files/none", "Qwen/Qwen3-8B", "/abs/path", "z" * 5000])
def test_other_values_stay_as_they_are(elsewhere: Path, field: str, value: str) -> None:
    path = write(elsewhere, "name: run\n")
    overrides = ["warmup.source=null", "data.source=other.jsonl", f"{field}={value}"]
    assert value_of(unchecked(path, overrides), field) == value


@pytest.mark.parametrize("field", ["data.source", "warmup.source", "data.decontaminate"])
def test_a_file_that_is_not_there_yet_has_the_same_path_as_when_it_is(elsewhere: Path, field: str) -> None:
    value = "[pairs.jsonl]" if field == "data.decontaminate" else "pairs.jsonl"
    overrides = ["warmup.source=null", "data.source=other.jsonl", f"{field}={value}"]
    path = write(elsewhere, "name: run\n")
    before = load_recipe(path, overrides)
    Path("pairs.jsonl").write_text("")
    assert recipe_hash(load_recipe(path, overrides)) == recipe_hash(before)
    assert str(Path("pairs.jsonl").resolve()) in value_of(before, field)


def test_built_in_names_are_no_paths(elsewhere: Path) -> None:
    prompts = "prompts: {rubric_template: rubric, judge_template: judge_paper}\n"
    recipe = load_recipe(write(elsewhere, f"data: {{source: testbed}}\nmodel: {{base: testbed}}\n{prompts}"))
    assert (recipe.data.source, recipe.model.base) == ("testbed", "testbed")
    assert (recipe.prompts.rubric_template, recipe.prompts.judge_template) == ("rubric", "judge_paper")


def test_the_working_directory_comes_first(elsewhere: Path) -> None:
    path = write(elsewhere, "prompts: {judge_template: files/here}\n")
    Path("files").mkdir()
    write(Path("files"), "x", "here")
    # Absolute, so that a run made here can be used from anywhere.
    assert unchecked(path).prompts.judge_template == str(Path("files", "here").resolve())


def test_a_path_belongs_to_the_file_it_is_written_in(elsewhere: Path) -> None:
    (elsewhere / "sub").mkdir()
    write(elsewhere, "prompts: {judge_template: files/here}\n", "base.yaml")
    recipe = unchecked(write(elsewhere, "extends: ../base.yaml\n", "sub/r.yaml"))
    assert recipe.prompts.judge_template == str((elsewhere / "files" / "here").resolve())
    assert recipe.prompts.rubric_template == "rubric"


def test_an_empty_path_is_left_alone(elsewhere: Path) -> None:
    assert load_recipe(write(elsewhere, "model: {base: ''}\n")).model.base == ""


@pytest.mark.parametrize("field", ["reward.function", "phases.judge", "phases.rubric"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("files/mine.py:reward", "{recipes}/files/mine.py:reward"),
        ("here.py:reward", "{cwd}/here.py:reward"),
        ("none.py:reward", "{cwd}/none.py:reward"),
        ("/abs/mine.py:reward", "/abs/mine.py:reward"),
        ("package.module:reward", "package.module:reward"),
        ("here:reward", "here:reward"),
        ("mine.py", "mine.py"),
        ("null", None),
    ],
)
def test_the_file_of_a_plugin_becomes_absolute(elsewhere: Path, field: str, value: str, expected: str | None) -> None:
    write(elsewhere, "x", "files/mine.py")
    for name in ("here", "here.py", "mine.py"):
        write(Path.cwd(), "x", name)
    section, key = field.split(".")
    recipe = unchecked(write(elsewhere, f"{section}: {{{key}: {value}}}\n"))
    assert value_of(recipe, field) == (expected and expected.format(recipes=elsewhere.resolve(), cwd=Path.cwd()))


# --- writing --------------------------------------------------------------------------------------------------------

# Half a surrogate pair is the only text that YAML, and a recipe, cannot hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TRICKY = [
    "null",
    "~",
    "1e-3",
    "yes",
    "=",
    "<<",
    "2024-01-01",
    "- a",
    "a: b",
    "#x",
    " a ",
    "a\nb",
    "a\r\nb",
    "\x85",
    "\0",
]
NUMBER = st.floats(min_value=1e-300, max_value=1e300)


@settings(IN_ONE_FOLDER, max_examples=50)
@given(
    description=TEXT | st.sampled_from(TRICKY),
    base=TEXT | st.sampled_from(TRICKY),
    modules=st.just("all-linear") | st.lists(TEXT, max_size=3).map(tuple),
    rate=NUMBER,
    alpha=NUMBER,
    seed=st.integers(0, 2**63 - 1),
    max_steps=st.none() | st.integers(1, 10**6),
    generations=st.integers(2, 64),
)
def test_a_dumped_recipe_loads_back_equal(tmp_path: Path, **drawn: Any) -> None:
    lora = LoraSettings(alpha=drawn["alpha"], target_modules=drawn["modules"])
    recipe = Recipe(
        description=drawn["description"],
        seed=drawn["seed"],
        model=ModelSettings(base=drawn["base"], lora=lora),
        judge=GRPOSettings(
            learning_rate=drawn["rate"], max_steps=drawn["max_steps"], num_generations=drawn["generations"]
        ),
    )
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    path = write(folder, "", "recipe.yaml")
    path.write_bytes(dump_recipe(recipe).encode("utf-8"))
    if not recipe_file._exists(folder / drawn["base"]):
        assert load_recipe(path) == recipe
        assert recipe_hash(load_recipe(path)) == recipe_hash(recipe)


def test_dump_is_complete_readable_and_stable(tmp_path: Path) -> None:
    text = dump_recipe(Recipe())
    assert text.startswith(
        "name: run\ndescription: ''\nseed: 0\nthreads: null\nreport_to: []\nmodel:\n  backend: transformers\n"
    )
    again = load_recipe(write(tmp_path, text))
    assert again == Recipe()
    assert dump_recipe(again) == text


def test_the_hash_is_of_values_not_of_how_they_were_written(tmp_path: Path) -> None:
    plain = recipe_hash(Recipe())
    assert re.fullmatch(r"[0-9a-f]{16}", plain)
    assert recipe_hash(load_recipe(write(tmp_path, "judge: {}\nseed: 0\nmodel: {lora: {alpha: 32}}\n"))) == plain
    assert recipe_hash(load_recipe(write(tmp_path, "model: {lora: {alpha: 32.0}}\n"))) == plain
    assert recipe_hash(Recipe(seed=1)) != plain
    assert recipe_hash(Recipe(judge=GRPOSettings(beta=0))) != plain
    assert recipe_hash(Recipe(judge=GRPOSettings(beta=0.5))) != recipe_hash(Recipe(rubric=GRPOSettings(beta=0.5)))


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith("qwen3-")])
def test_the_headers_of_recipes_claim_what_the_gpu_measured(name: str) -> None:
    """A row of the table for the recipe's base under a cap of its card, or else nothing."""
    root = recipes_folder().parent
    (claim,) = re.findall(r"^#   measured  (.*)", (root / "recipes" / f"{name}.yaml").read_text(), re.MULTILINE)
    _, base, card = name.split("-")
    rows = (root / "benchmarks" / "gpu" / "results.md").read_text().splitlines()
    stages = {row.split(" | ")[2] for row in rows if row.startswith(f"| {base} | {card.removesuffix('gb')} GiB | ")}
    words = {"whole steps": {"judge phase", "rubric phase"}, "a warm-up step": {"warm-up"}}
    words |= {"an update and a rollout": {"update", "rollout"}}
    claimed = set().union(*(found for text, found in words.items() if text in claim))
    assert claimed <= {stage.split(" ")[0] if stage[-1].isdigit() else stage for stage in stages}
    assert claim.startswith("memory") if claimed else claim.startswith("nothing yet; memory planned: ")
    assert "speed" not in claim or (base, card) == ("8b", "12gb"), "others ran beside each other"
