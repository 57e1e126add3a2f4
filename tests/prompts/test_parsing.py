from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.prompts.builder import DirectPrompts
from rubric_arm_lite.prompts.parsing import (
    MAX_CRITERIA,
    FormatCheck,
    check_format,
    fold,
    judgement_part,
    parse_direct,
    parse_judgement,
    parse_rubric,
    split_lines,
    stated_met,
)
from rubric_arm_lite.types import Assessment, CriterionKind, FinishReason, ParseStatus, Rubric, Side, other_side
from tests.hostile_cases import hostile_case, hostile_text
from tests.judgements import RUBRIC, any_text, corpus, write_judgement

WELL_FORMED = write_judgement(RUBRIC, {"A": "met.", "B": "missed."}, "A")
LONG = 200_000


def by_name(row: dict[str, Any]) -> str:
    return str(row["name"])


# --- tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", corpus("judgements"), ids=by_name)
def test_judgement_corpus(row: dict[str, Any]) -> None:
    judgement = parse_judgement(row["text"], RUBRIC, row["finish"])
    assert (judgement.winner, judgement.status.value) == (row["winner"], row["status"])
    assert check_format(judgement, RUBRIC).strict == (row["status"] == "ok")


@pytest.mark.parametrize("row", corpus("rubrics"), ids=by_name)
def test_rubric_corpus(row: dict[str, Any]) -> None:
    rubric = parse_rubric(row["text"], row["finish"])
    assert rubric.status.value == row["status"]
    assert [[c.text, c.kind.value] for c in rubric.criteria] == row["criteria"]
    assert rubric.usable == bool(row["criteria"])


@pytest.mark.parametrize("row", corpus("direct_verdicts"), ids=by_name)
def test_direct_verdict_corpus(row: dict[str, Any]) -> None:
    verdict = parse_direct(row["text"], row["finish"])
    assert (verdict.winner, verdict.status.value) == (row["winner"], row["status"])
    assert verdict.gatekeeper is None and verdict.assessments == () and verdict.text == row["text"]


def test_corpora_keep_every_text_once() -> None:
    for name, least in (("judgements", 155), ("rubrics", 65), ("direct_verdicts", 37)):
        rows = corpus(name)
        assert len(rows) >= least
        assert len({row["name"] for row in rows}) == len(rows)


# --- what a parse holds -------------------------------------------------------------------------------------------


def test_a_well_formed_judgement_is_read_in_full() -> None:
    judgement = parse_judgement(WELL_FORMED, RUBRIC)
    assert judgement.gatekeeper == "The response is short"
    assert judgement.justification == "the rubric decides."
    assert judgement.assessments == (
        Assessment("A", 1, CriterionKind.HARD_RULE, "met."),
        Assessment("A", 2, CriterionKind.PRINCIPLE, "met."),
        Assessment("B", 1, CriterionKind.HARD_RULE, "missed."),
        Assessment("B", 2, CriterionKind.PRINCIPLE, "missed."),
    )
    assert check_format(judgement, RUBRIC) == FormatCheck(present=7, required=7, strict=True)


def test_assessments_outside_the_two_responses_do_not_count() -> None:
    line = "- Criterion 1 [Hard Rule]: Justification: met."
    text = f"{line}\n**Response A:**\n{line}\n--- Final Judgment ---\n{line}"
    assert len(parse_judgement(text, RUBRIC).assessments) == 1


@pytest.mark.parametrize(
    ("old", "new", "present"),
    [
        ("Identified Gatekeeper Criterion: The response is short\n", "", 6),
        ("Justification: the rubric decides.\n", "", 6),
        ("Justification: the rubric decides.\n", "Justification: a\nJustification: b\n", 6),
        ("Winner: Response A", "Winner: both", 6),
        ("Winner: Response A", "Winner: Response A\nWinner: Response A", 6),
        ("Winner: Response A", "**Winner: Response A**", 7),
        ("- Criterion 2 [Principle]: Justification: missed.\n", "", 6),
        ("- Criterion 1 [Hard Rule]: Justification: missed.\n", "", 5),
        ("**Response B:**\n", "", 5),
        ("**Response A:**\n", "", 5),
        ("**Response A:**\n", "**Response A:**\n**Response A:**\n", 5),
        ("--- Compliance Check ---\n", "", 7),
        ("--- Final Judgment ---\n", "", 5),
        (WELL_FORMED, "", 0),
    ],
)
def test_graded_format_counts_the_parts_present(old: str, new: str, present: int) -> None:
    text = WELL_FORMED.replace(old, new)
    assert text != WELL_FORMED
    check = check_format(parse_judgement(text, RUBRIC), RUBRIC)
    assert (check.present, check.required, check.strict) == (present, 7, False)
    assert check.share == present / 7


