"""Interpret model text: rubrics, judgements (paper, app. E; OpenRubrics; short), and verdicts without a rubric.

All parsers are total functions: any string goes in, a value with a :class:`ParseStatus` comes out, nothing is
raised and there is no default winner. Each takes time linear in the text. Model text is hostile: a judge may quote
a response that itself contains headings or a winner line, so a verdict counts only where it cannot have been quoted.

A winner is taken from a judgement only if all of these hold:

- the text was not cut by length;
- its very last line is a verdict: ``Winner: Response A`` or ``… B``, which may be set in bold, in italics or in
  other letter case, and may end in a full stop, but says nothing else;
- the heading of the final section stands exactly once, before it, and no other section heading stands twice;
- every other line that looks like a winner line is a verdict for the same response.

The short form of a judgement is for small models, which judge best by quoting. After the heading of the final section
it has one line per criterion, in order: its number, a name for it, and for each response the words that meet the
criterion, in quotation marks, or none; then the overall justification and the winner line, and nothing else::

    --- Final Judgment ---
    1 greeting: A "Hi there!", B none.
    Justification: A 1, B 0.
    Winner: Response A

A line that begins with ``>`` is a quotation. It is never a verdict and contradicts none, but it breaks the strict
form. The prompts mark all outside text that imitates a part of a judgement in this way (:mod:`.prompts`), by the
same :func:`judgement_part` that reads judgements here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from rubric_arm_lite.types import (
    Assessment,
    Criterion,
    CriterionKind,
    FinishReason,
    Judgement,
    ParseStatus,
    Rubric,
    Side,
)

MAX_CRITERIA = 32
"""A rubric with more items than this is malformed: no judge can address them all."""

COMPLIANCE_HEADING = "--- Compliance Check ---"
ANALYSIS_HEADING = "--- Analysis ---"
FINAL_HEADING = "--- Final Judgment ---"
GATEKEEPER_PREFIX = "Identified Gatekeeper Criterion:"
REASONING_PREFIX, SUMMARY_PREFIX = "Gatekeeper Reasoning:", "Aggregation Summary:"
"""Lines that OpenRubrics' judge also writes, before the gatekeeper and before the overall justification."""
JUSTIFICATION_PREFIX = "Justification:"
WINNER_PREFIX = "Winner: Response"
RESPONSE_HEADINGS: dict[Side, str] = {"A": "**Response A:**", "B": "**Response B:**"}

THOUGHTS_OPEN, THOUGHTS_CLOSE = "<think>", "</think>"
"""Marks around what a reasoning model writes before its answer (Qwen3, DeepSeek-R1 and others)."""

_SIDES: dict[str, Side] = {heading: side for side, heading in RESPONSE_HEADINGS.items()}
_KINDS = {kind.label: kind for kind in CriterionKind}
_TAG = r"\[(Hard Rule|Principle)\]"
_RUBRIC_ITEM = re.compile(rf"([1-9][0-9]?)[.)][ \t]+(\S.*){_TAG}")
_ANY_TAG = re.compile(r"\[[^\w\[\]]*(?:hard[\W_]*rule|principle)s?[^\w\[\]]*\]")
_ASSESSMENT = re.compile(rf"- Criterion ([1-9][0-9]?) {_TAG}: {JUSTIFICATION_PREFIX}[ \t]*(.*)")
_FINDING = re.compile(r'([1-9][0-9]?) ([^:"]+): A (none|"[^"]+"), B (none|"[^"]+")\.')
_WINNER_EXACT = re.compile(r"Winner: Response ([AB])")
_VERDICT = re.compile(r"[#*_ \t]*(?i:winner)[*_ \t]*:[*_ \t]*(?i:response)[ \t]+[*_]*([AB])[*_. \t]*", re.ASCII)
# Deliberately wide, and held against folded text: whatever a reader could take for a part of a judgement.
_PART = re.compile(
    r"(?P<lead>[\W\d_]*)(?:"
    r"(?P<winner>(?:(?:the|my|our|overall|final|clear)[\W_]+)*winners?(?![^\W_]))"
    r"|(?P<final>final[\W_]+judge?ments?[\W_]*$)"
    r"|(?P<gatekeeper>identified[\W_]+gatekeeper|gatekeeper[\W_]+reasoning)"
    r"|(?P<summary>aggregation[\W_]+summary)"
    r"|(?P<compliance>compliance[\W_]+check[\W_]*$)"
    r"|(?P<analysis>analysis[\W_]*$)"
    r"|(?P<response>response[\W_]+[ab](?![^\W_]))"
    r"|(?P<criterion>criterion[\W_]*\d))"
)
# Words that are common elsewhere make a part only behind such marks.
_LEADS = {
    "compliance": re.compile("--|[‒–—―]"),
    "analysis": re.compile("--|[‒–—―]"),
    "response": re.compile(r"\*\*|__"),
    "criterion": re.compile("[-‐–—―•*]"),
}

