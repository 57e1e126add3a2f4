"""Recipe files: YAML and ``--set`` values in, one checked :class:`~rubric_arm_lite.config.Recipe` out, and back.

A recipe may say ``extends: other.yaml``; mappings merge deeply and the later value wins: the extended file, then the
recipe, then each ``--set`` in order. Every value remembers the line it was written on, so that whatever is wrong
with it is reported there. Types are exact: ``"8"`` is text and ``true`` is no number.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from rubric_arm_lite.config import Recipe, RunSettings
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.prompts import BUILT_IN_TEMPLATES
from rubric_arm_lite.recipe_problems import Setting, find, message, printable, show
from rubric_arm_lite.recipe_yaml import STRING_TAG, parse, plain, whole_characters

_PACKAGE = Path(__file__).resolve().parent
_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 256 * 1024

SHELVES = ("policy",)
"""Folders of recipes that are not of a reward model, each the ``shelf`` of its kind."""
AnyRecipe = TypeVar("AnyRecipe", bound=RunSettings)

_PATH_FIELDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("prompts", "rubric_template"): BUILT_IN_TEMPLATES,
    ("prompts", "judge_template"): BUILT_IN_TEMPLATES,
    ("prompts", "pointwise_template"): BUILT_IN_TEMPLATES,
    ("data", "source"): ("testbed",),
    ("data", "evaluation"): (),
    ("data", "decontaminate"): (),
    ("warmup", "source"): ("testbed",),
    ("model", "base"): ("testbed",),
    ("model", "checkpoints", "rubric"): (),
    ("model", "checkpoints", "judge"): (),
    ("start", "source"): ("testbed",),
    ("start", "adapter"): (),
    ("reward", "run"): (),
    ("evaluation", "judge"): ("oracle",),
}
"""Fields that may hold a path, with the built-in names that are none."""
_NEVER_HUB_IDS = {("start", "source"), ("start", "adapter"), ("reward", "run"), ("evaluation", "judge")}
_FILE_SUFFIXES = {".jsonl", ".json", ".csv", ".parquet", ".jinja"}


# --- finding recipes ------------------------------------------------------------------------------------------------


def recipes_folder() -> Path:
    """The folder of shipped recipes: inside the package in a wheel, beside it in a checkout."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def shipped_recipes(kind: type[RunSettings] = Recipe) -> list[Path]:
    """The YAML files of one kind of recipe in :func:`recipes_folder` and its subfolders, sorted."""
    shelf = _shelf(kind)
    others = [recipes_folder() / name for name in SHELVES if name != kind.shelf]
    found = (path for path in shelf.rglob("*.yaml") if path.is_file())
    return sorted(path for path in found if not any(other in path.parents for other in others))


def _shelf(kind: type[RunSettings]) -> Path:
    return recipes_folder() / kind.shelf