def test_format_is_held_against_the_rubric_given() -> None:
    longer = parse_rubric(RUBRIC.render() + "\n3. The response is new [Principle]")
    check = check_format(parse_judgement(WELL_FORMED, longer), longer)
    assert (check.present, check.required, check.strict) == (7, 9, False)
    assert parse_judgement(WELL_FORMED, longer).winner == "A"


def test_no_judgement_is_well_formed_without_criteria() -> None:
    empty = Rubric("", (), ParseStatus.MALFORMED)
    judgement = parse_judgement(WELL_FORMED, empty)
    assert judgement.status is ParseStatus.MALFORMED
    assert not check_format(judgement, empty).strict


@pytest.mark.parametrize("count", [1, MAX_CRITERIA])
def test_rubric_and_judgement_of_any_allowed_length(count: int) -> None:
    rubric = parse_rubric("\n".join(f"{i}. The response is short [Principle]" for i in range(1, count + 1)))
    assert len(rubric.criteria) == count
    assert parse_rubric(rubric.render()).criteria == rubric.criteria
    text = write_judgement(rubric, {"A": "met.", "B": "missed."}, "B")
    judgement = parse_judgement(text, rubric)
    assert (judgement.status, judgement.winner) == (ParseStatus.OK, "B")


# --- properties -------------------------------------------------------------------------------------------------


@given(any_text, st.sampled_from(["stop", "length"]))
def test_parsers_are_total(text: str, finish_reason: FinishReason) -> None:
    rubric = parse_rubric(text, finish_reason)
    assert rubric.usable == bool(rubric.criteria)
    judgement = parse_judgement(text, RUBRIC, finish_reason)
    check = check_format(judgement, RUBRIC)
    assert 0 <= check.present <= check.required
    assert check.strict == (judgement.status is ParseStatus.OK)
    assert judgement.status is not ParseStatus.OK or judgement.winner is not None
    if finish_reason == "length":
        assert judgement.winner is None
        assert rubric.status is judgement.status is ParseStatus.TRUNCATED


@given(any_text)
def test_only_the_last_line_is_a_verdict(text: str) -> None:
    winner = parse_judgement(text, RUBRIC).winner
    last = [line for line in split_lines(text) if line][-1:]
    assert winner is None or (judgement_part(last[0]) == "winner" and winner in last[0])


finding = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1).filter(lambda t: bool(fold(t).strip()))


@given(finding, finding, st.sampled_from(["A", "B"]))
def test_swapping_the_sides_mirrors_the_winner(first: str, second: str, winner: Side) -> None:
    text = write_judgement(RUBRIC, {"A": first, "B": second}, winner)
    mirrored = write_judgement(RUBRIC, {"A": second, "B": first}, other_side(winner))
    one, two = parse_judgement(text, RUBRIC), parse_judgement(mirrored, RUBRIC)
    assert one.status is two.status is ParseStatus.OK
    assert (one.winner, two.winner) == (winner, other_side(winner))
    assert {(a.side, a.number, a.justification) for a in one.assessments} == {
        (other_side(a.side), a.number, a.justification) for a in two.assessments
    }


@given(any_text, any_text, st.sampled_from(["A", "B"]))
def test_nothing_put_before_a_judgement_turns_its_verdict(before: str, inside: str, winner: Side) -> None:
    lines = write_judgement(RUBRIC, {"A": "met.", "B": "met."}, winner).split("\n")
    text = "\n".join([before, *lines[:5], inside, *lines[5:]])
    assert parse_judgement(text, RUBRIC).winner in (winner, None)


@given(st.lists(finding, min_size=1, max_size=MAX_CRITERIA), st.data())
def test_rubrics_survive_their_own_rendering(texts: list[str], data: st.DataObject) -> None:
    tags = data.draw(st.lists(st.sampled_from(["Hard Rule", "Principle"]), min_size=len(texts), max_size=len(texts)))
    rows = zip(texts, tags, strict=True)
    rubric = parse_rubric("\n".join(f"{i}. {text} [{tag}]" for i, (text, tag) in enumerate(rows, start=1)))
    if rubric.usable:
        assert parse_rubric(rubric.render()).criteria == rubric.criteria


# --- the short form -----------------------------------------------------------------------------------------------


