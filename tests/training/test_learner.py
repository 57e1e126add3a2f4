"""The learner: one adapter changes and nothing else, moments survive, and an update that does nothing is an error."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rubric_arm_lite.errors import CheckpointError, TrainingError
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.logprobs import TokenScores
from rubric_arm_lite.models.memory import CPU_CAP, TokenBudget
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.models.shared_prefix.batching import RowBatch
from rubric_arm_lite.training.advantages import GroupAdvantages, group_advantages
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.types import ROLES, Reward, Role, RolloutGroup
from tests import tiny

FAST: dict[str, Any] = {"learning_rate": 1e-2, "beta": 0.01, "max_grad_norm": 1e9}


def learner_on(folder: Path, stirred: bool = True, model: dict[str, Any] | None = None, **changes: Any) -> Learner:
    """A learner on a tiny model; ``changes`` apply to both roles."""
    fields = {**FAST, **changes}
    recipe = tiny.recipe(folder, model, judge=fields, rubric=fields)
    return Learner(tiny.load(folder, stirred, **(model or {})), recipe)


def rewarded(*groups: tuple[float | None, ...]) -> list[GroupAdvantages]:
    """Advantages from rewards; None is a masked sample."""
    return [group_advantages([Reward(r or 0.0, masked=r is None) for r in group]) for group in groups]


def gradients(model: AdapterModel, adapter: str) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.parameters(adapter) if p.grad is not None}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("iterations", [1, 3])
def test_an_update_changes_its_own_adapter_only(role: Role, iterations: int, tiny_folder: tiny.Folders) -> None:
    learner = learner_on(tiny_folder(), num_iterations=iterations)
    groups = tiny.rollouts(learner.model, role)
    before = tiny.everything(learner.model)
    metrics = learner.update(role, groups, tiny.spread(groups)).values
    changed = tiny.changed(before, tiny.everything(learner.model))
    assert changed == {name for name, _ in learner.model.parameters(role)}
    assert metrics["updates"] == iterations
    assert metrics["kl"] > 0 and metrics["grad_norm"] > 0 and metrics["entropy"] > 0
    if iterations == 1:
        assert metrics["log_ratio/max"] < 1e-4, "the sampled log-probs are those of the policy that is updated"
        assert metrics["clip_ratio"] == 0
    else:
        assert metrics["log_ratio/max"] > 1e-3


def test_updates_raise_what_earned_more(tiny_folder: tiny.Folders) -> None:
    learner = learner_on(tiny_folder(), beta=0.0, num_iterations=5, learning_rate=1e-3)
    model = learner.model
    groups = tiny.rollouts(model)

    def mean_logprob(index: int) -> float:
        rows = [r for i, r in enumerate(learner._rows("judge", groups, advantages)) if i % 4 == index]
        batch, _ = learner._batches("judge", rows)[0]
        with model.using("judge") as active, torch.no_grad():
            return float(model.score(active, batch, 1.0, model.layout).logprobs.mean())

    advantages = rewarded(*[(1.0, 0.0, 0.0, 0.0)] * len(groups))
    before = [mean_logprob(0), mean_logprob(1)]
    learner.update("judge", groups, advantages)
    assert mean_logprob(0) > before[0]
    assert mean_logprob(1) < before[1]


def test_the_first_kl_is_zero(tiny_folder: tiny.Folders) -> None:
    learner = learner_on(tiny_folder())
    learner.model.freeze_references()
    for role in ROLES:
        groups = tiny.rollouts(learner.model, role)
        assert learner.update(role, groups, tiny.spread(groups)).values["kl"] == 0
        assert learner.update(role, groups, tiny.spread(groups)).values["kl"] > 0


def test_without_beta_no_reference_is_needed(tiny_folder: tiny.Folders) -> None:
    """And none is computed: the references may not even exist yet."""
    from rubric_arm_lite.models.load import load_model

    recipe = tiny.recipe(tiny_folder(), judge={"beta": 0.0})
    learner = Learner(load_model(recipe.model, 0), recipe)
    groups = tiny.rollouts(learner.model)
    assert learner.update("judge", groups, tiny.spread(groups)).values["kl"] == 0


# --- groups without spread ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_uninformative_groups_are_skipped_but_counted(loss_type: str, tiny_folder: tiny.Folders) -> None:
    """Without KL and entropy they have no gradient: leaving them out changes the cost, not the update."""
    found = {}
    for skip in (True, False):
        beta = 0.0 if skip else 1e-30  # small enough not to count
        learner = learner_on(tiny_folder(), beta=beta, loss_type=loss_type)
        groups = tiny.rollouts(learner.model)
        advantages = rewarded((1.0, 0.0, 0.0, 1.0), (1.0,) * 4, (0.0,) * 4, (0.0, 0.5, 1.0, 1.0))
        assert [a.informative for a in advantages] == [True, False, False, True]
        rows = learner._rows("judge", groups, advantages)
        assert len(rows) == (8 if skip else 16)
        loss = learner.update("judge", groups, advantages).values["loss"]
        found[skip] = (loss, gradients(learner.model, "judge"))
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-6)
    for name, gradient in found[True][1].items():
        torch.testing.assert_close(gradient, found[False][1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("term", ["beta", "entropy_coef"])
def test_kl_and_entropy_count_for_groups_without_spread(term: str, tiny_folder: tiny.Folders) -> None:
    for skip, updates in ((False, 1.0), (True, 0.0)):
        fields = {"beta": 0.0, term: 0.1, "skip_uninformative": skip}
        learner = learner_on(tiny_folder(), **fields)
        groups = tiny.rollouts(learner.model)
        assert learner.update("judge", groups, rewarded(*[(1.0,) * 4] * 4)).values["updates"] == updates


@pytest.mark.parametrize(
    "rewards",
    [((1.0,) * 4,) * 4, ((None,) * 4,) * 4, ((1.0, None, None, None),) * 4],
    ids=["no spread", "all masked", "one left"],
)
def test_a_step_without_information_changes_nothing(
    rewards: tuple[tuple[float | None, ...], ...], tiny_folder: tiny.Folders
) -> None:
    learner = learner_on(tiny_folder(), beta=0.0)
    groups = tiny.rollouts(learner.model)
    before = tiny.everything(learner.model)
    assert learner.update("judge", groups, rewarded(*rewards)).values == {"updates": 0.0}
    assert learner.update("judge", [], []).values == {"updates": 0.0}
    assert not tiny.changed(before, tiny.everything(learner.model))
    assert not learner.optimizers["judge"].state, "the optimizer took no step either"


def test_all_completions_cut_and_masked(tiny_folder: tiny.Folders) -> None:
    learner = learner_on(tiny_folder(), mask_truncated_completions=True)
    learner.model.end_ids = frozenset()
    groups = tiny.rollouts(learner.model)
    assert all(s.finish_reason == "length" for group in groups for s in group.samples)
    assert learner.update("judge", groups, tiny.spread(groups)).values == {"updates": 0.0}


def test_masked_samples_do_not_teach(tiny_folder: tiny.Folders) -> None:
    """Whatever a masked sample wrote, the update is the same."""
    found = []
    for other in (0, 1):
        learner = learner_on(tiny_folder())
        groups = tiny.rollouts(learner.model)
        first = groups[0]
        replaced = (first.samples[0], groups[other].samples[1], *first.samples[2:])
        groups[0] = RolloutGroup(first.example, first.prompt_ids, replaced)
        advantages = rewarded((1.0, None, 0.0, 0.5), *[(1.0, 0.0, 0.0, 1.0)] * 3)
        learner.update("judge", groups, advantages)
        found.append(tiny.weights(learner.model, "judge"))
    assert not tiny.changed(*found)


# --- optimizers ---------------------------------------------------------------------------------------------------


def turns(learner: Learner, roles: list[Role], first: int = 0) -> None:
    for step, role in enumerate(roles, start=first):
        groups = learner.model.sample(role, tiny.examples(seed=step), Sampling(8, 4))
        learner.update(role, groups, tiny.spread(groups), step)


def test_moments_survive_the_other_adapters_phase(tiny_folder: tiny.Folders) -> None:
    learner = learner_on(tiny_folder())
    turns(learner, ["judge", "judge"])
    moments = {
        id(p): {k: v.clone() for k, v in state.items()} for p, state in learner.optimizers["judge"].state.items()
    }
    turns(learner, ["rubric"] * 3)
    for p, state in learner.optimizers["judge"].state.items():
        assert all(torch.equal(value, moments[id(p)][key]) for key, value in state.items())
    steps = {role: {int(s["step"]) for s in learner.optimizers[role].state.values()} for role in ROLES}
    assert steps == {"judge": {2}, "rubric": {3}}
    turns(learner, ["judge"])
    assert {int(s["step"]) for s in learner.optimizers["judge"].state.values()} == {3}


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit"])
def test_a_resumed_run_retraces_an_unbroken_one(optim: str, tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    """Adapters and optimizers from disk into a fresh process's objects: bit-identical from there on."""
    # bitsandbytes leaves tensors of fewer than 4,096 numbers in 32 bits.
    model = {"lora": {"r": 128 if optim == "adamw_8bit" else 4, "dropout": 0.2}}
    unbroken = learner_on(tiny_folder(), model=model, num_iterations=2, optim=optim)
    turns(unbroken, ["judge", "rubric", "judge"])
    for adapter in ("rubric", "judge", "rubric_ref", "judge_ref"):
        unbroken.model.save_adapter(adapter, tmp_path / adapter)
    unbroken.save_optimizers(tmp_path / "optimizers.safetensors")
    turns(unbroken, ["rubric", "judge"], first=3)

    resumed = learner_on(tiny_folder(), stirred=False, model=model, num_iterations=2, optim=optim)
    for adapter in ("rubric", "judge", "rubric_ref", "judge_ref"):
        resumed.model.load_adapter(adapter, tmp_path / adapter)
    resumed.load_optimizers(tmp_path / "optimizers.safetensors")
    kept = {v.dtype for state in resumed.optimizers["judge"].state.values() for k, v in state.items() if k == "state1"}
    assert (torch.uint8 in kept) == (optim == "adamw_8bit")
    torch.manual_seed(99)  # no draw depends on it
    turns(resumed, ["rubric", "judge"], first=3)
    assert not tiny.changed(tiny.everything(unbroken.model), tiny.everything(resumed.model))
    unbroken.save_optimizers(tmp_path / "one")
    resumed.save_optimizers(tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_dropout_depends_on_the_steps_seed(tiny_folder: tiny.Folders) -> None:
    found = {}
    for seed in (1, 2):
        learner = learner_on(tiny_folder(), model={"lora": {"r": 4, "dropout": 0.2}}, num_iterations=2)
        masks: list[torch.Tensor] = []
        dropout = next(m for n, m in learner.model.model.named_modules() if n.endswith("lora_dropout.judge"))
        dropout.register_forward_hook(lambda _, inputs, output, masks=masks: masks.append(output == 0))
        groups = tiny.rollouts(learner.model)
        masks.clear()
        learner.update("judge", groups, tiny.spread(groups), seed)
        found[seed] = masks[-2:]
        assert not torch.equal(*found[seed]), "each iteration has its own"
    assert not torch.equal(found[1][0], found[2][0])


def test_eight_bits_of_moments_make_about_the_same_step(tiny_folder: tiny.Folders) -> None:
    """Against torch's AdamW on the same rollouts: but for rounding the first step is the same."""
    model = {"lora": {"r": 128, "alpha": 128.0}}
    moved = {}
    for optim in ("adamw_torch", "adamw_8bit"):
        learner = learner_on(tiny_folder(), model=model, optim=optim)
        groups = tiny.rollouts(learner.model)
        before = {name: p.detach().clone() for name, p in learner.model.parameters("judge")}
        learner.update("judge", groups, tiny.spread(groups))
        moved[optim] = torch.cat([(p - before[name]).flatten() for name, p in learner.model.parameters("judge")])
    error = (moved["adamw_8bit"] - moved["adamw_torch"]).norm() / moved["adamw_torch"].norm()
    assert error < 0.02


def test_optimizers_without_a_step_are_saved_too(tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    """The checkpoint after the warm-up has none."""
    learner = learner_on(tiny_folder())
    learner.save_optimizers(tmp_path / "o")
    turns(learner, ["rubric"])
    other = learner_on(tiny_folder())
    other.load_optimizers(tmp_path / "o")
    assert not other.optimizers["judge"].state and not other.optimizers["rubric"].state


def test_damaged_optimizers_are_refused(tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    learner = learner_on(tiny_folder())
    file = tmp_path / "optimizers.safetensors"
    with pytest.raises(CheckpointError, match=r"optimizers\.safetensors cannot be read: .* Start anew"):
        learner.load_optimizers(file)
    file.write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"optimizers\.safetensors cannot be read: .* Start anew"):
        learner.load_optimizers(file)


# --- what must not go unnoticed -----------------------------------------------------------------------------------


def test_an_update_too_small_for_its_dtype_is_an_error(tiny_folder: tiny.Folders) -> None:
    learner = learner_on(tiny_folder(), learning_rate=1e-12)
    groups = tiny.rollouts(learner.model)
    message = r"left the adapter `judge` unchanged .* judge.learning_rate \(1e-12\) is too small for its dtype"
    with pytest.raises(TrainingError, match=message):
        learner.update("judge", groups, tiny.spread(groups))


def test_an_update_too_small_for_bfloat16_is_an_error(tiny_folder: tiny.Folders) -> None:
    """1e-8 moves a float32 adapter; one kept in bfloat16 stands still."""
    learner = learner_on(tiny_folder(), learning_rate=1e-8)
    groups = tiny.rollouts(learner.model)
    learner.update("judge", groups, tiny.spread(groups))

    learner = learner_on(tiny_folder(), model={"dtype": "bfloat16"}, learning_rate=1e-8)
    assert {p.dtype for _, p in learner.model.parameters("judge")} == {torch.float32}, "adapters are kept in float32"
    learner.model.model.to(torch.bfloat16)
    groups = tiny.rollouts(learner.model)
    with pytest.raises(TrainingError, match=r"too small for its dtype \(torch.bfloat16\)"):
        learner.update("judge", groups, tiny.spread(groups))


def test_nothing_trainable_is_an_error(tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_on(tiny_folder())
    groups = tiny.rollouts(learner.model)
    monkeypatch.setattr(torch.nn.Parameter, "requires_grad_", lambda self, flag=True: self)
    with pytest.raises(TrainingError, match="No parameter of the adapter `judge` is trainable"):
        learner.update("judge", groups, tiny.spread(groups))


def test_an_adapter_without_parameters_is_an_error(tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_on(tiny_folder())
    monkeypatch.setattr(type(learner.model), "parameters", lambda self, adapter: [])
    with pytest.raises(TrainingError, match=r"has no parameters. Check model.lora.target_modules"):
        Learner(learner.model, learner.recipe)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_an_error(value: float, tiny_folder: tiny.Folders) -> None:
    learner = learner_on(tiny_folder())
    groups = tiny.rollouts(learner.model)
    broken = [GroupAdvantages((value, -1.0, 1.0, 0.0), True), *tiny.spread(groups)[1:]]
    before = tiny.everything(learner.model)
    message = r"gradient of the adapter `judge` is not finite. Lower judge.learning_rate, or use model.dtype: float32"
    with pytest.raises(TrainingError, match=message):
        learner.update("judge", groups, broken)
    assert not tiny.changed(before, tiny.everything(learner.model)), "nothing was written"
    learner.update("judge", groups, tiny.spread(groups))


@pytest.mark.parametrize("scale", [2.0**10, 2.0**135], ids=["scaled", "overflows first"])
def test_a_scaled_loss_gives_the_same_update(scale: float, tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    """As with a float16 base; a scale that makes gradients overflow is halved until it does not."""
    plain, scaled = learner_on(tiny_folder()), learner_on(tiny_folder())
    groups = tiny.rollouts(plain.model)
    expected = plain.update("judge", groups, tiny.spread(groups)).values
    scaled.loss_scale = scale
    found = scaled.update("judge", groups, tiny.spread(groups)).values
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert (scaled.loss_scale < scale) == (scale > 2.0**128)
    scaled.save_optimizers(tmp_path / "o")
    plain.load_optimizers(tmp_path / "o")
    assert plain.loss_scale == scaled.loss_scale, "a resumed run starts at the same scale"
    for (name, one), (_, other) in zip(plain.model.parameters("judge"), scaled.model.parameters("judge"), strict=True):
        assert float((one - other).abs().max()) < 1e-3, name


def test_gradients_are_clipped(tiny_folder: tiny.Folders) -> None:
    learner = learner_on(tiny_folder(), max_grad_norm=0.01)
    groups = tiny.rollouts(learner.model)
    reported = learner.update("judge", groups, tiny.spread(groups)).values["grad_norm"]
    norm = torch.stack([g.norm() for g in gradients(learner.model, "judge").values()]).norm()
    assert reported > 0.01
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_each_role_has_its_own_settings(tiny_folder: tiny.Folders) -> None:
    recipe = tiny.recipe(
        tiny_folder(),
        judge={"learning_rate": 1e-3, "weight_decay": 0.1},
        rubric={"learning_rate": 1e-4, "adam_beta1": 0.5, "adam_beta2": 0.7},
    )
    learner = Learner(tiny.load(tiny_folder()), recipe)
    judge, rubric = (learner.optimizers[role].param_groups[0] for role in ("judge", "rubric"))
    assert (judge["lr"], judge["weight_decay"], judge["betas"]) == (1e-3, 0.1, (0.9, 0.999))
    assert (rubric["lr"], rubric["weight_decay"], rubric["betas"]) == (1e-4, 0.0, (0.5, 0.7))


@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_gradient_checkpointing_changes_nothing(kind: str, tiny_folder: tiny.Folders) -> None:
    """Packed rows work under it; where a cache would be needed, rows are separate."""
    plain = learner_on(tiny_folder(kind))
    checkpointed = learner_on(tiny_folder(kind), model={"gradient_checkpointing": True})
    assert (plain.layout, checkpointed.layout) == {
        "qwen3": ("packed", "packed"),
        "gemma2": ("expanded", "separate"),
    }[kind]
    groups = tiny.rollouts(plain.model)
    for learner in (plain, checkpointed):
        learner.update("judge", groups, tiny.spread(groups))
    for name, gradient in gradients(plain.model, "judge").items():
        torch.testing.assert_close(gradients(checkpointed.model, "judge")[name], gradient, atol=1e-5, rtol=1e-3)


# --- memory -------------------------------------------------------------------------------------------------------


def failing_above(limit: int, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException], first: int = 0) -> list[int]:
    """Let scoring fail above ``limit`` tokens, after ``first`` calls; returns the sizes asked for."""
    sizes: list[int] = []
    real = AdapterModel.score

    def score(self: AdapterModel, model: Any, batch: RowBatch, *rest: Any) -> TokenScores:
        assert batch.packed is not None
        sizes.append(batch.packed.ids_1T.numel())
        if len(sizes) > first and sizes[-1] > limit:
            raise kind("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return real(self, model, batch, *rest)

    monkeypatch.setattr(AdapterModel, "score", score)
    return sizes


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize("first", [0, 3], ids=["at once", "in the second iteration"])
def test_running_out_of_memory_costs_time_only(
    kind: type[BaseException], first: int, tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"num_iterations": 3, "micro_batch_tokens": 4096, "beta": 0.1}
    calm, pressed = (learner_on(tiny_folder(), **settings) for _ in range(2))
    groups = tiny.rollouts(calm.model)
    expected = calm.update("judge", groups, tiny.spread(groups)).values
    sizes = failing_above(120, monkeypatch, kind, first)
    with pytest.warns(UserWarning, match=r"Memory ran out in an update of `judge`; it is repeated with \d+ tokens"):
        found = pressed.update("judge", groups, tiny.spread(groups)).values
    assert max(sizes) > 120 >= sizes[-1]
    assert sum(size > 120 for size in sizes[first:]) <= 3, "no attempt is repeated with a budget that changes nothing"
    assert found.pop("micro_batches") > expected.pop("micro_batches") == 1
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for (name, one), (_, other) in zip(calm.model.parameters("judge"), pressed.model.parameters("judge"), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0, msg=name)


def test_memory_too_small_for_one_row_is_an_error(tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_on(tiny_folder(), micro_batch_tokens=4096)
    groups = tiny.rollouts(learner.model)
    before = tiny.weights(learner.model, "judge")
    failing_above(0, monkeypatch, torch.OutOfMemoryError)
    with (
        pytest.warns(UserWarning, match="Memory ran out"),
        pytest.raises(
            TrainingError, match=r"with a single row of \d+ tokens\. Set model\.gradient_checkpointing: true"
        ),
    ):
        learner.update("judge", groups, tiny.spread(groups))
    assert not tiny.changed(before, tiny.weights(learner.model, "judge"))


def test_other_errors_are_not_taken_for_memory(tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_on(tiny_folder(), micro_batch_tokens=4096)
    groups = tiny.rollouts(learner.model)

    def score(*_: Any) -> TokenScores:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(AdapterModel, "score", score)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        learner.update("judge", groups, tiny.spread(groups))


def test_the_measured_budget_is_the_same_every_time_and_is_kept(tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    """Dropout included: measuring draws nothing from the numbers that training draws from."""
    one, other = (learner_on(tiny_folder(), model={"lora": {"r": 4, "alpha": 8, "dropout": 0.2}}) for _ in range(2))
    groups = tiny.rollouts(one.model)
    assert one.recipe.judge.micro_batch_tokens == "auto"
    for learner in (one, other):
        learner.update("judge", groups, tiny.spread(groups))
    assert one.budgets == other.budgets == {"judge": TokenBudget.flat(CPU_CAP)}
    fixed = learner_on(tiny_folder(), model={"lora": {"r": 4, "alpha": 8, "dropout": 0.2}}, micro_batch_tokens=CPU_CAP)
    fixed.update("judge", groups, tiny.spread(groups))
    assert not tiny.changed(tiny.weights(one.model, "judge"), tiny.weights(fixed.model, "judge"))
    one.budgets["judge"] = TokenBudget(77, 55)
    one.save_optimizers(tmp_path / "o")
    other.load_optimizers(tmp_path / "o")
    assert other.budgets["judge"] == TokenBudget(77, 55), "a resumed run adds up its gradients in the same parts"


def test_measuring_the_budget_holds_no_entropies(tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would keep copies of the logits alive in backward, and the budget would be half of what it could be."""
    learner = learner_on(tiny_folder())
    groups = tiny.rollouts(learner.model)
    rows = learner._rows("judge", groups, tiny.spread(groups))
    seen: list[weakref.ref[torch.Tensor]] = []
    real_score, real_backward = learner.model.score, torch.autograd.backward

    def score(*inputs: Any) -> TokenScores:
        found = real_score(*inputs)
        seen.append(weakref.ref(found.entropies))
        return found

    def backward(loss: torch.Tensor) -> None:
        assert seen[-1]() is None
        real_backward(loss)

    monkeypatch.setattr(learner.model, "score", score)
    monkeypatch.setattr(torch.autograd, "backward", backward)
    assert learner._probe("judge", rows, 50, backward=True) > 0
    assert len(seen) == 1


def test_a_budget_of_another_version_is_refused(tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    learner = learner_on(tiny_folder())
    save_file({"judge|budget": torch.tensor(77)}, tmp_path / "o")
    with pytest.raises(CheckpointError, match=r"budget of shape \(\) .* start anew with --if-exists overwrite"):
        learner.load_optimizers(tmp_path / "o")
    assert not learner.budgets


def test_sharing_can_be_switched_off(tiny_folder: tiny.Folders) -> None:
    shared, whole = (learner_on(tiny_folder(), model={"shared_prefix": on}) for on in (True, False))
    assert (shared.layout, whole.layout) == ("packed", "separate")
    groups, others = tiny.rollouts(shared.model), tiny.rollouts(whole.model)
    assert [[s.token_ids for s in g.samples] for g in groups] == [[s.token_ids for s in g.samples] for g in others]
    for learner in (shared, whole):
        learner.update("judge", groups, tiny.spread(groups))
    for name, gradient in gradients(shared.model, "judge").items():
        torch.testing.assert_close(gradients(whole.model, "judge")[name], gradient, atol=1e-5, rtol=1e-3)
