"""Values of a recipe with the file and line they are written on, and the errors that name them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rubric_arm_lite.errors import ConfigError

_MAX_BYTES = 256 * 1024
_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {_TAG + name for name in ("str", "timestamp", "merge", "value")}
_OTHER_TAGS = {_TAG + name for name in ("int", "float", "bool", "null")}

SECTION: dict[str, Any] = {}
"""The value of an :class:`Entry` that has fields under it, each an entry of its own."""
Location = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, its file and line or ``--set`` argument, and the folder that relative paths in it start from."""

    value: Any
    where: str
    folder: Path


Entries = dict[Location, Entry]
"""A recipe by location; ``()`` is the whole, and a section comes before its fields."""


def read_file(path: Path) -> Entries:
    """The entries of a recipe file.

    Raises:
        ConfigError: if it cannot be read, is too large, not UTF-8, not YAML, empty, or no mapping.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(
            f"{path} has {len(content)} bytes; a recipe has at most {_MAX_BYTES}. Is this the right file?"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    entries = _parse(text, lambda line: f"{path}, line {line}", path.parent)
    if not entries:
        raise ConfigError(f"{path} is empty. A recipe needs at least one field, for example `name: mine`.")
    if (root := entries[()]).value is not SECTION:
        raise ConfigError(f"{root.where}: a recipe is a mapping of fields to values, not {show(root.value)}.")
    return entries


def read_override(override: str, folder: Path) -> Entries:
    """The entries of ``--set a.b=value``; paths in it start from ``folder``.

    Raises:
        ConfigError: if it is not of the form field=value, sets ``extends``, or its value is not YAML.
    """
    where = f"--set {printable(override)}"
    name, equals, text = _whole_characters(override, where).partition("=")
    keys = tuple(key.strip() for key in name.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{where}: not of the form field=value. Write, for example, --set judge.beta=0.01.")
    if keys[0] == "extends":
        raise ConfigError(f"{where}: extends belongs in a file. Write a recipe that extends the other one.")
    value = _parse(text, lambda _: where, folder) or {(): Entry(None, where, folder)}
    sections = {keys[:n]: Entry(SECTION, where, folder) for n in range(len(keys))}
    return {**sections, **{(*keys, *location): entry for location, entry in value.items()}}


def read_text(text: str, where: str) -> Entries:
    """The entries of a mapping in YAML; ``where`` names its place in errors.

    Raises:
        ConfigError: if it is no such mapping.
    """
    entries = _parse(text, lambda _: where, Path())
    if not entries or entries[()].value is not SECTION:
        raise ConfigError(f"{where} {printable(text)!r}: no mapping. Write, for example, '{{prompt: question}}'.")
    return entries


def _parse(text: str, where: Callable[[int], str], folder: Path) -> Entries:
    """The entries of a YAML text, none if it is empty; ``where`` words a line number."""
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False

    def read(node: Node, location: Location, place: str) -> Iterator[tuple[Location, Entry]]:
        at = where(node.start_mark.line + 1)
        if node.anchor is not None:
            raise ConfigError(f"{at}: &{printable(node.anchor)}: a recipe has no anchors. Write the value out.")
        if isinstance(node, MappingNode):
            yield location, Entry(SECTION, place, folder)
            lines: dict[str, str] = {}
            for key_node, value_node in node.value:
                at = where(key_node.start_mark.line + 1)
                if not isinstance(key_node, ScalarNode):
                    raise ConfigError(f"{at}: a list or mapping as key. A key is the name of a field.")
                key = _whole_characters(str(key_node.value), at)
                if key in lines:
                    raise ConfigError(f"{at}: {show(key)} is set twice, first in {lines[key]}. Keep one of them.")
                lines[key] = at
                yield from read(value_node, (*location, key), at)
        elif isinstance(node, SequenceNode):
            yield location, Entry(tuple(dict(read(item, (), at))[()].value for item in node.value), place, folder)
        else:
            yield location, Entry(_read_scalar(node, yaml, at), place, folder)

    try:
        root = yaml.compose(text)
        return {} if root is None else dict(read(root, (), where(root.start_mark.line + 1)))
    except ConfigError:
        raise
    except RecursionError as error:
        raise ConfigError(f"{where(1)}: nested too deeply. A recipe has at most four levels.") from error
    except (YAMLError, ArithmeticError, ValueError) as error:  # the last two from an escape such as \UFFFFFFFF
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        position = getattr(error, "position", None)  # of a character that YAML does not allow
        line = mark.line if mark else text.count("\n", 0, position or 0)
        problem = getattr(error, "problem", None) or ("a control character" if position is not None else error)
        raise ConfigError(
            f"{where(line + 1)}: not YAML ({problem}). Correct the syntax, quote the value, or write a character as an "
            "escape in double quotes."
        ) from error


def _read_scalar(node: Node, yaml: YAML, where: str) -> str | int | float | bool | None:
    tag = str(node.tag)
    if tag in _TEXT_TAGS:
        return _whole_characters(str(node.value), where)
    if tag not in _OTHER_TAGS:
        raise ConfigError(f"{where}: a recipe has no values with the tag {printable(tag)}. Remove the tag.")
    try:
        value: int | float | bool | None = yaml.constructor.construct_object(node)
    except (ValueError, KeyError, IndexError) as error:  # a value that its tag does not allow: !!int x, !!bool x
        raise ConfigError(f"{where}: {show(node.value)} does not fit its tag {printable(tag)}.") from error
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{where}: a whole number beyond 64 bits. Use one below 2**63.")
    return value


def _whole_characters(text: str, where: str) -> str:
    """The text with the two escapes that JSON writes for a character above U+FFFF made one."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: {show(text)} has half of a surrogate pair. Remove it.") from error


