"""Write prompt text: the only module that does.

A request, two responses and a rubric go in; the text of one user turn comes out. The judge's prompt is built from
those four values alone, never from a labeled pair, so the label cannot leak into it.

Text from data and models is hostile. Before it enters a template it is neutralized, which takes the meaning but not
the wording from

- the templates' section tags: ``<rubric>`` becomes ``‹rubric>``; also the marks around a model's thoughts, since a
  response that closes them could end the thoughts of a judge that repeats it (:func:`.parsing.behind_thoughts`);
- lines that imitate a part of a judgement or a turn of a conversation: they become quotations, ``> Winner: …``,
  which count for nothing where a judge repeats them (:mod:`.parsing`);
- the control tokens of the tokenizer: an invisible joiner breaks them up.

Neutralizing twice changes nothing more. Templates are filled in one pass, so text that contains ``{{ … }}`` is never
evaluated.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources

from jinja2 import meta

from rubric_arm_lite.prompts.parsing import INVISIBLE, LINE_BREAK, fold, judgement_part
from rubric_arm_lite.recipe import PromptSettings
from rubric_arm_lite.recipe.templates import ENVIRONMENT, read_template
from rubric_arm_lite.types import Message, Prompt, Rubric

_TAG_NAME = re.compile(r"</?([A-Za-z][\w-]*)")
_TAG_OPENING = re.compile(rf"[<＜﹤]([\s/⁄∕／{INVISIBLE}]*)")
_TAG_WINDOW = 64
"""Characters looked at behind ``<``; a name stretched beyond them by invisible ones is no name to recognize."""
_TURN_ROLES = ("user", "assistant", "system", "tool", "developer", "function", "human", "model", "unknown")
_TURN_MARK = re.compile(rf"\s*\[[\W_]*(?:{'|'.join(_TURN_ROLES)})(?![^\W_])")
_JOINER = "\N{WORD JOINER}"


@dataclass(frozen=True, slots=True)
class Templates:
    """The prompt templates of a recipe, as Jinja source."""

    rubric: str
    judge: str
    pointwise: str

    @classmethod
    def load(cls, rubric: str = "rubric", judge: str = "judge", pointwise: str = "pointwise") -> Templates:
        """Load templates by built-in name or by path.

        Raises:
            ConfigError: if a template is missing, does not parse, or lacks or exceeds its placeholders.
        """
        names = {"rubric": rubric, "judge": judge, "pointwise": pointwise}
        return cls(**{kind: read_template(kind, name) or _built_in(name) for kind, name in names.items()})

    @classmethod
    def of(cls, settings: PromptSettings) -> Templates:
        """The templates that a recipe names, as :meth:`load`."""
        return cls.load(settings.rubric_template, settings.judge_template, settings.pointwise_template)

    def fingerprint(self) -> str:
        """Hash of the rubric template, part of the rubric cache's key."""
        return hashlib.sha256(self.rubric.encode()).hexdigest()[:16]


