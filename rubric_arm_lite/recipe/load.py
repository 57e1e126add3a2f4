"""Loads recipes: YAML files and ``--set`` values become one checked recipe, and a recipe becomes YAML again.

A recipe may say ``extends: other.yaml``. Mappings merge deeply and the later value wins: the extended file, then the
recipe, then each ``--set`` in order. Each value keeps the file and line it was written on, and errors name them. Types
are strict: ``"8"`` is text and ``true`` is not a number.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from importlib.util import find_spec
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe.entries import (
    SECTION,
    Entries,
    Entry,
    allowed,
    describe,
    fields_of,
    listed,
    printable,
    read_file,
    read_override,
    read_text,
    show,
)
from rubric_arm_lite.recipe.fields import WORLDS, ColumnSettings, Recipe, RunSettings, Settings
from rubric_arm_lite.recipe.plugins import check_plugin, is_plugin
from rubric_arm_lite.recipe.policy import PolicyRecipe
from rubric_arm_lite.recipe.templates import BUILT_IN_TEMPLATES, read_template

AnyRecipe = TypeVar("AnyRecipe", bound=RunSettings)
AnySettings = TypeVar("AnySettings", bound=Settings)

_PACKAGE = Path(__file__).resolve().parents[1]
SWEEPS = "sweeps"
"""Folder of the shipped sweeps below ``recipes/``."""

_PLUGINS = ("reward.function", "phases.judge", "phases.rubric", "data.format", "warmup.format")
"""Fields that may hold ``module:name`` or ``file.py:name``."""
_TEMPLATES = {f"prompts.{kind}_template": names for kind, names in BUILT_IN_TEMPLATES.items()}
_ALWAYS_PATHS = ("warmup.from", "start.source", "start.adapter", "reward.run", "evaluation.judge")
"""Fields whose values are no Hub ids."""
_PATH_FIELDS: dict[str, tuple[str, ...]] = {
    **_TEMPLATES,
    **dict.fromkeys(("data.source", "warmup.source", "start.source"), WORLDS),
    "model.base": ("testbed",),
    **dict.fromkeys(("data.evaluation", "data.decontaminate", "warmup.from", "start.adapter", "reward.run"), ()),
    **dict.fromkeys(("model.checkpoints.rubric", "model.checkpoints.judge", *_PLUGINS), ()),
    "evaluation.judge": ("oracle",),
}
"""Fields that may hold a path, with the built-in names that are none."""
_FILE_SUFFIXES = {".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".bz2", ".zst"}
_FILE_SUFFIXES |= {".jinja", ".py"}


# --- finding recipes ------------------------------------------------------------------------------------------------


def recipes_folder() -> Path:
    """The folder of shipped recipes: inside the package in a wheel, beside it in a checkout."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def shipped_recipes(kind: type[RunSettings] = Recipe) -> dict[str, Path]:
    """The shipped YAML files of one kind of recipe by name: the path in the folder of its kind, without suffix."""
    folder = recipes_folder() / kind.recipe_folder
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}
    inner = (f"{PolicyRecipe.recipe_folder}/", f"{SWEEPS}/")  # folders of their own in the folder of all recipes
    return {name: path for name, path in paths.items() if not name.startswith(inner)}


def resolve_recipe_path(name_or_path: str | Path, kind: type[RunSettings] = Recipe) -> Path:
    """The file that ``name_or_path`` means: a path to a YAML file, or the name of a shipped recipe of this kind.

    A shipped recipe may be named with or without ``.yaml``. A file on disk wins if the name ends in ``.yaml`` or
    ``.yml``, a shipped recipe if it does not.

    Raises:
        ConfigError: if there is neither; the message lists the shipped recipes.
    """
    name = str(name_or_path)
    shipped, stem = shipped_recipes(kind), name.removesuffix(".yaml")
    if kind is PolicyRecipe:
        stem = stem.removeprefix(f"{PolicyRecipe.recipe_folder}/")
    if stem in shipped and not (_exists(name) and name.endswith((".yaml", ".yml"))):
        return shipped[stem]
    if not _exists(name):
        other = Recipe if kind is PolicyRecipe else PolicyRecipe
        if stem.removeprefix(f"{other.recipe_folder}/") in shipped_recipes(other):
            raise ConfigError(_of_the_other_kind(name, other))
        near = difflib.get_close_matches(stem, shipped, n=1)
        raise ConfigError(
            f"There is no recipe {show(name)}.{f' Did you mean `{near[0]}`?' if near else ''} Give the path of a YAML "
            f"file, or the name of a shipped recipe: {', '.join(shipped) or 'none'}."
        )
    if (Path(name) / "recipe.yaml").is_file():
        raise ConfigError(f"{name} is a run directory. Its recipe is {Path(name) / 'recipe.yaml'}.")
    if Path(name).is_dir():
        raise ConfigError(f"{name} is a folder, not a recipe. Give the path of a YAML file in it.")
    return Path(name)