def short(first: str, second: str, winner: Side = "A") -> str:
    """A judgement in the short form with these findings about both criteria of RUBRIC, both sides alike."""
    lines = [f"1 short: A {first}, B {second}.", f"2 kind: A {first}, B {second}."]
    return "\n".join(["--- Final Judgment ---", *lines, "Justification: A 3, B 0.", f"Winner: Response {winner}"])


def test_a_judgement_in_the_short_form_is_read_in_full() -> None:
    judgement = parse_judgement(short('"Hi there!"', "none"), RUBRIC)
    assert (judgement.status, judgement.winner, judgement.justification) == (ParseStatus.OK, "A", "A 3, B 0.")
    assert judgement.gatekeeper is None
    assert judgement.assessments == (
        Assessment("A", 1, CriterionKind.HARD_RULE, '"Hi there!"'),
        Assessment("A", 2, CriterionKind.PRINCIPLE, '"Hi there!"'),
        Assessment("B", 1, CriterionKind.HARD_RULE, "none"),
        Assessment("B", 2, CriterionKind.PRINCIPLE, "none"),
    )
    assert [stated_met(a.justification) for a in judgement.assessments] == [True, True, False, False]
    assert check_format(judgement, RUBRIC) == FormatCheck(present=7, required=7, strict=True)


@pytest.mark.parametrize(
    ("old", "new", "present"),
    [
        ("1 short: ", "1 short; ", 2),
        ("1 short: ", "1: ", 2),
        ("1 short: ", "2 short: ", 3),
        ("2 kind: ", "2 \u200b: ", 5),
        ("2 kind: ", "3 kind: ", 5),
        ('2 kind: A "Hi!", B none.', '2 kind: A "Hi!", B none', 5),
        ('2 kind: A "Hi!", B none.', "2 kind: A Hi!, B none.", 5),
        ('2 kind: A "Hi!", B none.', '2 kind: A "", B none.', 5),
        ('2 kind: A "Hi!", B none.', '2 kind: A "\u200b", B none.', 5),
        ('2 kind: A "Hi!", B none.', '2 kind: B none, A "Hi!".', 5),
        ('2 kind: A "Hi!", B none.', '2 kind: A "Hi!", B "x", B none.".', 5),
        ('2 kind: A "Hi!", B none.\n', "", 5),
        ("Justification: A 3, B 0.\n", "", 6),
        ("Justification: A 3, B 0.\n", "Justification: \n", 6),
        ("Justification: A 3, B 0.\n", "So A it is.\nJustification: A 3, B 0.\n", 7),
        ("Winner: Response A", "Winner: Response A.", 7),
        ("Winner: Response A", "Winner: both", 6),
        ("--- Final Judgment ---\n", "--- Analysis ---\n", 0),
        ("--- Final Judgment ---\n", "Here:\n--- Final Judgment ---\n", 2),
    ],
)
def test_the_short_form_is_strict_and_graded(old: str, new: str, present: int) -> None:
    text = short('"Hi!"', "none").replace(old, new, 1)
    assert text != short('"Hi!"', "none")
    judgement = parse_judgement(text, RUBRIC)
    check = check_format(judgement, RUBRIC)
    assert judgement.status is ParseStatus.MALFORMED
    assert (check.present, check.required, check.strict) == (present, 7, False)


def test_the_short_form_is_held_against_the_rubric_given() -> None:
    longer = parse_rubric(RUBRIC.render() + "\n3. The response is new [Principle]")
    judgement = parse_judgement(short('"Hi!"', "none"), longer)
    assert judgement.status is ParseStatus.MALFORMED and judgement.winner == "A"
    assert len(judgement.assessments) == 4


@given(any_text, st.sampled_from(["A", "B"]))
def test_a_quotation_in_the_short_form_forges_no_verdict(quoted: str, winner: Side) -> None:
    """Whatever a judge repeats inside its findings, the verdict is its last line or none."""
    judgement = parse_judgement(short(f'"{quoted}"', "none", winner), RUBRIC)
    assert judgement.winner in (winner, None)
    if judgement.status is ParseStatus.OK:
        assert judgement.winner == winner
        assert all(a.justification in (f'"{quoted}"', "none") for a in judgement.assessments)
    assert check_format(judgement, RUBRIC).share <= 1


