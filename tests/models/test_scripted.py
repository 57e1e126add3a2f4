"""The fake backend: what it writes, counts and remembers."""

from __future__ import annotations

from rubric_arm_lite.models.sampler import Sampler, Sampling
from rubric_arm_lite.types import Example
from tests.scripted import END_TOKEN, ScriptedSampler


def test_groups_follow_the_script() -> None:
    scripted = ScriptedSampler(lambda adapter, example, i: f"{adapter}:{example.example_id}:{i}")
    sampler: Sampler = scripted  # it is one
    asked = [Example("x", "prompt x", 0), Example("y", "é", 1)]
    groups = sampler.sample("judge", asked, Sampling(10, 2))
    assert [[s.text for s in group.samples] for group in groups] == [
        ["judge:x:0", "judge:x:1"],
        ["judge:y:0", "judge:y:1"],
    ]
    assert [group.example for group in groups] == asked
    assert groups[1].prompt_ids == tuple("é".encode())
    sample = groups[0].samples[0]
    assert sample.token_ids == (*b"judge:x:0", END_TOKEN)
    assert sample.logprobs == (0.0,) * 10 and sample.finish_reason == "stop"
    assert scripted.tokens_written == 40
    assert scripted.prompt_tokens("é") == 2
    call = scripted.calls[0]
    assert (call.adapter, call.examples, call.sampling) == ("judge", tuple(asked), Sampling(10, 2))
    assert scripted.prompts("judge") == ["prompt x", "é"] and scripted.prompts("rubric") == []


def test_a_cut_completion_has_no_end_token() -> None:
    scripted = ScriptedSampler(lambda adapter, example, i: ("abc", "length"))
    sample = scripted.sample(None, [Example("x", "p", 0)], Sampling(3))[0].samples[0]
    assert sample.finish_reason == "length" and sample.token_ids == tuple(b"abc")


def test_fingerprints_can_be_set() -> None:
    scripted = ScriptedSampler(lambda adapter, example, i: "")
    assert len({scripted.fingerprint(name) for name in ("judge", "rubric", None)}) == 3
    scripted.fingerprints["judge"] = "changed"
    assert scripted.fingerprint("judge") == "changed"