def _of_the_other_kind(name: str, kind: type[RunSettings]) -> str:
    """The error for a recipe of one kind where the other kind is needed."""
    if kind is PolicyRecipe:
        policy = name.removeprefix(f"{kind.recipe_folder}/")
        return (
            f"{name} is the recipe of a policy; a reward model's is needed here. Train the policy with rubric-arm "
            f"policy dpo {policy} (or iterdpo, grpo)."
        )
    return (
        f"{name} is the recipe of a reward model; a policy's is needed here. Train the reward model with rubric-arm "
        f"run {name}. Shipped recipes of policies: {', '.join(shipped_recipes(PolicyRecipe))}."
    )


def _exists(path: str | Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  # Path.exists raises for a name that is too long


# --- loading --------------------------------------------------------------------------------------------------------


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), check_names: bool = True) -> Recipe:
    """:func:`load_settings` of a reward model's recipe."""
    return load_settings(Recipe, name_or_path, overrides, check_names)


def load_any_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe | PolicyRecipe:
    """:func:`load_settings` of a recipe of either kind; ``policy/NAME`` is a shipped policy's."""
    folder, _, name = str(name_or_path).rpartition("/")
    if folder == PolicyRecipe.recipe_folder and name.removesuffix(".yaml") in shipped_recipes(PolicyRecipe):
        return load_settings(PolicyRecipe, name, overrides)
    try:
        return load_recipe(name_or_path, overrides)
    except ConfigError:
        with suppress(ConfigError):
            return load_settings(PolicyRecipe, name_or_path, overrides)
        raise


def load_settings(
    kind: type[AnyRecipe], name_or_path: str | Path, overrides: Sequence[str] = (), check_names: bool = True
) -> AnyRecipe:
    """The recipe of a file, after its ``extends`` chain and the ``--set a.b=value`` overrides, checked.

    ``extends`` names a file relative to the one it stands in, or else a shipped recipe. An override's value is YAML.

    A relative path in a field that names a file or folder (such as `prompts.judge_template`, `data.source`,
    `warmup.source`, `model.base` or `reward.run`) becomes absolute: below the working directory, or beside the file it
    is written in if it exists only there. A value that may be a Hub id stays as it is unless it exists as a path; the
    fields of runs and adapters, and names of files (`pairs.jsonl`), are paths whether they exist or not. In a plug-in
    `file.py:name` the part before the colon is such a path.

    Args:
        check_names: whether templates and plug-ins must exist; a finished run may be read without its plug-ins.

    Raises:
        ConfigError: one error that lists every problem: file and line (or the override), field, value, what is
            allowed.
    """
    path = resolve_recipe_path(name_or_path, kind)
    entries = _read_chain(path, kind)
    foreign = any(location and location[0] not in kind.model_fields for location in entries)
    for override in overrides:
        entries = _merge(entries, read_override(override, path.parent))
    entries[()] = Entry(SECTION, str(path), path.parent)
    try:
        recipe = validated(kind, entries)
    except ConfigError:
        other = Recipe if kind is PolicyRecipe else PolicyRecipe
        if not foreign:
            raise
        with suppress(ConfigError):
            validated(other, _read_chain(path, other))
            foreign = False
        if foreign:
            raise
        raise ConfigError(_of_the_other_kind(str(name_or_path), other)) from None
    if check_names and (wrong := list(wrong_names(recipe))):
        raise ConfigError(listed([f"{entries[tuple(name.split('.'))].where}: {problem}" for name, problem in wrong]))
    return recipe


def wrong_names(recipe: RunSettings) -> Iterator[tuple[str, str]]:
    """Fields that name a template, plug-in or tracker that cannot be used, each with its problem; no plug-in is run."""
    for field in (*_PLUGINS, *_TEMPLATES):
        section, _, name = field.partition(".")
        value = getattr(getattr(recipe, section, None), name, None)
        try:
            if value is not None and field in _TEMPLATES:
                read_template(name.removesuffix("_template"), value)
            elif value is not None and (not field.endswith("format") or is_plugin(value)):
                check_plugin(value, field)
        except ConfigError as error:
            yield field, str(error)
    for tracker in recipe.report_to:
        if find_spec(tracker) is None:
            yield "report_to", f"report_to: {tracker} is not installed. Run pip install {tracker}, or remove it."


def read_columns(text: str, where: str) -> ColumnSettings:
    """The columns that a mapping in YAML describes, as ``data.columns`` does; ``where`` names its place in errors.

    Raises:
        ConfigError: as :func:`load_settings`.
    """
    return validated(ColumnSettings, read_text(text, where))


def validated(kind: type[AnySettings], entries: Entries) -> AnySettings:
    """Settings from entries; a ConfigError names the place of every problem."""
    values: dict[str, Any] = {}
    for location, entry in entries.items():
        section = values
        for key in location[:-1]:
            section = section[key]
        if location:
            section[location[-1]] = {} if entry.value is SECTION else _with_absolute_path(".".join(location), entry)
    try:
        return kind.model_validate(values, strict=True)
    except ValidationError as error:
        raise ConfigError(describe(error, entries, kind)) from None