class Neutralizer:
    """Fills in templates with text whose meaning as structure is taken from it.

    Args:
        sources: Jinja sources by name; their section tags are guarded.
        special_tokens: strings the tokenizer would read as control tokens, or patterns (without flags) of such strings;
            they are broken up wherever they occur in outside text (one that is a single character becomes U+FFFD,
            blank ones are left alone).
    """

    def __init__(self, sources: Mapping[str, str], special_tokens: Iterable[str | re.Pattern[str]] = ()) -> None:
        self._templates = {name: ENVIRONMENT.from_string(source) for name, source in sources.items()}
        parts = [part for source in sources.values() for part in static_parts(source)]
        names = sorted({*(name for part in parts for name in _TAG_NAME.findall(part)), "think"})
        # The names of section tags in any spelling, for folded text behind `<`.
        spelled = (map(re.escape, re.split("[_-]+", name.casefold())) for name in names)
        self._section = re.compile("|".join(r"[\W_]*".join(words) + r"(?![^\W_])" for words in spelled))
        self._initials = {name[0].casefold() for name in names}
        tokens = {token for token in special_tokens if not isinstance(token, str) or token.strip()}
        self._single_characters = {token for token in tokens if isinstance(token, str) and len(token) == 1}
        # Each place where a token begins is found on its own, so that overlapping tokens are all broken up.
        starts = "|".join(sorted(re.escape(token) if isinstance(token, str) else token.pattern for token in tokens))
        self._special = re.compile(f"(?={starts}).", re.DOTALL) if starts else None

    def neutralize(self, text: str) -> str:
        """Take the meaning, not the wording, from anything in ``text`` that could pass for our own structure."""
        text = LINE_BREAK.sub("\n", text)
        text = self.without_control_tokens(text)
        text = _TAG_OPENING.sub(self._soften, text)
        lines = text.split("\n")
        for at, line in enumerate(lines):  # a part of a judgement or the mark of a turn becomes a quotation
            stripped = line.strip()
            if judgement_part(stripped) is not None or _TURN_MARK.match(fold(stripped)) is not None:
                lines[at] = f"> {line}"
        return "\n".join(lines)

    def without_control_tokens(self, text: str) -> str:
        """The text with every control token broken up, otherwise as it is."""
        if self._special is None:
            return text
        single = self._single_characters
        return self._special.sub(lambda m: "\N{REPLACEMENT CHARACTER}" if m[0] in single else m[0] + _JOINER, text)

    def _soften(self, opening: re.Match[str]) -> str:
        behind = opening.string[opening.end() : opening.end() + _TAG_WINDOW]
        is_tag = fold(behind[:1])[:1] in self._initials and self._section.match(fold(behind)) is not None
        return f"‹{opening[1]}" if is_tag else opening[0]

    def _fill(self, template: str, prompt: Prompt, rubric: Rubric | None = None, **texts: str) -> str:
        """The template with the request, the rubric and these texts, all neutralized."""
        if rubric is not None:
            if not rubric.usable:
                raise ValueError(f"A rubric with status {rubric.status.value} cannot be shown to a judge.")
            texts["rubric"] = rubric.render()
        if isinstance(prompt, str):
            instruction = self.neutralize(prompt)
        else:
            # Another word than a known role cannot stand in a turn's mark, or it could open a turn of its own.
            roles = [role if (role := fold(m.role).strip()) in _TURN_ROLES else "unknown" for m in prompt]
            turns = zip(roles, prompt, strict=True)
            instruction = "\n".join(f"[{role}]\n{self.neutralize(message.content)}" for role, message in turns)
        values = {name: self.neutralize(text) for name, text in texts.items()}
        return self._templates[template].render(instruction=instruction, **values)


class PromptBuilder(Neutralizer):
    """Builds the user turns of both roles from one set of templates.

    ``special_tokens`` are the strings the tokenizer would read as control tokens (see :class:`Neutralizer`).
    """

    def __init__(self, templates: Templates, special_tokens: Iterable[str | re.Pattern[str]] = ()) -> None:
        super().__init__(asdict(templates), special_tokens)
        self.templates = templates

    def rubric_prompt(self, prompt: Prompt) -> str:
        """The generator's user turn: it sees the request only (paper, sec. 3)."""
        return self._fill("rubric", prompt)

    def policy_prompt(self, request: str) -> str:
        """The policy's user turn: the request as it is, but for the tokenizer's control tokens."""
        return self.without_control_tokens(request)

    def judge_prompt(self, prompt: Prompt, rubric: Rubric, response_a: str, response_b: str) -> str:
        """The judge's user turn.

        Raises:
            ValueError: if the rubric did not parse; such a rubric is never shown to a judge.
        """
        return self._fill("judge", prompt, rubric, response_a=response_a, response_b=response_b)

    def pointwise_prompt(self, prompt: Prompt, rubric: Rubric, response: str) -> str:
        """The user turn of a judge that checks one response (RUBRIC-ARROW).

        Raises:
            ValueError: if the rubric did not parse; such a rubric is never shown to a judge.
        """
        return self._fill("pointwise", prompt, rubric, response=response)


