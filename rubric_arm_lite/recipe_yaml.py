"""The YAML of recipes: a text goes in, settings that remember their lines come out.

YAML is read as version 1.2 without anchors, aliases, merge keys and custom tags, none of which a recipe needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe_problems import Setting, printable, show

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
