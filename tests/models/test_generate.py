"""The decoding loop: equal to transformers' own greedy decoding, and sampling that depends on the example alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from rubric_arm_lite.models import generate as generation
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.generate import Completion, choose_tokens, draw_uniforms, generate, roomy_cache
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.models.shared_prefix.batching import pad_left
from tests import tiny

MANY_ENDS = frozenset(range(4, 60))
"""A random model rarely says its one end token; with these, completions end at all lengths."""


def run(
    model: AdapterModel,
    sampling: Sampling,
    end_ids: frozenset[int] = frozenset(),
    prompts: Sequence[str] = tiny.PROMPTS,
    seeds: Sequence[int] | None = None,
    max_rows: int = 100,
    adapter: str | None = "judge",
) -> list[list[Completion]]:
    ids = [model.encode(prompt) for prompt in prompts]
    with model.using(adapter) as active:
        pad = model.tokenizer.pad_token_id
        seeds = seeds or range(len(ids))
        return generate(active, ids, seeds, sampling, end_ids, pad, max_rows, model.head, model.cache_use)


def ids_of(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in groups]


@pytest.fixture(scope="module")
def model(tiny_folder: tiny.Folders) -> AdapterModel:
    return tiny.load(tiny_folder())


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_greedy_equals_plain_generate(kind: str, tiny_folder: tiny.Folders) -> None:
    """Token for token, prompts of mixed length, rows that stop at different times; longer than one cache growth."""
    model = tiny.load(tiny_folder(kind))
    free = run(model, Sampling(40, 1, 0.0))
    ends = _ends_at_most_places([group[0].token_ids for group in free])
    ours = run(model, Sampling(40, 3, 0.0), ends)
    prompts, mask = pad_left([model.encode(p) for p in tiny.PROMPTS], model.tokenizer.pad_token_id)
    with model.using("judge") as active:
        whole = active.generate(
            input_ids=prompts,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=40,
            eos_token_id=sorted(ends),
            pad_token_id=model.tokenizer.pad_token_id,
        )
    lengths = set()
    for group, theirs in zip(ours, whole[:, prompts.shape[1] :].tolist(), strict=True):
        stops = [i for i, token in enumerate(theirs) if token in ends]
        expected = tuple(theirs[: stops[0] + 1] if stops else theirs)
        lengths.add(len(expected))
        assert [c.token_ids for c in group] == [expected] * 3
        assert [c.stopped for c in group] == [bool(stops)] * 3
    assert len(lengths) > 2


def _ends_at_most_places(rows: list[tuple[int, ...]]) -> frozenset[int]:
    """The two tokens that would end these rows at the most different lengths."""

    def lengths(ends: tuple[int, ...]) -> int:
        return len({next((i for i, token in enumerate(row) if token in ends), len(row)) for row in rows})

    return frozenset(max(itertools.combinations(sorted({t for row in rows for t in row}), 2), key=lengths))


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_logprobs_equal_a_fresh_forward(kind: str, temperature: float, tiny_folder: tiny.Folders) -> None:
    model = tiny.load(tiny_folder(kind))
    groups = run(model, Sampling(24, 4, temperature), MANY_ENDS)
    assert len({len(c.token_ids) for group in groups for c in group}) > 3
    for prompt, group in zip(tiny.PROMPTS, groups, strict=True):
        start = model.encode(prompt)
        for completion in group:
            with model.using("judge") as active, torch.no_grad():
                logits = active(input_ids=torch.tensor([[*start, *completion.token_ids]])).logits[0]
            logp = torch.log_softmax(logits[len(start) - 1 : -1] / temperature, -1)
            expected = logp.gather(-1, torch.tensor(completion.token_ids)[:, None]).squeeze(-1)
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def test_greedy_logprobs_are_those_at_temperature_one(model: AdapterModel) -> None:
    start = model.encode(tiny.PROMPTS[1])
    completion = run(model, Sampling(5, 1, 0.0), prompts=tiny.PROMPTS[1:2])[0][0]
    with model.using("judge") as active, torch.no_grad():
        logits = active(input_ids=torch.tensor([[*start, *completion.token_ids]])).logits[0]
    expected = torch.log_softmax(logits[len(start) - 1 : -1], -1).max(-1).values
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_draws_depend_on_the_example_alone(kind: str, tiny_folder: tiny.Folders) -> None:
    """Alone, with others, in another order, in small batches: the same completions."""
    model = tiny.load(tiny_folder(kind))
    sampling = Sampling(24, 3, 1.0)
    seeds = [11, 22, 33, 44]
    together = ids_of(run(model, sampling, MANY_ENDS, seeds=seeds))
    for i, prompt in enumerate(tiny.PROMPTS):
        alone = run(model, sampling, MANY_ENDS, prompts=[prompt], seeds=[seeds[i]])
        assert ids_of(alone)[0] == together[i]
    backwards = run(model, sampling, MANY_ENDS, prompts=tiny.PROMPTS[::-1], seeds=seeds[::-1])
    assert ids_of(backwards)[::-1] == together
    assert ids_of(run(model, sampling, MANY_ENDS, seeds=seeds, max_rows=1)) == together
    more = ids_of(run(model, Sampling(24, 5, 1.0), MANY_ENDS, seeds=seeds))
    assert [group[:3] for group in more] == together, "a larger group begins with the smaller one"


def test_seeds_decide(model: AdapterModel) -> None:
    sampling = Sampling(12, 2, 1.0)
    torch.manual_seed(1)
    one = ids_of(run(model, sampling, seeds=[1, 2, 3, 4]))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert ids_of(run(model, sampling, seeds=[1, 2, 3, 4])) == one, "global state plays no part"
    assert torch.equal(torch.random.get_rng_state(), state), "and is left as it was"
    assert ids_of(run(model, sampling, seeds=[5, 6, 7, 8])) != one
    assert all(group[0] != group[1] for group in one)


def test_adapters_write_different_texts(model: AdapterModel) -> None:
    sampling = Sampling(12, 1, 0.0)
    written = [str(ids_of(run(model, sampling, adapter=name))) for name in ("judge", "rubric", None)]
    assert len(set(written)) == 3


@pytest.mark.parametrize("share", [0.0, 0.5, 1.1], ids=["never", "half", "always"])
def test_compaction_changes_nothing(model: AdapterModel, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    sampling = Sampling(40, 4, 1.0)
    expected = run(model, sampling, MANY_ENDS)
    assert len({len(c.token_ids) for group in expected for c in group}) > 5
    monkeypatch.setattr(generation, "COMPACT_BELOW", share)
    found = run(model, sampling, MANY_ENDS)
    assert ids_of(found) == ids_of(expected)
    for group, other in zip(found, expected, strict=True):
        for one, same in zip(group, other, strict=True):
            assert one.logprobs == pytest.approx(same.logprobs, abs=1e-5)


def test_end_as_the_first_token(model: AdapterModel) -> None:
    """Rows that end at once stand beside rows that run on; all of them ending ends the loop."""
    free = run(model, Sampling(6, 2, 0.0))
    ends = frozenset({free[1][0].token_ids[0]})
    found = run(model, Sampling(6, 2, 0.0), ends)
    assert ids_of(found)[1] == [tuple(ends)] * 2
    assert found[1][0].stopped and len(found[1][0].logprobs) == 1
    assert any(len(group[0].token_ids) == 6 and not group[0].stopped for group in found)
    everything = frozenset(range(tiny.VOCABULARY))
    assert all(
        len(c.token_ids) == 1 and c.stopped for group in run(model, Sampling(6, 2, 1.0), everything) for c in group
    )


def test_one_token(model: AdapterModel) -> None:
    found = run(model, Sampling(1, 2, 1.0))
    assert all(len(c.token_ids) == len(c.logprobs) == 1 for group in found for c in group)


def test_end_token_is_part_of_the_completion_but_not_of_the_text(model: AdapterModel) -> None:
    """Training needs its log-prob; a reader must not see it."""
    free = model.sample("judge", tiny.examples(), Sampling(6, 1, 0.0))
    model.end_ids = frozenset({free[0].samples[0].token_ids[4]})
    try:
        group = model.sample("judge", tiny.examples(), Sampling(6, 1, 0.0))[0]
    finally:
        model.end_ids = frozenset({model.tokenizer.eos_token_id})
    sample = group.samples[0]
    assert sample.finish_reason == "stop" and len(sample.token_ids) == len(sample.logprobs) <= 5
    assert sample.token_ids[-1] not in sample.token_ids[:-1]
    assert sample.text == model.tokenizer.decode(sample.token_ids[:-1])
    assert group.prompt_ids == tuple(model.encode(tiny.PROMPTS[0]))


# --- choosing a token ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_inverse_transform_reproduces_the_distribution(temperature: float) -> None:
    """An even grid of uniform numbers gives each token its share, to within one grid step."""
    torch.manual_seed(0)
    logits = torch.randn(9) * 2
    grid = (torch.arange(10_000) + 0.5) / 10_000
    ids, logp = choose_tokens(logits.expand(10_000, -1), grid, Sampling(1, 1, temperature))
    probabilities = torch.softmax(logits / temperature, -1)
    counts = torch.bincount(ids, minlength=9) / 10_000
    torch.testing.assert_close(counts, probabilities, atol=2e-4, rtol=0)
    torch.testing.assert_close(logp, probabilities.log()[ids], atol=1e-5, rtol=0)


def test_draws_are_uniform_and_stable() -> None:
    uniforms = draw_uniforms(3, 50, 200)
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert uniforms.mean().item() == pytest.approx(0.5, abs=0.01)
    assert uniforms.var().item() == pytest.approx(1 / 12, abs=0.005)
    assert torch.equal(draw_uniforms(3, 7, 200), uniforms[:7])
    assert not torch.equal(draw_uniforms(4, 50, 200), uniforms)


@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True, width=32),
    top_p=st.floats(0.01, 1.0),
)
def test_a_token_without_probability_is_never_chosen(logits: list[float], uniform: float, top_p: float) -> None:
    row = torch.tensor([[*logits, float("-inf")]])
    ids, logp = choose_tokens(row, torch.tensor([uniform]), Sampling(1, 1, 1.0, top_p))
    assert ids.item() < len(logits)
    assert torch.isfinite(logp).all()


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    """Probabilities 0.5, 0.2, 0.2, 0.1: top-p 0.6 keeps the first two in rank, 0.5 the first alone."""
    logits = torch.tensor([0.1, 0.5, 0.2, 0.2]).log().expand(1000, -1)
    grid = (torch.arange(1000) + 0.5) / 1000
    shares = {
        0.3: [0, 1.0, 0, 0],
        0.6: [0, 5 / 7, 2 / 7, 0],
        0.8: [0, 5 / 9, 2 / 9, 2 / 9],
        1.0: [0.1, 0.5, 0.2, 0.2],
    }
    for top_p, expected in shares.items():
        ids, logp = choose_tokens(logits, grid, Sampling(1, 1, 1.0, top_p))
        counts = torch.bincount(ids, minlength=4) / 1000
        torch.testing.assert_close(counts, torch.tensor(expected), atol=2e-3, rtol=0)
        torch.testing.assert_close(logp.exp(), torch.tensor(expected)[ids], atol=1e-5, rtol=0)


def test_greedy_takes_the_most_probable() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    ids, logp = choose_tokens(logits, None, Sampling(1, 1, 0.0))
    assert ids.tolist() == [1, 0]
    torch.testing.assert_close(logp, torch.log_softmax(logits, -1).max(-1).values)


@pytest.mark.parametrize("changes", [{"max_tokens": 0}, {"num_generations": 0}, {"temperature": -1}, {"top_p": 0}])
def test_impossible_sampling_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Sampling(**{"max_tokens": 1, **changes})  # type: ignore[arg-type]


# --- the cache ----------------------------------------------------------------------------------------------------


def test_roomy_cache_holds_what_a_plain_one_holds() -> None:
    """Through growth, repetition and selection of rows, with values that must not be shared between rows."""
    generator = torch.Generator().manual_seed(0)
    ours, plain = roomy_cache(), DynamicCache()

    def step(rows: int, tokens: int) -> None:
        keys, values = (torch.randn(rows, 2, tokens, 3, generator=generator) for _ in range(2))
        for layer in (0, 1):
            mine, theirs = (cache.update(keys + layer, values, layer) for cache in (ours, plain))
            assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])

    step(2, 5)
    for cache in (ours, plain):
        cache.reorder_cache(torch.tensor([0, 0, 0, 1, 1, 1]))
    for _ in range(40):
        step(6, 1)
    for cache in (ours, plain):
        cache.reorder_cache(torch.tensor([0, 5, 5]))
    step(3, 2)
    step(3, 1)
    assert ours.get_seq_length() == plain.get_seq_length() == 48
