"""What is wrong with a recipe, in words: pydantic's errors in, sentences with file, line, field and remedy out.

A :class:`Setting` remembers where a value was written; :class:`Fields` knows what a kind of recipe may hold.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rubric_arm_lite.config import RunSettings

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
