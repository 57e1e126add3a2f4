"""Write prompt text: the only module that does.

A request, two responses and a rubric go in; the text of one user turn comes out. The judge's prompt is built from
those four values alone, never from a labelled pair, so the label cannot leak into it.

Text from data and models is hostile. Before it enters a template it is neutralised: our own section tags, the
headings and winner line of a judgement, and the special tokens of the tokenizer lose their meaning but stay
readable. Templates are filled in one pass, so text that contains ``{{ … }}`` is never evaluated.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.types import Prompt, Rubric

BUILT_IN_TEMPLATES = ("rubric", "judge", "judge_paper")

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_SECTION_TAG = re.compile(r"<(?=\s*/?\s*(?:instruction|response_?[ab]|rubric)\b)", re.IGNORECASE)
_TURN_MARK = re.compile(r"^\[(?=(?:user|assistant|system|tool)\])", re.IGNORECASE | re.MULTILINE)
_STRUCTURE_LINE = re.compile(
    r"^(?=[ \t]*(?:-{2,}\s*(?:compliance\s+check|analysis|final\s+judge?ment)"
    r"|\W{0,4}winner\b|\W{0,4}final\s+judge?ment|\*\*\s*response\s+[ab]"
    r"|identified\s+gatekeeper|-\s*criterion\s+[0-9]))",
    re.IGNORECASE | re.MULTILINE,
)
_OTHER_BREAKS = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_BREAK = "\N{WORD JOINER}"


@dataclass(frozen=True, slots=True)
class Templates:
    """The two prompt templates of a recipe, as Jinja source."""

    rubric: str
    judge: str

    @classmethod
    def load(cls, rubric: str = "rubric", judge: str = "judge", folder: Path | None = None) -> Templates:
        """Load templates by built-in name or by path (relative to ``folder``).

        Raises:
            ConfigError: if a template is missing, does not parse, or lacks or exceeds its placeholders.
        """
        return cls(
            _load_template(rubric, {"instruction"}, folder),
            _load_template(judge, {"instruction", "response_a", "response_b", "rubric"}, folder),
        )

    def fingerprint(self) -> str:
        """Hash of the rubric template, part of the rubric cache's key."""
        return hashlib.sha256(self.rubric.encode()).hexdigest()[:16]


class PromptBuilder:
    """Builds the user turns of both roles from one pair of templates.

    ``special_tokens`` are the strings the tokenizer would read as control tokens; they are broken up wherever
    they occur in outside text.
    """

    def __init__(self, templates: Templates, special_tokens: Iterable[str] = ()) -> None:
        self.templates = templates
        self._rubric = _ENVIRONMENT.from_string(templates.rubric)
        self._judge = _ENVIRONMENT.from_string(templates.judge)
        tokens = sorted({token for token in special_tokens if token}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def rubric_prompt(self, prompt: Prompt) -> str:
        """The generator's user turn: it sees the request only (paper, sec. 3)."""
        return self._rubric.render(instruction=self._instruction(prompt))

    def judge_prompt(self, prompt: Prompt, rubric: Rubric, response_a: str, response_b: str) -> str:
        """The judge's user turn.

        Raises:
            ValueError: if the rubric did not parse; such a rubric is never shown to a judge.
        """
        if not rubric.usable:
            raise ValueError(f"A rubric with status {rubric.status.value} cannot be shown to a judge.")
        return self._judge.render(
            instruction=self._instruction(prompt),
            response_a=self.neutralise(response_a),
            response_b=self.neutralise(response_b),
            rubric=self.neutralise(rubric.render()),
        )

    def neutralise(self, text: str) -> str:
        """Take the meaning, not the wording, from anything in ``text`` that could pass for our own structure."""
        text = _OTHER_BREAKS.sub("\n", text)
        text = _SECTION_TAG.sub(f"<{_BREAK}", text)
        text = _STRUCTURE_LINE.sub("> ", text)
        text = _TURN_MARK.sub(f"[{_BREAK}", text)
        if self._special is not None:
            # Breaking one token up can bring the halves of another together only if tokens overlap; one pass over
            # the alternation, longest first, leaves none whole because the joiner stands inside each match.
            text = self._special.sub(lambda match: match[0][:1] + _BREAK + match[0][1:], text)
        return text

    def _instruction(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return self.neutralise(prompt)
        return "\n".join(f"[{self.neutralise(m.role)}]\n{self.neutralise(m.content)}" for m in prompt)


def static_parts(template: str) -> list[str]:
    """The fixed text of a template between its placeholders, in order (the testbed's tokenizer has words for it)."""
    rendered = _ENVIRONMENT.from_string(template).render(
        {name: "\x00" for name in meta.find_undeclared_variables(_ENVIRONMENT.parse(template))}
    )
    return [part for part in rendered.split("\x00") if part]


def prompt_text(prompt: Prompt) -> str:
    """One plain text for hashing and display; turns are kept apart."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"[{m.role}]\n{m.content}" for m in prompt)


def prompt_hash(prompt: Prompt) -> str:
    """Stable identity of a prompt, used as its id and in the cache key."""
    kind = "text" if isinstance(prompt, str) else "turns"
    return hashlib.sha256(f"{kind}\x00{prompt_text(prompt)}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _load_template(name: str, placeholders: set[str], folder: Path | None) -> str:
    if name in BUILT_IN_TEMPLATES:
        source = resources.files("rubric_arm_lite").joinpath("templates", f"{name}.jinja").read_text("utf-8")
    else:
        path = (folder or Path()) / name
        if not path.is_file():
            raise ConfigError(
                f"Template `{name}` is not a file. Use one of {', '.join(BUILT_IN_TEMPLATES)}, or the path of a "
                "Jinja file (relative to the recipe)."
            )
        source = path.read_text("utf-8")
    try:
        found = meta.find_undeclared_variables(_ENVIRONMENT.parse(source))
    except TemplateError as error:
        raise ConfigError(f"Template `{name}` does not parse: {error}. Correct its Jinja syntax.") from error
    if found != placeholders:
        raise ConfigError(
            f"Template `{name}` has placeholders {sorted(found)}; it needs exactly {sorted(placeholders)}. "
            "Add the missing ones or take the others out."
        )
    return source