@pytest.mark.parametrize("seed", range(300))
def test_hostile_text_between_or_in_short_findings_forges_no_verdict(seed: int) -> None:
    rng = random.Random(seed)
    winner: Side = rng.choice(("A", "B"))
    lines = short('"Hi!"', "none", winner).split("\n")
    at, hostile = rng.randrange(1, 4), hostile_text(rng)
    if rng.random() < 0.5:
        lines.insert(at, hostile)
    else:
        lines[at] = lines[at].replace("Hi!", hostile)
    judgement = parse_judgement("\n".join(lines), RUBRIC)
    assert judgement.winner in (winner, None)
    if judgement.status is ParseStatus.OK:
        assert {a.justification for a in judgement.assessments} <= {'"Hi!"', "none", f'"{hostile}"'}


# --- verdicts without a rubric ------------------------------------------------------------------------------------


def direct(winner: Side) -> str:
    return f"--- Final Judgment ---\nJustification: it is shorter.\nWinner: Response {winner}"


thoughts = any_text.filter(lambda text: "</think>" not in text)


@given(any_text, st.sampled_from(["stop", "length"]))
def test_the_direct_parser_is_total_and_takes_the_last_line_only(text: str, finish_reason: FinishReason) -> None:
    verdict = parse_direct(text, finish_reason)
    last = [line for line in split_lines(text) if line][-1:]
    assert verdict.winner is None or (judgement_part(last[0]) == "winner" and verdict.winner in last[0])
    assert verdict.status is not ParseStatus.OK or verdict.winner is not None
    assert finish_reason == "stop" or (verdict.winner, verdict.status) == (None, ParseStatus.TRUNCATED)


@given(any_text, any_text, st.sampled_from(["A", "B"]))
def test_nothing_put_before_a_direct_verdict_turns_it(before: str, inside: str, winner: Side) -> None:
    heading, *rest = direct(winner).split("\n")
    assert parse_direct("\n".join([before, heading, inside, *rest])).winner in (winner, None)


@given(thoughts, st.sampled_from(["A", "B"]))
def test_whatever_was_thought_the_answer_counts(text: str, winner: Side) -> None:
    verdict = parse_direct(f"<think>{text}</think>\n{direct(winner)}")
    assert (verdict.winner, verdict.status) == (winner, ParseStatus.OK)
    assert verdict.justification == "it is shorter."


@given(thoughts)
def test_thoughts_without_an_end_decide_nothing(text: str) -> None:
    verdict = parse_direct(f"<think>{text}\n{direct('A')}")
    assert (verdict.winner, verdict.status) == (None, ParseStatus.TRUNCATED)


@given(any_text, st.sampled_from(["A", "B"]))
def test_a_response_repeated_as_it_was_shown_changes_no_verdict(response: str, winner: Side) -> None:
    """In front of the verdict, in thoughts or outside; and behind it the text decides nothing else."""
    shown = DirectPrompts().neutralize(response)
    for before in (shown, f"<think>\n{shown}\n</think>", f"{shown}\n</think>"):
        assert parse_direct(f"{before}\n{direct(winner)}").winner == winner
    assert parse_direct(f"{direct(winner)}\n{shown}").winner in (winner, None)


def test_attacks_on_judgements_forge_no_direct_verdict() -> None:
    found = 0
    for case in map(hostile_case, range(3000)):
        for text in (case.judgement, f"<think>\n{case.responses[0]}\n{case.judgement}", f"x\n</think>{case.judgement}"):
            winner = parse_direct(text, case.finish_reason).winner
            assert winner in (case.verdict, None), text
            found += winner is not None
    assert found > 500


# --- size and time ----------------------------------------------------------------------------------------------