LINE_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
INVISIBLE = (
    r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u0300-\u036f\u0483-\u0489\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u1ab0-\u1aff\u1dc0-\u1dff\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20d0-\u20ff\u2800\u3164\ufe00-\ufe0f"
    r"\ufe20-\ufe2f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
"""Characters that show nothing of their own (control, format, filler, combining), as the inside of a regex class."""
_INVISIBLE_RUN = re.compile(f"[{INVISIBLE}]+")
_LOOK_ALIKES = {
    ord(other): latin
    for latin, others in {
        "a": "аαᴀɑ", "b": "ʙь", "c": "сᴄ", "d": "ԁᴅ", "e": "еεᴇҽ", "f": "ғꜰ", "g": "ɡԍɢ", "h": "һʜ", "i": "іιıɪ",
        "j": "јϳ", "k": "кκᴋ", "l": "ӏʟ", "m": "мᴍ", "n": "пηɴո", "o": "оοᴏօ", "p": "рρᴘ", "r": "гʀ", "s": "ѕꜱ",
        "t": "тτᴛ", "u": "υսᴜ", "w": "ԝѡωᴡ", "y": "уγʏ",
    }.items()
    for other in others
}  # fmt: skip

_QUOTATION = re.compile(r'"[^"]+"')
_CLAUSE_WINDOW = 400
"""Characters at the end of a justification that are looked at for its outcome."""
_CLAUSE_TRIM = " \t.!*_\"'`)"
_CLAUSE_END = re.compile(r"[.,;:!?()–—]\s*|\s-\s")
_WORD = re.compile(r"[\w'’]+")
_MET_WORDS = frozenset({"met", "satisfied", "fulfilled"})
_OUTCOME = re.compile(r"(?<!\w)(?P<word>met|satisfied|fulfilled|unmet|unsatisfied|unfulfilled|missed|violated)$")
_NEGATIONS = frozenset({"not", "no", "never", "none", "nothing", "neither", "nor", "without", "cannot"})
_HEDGES = frozenset({
    "partly", "partially", "almost", "nearly", "barely", "hardly", "mostly", "somewhat", "half", "only", "or",
    "whether", "if", "may", "might", "could", "would", "should", "can", "than", "unclear",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class FormatCheck:
    """Which parts of the judgement format are present, for the format reward.

    ``present`` and ``required`` count the parts; ``strict`` is True only if all are there, once, in order, and
    nothing else is.
    """

    present: int
    required: int
    strict: bool

    @property
    def share(self) -> float:
        """Share of the required parts that are present, in [0, 1]."""
        return self.present / self.required


def split_lines(text: str) -> list[str]:
    """Split at every kind of line break and strip the blanks around each line."""
    return [line.strip() for line in LINE_BREAK.split(text)]


def fold(text: str) -> str:
    """What a reader sees, for comparing: lower case, without invisible characters and look-alikes of letters."""
    return _INVISIBLE_RUN.sub("", text).casefold() if text.isascii() else "".join(map(_fold_character, text))


@lru_cache(1 << 16)
def _fold_character(character: str) -> str:
    """:func:`fold` of one character: normalizing a text as a whole sorts its marks, in quadratic time."""
    text = unicodedata.normalize("NFKD", character).casefold().translate(_LOOK_ALIKES)
    return _INVISIBLE_RUN.sub("", text).casefold()


def judgement_part(line: str) -> str | None:
    """The part of a judgement that a stripped line is or imitates, by name; None for other text and quotations."""
    match = None if line.startswith(">") else _PART.match(fold(line))
    if match is None:
        return None
    part = str(match.lastgroup)
    return part if part not in _LEADS or _LEADS[part].search(match["lead"]) else None


def parse_rubric(text: str, finish_reason: FinishReason = "stop") -> Rubric:
    """Parse a numbered list of criteria, each ending in ``[Hard Rule]`` or ``[Principle]``.

    OK only if the text is that list and nothing else: numbered 1, 2, 3, … without a gap, at most
    :data:`MAX_CRITERIA` items, one tag per item, at its end. A model's thoughts before it do not count. Never raises.
    """
    answer = behind_thoughts(text, lambda line: _RUBRIC_ITEM.fullmatch(line) is not None)
    if finish_reason == "length" or answer is None:
        return Rubric(text, (), ParseStatus.TRUNCATED)
    lines = [line for line in split_lines(answer) if line]
    malformed = Rubric(text, (), ParseStatus.MALFORMED)
    if not 1 <= len(lines) <= MAX_CRITERIA:
        return malformed
    criteria = []
    for number, line in enumerate(lines, start=1):
        match = _RUBRIC_ITEM.fullmatch(line)
        if match is None or int(match[1]) != number or _ANY_TAG.search(fold(match[2])) or not _visible(match[2]):
            return malformed
        criteria.append(Criterion(match[2].strip(), _KINDS[match[3]]))
    return Rubric(text, tuple(criteria), ParseStatus.OK)


def parse_judgement(text: str, rubric: Rubric, finish_reason: FinishReason = "stop") -> Judgement:
    """Parse a judgement written for ``rubric``.

    The status is OK only if :func:`check_format` finds it strictly well-formed; the winner is found whenever it
    is unambiguous (see the module's docstring), also in a malformed text. A model's thoughts before it do not count;
    thoughts that never end make the text truncated. Never raises.
    """
    reading = _Reading(text)
    cut = finish_reason == "length" or reading.unfinished
    status = ParseStatus.OK if reading.is_strict(rubric) else ParseStatus.MALFORMED
    status = ParseStatus.TRUNCATED if cut else status
    winner = None if cut else reading.winner
    return Judgement(text, reading.gatekeeper, reading.assessments(rubric), reading.justification, winner, status)


def parse_direct(text: str, finish_reason: FinishReason = "stop") -> Judgement:
    """Parse a verdict that was given without a rubric, with or without thoughts before it.

    The winner is found under the same conditions as in :func:`parse_judgement`, in what follows the thoughts. The
    status is OK only if that is the heading of the final section, a justification and a winner line, and nothing
    else; thoughts that never end make the text truncated. Never raises.
    """
    reading = _Reading(text)
    lines = reading.lines
    strict = len(lines) == 3 and lines[0] == FINAL_HEADING and _has_content(lines[1], JUSTIFICATION_PREFIX)
    strict = strict and reading.winner is not None and _WINNER_EXACT.fullmatch(lines[2]) is not None
    cut = finish_reason == "length" or reading.unfinished
    status = ParseStatus.TRUNCATED if cut else ParseStatus.OK if strict else ParseStatus.MALFORMED
    return Judgement(text, None, (), reading.justification, None if cut else reading.winner, status)


def behind_thoughts(text: str, is_answer: Callable[[str], bool]) -> str | None:
    """The answer behind a model's thoughts; None if they do not end, all of the text if they cannot be told from it.

    Some chat templates open the thoughts themselves, so the text may hold only their end. It is believed where it
    stands once. Without an opening it could also be quoted in the answer, so then no line that ``is_answer`` may
    precede it.
    """
    if THOUGHTS_CLOSE not in text and not text.lstrip().startswith(THOUGHTS_OPEN):
        return text
    opened = text.lstrip().startswith(THOUGHTS_OPEN)
    closings = text.count(THOUGHTS_CLOSE)
    if opened and not closings:
        return None
    thoughts, _, answer = text.partition(THOUGHTS_CLOSE)
    begun = thoughts + THOUGHTS_CLOSE + LINE_BREAK.split(answer, maxsplit=1)[0]  # with all of the line it stands in
    return answer if closings == 1 and (opened or not any(map(is_answer, split_lines(begun)))) else text


def check_format(judgement: Judgement, rubric: Rubric) -> FormatCheck:
    """Say how far ``judgement`` has the form asked for (paper, sec. 4.2, R_fmt), or the short form.

    The parts are: the gatekeeper line; for each response one line per criterion of ``rubric``, in order, with its
    kind and a non-empty justification; the overall justification; exactly one winner line. Strict also asks for
    the three headings and for nothing before, between or after, except what OpenRubrics' judge adds: its reasoning
    about the gatekeeper and its summary. Text that shows nothing counts as empty. In the short form the heading at the
    start counts in place of the gatekeeper line, and each criterion's line as two parts.
    """
    reading = _Reading(judgement.text)
    strict = judgement.status is ParseStatus.OK and reading.is_strict(rubric)
    return FormatCheck(reading.count_parts(rubric), 3 + 2 * len(rubric.criteria), strict)


def stated_met(justification: str) -> bool | None:
    """Whether the last clause of a justification ends by saying that its criterion is met (True) or missed (False).

    A finding of the short form says so as well: a quotation, or ``none``. None where a justification does not say so
    plainly: another ending, a hedge, more than one negation. For display only; nothing is decided by it, since a
    justification is free text.
    """
    if justification == "none" or _QUOTATION.fullmatch(justification):
        return justification != "none"
    clause = _CLAUSE_END.split(fold(justification[-_CLAUSE_WINDOW:]).strip(_CLAUSE_TRIM))[-1]
    ending = _OUTCOME.search(clause)
    words = _WORD.findall(clause[: ending.start()] if ending else "")
    negations = sum(word in _NEGATIONS or word.endswith(("n't", "n’t")) for word in words)
    if ending is None or negations > 1 or not _HEDGES.isdisjoint(words):
        return None
    return (ending["word"] in _MET_WORDS) != bool(negations)


class _Reading:
    """The non-blank lines of a judgement behind a model's thoughts, the part each is, and what they say."""

    def __init__(self, text: str) -> None:
        answer = behind_thoughts(text, lambda line: judgement_part(line) in ("compliance", "analysis", "final"))
        self.unfinished = answer is None  # thoughts that do not end
        self.lines = [line for line in split_lines(answer or "") if line]
        self.parts = [judgement_part(line) for line in self.lines]
        self.gatekeeper = _after_prefix(self.lines, GATEKEEPER_PREFIX)
        final = self.parts.index("final") if self.parts.count("final") == 1 else len(self.lines)
        self.justification = _after_prefix(self.lines[final:], JUSTIFICATION_PREFIX)
        # The verdict, under the conditions that the module's docstring lists.
        self.winner: Side | None = None
        verdict = _VERDICT.fullmatch(self.lines[-1]) if self.lines else None
        counts = Counter(self.parts)
        if verdict is not None and counts["final"] == 1 and counts["compliance"] <= 1 and counts["analysis"] <= 1:
            claims = (line for line, part in zip(self.lines, self.parts, strict=True) if part == "winner")
            named = [match and match[1] for match in map(_VERDICT.fullmatch, claims)]
            if all(name == verdict[1] for name in named):
                self.winner = "A" if verdict[1] == "A" else "B"

    @property
    def is_short(self) -> bool:
        """Whether the text begins like a judgement in the short form, with a finding."""
        return self.lines[:1] == [FINAL_HEADING] and any(map(_FINDING.fullmatch, self.lines[1:2]))

    def assessments(self, rubric: Rubric) -> tuple[Assessment, ...]:
        """What the text says about each criterion under each response, as far as it keeps the form."""
        if self.is_short:
            findings = [(c.kind, m) for c, m in zip(rubric.criteria, self._findings(rubric), strict=False)]
            first = [Assessment("A", i, kind, match[3]) for i, (kind, match) in enumerate(findings, start=1)]
            return (*first, *(Assessment("B", i, kind, match[4]) for i, (kind, match) in enumerate(findings, start=1)))
        side: Side | None = None
        assessments = []
        for line, part in zip(self.lines, self.parts, strict=True):
            if line in _SIDES:
                side = _SIDES[line]
            elif part == "final":
                side = None
            elif side is not None and (match := _ASSESSMENT.fullmatch(line)):
                assessments.append(Assessment(side, int(match[1]), _KINDS[match[2]], match[3].strip()))
        return tuple(assessments)

    def is_strict(self, rubric: Rubric) -> bool:
        """Whether the lines are those that the rubric asks for, in order, and no others."""
        k, lines = len(rubric.criteria), self._lines_of_the_paper()
        if not k or self.winner is None or _WINNER_EXACT.fullmatch(lines[-1]) is None:
            return False
        if self.is_short:
            whole = len(self.lines) == 3 + k == 3 + len(self._findings(rubric))
            return whole and _has_content(self.lines[-2], JUSTIFICATION_PREFIX)
        if len(lines) != 8 + 2 * k:
            return False
        fixed = {0: COMPLIANCE_HEADING, 2: ANALYSIS_HEADING, 3: RESPONSE_HEADINGS["A"], 4 + k: RESPONSE_HEADINGS["B"]}
        fixed[5 + 2 * k] = FINAL_HEADING
        if any(lines[at] != heading for at, heading in fixed.items()):
            return False
        if not _has_content(lines[1], GATEKEEPER_PREFIX) or not _has_content(lines[6 + 2 * k], JUSTIFICATION_PREFIX):
            return False
        return all(_addressed(lines[start : start + k], rubric) == k for start in (4, 5 + k))

    def _findings(self, rubric: Rubric) -> list[re.Match[str]]:
        """The findings of the short form on criteria 1, 2, … as far as they follow the heading in this order."""
        findings: list[re.Match[str]] = []
        for number, line in enumerate(self.lines[1 : 1 + len(rubric.criteria)], start=1):
            match = _FINDING.fullmatch(line)
            if match is None or int(match[1]) != number or not all(_visible(match[i].strip('"')) for i in (2, 3, 4)):
                break
            findings.append(match)
        return findings

    def _lines_of_the_paper(self) -> list[str]:
        """The lines without those that only OpenRubrics' judge writes, each of them in its place.

        It gives its reasoning about the gatekeeper in a line of that name, or else in a plain one after the criterion.
        """
        lines = self.lines.copy()
        if len(lines) > 3 and _has_content(lines[-3], SUMMARY_PREFIX):
            del lines[-3]
        if len(lines) > 3 and _has_content(lines[1], REASONING_PREFIX):
            del lines[1]
        elif lines[3:4] == [ANALYSIS_HEADING] and self.parts[2] is None and lines[2][0] != ">" and _visible(lines[2]):
            del lines[2]
        return lines

    def count_parts(self, rubric: Rubric) -> int:
        """How many of the parts that the rubric asks for are there."""
        total = int(self.gatekeeper is not None or self.is_short) + int(self.justification is not None)
        total += self.winner is not None and self.parts.count("winner") == 1
        if self.is_short:
            return total + 2 * len(self._findings(rubric))
        for side, heading in RESPONSE_HEADINGS.items():
            if self.lines.count(heading) == 1:
                block = self.lines[self.lines.index(heading) + 1 :]
                stop = RESPONSE_HEADINGS["B"] if side == "A" else FINAL_HEADING
                total += _addressed(block[: block.index(stop)] if stop in block else block, rubric)
        return total


def _addressed(block: list[str], rubric: Rubric) -> int:
    """Length of the prefix of ``block`` that addresses criteria 1, 2, … with the right kind."""
    count = 0
    for number, (line, criterion) in enumerate(zip(block, rubric.criteria, strict=False), start=1):
        match = _ASSESSMENT.fullmatch(line)
        if match is None or (int(match[1]), match[2]) != (number, criterion.kind.label) or not _visible(match[3]):
            break
        count = number
    return count


def _visible(text: str) -> bool:
    return bool(fold(text).strip())


def _has_content(line: str, prefix: str) -> bool:
    return line.startswith(prefix) and _visible(line[len(prefix) :])


def _after_prefix(lines: list[str], prefix: str) -> str | None:
    """What follows ``prefix`` in the one line that has it, or None without such a line or with several."""
    texts = [line[len(prefix) :].strip() for line in lines if _has_content(line, prefix)]
    return texts[0] if len(texts) == 1 else None
