"""Shared prefixes in rollouts and updates: the same tokens and numbers as without them, on every supported model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models import generate as generation
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.generate import batches, generate
from rubric_arm_lite.models.load import has_full_causal_attention, load_model
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.models.shared_prefix import attention as tree_attention
from rubric_arm_lite.models.shared_prefix import passes as shared_prefix
from rubric_arm_lite.models.shared_prefix.batching import Row, make_batch
from tests import tiny

CPU = torch.device("cpu")
PLAIN = [kind for kind in tiny.ARCHITECTURES if kind != "gemma2"]
ENDS = frozenset(range(4, 60))
"""Many end tokens, so that rows end at all lengths and the batch is compacted again and again."""


def families(rng: random.Random, count: int) -> list[list[int]]:
    """Prompts under a common start, some of them in pairs and triples that share more, one a prefix of another."""
    template = [rng.randrange(60, 240) for _ in range(rng.choice([0, 3, 20]))]
    prompts = []
    while len(prompts) < count:
        body = [rng.randrange(60, 240) for _ in range(rng.choice([1, 8, 25]))]
        for _ in range(rng.choice([1, 1, 2, 3])):
            end = [rng.randrange(60, 240) for _ in range(rng.choice([0, 1, 7]))]
            prompts.append([*template, *body, *end])
    return prompts[:count]


def written(
    model: AdapterModel, prompts: Sequence[Sequence[int]], sampling: Sampling, max_rows: int = 100, **changes: Any
) -> list[list[generation.Completion]]:
    with model.using("judge") as active:
        cache_use = changes.get("cache_use", model.cache_use)
        return generate(active, prompts, range(len(prompts)), sampling, ENDS, 0, max_rows, model.head, cache_use)


@pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed"])
@pytest.mark.parametrize("level_from", [1, 10, 1000], ids=["all levels", "long ones", "none"])
@pytest.mark.parametrize("kind", PLAIN)
def test_families_of_prompts_decode_like_expanded_caches(
    kind: str, level_from: int, fixed: bool, tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged groups, prompts inside prompts, equal prompts, rows that end early: token for token."""
    monkeypatch.setattr(shared_prefix, "LEVEL_FROM", level_from)
    monkeypatch.setattr(shared_prefix, "ROOM", 5)
    monkeypatch.setattr(shared_prefix, "FIXED_ROOM", 7)
    monkeypatch.setattr(generation, "fixed_shapes", lambda _: fixed)
    model = tiny.load(tiny_folder(kind))
    rng = random.Random(1)
    for sampling in (Sampling(20, 1, 0.0), Sampling(20, 3, 1.0), Sampling(1, 2, 1.0)):
        prompts = families(rng, 7)
        ours, theirs = written(model, prompts, sampling), written(model, prompts, sampling, cache_use="copied")
        for group, others in zip(ours, theirs, strict=True):
            for one, other in zip(group, others, strict=True):
                assert (one.token_ids, one.stopped) == (other.token_ids, other.stopped)
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("every", [1, 3, 8])
def test_asking_rarely_changes_nothing(every: int, tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the loop asks every few tokens whether rows have ended; what runs over is cut."""
    model = tiny.load(tiny_folder())
    prompts = families(random.Random(2), 5)
    expected = written(model, prompts, Sampling(20, 3, 1.0))
    monkeypatch.setattr(generation, "ask_every", lambda device: every)
    assert [[c.token_ids for c in group] for group in written(model, prompts, Sampling(20, 3, 1.0))] == [
        [c.token_ids for c in group] for group in expected
    ]


def test_batches_keep_families_together() -> None:
    template = [1] * 40
    pairs = [[*template, *[p] * 40, r] for p in (2, 3, 4) for r in range(10, 14)]
    shuffled = pairs[::3] + pairs[1::3] + pairs[2::3]
    runs = list(batches(shuffled, 4, "shared"))
    assert sorted(i for run in runs for i in run) == list(range(12))
    assert all(len({shuffled[i][40] for i in run}) == 1 for run in runs)
    assert [len(run) for run in batches(shuffled, 5, "copied")] == [5, 5, 2]


@pytest.mark.parametrize("kind", PLAIN)
def test_packed_scores_in_bfloat16_are_within_rounding(kind: str, tiny_folder: tiny.Folders) -> None:
    """Packed against separate rows differs by at most twice what two separate runs of other padding differ by."""
    model = tiny.load(tiny_folder(kind), dtype="bfloat16")
    generator = torch.Generator().manual_seed(0)
    rows = []
    for g, prompt in enumerate(tiny.PROMPTS):
        for _ in range(4 - g % 2):
            ids = torch.randint(4, 240, (14 - g,), generator=generator).tolist()
            rows.append(Row(tuple(model.encode(prompt)), tuple(ids), (0.0,) * len(ids), 1.0, 1.0))

    def logprobs(parts: list[list[Row]], layout: Any) -> torch.Tensor:
        found = []
        with model.using("judge") as active, torch.no_grad():
            for part in parts:
                batch = make_batch(part, 0, CPU, layout)
                scores = model.score(active, batch, 1.0, layout).logprobs
                found.append(scores[batch.mask_RC.bool()])
        return torch.cat(found).float()

    together, one_by_one = logprobs([rows], "separate"), logprobs([[row] for row in rows], "separate")
    packed = logprobs([rows], "packed")
    exact = _in_float32(kind, tiny_folder, rows)
    noise = float((together - one_by_one).abs().max())
    assert noise > 0
    assert float((packed - together).abs().max()) <= 2 * max(noise, float((together - exact).abs().max()))


def _in_float32(kind: str, tiny_folder: tiny.Folders, rows: list[Row]) -> torch.Tensor:
    model = tiny.load(tiny_folder(kind))
    batch = make_batch(rows, 0, CPU)
    with model.using("judge") as active, torch.no_grad():
        return model.score(active, batch, 1.0, "separate").logprobs[batch.mask_RC.bool()]


# --- which models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_only_plain_attention_is_shared(kind: str, tiny_folder: tiny.Folders) -> None:
    model = tiny.load(tiny_folder(kind))
    assert (model.layout == "packed") == (kind in PLAIN)
    base = model.model.get_base_model()
    base.set_attn_implementation("eager" if kind == "gemma2" else "sdpa")
    assert has_full_causal_attention(base) == (kind in PLAIN)


def test_windows_are_not_shared_and_dropout_is_switched_off(tmp_path: Path) -> None:
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert tiny.load(tiny.make_folder("qwen2", tmp_path / "window", **window)).layout == "expanded"
    assert tiny.load(tiny.make_folder("qwen2", tmp_path / "dropout", attention_dropout=0.1)).layout == "packed"


def test_a_model_that_sharing_changes_falls_back_and_says_so(
    tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_prefix, "tree_attention", lambda q, k, v, layout, scale: q * 0)
    with pytest.warns(UserWarning, match="Shared prefixes change the results of .* Slower, otherwise the same"):
        model = load_model(tiny.settings(tiny_folder()), 0)
    assert model.layout == "expanded"
    assert len(tiny.rollouts(model)) == len(tiny.PROMPTS)


@pytest.mark.parametrize("broken", ["values", "nan", "raises", "gradients"])
def test_every_kind_of_failure_falls_back(
    broken: str, tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that is wrong, gives no numbers, refuses, or is wrong in backward alone."""
    real, real_backward = tree_attention._attend, tree_attention._attend_backward

    def attend(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if broken == "raises":
            raise RuntimeError("no kernel for this device")
        out, lse = real(*inputs)
        return out * {"values": 1.5, "nan": float("nan")}.get(broken, 1.0), lse

    def backward(*inputs: Any) -> tuple[torch.Tensor, ...]:
        return tuple(g * (2.0 if broken == "gradients" else 1.0) for g in real_backward(*inputs))

    monkeypatch.setattr(tree_attention, "_attend", attend)
    monkeypatch.setattr(tree_attention, "_attend_backward", backward)
    with pytest.warns(UserWarning, match="Shared prefixes change the results"):
        assert load_model(tiny.settings(tiny_folder()), 0).layout == "expanded"


# --- memory -------------------------------------------------------------------------------------------------------


def test_sampling_goes_on_with_fewer_rows(tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.load(tiny_folder())
    expected = tiny.rollouts(model)
    real = generation.SharedDecoding.__init__

    def start(self: Any, active: Any, head: Any, prompts: Sequence[Any], n: int) -> None:
        if len(prompts) * n > 6:
            raise torch.OutOfMemoryError("no room")
        real(self, active, head, prompts, n)

    monkeypatch.setattr(generation.SharedDecoding, "__init__", start)
    model.max_rows = 16
    with pytest.warns(UserWarning, match="while sampling 16 completions at once; going on with 8"):
        found = tiny.rollouts(model)
    assert [[s.token_ids for s in g.samples] for g in found] == [[s.token_ids for s in g.samples] for g in expected]
    assert model.max_rows == 4
    monkeypatch.setattr(generation.SharedDecoding, "__init__", lambda *_: _out())
    with pytest.raises(BackendError, match="while sampling 4 completions of one prompt"):
        tiny.rollouts(model)


def _out() -> None:
    raise torch.OutOfMemoryError("no room")
