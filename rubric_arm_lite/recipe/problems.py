"""Words pydantic's validation errors for the reader of a recipe: place, field, value, what is allowed, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from rubric_arm_lite.recipe.yaml_entries import SECTION, Entries, Location, printable, show

_FIELD_NAME = re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*")
_TYPES = {
    "integer": "a whole number",
    "number": "a finite number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list of text",
    "null": "null",
    "object": "a section of fields",
}
_LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def describe(error: ValidationError, entries: Entries, kind: type[BaseModel]) -> str:
    """All problems of a recipe as one text, one line each; pydantic's alternatives for one field become one."""
    fields = _schemas(kind)
    problems = list(dict.fromkeys(_problem(dict(item), entries, fields) for item in error.errors(include_url=False)))
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} problems in the recipe:", *(f"  {problem}" for problem in problems)])


def _schemas(kind: type[BaseModel]) -> dict[Location, dict[str, Any]]:
    """The JSON schema of every field by location, its alternatives in ``options``."""
    whole = kind.model_json_schema()

    def options(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
        if "anyOf" in schema:
            return [option for alternative in schema["anyOf"] for option in options(alternative)]
        return [whole["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else dict(schema)]

    def walk(location: Location, schema: dict[str, Any]) -> Iterator[tuple[Location, dict[str, Any]]]:
        yield location, {**schema, "options": options(schema)}
        for option in options(schema):
            for name, field in option.get("properties", {}).items():
                yield from walk((*location, name), field)

    return dict(walk((), whole))


def _problem(item: Mapping[str, Any], entries: Entries, fields: dict[Location, dict[str, Any]]) -> str:
    # pydantic adds the names of alternatives to a location; fields end before them.
    field = next(tuple(item["loc"][:n]) for n in range(len(item["loc"]), -1, -1) if tuple(item["loc"][:n]) in fields)
    name, root = ".".join(field), entries[()]
    if item["type"] == "extra_forbidden":
        return _unknown_key(field, str(item["loc"][-1]), entries, fields)
    if item["type"] == "value_error":
        return _conflict(field, str(item["ctx"]["error"]), entries, fields)
    schema, allowed = fields[field], " or ".join(map(_allowed, fields[field]["options"]))
    entry = entries.get(field, root)
    if item["type"] == "missing":
        section = entries.get(field[:-1], root)
        return f"{section.where}: `{name}` is missing. Give {allowed}, or leave out `{'.'.join(field[:-1])}`."
    if any("properties" in option for option in schema["options"]):
        fix = "Put fields under it, or leave it out for the defaults"
        source = fields.get((*field, "source"), {"options": []})
        if entry.value is None and any(option.get("type") == "null" for option in source["options"]):
            fix = f"To turn it off write {name}: {{source: null}}"
    elif entry.where.startswith("--set "):
        fix = "Correct it, or leave it out for the recipe's own value"
    else:
        fix = (
            f"Correct it, or leave it out for the default, {show(schema['default'])}"
            if "default" in schema
            else "Correct it"
        )
    return f"{entry.where}: `{name}` is {show(entry.value)}. Allowed: {allowed}. {fix}."


def _unknown_key(section: Location, key: str, entries: Entries, fields: dict[Location, dict[str, Any]]) -> str:
    prefix = "".join(f"{part}." for part in section)
    valid = [location[-1] for location in fields if location and location[:-1] == section]
    elsewhere = [".".join(location) for location in fields if location[-1:] == (key,)]
    if near := difflib.get_close_matches(key, valid, n=1):
        hint = f"Did you mean `{prefix}{near[0]}`?"
    elif elsewhere:
        hint = f"Did you mean `{'` or `'.join(elsewhere)}`?"
    else:
        hint = f"Allowed{f' in `{prefix[:-1]}`' if prefix else ''}: {', '.join(valid)}."
    where = entries.get((*section, key), entries[()]).where
    return f"{where}: `{prefix}{printable(key)}` is not a field. {hint}"


def _conflict(section: Location, text: str, entries: Entries, fields: dict[Location, dict[str, Any]]) -> str:
    """A failed check across fields; it points to where the fields that its text names were set."""
    named = [entries.get((*section, *name.split("."))) for name in _FIELD_NAME.findall(text)]
    places = dict.fromkeys(entry.where for entry in named if entry is not None and entry.value is not SECTION)
    where = "; ".join(places) or entries.get(section, entries[()]).where
    starts_with_field = (*section, text.partition(":")[0]) in fields
    separator = "." if starts_with_field else ": "
    return f"{where}: {'.'.join(section)}{separator if section else ''}{text}"


def _allowed(schema: Mapping[str, Any]) -> str:
    """What one alternative of a field may be."""
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices:
        return ", ".join(map(str, choices))
    bounds = " and ".join(f"{word} {schema[key]:g}" for key, word in _LIMITS.items() if key in schema)
    pattern = f" that matches {schema['pattern']}" if "pattern" in schema else ""
    return f"{_TYPES[schema['type']]}{f', {bounds}' if bounds else ''}{pattern}"
