"""The prompt templates that a recipe may name: built-in ones, and Jinja files of a researcher, which are checked."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rubric_arm_lite.errors import ConfigError

ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
BUILT_IN_TEMPLATES = {
    "rubric": ("rubric", "rubric_short"),
    "judge": ("judge", "judge_paper", "judge_openrubrics", "judge_short"),
    "pointwise": ("pointwise", "pointwise_bare"),
}
"""Names that ``prompts.KIND_template`` accepts besides paths."""
PLACEHOLDERS = {
    "rubric": {"instruction"},
    "judge": {"instruction", "response_a", "response_b", "rubric"},
    "pointwise": {"instruction", "response", "rubric"},
}


def read_template(kind: str, name: str) -> str | None:
    """The checked Jinja source of a template file, or None if ``name`` is a built-in template of this kind.

    Raises:
        ConfigError: if there is neither, or the file does not parse, or lacks or exceeds its placeholders.
    """
    if name in BUILT_IN_TEMPLATES[kind]:
        return None
    field, placeholders = f"prompts.{kind}_template", PLACEHOLDERS[kind]
    if not os.path.isfile(name):  # noqa: PTH113  # Path.is_file raises for a long name
        raise ConfigError(
            f"{field}: `{name[:200]}` is neither a built-in template nor a file. Use one of "
            f"{', '.join(BUILT_IN_TEMPLATES[kind])}, or the path of a Jinja file (relative to the recipe)."
        )
    try:
        source = Path(name).read_text("utf-8")
        names = meta.find_undeclared_variables(ENVIRONMENT.parse(source))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{field}: `{name}` cannot be read: {error}. Save it as UTF-8 text.") from error
    except TemplateError as error:
        raise ConfigError(f"{field}: `{name}` does not parse: {error}. Correct its Jinja syntax.") from error
    if names != placeholders:
        raise ConfigError(
            f"{field}: `{name}` has placeholders {sorted(names)}; it needs exactly {sorted(placeholders)}. "
            "Add the missing ones or take the others out."
        )
    try:
        ENVIRONMENT.from_string(source).render(dict.fromkeys(placeholders, ""))
    except Exception as error:  # a template's expressions can raise anything
        raise ConfigError(f"{field}: `{name}` cannot be filled in: {error}. Use plain placeholders only.") from error
    return source
