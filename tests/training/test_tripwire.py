"""The tripwire: what it sees in the rows of a phase, and that a phase goes back, ends or stops."""

from __future__ import annotations

from typing import Any

import pytest

from rubric_arm_lite.recipe import TripwireSettings
from rubric_arm_lite.training.tripwire import SET_BACK, alarm, rows_in_effect

SETTINGS = TripwireSettings(groups=8)
GOOD = {
    "groups": 4.0,
    "verdicts/A": 0.5,
    "verdicts/B": 0.45,
    "verdicts/none": 0.05,
    "findings/contradicted": 0.1,
    "parse/ok": 0.9,
    "entropy": 0.2,
}


def rows(*changes: dict[str, float]) -> list[dict[str, Any]]:
    return [{**GOOD, **change, "step": step} for step, change in enumerate(changes)]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"findings/contradicted": 0.4}, "the share of verdicts against their own findings rose from 0.10 to 0.40"),
        ({"entropy": 1.3}, "the entropy in nats per token rose from 0.20 to 1.30"),
        ({"parse/ok": 0.5}, "the share of texts that parse fell from 0.90 to 0.50"),
        ({"verdicts/A": 0.97, "verdicts/B": 0.03}, "97% of the verdicts name Response A"),
        ({"verdicts/A": 0.0, "verdicts/B": 1.0}, "100% of the verdicts name Response B"),
    ],
)
def test_what_gives_an_alarm(bad: dict[str, float], words: str) -> None:
    assert alarm(rows({}, {}, bad, bad), "judge", SETTINGS) == words
    assert alarm(rows({}, {}, {}, bad), "judge", SETTINGS) is None, "one step of four prompts is few"
    assert alarm(rows({}, bad), "judge", SETTINGS) is None
    assert alarm(rows(bad, bad, bad, bad), "judge", SETTINGS) is None, "the phase did not do it"
    assert alarm(rows({}, {}, bad, bad), "judge", SETTINGS.model_copy(update={"action": "off"})) is None
    assert alarm(rows({}, {}, {}, {}), "judge", SETTINGS) is None


def test_the_frozen_judge_of_a_rubric_phase_may_be_one_sided() -> None:
    one_sided = {"verdicts/A": 1.0, "verdicts/B": 0.0}
    assert alarm(rows({}, {}, one_sided, one_sided), "rubric", SETTINGS) is None
    assert alarm(rows({}, {}, {"entropy": 3.0}, {"entropy": 3.0}), "rubric", SETTINGS)


def test_a_step_without_an_update_has_no_entropy() -> None:
    steps = rows({}, {}, {})
    del steps[0]["entropy"], steps[1]["entropy"]
    assert alarm(steps, "judge", SETTINGS) is None


def test_rows_that_a_return_undid_no_longer_count() -> None:
    def step(slot: int, number: int, kind: str = "step") -> dict[str, Any]:
        return {"kind": kind, "slot": slot, "step": number}

    log = [step(0, 0), step(0, 1), step(1, 0), step(1, 1), step(1, 1, "probe"), step(1, 2)]
    back = {"kind": SET_BACK, "slot": 1, "step": 1, "at": 2}
    again = [step(1, 1), step(1, 2)]
    assert rows_in_effect([*log, back, *again]) == [*log[:3], back, *again]
    assert rows_in_effect(log) == log
