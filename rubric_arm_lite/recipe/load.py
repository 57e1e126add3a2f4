"""Recipe files: YAML and ``--set`` values in, one checked :class:`~rubric_arm_lite.recipe.fields.Recipe` out, and back.

A recipe may say ``extends: other.yaml``; mappings merge deeply and the later value wins: the extended file, then the
recipe, then each ``--set`` in order. Every value remembers the line it was written on, so that whatever is wrong
with it is reported there. Types are exact: ``"8"`` is text and ``true`` is no number.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe.fields import BUILT_IN_TEMPLATES, FormatName, Recipe, RunSettings
from rubric_arm_lite.recipe.plugins import absolute_plugin

_FIELD_NAME = re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*")


@dataclass(frozen=True, slots=True)
class Setting:
    """A value with the place it was written. ``value`` is plain, or maps keys to settings."""

    value: Any
    where: str
    folder: Path


def find(root: Setting, field: Sequence[str]) -> Setting | None:
    """The setting at a dotted place, or None."""
    for key in field:
        if not isinstance(root.value, dict) or key not in root.value:
            return None
        root = root.value[key]
    return root


def message(error: ValidationError, root: Setting, kind: type[RunSettings]) -> str:
    """All problems of a recipe of some kind as one text; the alternatives pydantic lists for one field become one."""
    fields = Fields(kind)
    problems = list(dict.fromkeys(_problem(dict(item), root, fields) for item in error.errors(include_url=False)))
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} problems in the recipe:", *(f"  {problem}" for problem in problems)])


def _problem(item: Mapping[str, Any], root: Setting, fields: Fields) -> str:
    field = fields.known_part(item["loc"])
    name = ".".join(field)
    if item["type"] == "extra_forbidden":
        return _unknown_key(field, str(item["loc"][-1]), root, fields)
    if item["type"] == "value_error":
        return _failed_check(field, str(item["ctx"]["error"]), root, fields)
    schema = fields.at(field)
    if item["type"] == "missing":
        section, above = find(root, field[:-1]) or root, ".".join(field[:-1])
        return f"{section.where}: `{name}` is missing. Give {fields.allowed(schema)}, or leave out `{above}`."
    setting = find(root, field) or root
    if fields.under(schema):
        remedy = "Put fields under it, or leave it out for the defaults"
        source = fields.under(schema).get("source")
        if setting.value is None and source is not None and "null" in fields.allowed(source):
            remedy = f"For none of it write {name}: {{source: null}}"
    elif setting.where.startswith("--set "):
        remedy = "Correct it, or leave it out for the recipe's own value"
    elif "default" not in schema:
        remedy = "Correct it"
    else:
        remedy = f"Correct it, or leave it out for the default, {show(schema['default'])}"
    return f"{setting.where}: `{name}` is {show(setting.value)}. Allowed: {fields.allowed(schema)}. {remedy}."


def _unknown_key(section: tuple[str, ...], key: str, root: Setting, fields: Fields) -> str:
    setting = find(root, (*section, key)) or root
    prefix = "".join(f"{part}." for part in section)
    valid = list(fields.under(fields.at(section)))
    near = difflib.get_close_matches(key, valid, n=1)
    elsewhere = [name for name in fields.names() if name.rpartition(".")[2] == key]
    if near:
        hint = f"Did you mean `{prefix}{near[0]}`?"
    elif elsewhere:
        hint = f"Did you mean `{'` or `'.join(elsewhere)}`?"
    else:
        hint = f"Allowed{f' in `{prefix[:-1]}`' if prefix else ''}: {', '.join(valid)}."
    return f"{setting.where}: `{prefix}{printable(key)}` is not a field. {hint}"


def _failed_check(section: tuple[str, ...], text: str, root: Setting, fields: Fields) -> str:
    """A check across fields: it is placed where the fields that its message names were set."""
    places: dict[str, None] = {}
    for name in _FIELD_NAME.findall(text):
        setting = find(root, (*section, *name.split(".")))
        if setting is not None and not isinstance(setting.value, dict):
            places[setting.where] = None
    where = "; ".join(places) or (find(root, section) or root).where
    starts_with_field = text.partition(":")[0] in fields.under(fields.at(section))
    separator = "." if starts_with_field else ": "
    return f"{where}: {'.'.join(section)}{separator if section else ''}{text}"


class Fields:
    """The fields of one kind of recipe, from pydantic's JSON schema."""

    def __init__(self, kind: type[RunSettings]) -> None:
        self._whole: dict[str, Any] = kind.model_json_schema()

    def alternatives(self, schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """What a schema allows, one plain schema after the other."""
        if "$ref" in schema:
            yield self._whole["$defs"][schema["$ref"].rpartition("/")[2]]
        elif "anyOf" in schema:
            for option in schema["anyOf"]:
                yield from self.alternatives(option)
        else:
            yield schema

    def under(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a section; empty for a plain value."""
        return next((option["properties"] for option in self.alternatives(schema) if "properties" in option), {})

    def at(self, field: Sequence[str]) -> Mapping[str, Any]:
        """The schema of a field."""
        schema: Mapping[str, Any] = self._whole
        for key in field:
            schema = self.under(schema)[key]
        return schema

    def known_part(self, location: Sequence[str | int]) -> tuple[str, ...]:
        """The leading field names of a pydantic location, without the names it gives to alternatives."""
        known: tuple[str, ...] = ()
        for key in location:
            if key not in self.under(self.at(known)):
                break
            known = (*known, str(key))
        return known

    def names(self, prefix: str = "", schema: Mapping[str, Any] | None = None) -> Iterator[str]:
        """Every field by its dotted name."""
        for key, field in self.under(self._whole if schema is None else schema).items():
            yield prefix + key
            yield from self.names(f"{prefix}{key}.", field)

    def allowed(self, schema: Mapping[str, Any]) -> str:
        """What a field may be, in words."""
        return " or ".join(_allowed_one(option) for option in self.alternatives(schema))


def _allowed_one(schema: Mapping[str, Any]) -> str:
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices:
        return ", ".join(map(str, choices))
    words = {
        "integer": "a whole number",
        "number": "a finite number",
        "string": "text",
        "boolean": "true or false",
        "array": "a list of text",
        "null": "null",
        "object": "a section of fields",
    }[schema["type"]]
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    bounds = " and ".join(f"{word} {schema[key]:g}" for key, word in limits.items() if key in schema)
    pattern = f" that matches {schema['pattern']}" if "pattern" in schema else ""
    return f"{words}{f', {bounds}' if bounds else ''}{pattern}"


def show(value: Any) -> str:
    """A value for a message."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case str():
            return repr(value if len(value) <= 60 else f"{value[:57]}...")
        case dict():
            return "a section of fields"
        case tuple() | list():
            return "a list"
        case _:
            return str(value)


def printable(text: str) -> str:
    """A text for a message: short and without invisible characters."""
    short = text if len(text) <= 120 else f"{text[:117]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


_MAX_INTEGER = 2**63
_TAG = "tag:yaml.org,2002:"
STRING_TAG = _TAG + "str"
_TEXT_TAGS = {_TAG + name for name in ("str", "timestamp", "merge", "value")}
_NUMBER_TAGS = {_TAG + name for name in ("int", "float")}


def parse(text: str, place: Callable[[int], str], folder: Path) -> Setting | None:
    """The settings of a YAML text, or None if there is nothing in it; ``place`` words a line number."""
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False
    try:
        root = _compose(text, yaml, place)
        return None if root is None else _read_node(root, yaml, place, folder)
    except RecursionError as error:
        raise ConfigError(f"{place(1)}: nested too deeply. A recipe has at most four levels.") from error


def _compose(text: str, yaml: YAML, place: Callable[[int], str]) -> Node | None:
    try:
        root: Node | None = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "it does not parse"
        raise ConfigError(
            f"{place(mark.line + 1 if mark else 1)}: not YAML ({problem}). Correct the syntax, or quote the value."
        ) from error
    except YAMLError as error:  # the reader's: a character that YAML does not allow, without a line
        position = getattr(error, "position", 0)
        raise ConfigError(
            f"{place(text.count(chr(10), 0, position) + 1)}: not YAML (a control character). Take it out, or write it "
            "as an escape in double quotes."
        ) from error
    except (ArithmeticError, ValueError) as error:  # ruamel's, from an escape such as \UFFFFFFFF
        raise ConfigError(f"{place(1)}: not YAML ({error}). Correct the escape or number.") from error
    return root


def _read_node(node: Node, yaml: YAML, place: Callable[[int], str], folder: Path) -> Setting:
    where = place(node.start_mark.line + 1)
    if node.anchor is not None:
        raise ConfigError(f"{where}: &{printable(node.anchor)}: a recipe has no anchors. Write the value out.")
    match node:
        case MappingNode():
            return Setting(_read_mapping(node, yaml, place, folder), where, folder)
        case SequenceNode():
            return Setting(tuple(plain(_read_node(item, yaml, place, folder)) for item in node.value), where, folder)
        case _:
            return Setting(_read_scalar(node, yaml, where), where, folder)


def _read_mapping(node: MappingNode, yaml: YAML, place: Callable[[int], str], folder: Path) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    lines: dict[str, str] = {}
    for key_node, value_node in node.value:
        where = place(key_node.start_mark.line + 1)
        if not isinstance(key_node, ScalarNode):
            raise ConfigError(f"{where}: a list or mapping as key. A key is the name of a field.")
        key = whole_characters(str(key_node.value), where)
        if key in settings:
            raise ConfigError(f"{where}: {show(key)} was given before ({lines[key]}). Keep one of them.")
        lines[key] = where
        settings[key] = replace(_read_node(value_node, yaml, place, folder), where=where)
    return settings


def _read_scalar(node: Node, yaml: YAML, where: str) -> str | int | float | bool | None:
    tag = str(node.tag)
    if tag in _TEXT_TAGS:
        return whole_characters(str(node.value), where)
    if tag not in _NUMBER_TAGS | {_TAG + "bool", _TAG + "null"}:
        raise ConfigError(f"{where}: the tag {printable(tag)} is not read. Leave it out.")
    try:
        value: int | float | bool | None = yaml.constructor.construct_object(node)
    except (ValueError, KeyError, IndexError) as error:  # a tag the value does not fit: !!int x, !!bool x
        raise ConfigError(f"{where}: {show(node.value)} does not fit its tag {printable(tag)}.") from error
    if isinstance(value, int) and not -_MAX_INTEGER <= value < _MAX_INTEGER:
        raise ConfigError(f"{where}: a whole number beyond 64 bits. Use one below 2**63.")
    return value


def whole_characters(text: str, where: str) -> str:
    """The text with the two escapes that JSON writes for a character above U+FFFF made one."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: {show(text)} has half of a surrogate pair. Take it out.") from error


def plain(setting: Setting) -> Any:
    """The value with those of all settings in it, without their places."""
    if isinstance(setting.value, dict):
        return {key: plain(value) for key, value in setting.value.items()}
    return setting.value


_PACKAGE = Path(__file__).resolve().parents[1]
_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 256 * 1024

RECIPE_FOLDERS = ("policy",)
"""Folders of recipes that are not of a reward model, each the ``recipe_folder`` of its kind."""
AnyRecipe = TypeVar("AnyRecipe", bound=RunSettings)

_PATH_FIELDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("prompts", "rubric_template"): BUILT_IN_TEMPLATES,
    ("prompts", "judge_template"): BUILT_IN_TEMPLATES,
    ("prompts", "pointwise_template"): BUILT_IN_TEMPLATES,
    ("data", "source"): ("testbed",),
    ("data", "evaluation"): (),
    ("data", "decontaminate"): (),
    ("warmup", "source"): ("testbed",),
    ("data", "format"): get_args(FormatName),
    ("warmup", "format"): get_args(FormatName),
    ("reward", "function"): (),
    ("phases", "judge"): (),
    ("phases", "rubric"): (),
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
    recipe_folder = _shelf(kind)
    others = [recipes_folder() / name for name in RECIPE_FOLDERS if name != kind.recipe_folder]
    found = (path for path in recipe_folder.rglob("*.yaml") if path.is_file())
    return sorted(path for path in found if not any(other in path.parents for other in others))


def _shelf(kind: type[RunSettings]) -> Path:
    return recipes_folder() / kind.recipe_folder


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
    recipe_folder = _shelf(kind)
    return {path.relative_to(recipe_folder).with_suffix("").as_posix(): path for path in shipped_recipes(kind)}


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
    """Identity of a recipe's settings, its unhashed_fields left out: 16 hex digits of the SHA-256 of canonical JSON."""
    # Validating once more makes a default written as 32 the same as the 32.0 that a file would give.
    exact = type(recipe).model_validate(recipe.model_dump()).model_dump(mode="json")
    for name in recipe.unhashed_fields:
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
    if ".py:" in value:
        return absolute_plugin(value, folder)
    here, beside = Path(value), folder / value
    if _exists(here) or _exists(beside):
        return str((here if _exists(here) else beside).resolve())
    is_path = never_hub_id or here.suffix in _FILE_SUFFIXES
    return str(here.absolute()) if is_path else value