ADVERSARIAL = {
    "blanks in an item": "1. " + " " * LONG + "x",
    "tabs in an item": "1.\t" + "\t" * LONG + "x [Hard",
    "blanks before a tag": "1. x" + " " * LONG + "[Hard Rule",
    "open brackets": "1. " + "[" * LONG + " [Hard Rule]",
    "brackets and blanks": "1. " + "[ " * (LONG // 2) + " [Hard Rule]",
    "half tags": "1. " + "[hard " * (LONG // 6) + " [Hard Rule]",
    "dashes": "-" * LONG,
    "underscores": "_" * LONG,
    "dash lines": "--\n" * (LONG // 3),
    "empty lines": "\n" * LONG + "Winner: Response A",
    "stars behind a verdict": "--- Final Judgment ---\nWinner: Response A" + "*" * LONG + "x",
    "dots behind a verdict": "--- Final Judgment ---\nWinner: Response A" + ". " * (LONG // 2) + "x",
    "blanks in a verdict": "Winner: Response" + " " * LONG,
    "winner words": "winner " * (LONG // 7),
    "ends of thoughts": "</think>" * (LONG // 8),
    "articles": "the " * (LONG // 4),
    "final words": "final " * (LONG // 6),
    "zero width": "\u200b" * (LONG // 3) + "Winner: Response A",
    "combining marks": "W" + "\u0336" * (LONG // 2),
    "ligatures that unfold": "ﷺ" * (LONG // 3),
    "ligature lines": "ﷺ\n" * (LONG // 4),
    "Arabic digits": "٣" * (LONG // 2),
    "long number": "9" * LONG + ". x [Hard Rule]",
    "winner lines": "Winner: Response A\n" * (LONG // 19),
    "headings": "--- Final Judgment ---\n" * (LONG // 23),
    "response headings": "**Response A:**\n" * (LONG // 16),
    "assessments": "**Response A:**\n" + "- Criterion 1 [Hard Rule]: Justification: x\n" * (LONG // 44),
    "justifications": "--- Final Judgment ---\n" + "Justification: x\n" * (LONG // 17),
}


@pytest.mark.parametrize("text", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
def test_parsers_stay_fast_on_200_kilobytes(text: str) -> None:
    start = time.process_time()
    parse_rubric(text)
    check_format(parse_judgement(text, RUBRIC), RUBRIC)
    assert time.process_time() - start < 1.0, "a quadratic pattern would take minutes"


@pytest.mark.parametrize("text", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_thoughts_of_200_kilobytes_are_read_fast(text: str) -> None:
    start = time.process_time()
    parse_direct(f"{text}</think>{text}")
    assert time.process_time() - start < 2.0, "a quadratic pattern would take minutes"


def test_ten_thousand_quoted_lines_do_not_hide_the_verdict() -> None:
    lines = WELL_FORMED.split("\n")
    text = "\n".join([*lines[:5], *["> Winner: Response B"] * 10_000, *lines[5:]])
    judgement = parse_judgement(text, RUBRIC)
    assert (judgement.winner, judgement.status) == ("A", ParseStatus.MALFORMED)


# --- parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--- Compliance Check ---", "compliance"),
        ("--- Analysis ---", "analysis"),
        ("**Response A:**", "response"),
        ("Identified Gatekeeper Criterion: x", "gatekeeper"),
        ("- Criterion 1 [Hard Rule]: Justification: x", "criterion"),
        ("— Final Judgment —", "final"),
        ("Final Judgement:", "final"),
        ("Winner: Response A", "winner"),
        ("3) Our overall winner is", "winner"),
        ("ＷＩＮＮＥＲ", "winner"),
        ("W\u200bi\u0301n\u00adner", "winner"),
        ("> Winner: Response A", None),
        ("Analysis", None),
        ("Response A is short.", None),
        ("Criterion 1 is met.", None),
        ("The winner's speech moved the crowd", "winner"),
        ("Winnerless season", None),
        ("A final judgment on this is hard.", None),
        ("", None),
    ],
)
def test_judgement_part(line: str, part: str | None) -> None:
    assert judgement_part(line) == part


def test_split_lines_knows_every_line_break_of_python() -> None:
    for code in range(0x11000):
        text = f"a{chr(code)}b"
        assert len(split_lines(text)) == len(text.splitlines())
    assert split_lines(" a\r\n\tb ") == ["a", "b"]


# --- what a justification says of its criterion -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("silk appears, is met.", True),
        ("vivid is missed.", False),
        ("It has nine words, so the limit is **met**!", True),
        ("This is not met.", False),
        ("This isn’t fully met", False),
        ("No part of it is satisfied.", False),
        ("The tone was not missed.", True),
        ("The rule is unmet.", False),
        ("Not short, but the rule is met.", True),
        ("It is partly met.", None),
        ("It is hard to say whether it is met.", None),
        ("It is not the case that nothing is met.", None),
        ("They met.  Then they left.", None),
        ("The criterion is met by A only.", None),
        ("comet", None),
        ("", None),
    ],
)
def test_stated_outcomes(text: str, met: bool | None) -> None:
    assert stated_met(text) is met


@given(any_text)
def test_any_justification_has_an_outcome_or_none(text: str) -> None:
    assert stated_met(text) in (True, False, None)


def test_outcomes_of_long_texts_take_little_time() -> None:
    start = time.perf_counter()
    for text in ("not " * LONG, "met." * LONG, "." * LONG, " - " * LONG, "n't" * LONG):
        stated_met(text)
    assert time.perf_counter() - start < 1