def _read_chain(path: Path, kind: type[RunSettings], extending: tuple[Path, ...] = ()) -> Entries:
    """The file at ``path`` merged onto the files it extends."""
    entries = read_file(path)
    extends = entries.pop(("extends",), None)
    if extends is None:
        return entries
    if not isinstance(extends.value, str) or not extends.value:
        raise ConfigError(f"{extends.where}: extends is {show(extends.value)}. Give the name of one YAML file.")
    shipped, name = shipped_recipes(kind), extends.value.removesuffix(".yaml")
    base = extends.folder / extends.value
    if not (_exists(base) and base.is_file()):
        if name not in shipped:
            raise ConfigError(
                f"{extends.where}: extends {show(extends.value)}, but there is no file {printable(str(base))}. Give a "
                f"path relative to this file, or the name of a shipped recipe: {', '.join(shipped) or 'none'}."
            )
        base = shipped[name]
    extending = (*extending, path.resolve())
    if base.resolve() in extending:
        raise ConfigError(f"{extends.where}: extends {base}, which extends this file in turn. Remove one `extends`.")
    return _merge(_read_chain(base, kind, extending), entries)


def _merge(base: Entries, later: Entries) -> Entries:
    """Both, the later in front: a section merges into the earlier one, a value replaces it with all its fields."""
    values = {location for location, entry in later.items() if entry.value is not SECTION}
    kept = {key: entry for key, entry in base.items() if not any(key[:n] in values for n in range(len(key)))}
    return {**kept, **later}


def _with_absolute_path(field: str, entry: Entry) -> Any:
    """The entry's value; a relative path in it becomes absolute.

    A path is absolute even if nothing exists there yet, so that a recipe and its hash do not depend on what does.
    """
    value = entry.value
    if field not in _PATH_FIELDS:
        return value

    def absolute(path: Any) -> Any:
        if not isinstance(path, str) or path in ("", *_PATH_FIELDS[field]):
            return path
        benchmark, given, copy = path.partition("=")
        if field == "data.decontaminate" and given and not _exists(path):  # a benchmark and where its copy is
            return f"{benchmark}={absolute(copy)}"
        for place in (Path(path), entry.folder / path):
            if _exists(place):
                return str(place.resolve())
        is_path = field in _ALWAYS_PATHS or Path(path).suffix in _FILE_SUFFIXES
        return str(Path(path).absolute()) if is_path else path

    if field == "warmup.from" and isinstance(value, str) and not _exists(value):
        run, at, state = value.rpartition("@")
        if at and "/" not in state:
            return f"{absolute(run)}@{state}"
    if field in _PLUGINS:
        file, _, name = str(value).rpartition(":")
        return f"{absolute(file)}:{name}" if file.endswith(".py") else value
    return tuple(map(absolute, value)) if isinstance(value, tuple) else absolute(value)


# --- writing --------------------------------------------------------------------------------------------------------


class _Representer(SafeRepresenter):
    """Quotes every text that has a line break or another invisible character; unquoted, U+0085 would not survive."""

    def represent_text(self, text: str) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Representer.add_representer(str, _Representer.represent_text)


def explain_recipe(recipe: RunSettings) -> Iterator[str]:
    """The lines of a complete recipe as YAML; above each field its documentation, and what it may be in brackets."""
    schemas = fields_of(type(recipe))

    def lines(settings: Settings, location: tuple[str, ...]) -> Iterator[str]:
        values, indent = settings.model_dump(mode="json"), "  " * len(location)
        for name, field in type(settings).model_fields.items():
            value, name = getattr(settings, name), field.alias or name
            place = (*location, name)
            section = isinstance(value, Settings)
            text = " ".join(filter(None, (field.description, value.__doc__ if section else "")))
            values_allowed = "" if section else f" [{allowed(schemas[place])}]"
            yield f"{indent}# {' '.join(text.split())}{values_allowed}"
            yield f"{indent}{name}:{'' if section else f' {json.dumps(values[name])}'}"
            if section:
                yield from lines(value, place)

    return lines(recipe, ())


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


def flat_fields(settings: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """The fields of a dumped recipe by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict) and value
        flat |= flat_fields(value, f"{section}{name}.") if inner else {f"{section}{name}": value}
    return flat


def recipe_hash(recipe: RunSettings) -> str:
    """Identity of a recipe's settings without its unhashed_fields: 16 hex digits of the SHA-256 of canonical JSON."""
    # Validating once more makes a default written as 32 the same as the 32.0 that a file would give.
    exact = type(recipe).model_validate(recipe.model_dump()).model_dump(mode="json")
    for name in recipe.unhashed_fields:
        *sections, field = name.split(".")
        del reduce(getitem, sections, exact)[field]
    text = json.dumps(exact, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
