"""Batching: weights of each loss type, padding, micro-batches, and that accumulation changes nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.models.memory import TokenBudget
from rubric_arm_lite.models.shared_prefix.batching import (
    Layout,
    Row,
    count_tokens,
    make_batch,
    make_rows,
    micro_batches,
    pad_left,
    positions,
    row_weight,
)
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.types import Example, FinishReason, RolloutGroup, Sample
from tests import tiny

CPU = torch.device("cpu")


def group(name: str, prompt: tuple[int, ...], *lengths: int, cut: tuple[int, ...] = ()) -> RolloutGroup:
    """A group whose i-th sample has ``lengths[i]`` tokens; those in ``cut`` ended by length."""
    samples = []
    for i, length in enumerate(lengths):
        reason: FinishReason = "length" if i in cut else "stop"
        samples.append(Sample("", tuple(range(50, 50 + length)), (-0.5,) * length, reason))
    return RolloutGroup(Example(name, name, 0), prompt, tuple(samples))


def row(prompt: tuple[int, ...], completion: tuple[int, ...], weight: float = 1.0) -> Row:
    return Row(prompt, completion, tuple(-0.1 * t for t in completion), float(len(completion)), weight)


def test_pad_left_and_positions() -> None:
    ids, mask = pad_left([[7, 8], [5], [1, 2, 3]], value=9)
    assert ids.tolist() == [[9, 7, 8], [9, 9, 5], [1, 2, 3]]
    assert mask.tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 1]]
    assert positions(mask).tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 2]]
    assert positions(torch.tensor([[0, 1, 1, 0]])).tolist() == [[0, 0, 1, 1]], "right padding stays at the last place"


def test_make_batch() -> None:
    rows = [row((1, 2), (5,), 0.5), row((1, 2), (6, 7, 8), 0.25), row((3,), (4, 4))]
    batch = make_batch(rows, pad_id=0, device=CPU)
    assert batch.prompts_gP.tolist() == [[1, 2], [0, 3]]
    assert batch.prompt_mask_gP.tolist() == [[1, 1], [0, 1]]
    assert batch.group_of_R.tolist() == [0, 0, 1]
    assert batch.completions_RC.tolist() == [[5, 0, 0], [6, 7, 8], [4, 4, 0]]
    assert batch.mask_RC.tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert batch.weights_RC.tolist() == [[0.5, 0, 0], [0.25, 0.25, 0.25], [1, 1, 0]]
    assert batch.advantages_R.tolist() == [1, 3, 2]
    torch.testing.assert_close(batch.old_logprobs_RC[1], torch.tensor([-0.6, -0.7, -0.8]))
    assert batch.old_logprobs_RC[0, 1:].tolist() == [0, 0]


def test_a_prompt_that_comes_back_later_is_stored_again() -> None:
    """Only neighbors share: the order of rows is kept."""
    batch = make_batch([row((1,), (5,)), row((2,), (5,)), row((1,), (5,))], pad_id=0, device=CPU)
    assert batch.prompts_gP.tolist() == [[1], [2], [1]]
    assert batch.group_of_R.tolist() == [0, 1, 2]


def test_row_weights_by_hand() -> None:
    """Two groups of 2, lengths 2, 4 and 1, 3: 4 rows, 10 tokens, at most 8 tokens each."""
    groups = [group("a", (1, 2), 2, 4), group("b", (3,), 1, 3)]
    advantages = [(1.0, -1.0), (0.5, -0.5)]
    by_type = {
        "grpo": [1 / 8, 1 / 16, 1 / 4, 1 / 12],
        "dapo": [1 / 10] * 4,
        "dr_grpo": [1 / 32] * 4,
    }
    for loss_type, weights in by_type.items():
        rows = make_rows(groups, advantages, loss_type, max_completion_length=8)
        assert [r.weight for r in rows] == pytest.approx(weights), loss_type
        assert [r.advantage for r in rows] == [1.0, -1.0, 0.5, -0.5]
        assert [len(r.token_ids) for r in rows] == [2, 4, 1, 3]
        assert [r.prompt_ids for r in rows] == [(1, 2), (1, 2), (3,), (3,)]


def test_truncated_rows_weigh_nothing_but_keep_their_place() -> None:
    """TRL: the mean over rows still divides by all of them, the mean over tokens does not count theirs."""
    groups = [group("a", (1, 2), 2, 4, cut=(1,)), group("b", (3,), 1, 3)]
    advantages = [(1.0, -1.0), (0.5, -0.5)]
    expected = {
        "grpo": [1 / 8, 0, 1 / 4, 1 / 12],
        "dapo": [1 / 6, 0, 1 / 6, 1 / 6],
        "dr_grpo": [1 / 32, 0, *[1 / 32] * 2],
    }
    for loss_type, weights in expected.items():
        rows = make_rows(groups, advantages, loss_type, 8, mask_truncated=True)
        assert [r.weight for r in rows] == pytest.approx(weights), loss_type


def test_samples_without_an_advantage_leave_every_count() -> None:
    groups = [group("a", (1, 2), 2, 4, 3), group("b", (3,), 0, 1)]
    advantages = [(1.0, None, -1.0), (0.5, -0.5)]  # the second sample is masked, the fourth wrote nothing
    assert [r.weight for r in make_rows(groups, advantages, "grpo", 8)] == pytest.approx([1 / 6, 1 / 9, 1 / 3])
    assert [r.weight for r in make_rows(groups, advantages, "dapo", 8)] == pytest.approx([1 / 6] * 3)
    assert [r.weight for r in make_rows(groups, advantages, "dr_grpo", 8)] == pytest.approx([1 / 24] * 3)
    assert make_rows(groups, [(None,) * 3, (None,) * 2], "dapo", 8) == []


def test_groups_and_advantages_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        make_rows([group("a", (1,), 2)], [], "grpo", 8)
    with pytest.raises(ValueError, match="zip"):
        make_rows([group("a", (1,), 2)], [(1.0, 2.0)], "grpo", 8)


def test_unknown_loss_type() -> None:
    with pytest.raises(ValueError, match="loss_type: 'ppo' is not one of grpo, dapo, dr_grpo"):
        row_weight("ppo", 1, 1, 1, 1)


def on_tensors(rows: list[Row], layout: Layout) -> int:
    """Tokens that go through the network for a micro-batch, counted on its tensors."""
    batch = make_batch(rows, 0, CPU, layout)
    if batch.packed is not None:
        return batch.packed.ids_1T.numel()
    prompts = batch.prompts_gP if layout == "expanded" else batch.prompts_gP.index_select(0, batch.group_of_R)
    return prompts.numel() + batch.completions_RC.numel()


lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=6)


@given(
    shapes=lengths,
    most=st.integers(1, 120),
    aim=st.integers(1, 120),
    layout=st.sampled_from(["packed", "expanded", "separate"]),
)
def test_micro_batches_keep_all_rows_in_order_within_the_budget(
    shapes: list[tuple[int, int, int]], most: int, aim: int, layout: Layout
) -> None:
    rows = []
    for i, (prompt, completion, count) in enumerate(shapes):
        rows += [row((i,) * prompt, (j,) * completion) for j in range(count)]
    aim = min(most, aim)
    runs = list(micro_batches(rows, TokenBudget(most, aim), layout))
    assert [r for run in runs for r in run] == rows
    for run in runs:
        groups = len({r.prompt_ids for r in run})
        assert len(run) == 1 or on_tensors(run, layout) <= (most if groups == 1 else aim)
    for run, following in itertools.pairwise(runs):
        group = [r for r in rows if r.prompt_ids == following[0].prompt_ids]
        split = following[0] is not group[0]
        more = [following[0]] if split else group
        # Packed rows are bounded before they are laid out; the others are counted on their tensors.
        size = count_tokens if layout == "packed" else on_tensors
        assert size([*run, *more], layout) > (most if split else aim), "a run ends only when no more fits"
        if split:
            assert size(group, layout) > most, "a group is split only if it cannot stay whole"


@given(shapes=lengths, start=st.integers(0, 40))
def test_the_count_of_packed_rows_is_a_bound(shapes: list[tuple[int, int, int]], start: int) -> None:
    """Also where prompts share a start, some are prefixes of others, and completions begin alike."""
    rows = []
    for prompt, completion, count in shapes:
        rows += [row((9,) * start + (8,) * prompt, (7,) * completion + (j,)) for j in range(count)]
    assert on_tensors(rows, "packed") <= count_tokens(rows, "packed")


def test_no_rows_no_micro_batches() -> None:
    assert list(micro_batches([], TokenBudget.flat(100), "packed")) == []


@pytest.mark.parametrize(
    ("loss_type", "layout"),
    [("grpo", "packed"), ("dapo", "packed"), ("dr_grpo", "packed"), ("dapo", "expanded"), ("dr_grpo", "separate")],
)
def test_accumulation_retraces_one_large_batch(loss_type: str, layout: Layout, tiny_folder: tiny.Folders) -> None:
    """The same update in one micro-batch, in a few, and row by row."""
    found: dict[int, tuple[dict[str, float], dict[str, torch.Tensor]]] = {}
    counts: dict[int, int] = {}
    for budget in (100_000, 60, 1):
        settings: dict[str, Any] = {"loss_type": loss_type, "beta": 0.1, "learning_rate": 1e-3, "entropy_coef": 0.01}
        recipe = tiny.recipe(tiny_folder(), judge={**settings, "micro_batch_tokens": budget})
        learner = Learner(tiny.load(tiny_folder()), recipe)
        learner.layout = layout
        groups = tiny.rollouts(learner.model)
        advantages = tiny.spread(groups)
        counts[budget] = len(learner._batches("judge", learner._rows("judge", groups, advantages)))
        metrics = learner.update("judge", groups, advantages).values
        found[budget] = (metrics, tiny.weights(learner.model, "judge"))
    assert counts[100_000] == 1 < counts[60] < counts[1] == 16
    whole_metrics, whole_weights = found[100_000]
    assert whole_metrics.pop("micro_batches") == 1
    for budget in (60, 1):
        metrics, weights = found[budget]
        assert metrics.pop("micro_batches") == counts[budget]
        assert metrics == pytest.approx(whole_metrics, rel=1e-4, abs=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, whole_weights[name], atol=2e-6, rtol=0)