# --- errors ---------------------------------------------------------------------------------------------------------


def describe(error: ValidationError, entries: Entries, kind: type[BaseModel]) -> str:
    """All problems of a recipe, one line each; pydantic's errors for the alternatives of one field become one."""
    fields = fields_of(kind)
    return listed([_problem(dict(item), entries, fields) for item in error.errors(include_url=False)])


def listed(problems: Sequence[str]) -> str:
    """One text of all different problems, one line each."""
    problems = list(dict.fromkeys(problems))
    heading = [f"{len(problems)} problems in the recipe:"] if len(problems) > 1 else []
    return "\n  ".join([*heading, *problems])


def fields_of(kind: type[BaseModel]) -> dict[Location, dict[str, Any]]:
    """The JSON schema of every field by location, its alternatives under ``anyOf``."""
    whole = kind.model_json_schema()

    def walk(location: Location, schema: dict[str, Any]) -> Iterator[tuple[Location, dict[str, Any]]]:
        options = [whole["$defs"][o["$ref"][8:]] if "$ref" in o else o for o in schema.get("anyOf", [schema])]
        yield location, {**schema, "anyOf": options}
        for name, field in ((name, field) for o in options for name, field in o.get("properties", {}).items()):
            yield from walk((*location, name), field)

    return dict(walk((), whole))


def _problem(item: Mapping[str, Any], entries: Entries, fields: dict[Location, dict[str, Any]]) -> str:
    """One error of pydantic as a sentence that names place, field, value, what is allowed, and what to do."""
    # pydantic adds the names of alternatives to a location; fields end before them.
    location = next(item["loc"][:n] for n in range(len(item["loc"]), -1, -1) if item["loc"][:n] in fields)
    name, entry = ".".join(location), entries.get(location, entries[()])
    if item["type"] == "extra_forbidden":
        key = item["loc"][-1]
        where = entries.get((*location, key), entries[()]).where
        prefix = f"{name}." if name else ""
        valid = [other[-1] for other in fields if other and other[:-1] == location]
        near = difflib.get_close_matches(key, valid, n=1)
        guesses = [prefix + near[0]] if near else [".".join(other) for other in fields if other[-1:] == (key,)]
        fields_there = f"Allowed{f' in `{name}`' if name else ''}: {', '.join(valid)}."
        hint = f"Did you mean `{'` or `'.join(guesses)}`?" if guesses else fields_there
        return f"{where}: `{prefix}{printable(key)}` is not a field. {hint}"
    if item["type"] == "value_error":  # a check across fields: name the places of those that its text names
        text = str(item["ctx"]["error"])
        parts = [entries.get((*location, *part.split("."))) for part in re.findall(r"[a-z_]\w*(?:\.[a-z_]\w*)*", text)]
        places = dict.fromkeys(part.where for part in parts if part is not None and part.value is not SECTION)
        separator = "." if (*location, text.partition(":")[0]) in fields else ": "
        return f"{'; '.join(places) or entry.where}: {name}{separator if name else ''}{text}"
    schema = fields[location]
    options = allowed(schema)
    if item["type"] == "missing":
        parent = location[:-1]
        where = entries.get(parent, entries[()]).where
        return f"{where}: `{name}` is missing. Give {options}, or leave out `{'.'.join(parent)}`."
    fix = "Correct it"
    if any("properties" in option for option in schema["anyOf"]):
        fix = "Put fields under it, or leave it out for the defaults"
        source = fields.get((*location, "source"), {"anyOf": []})
        if entry.value is None and {"type": "null"} in source["anyOf"]:
            fix = f"To turn it off write {name}: {{source: null}}"
    elif entry.where.startswith("--set "):
        fix += ", or leave it out for the recipe's own value"
    elif "default" in schema:
        fix += f", or leave it out for the default, {show(schema['default'])}"
    return f"{entry.where}: `{name}` is {show(entry.value)}. Allowed: {options}. {fix}."


def allowed(schema: Mapping[str, Any]) -> str:
    """What a field may be, by its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(map(allowed, schema["anyOf"]))
    if choices := schema.get("enum") or [schema[key] for key in ("const",) if key in schema]:
        return ", ".join(map(str, choices))
    if choices := schema.get("items", {}).get("enum"):
        return f"a list in brackets of {', '.join(choices)}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    types = {"integer": "a whole number", "number": "a finite number", "string": "text", "boolean": "true or false"}
    types |= {"array": "a list of text", "null": "null", "object": "a section of fields"}
    bounds = " and ".join(f"{word} {schema[key]:g}" for key, word in words.items() if key in schema)
    pattern = f" that matches {schema['pattern']}" if "pattern" in schema else ""
    return f"{types[schema['type']]}{f', {bounds}' if bounds else ''}{pattern}"


def show(value: Any) -> str:
    """A value for a message, shortened."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    if isinstance(value, dict):
        return "a section of fields"
    if isinstance(value, tuple | list):
        return "a list"
    return "null" if value is None else str(value).lower()


def printable(text: str) -> str:
    """A text for a message: shortened, invisible characters escaped."""
    short = text if len(text) <= 120 else f"{text[:117]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