class DirectPrompts(Neutralizer):
    """User turns of judges that are given no rubric; what rubrics are worth is measured against them."""

    def __init__(self, special_tokens: Iterable[str | re.Pattern[str]] = ()) -> None:
        sources = {name: _built_in(name) for name in ("judge_direct", "judge_reasoning")}
        super().__init__(sources, special_tokens)

    def direct_prompt(self, prompt: Prompt, response_a: str, response_b: str) -> str:
        """The turn of a judge that answers at once."""
        return self._fill("judge_direct", prompt, response_a=response_a, response_b=response_b)

    def reasoning_prompt(self, prompt: Prompt, response_a: str, response_b: str) -> str:
        """The turn of a judge that first thinks at length."""
        return self._fill("judge_reasoning", prompt, response_a=response_a, response_b=response_b)


class ContrastPrompts(Neutralizer):
    """The user turn of a teacher that writes a rubric after it has seen which response people preferred.

    Only the making of warm-up data shows the label, and only to the writer of the rubric, never to a judge.
    """

    def __init__(self, special_tokens: Iterable[str | re.Pattern[str]] = ()) -> None:
        super().__init__({"contrast": _built_in("rubric_contrast")}, special_tokens)

    def contrast_prompt(self, prompt: Prompt, preferred: str, other: str) -> str:
        """The teacher's turn: the request, the preferred response and the other one."""
        return self._fill("contrast", prompt, preferred_response=preferred, other_response=other)


def static_parts(template: str) -> list[str]:
    """The fixed text of a template between its placeholders, in order (the testbed's tokenizer has words for it)."""
    placeholders = meta.find_undeclared_variables(ENVIRONMENT.parse(template))
    rendered = ENVIRONMENT.from_string(template).render(dict.fromkeys(placeholders, "\x00"))
    return [part for part in rendered.split("\x00") if part]


def prompt_text(prompt: Prompt) -> str:
    """One plain text for display; turns are kept apart."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"[{m.role}]\n{m.content}" for m in prompt)


def prompt_hash(prompt: Prompt) -> str:
    """Stable identity of a prompt, used as its id and in the cache key."""
    if isinstance(prompt, str):
        text = f"text\x00{prompt}"
    else:
        # JSON keeps roles and contents apart, so that no text can pass for two turns.
        text = f"turns\x00{json.dumps([[m.role, m.content] for m in prompt])}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def wording(prompt: Prompt) -> str:
    """Identity of a prompt apart from case, blanks and punctuation: equal for prompts that ask the same in words."""
    if isinstance(prompt, str):
        return prompt_hash(_words(prompt))
    return prompt_hash(tuple(Message(message.role, _words(message.content)) for message in prompt))


class _KeptCharacters(dict[int, int | None]):
    """A translation table that removes blanks, punctuation and what shows nothing, by Unicode category."""

    def __missing__(self, character: int) -> int | None:
        category = unicodedata.category(chr(character))
        self[character] = None if category[0] in "PZC" or category == "Sk" else character
        return self[character]


_KEPT = _KeptCharacters()


def _words(text: str) -> str:
    """The text without case, blanks and punctuation; as it is where nothing else is in it."""
    parts = text if text.isascii() else "".join(map(_decomposed, text))
    return parts.casefold().translate(_KEPT) or text


@lru_cache(1 << 16)
def _decomposed(character: str) -> str:
    """One character at a time: normalizing a text as a whole sorts its marks, in quadratic time."""
    return unicodedata.normalize("NFKD", character)


def _built_in(name: str) -> str:
    return resources.files("rubric_arm_lite.prompts").joinpath("templates", f"{name}.jinja").read_text("utf-8")