def resolve_recipe_path(name_or_path: str | Path, kind: type[RunSettings] = Recipe) -> Path:
    """The file that ``name_or_path`` means: a path to a YAML file, or the name of a shipped recipe of its kind.

    A shipped recipe is named by its path below its kind's folder in :func:`recipes_folder`, with or without ``.yaml``.
    A file on disk wins if the name ends in ``.yaml`` or ``.yml``, a shipped recipe if it does not.

    Raises:
        ConfigError: if there is neither; the message lists the shipped recipes.
    """
    given = str(name_or_path)
    names = shipped_names(kind)
    shipped = names.get(given.removesuffix(".yaml"))
    if shipped is not None and not (given.endswith(_SUFFIXES) and _exists(Path(given))):
        return shipped
    if given and _exists(Path(given)):
        if Path(given).is_dir():
            raise ConfigError(f"{given} is a folder, not a recipe. Give the path of a YAML file in it.")
        return Path(given)
    near = difflib.get_close_matches(given.removesuffix(".yaml"), names, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    listed = ", ".join(names) or "none"
    raise ConfigError(
        f"There is no recipe {show(given)}.{hint} Give the path of a YAML file, or the name of a shipped recipe: "
        f"{listed}."
    )


def shipped_names(kind: type[RunSettings] = Recipe) -> dict[str, Path]:
    """The shipped recipes of one kind by the names that :func:`resolve_recipe_path` takes."""
    shelf = _shelf(kind)
    return {path.relative_to(shelf).with_suffix("").as_posix(): path for path in shipped_recipes(kind)}


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


# --- loading --------------------------------------------------------------------------------------------------------


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """:func:`load_settings` of a reward model's recipe."""
    return load_settings(Recipe, name_or_path, overrides)


def load_settings(kind: type[AnyRecipe], name_or_path: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """The recipe of a file, after its ``extends`` chain and the ``--set a.b=value`` overrides, checked.

    ``extends`` names a file relative to the one it stands in, or else a shipped recipe. An override's value is YAML.

    A relative path in a field that names a file or folder (such as `prompts.judge_template`, `data.source`,
    `warmup.source`, `model.base` or `reward.run`) becomes absolute: below the working directory, or beside the file it
    is written in if it exists only there. A value that may be a Hub id stays as it is unless it exists as a path; the
    fields of runs and adapters, and names of files (`pairs.jsonl`), are paths whether they exist or not.

    Raises:
        ConfigError: one error that lists every problem: file and line (or the override), field, value, what is
            allowed.
    """
    path = resolve_recipe_path(name_or_path, kind)
    root = _read_chain(path, kind)
    for override in overrides:
        root = _merge(root, _read_override(override, path.parent))
    root = replace(root, where=str(path))
    try:
        return kind.model_validate(plain(_with_absolute_paths(root)), strict=True)
    except ValidationError as error:
        raise ConfigError(message(error, root, kind)) from None


class _Representer(SafeRepresenter):
    """Quotes every text that has a line break or another invisible character; unquoted, U+0085 would not survive."""


def _represent_text(representer: _Representer, text: str) -> Any:
    return representer.represent_scalar(STRING_TAG, text, style=None if text.isprintable() else '"')


_Representer.add_representer(str, _represent_text)


def dump_recipe(recipe: RunSettings) -> str:
    """The complete recipe as YAML; :func:`load_recipe` reads an equal one from it."""
    stream = io.StringIO()
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 4096
    yaml.dump(recipe.model_dump(mode="json"), stream)
    return stream.getvalue()


def recipe_hash(recipe: RunSettings) -> str:
    """Identity of a recipe's settings, its surroundings left out: 16 hex digits of the SHA-256 of canonical JSON."""
    # Validating once more makes a default written as 32 the same as the 32.0 that a file would give.
    exact = type(recipe).model_validate(recipe.model_dump()).model_dump(mode="json")
    for name in recipe.surroundings:
        section, field = name.split(".")
        del exact[section][field]
    text = json.dumps(exact, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_chain(path: Path, kind: type[RunSettings]) -> Setting:
    """The file at ``path`` merged onto the files it extends."""
    layers: list[Setting] = []
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        if following.resolve() in seen:
            raise ConfigError(
                f"{layers[-1].value['extends'].where}: extends {following}, which extends this file in turn. "
                "Take one `extends` out."
            )
        seen.append(following.resolve())
        layers.append(_read_file(following))
        following = _extended(layers[-1], kind)
    merged = layers.pop()
    while layers:
        merged = _merge(merged, layers.pop())
    return replace(merged, value={key: value for key, value in merged.value.items() if key != "extends"})


def _extended(layer: Setting, kind: type[RunSettings]) -> Path | None:
    extends = layer.value.get("extends")
    if extends is None:
        return None
    if not isinstance(extends.value, str) or not extends.value:
        raise ConfigError(f"{extends.where}: extends is {show(extends.value)}. Give the name of one YAML file.")
    beside: Path = extends.folder / extends.value
    if _exists(beside) and beside.is_file():
        return beside
    shipped = shipped_names(kind)
    if extends.value.removesuffix(".yaml") not in shipped:
        raise ConfigError(
            f"{extends.where}: extends {show(extends.value)}, but there is no file {printable(str(beside))}. Give a "
            f"path relative to this file, or the name of a shipped recipe: {', '.join(shipped) or 'none'}."
        )
    return shipped[extends.value.removesuffix(".yaml")]


def _read_file(path: Path) -> Setting:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(
            f"{path} has {len(content)} bytes; a recipe has at most {_MAX_BYTES}. Is this the file you meant?"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    node = parse(text, lambda line: f"{path}, line {line}", path.parent)
    if node is None:
        raise ConfigError(f"{path} is empty. A recipe needs at least one field, for example `name: mine`.")
    if not isinstance(node.value, dict):
        raise ConfigError(f"{node.where}: a recipe is a mapping of fields to values, not {show(node.value)}.")
    return node


def _read_override(override: str, folder: Path) -> Setting:
    """``a.b=value`` as nested settings."""
    where = f"--set {printable(override)}"
    override = whole_characters(override, where)
    name, equals, text = override.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"{where}: not of the form field=value. Write, for example, --set judge.beta=0.01.")
    if keys[0] == "extends":
        raise ConfigError(f"{where}: extends belongs into a file. Write a recipe that extends the other one.")
    setting = parse(text, lambda _: where, folder) or Setting(None, where, folder)
    for key in reversed(keys):
        setting = Setting({key: setting}, where, folder)
    return setting


def _merge(base: Setting, later: Setting) -> Setting:
    if not (isinstance(base.value, dict) and isinstance(later.value, dict)):
        return later
    merged = dict(base.value)
    for key, setting in later.value.items():
        merged[key] = _merge(merged[key], setting) if key in merged else setting
    return replace(later, value=merged)


def _with_absolute_paths(root: Setting) -> Setting:
    for field, built_in in _PATH_FIELDS.items():
        setting = find(root, field)
        if setting is None:
            continue
        listed = isinstance(setting.value, tuple)
        values = setting.value if listed else (setting.value,)
        paths = tuple(_absolute(value, setting.folder, built_in, field in _NEVER_HUB_IDS) for value in values)
        if paths != values:
            absolute = replace(setting, value=paths if listed else paths[0])
            for key in reversed(field):
                absolute = replace(root, value={key: absolute})
            root = _merge(root, absolute)
    return root


def _absolute(value: Any, folder: Path, built_in: tuple[str, ...], never_hub_id: bool) -> Any:
    """The absolute path that a value names here or beside its file; a Hub id or a built-in name stays as it is.

    A path is absolute even if nothing exists there yet, so that a recipe and its hash do not depend on what does.
    """
    if not isinstance(value, str) or value in ("", *built_in):
        return value
    here, beside = Path(value), folder / value
    if _exists(here) or _exists(beside):
        return str((here if _exists(here) else beside).resolve())
    is_path = never_hub_id or here.suffix in _FILE_SUFFIXES
    return str(here.absolute()) if is_path else value
