"""The plan: what it counts against real models, what it estimates against what was measured, and its advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.against_trl.ours import Ours
from benchmarks.against_trl.ours import recipe_of as bench_recipe
from benchmarks.against_trl.work import BenchSettings, Work, make_folder
from benchmarks.testbed_base.tokenizer import build_tokenizer
from rubric_arm_lite.cli.plan import best
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.models.base import checkpointing_name
from rubric_arm_lite.models.load import TwoModels, load_model, with_adapters
from rubric_arm_lite.models.memory import saved_bytes
from rubric_arm_lite.models.shared_prefix.batching import make_batch
from rubric_arm_lite.prompts.builder import PromptBuilder, Templates
from rubric_arm_lite.recipe.fields import Recipe
from rubric_arm_lite.recipe.load import load_recipe, shipped_recipes
from rubric_arm_lite.training.advantages import group_advantages
from rubric_arm_lite.training.plan import (
    CONTEXT,
    GIB,
    LOGITS_HELD,
    Plan,
    Planner,
    Stage,
    make_plan,
    plan_for,
)
from rubric_arm_lite.training.shapes import QWEN3, shape_of
from rubric_arm_lite.types import ROLES
from tests import tiny

MEASURED = Path(__file__).parents[2] / "benchmarks" / "gpu" / "results.json"
CARDS = {
    "paper-8b": 80,
    "qwen3-0.6b-t4": 15,
    "qwen3-1.7b-colab": 15,
    "qwen3-4b-16gb": 15.5,
    "qwen3-8b-12gb": 12,
    "qwen3-8b-16gb": 15.5,
    "qwen3-8b-24gb": 23.5,
    "qwen3-14b-24gb": 23.5,
    "qwen3-32b-24gb": 23.5,
    "released-8b": 15.5,
}
"""GiB of the cards that recipes are named after."""


def checked(prompt: int, completion: int, rank: int = 16) -> Recipe:
    """The recipe of a check in benchmarks/gpu."""
    role = {"num_generations": 8, "max_completion_length": completion, "prompts_per_step": 1}
    one_row = {"per_device_train_batch_size": 1}
    model = {
        "base": "Qwen/Qwen3-8B",
        "quantization": "nf4",
        "gradient_checkpointing": True,
        "max_context": prompt + completion,
        "lora": {"r": rank, "alpha": 2 * rank},
    }
    return Recipe.model_validate(
        {"model": model, "judge": role, "rubric": role, "warmup": {"judge": one_row, "rubric": one_row}}
    )


def stage(plan: Plan, name: str) -> Stage:
    return next(stage for stage in plan.stages if stage.stage == name)


@pytest.mark.parametrize(
    ("size", "check", "completion", "rank"),
    [("8B", "fits-8b-16", 1024, 16), ("14B", "fits-14b-24", 512, 16), ("32B", "fits-32b-24", 512, 8)],
)
def test_the_plan_is_within_a_tenth_of_what_a_gpu_measured(size: str, check: str, completion: int, rank: int) -> None:
    """Tensors at the peak of a warm-up step and a rollout; there all four adapters were, and moments of one role."""
    measured = json.loads(MEASURED.read_text("utf-8"))[check]["stages"]
    recipe = checked(2048, completion, rank)
    plan = make_plan(recipe, shape_of(f"Qwen/Qwen3-{size}"), None)
    adapter = 4 * shape_of(f"Qwen/Qwen3-{size}").lora_weights(recipe.model)
    expected = {"warm-up": ("warm-up", 2 * adapter), "rollout": ("judge rollout", -2 * adapter)}
    compared = 0
    for name, (planned, difference) in expected.items():
        if name in measured:
            found = (stage(plan, planned).peak_bytes - CONTEXT + difference) / GIB
            assert found == pytest.approx(measured[name]["allocated_gib"], rel=0.1)
            compared += 1
    assert compared >= 1


def test_an_update_is_within_a_tenth_of_what_a_gpu_measured() -> None:
    """Two groups at once on a card without a bound, before the first moments."""
    measured = json.loads(MEASURED.read_text("utf-8"))["update-8b"]["stages"]
    planner = Planner(checked(2048, 512), shape_of("Qwen/Qwen3-8B"), None, True)
    fixed = sum(planner._fixed(4, (), True).values()) - CONTEXT
    for layout, tokens in (("packed 0", 2 * (2048 + 8 * 511)), ("separate 0", 16 * 2560)):
        found = (fixed + planner._activations(tokens, 8192)) / GIB
        assert found == pytest.approx(measured[layout]["allocated_gib"], rel=0.1)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama", "gemma"])
def test_weights_are_counted(kind: str, tiny_folder: tiny.Folders) -> None:
    folder = tiny_folder(kind)
    shape = shape_of(str(folder))
    model = tiny.load(folder, stirred=False)
    base = {n: p for n, p in model.model.get_base_model().named_parameters() if ".lora_" not in n}
    matrices = sum(p.numel() for n, p in base.items() if "_proj" in n and p.dim() == 2)
    assert shape.linear_weights == matrices
    assert shape.lora_weights(model.settings) == sum(p.numel() for _, p in model.parameters("judge"))
    rest = sum(p.numel() for p in base.values()) - matrices
    assert shape.other_weights == rest


def test_experts_of_a_mixture_are_counted(tmp_path: Path) -> None:
    import transformers as tf

    config = tf.Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    config.save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    model = tf.AutoModelForCausalLM.from_config(config)
    assert shape.linear_weights + shape.other_weights == sum(p.numel() for p in model.parameters())
    assert shape.other_weights > 2 * 4 * 3 * 32 * 16, "experts are stacked tensors, not linear layers"
    assert (shape.mlp, shape.cache) == (2 * 16, 2 * 2 * 2 * 8)
    recipe = checked(2048, 512)
    assert make_plan(recipe, shape, 8 * GIB).fits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("width", "prompt"), [(128, 256), (256, 128), (192, 512)])
def test_what_an_update_saves_on_a_cpu_is_estimated(width: int, prompt: int, dtype: str, tmp_path: Path) -> None:
    settings = BenchSettings(width=width, prompt_length=prompt, completion_length=32, prompts=1, layers=2)
    work = Work(settings)
    make_folder(work, tmp_path)
    recipe = bench_recipe(settings, tmp_path)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": dtype})})
    model = load_model(recipe.model, 0)
    model.freeze_references()
    ours = Ours(work, tmp_path, 1, model)
    ours.use_random_rollouts()
    advantages = [group_advantages(group) for group in work.seeded_rewards("judge", 0)]
    rows = ours.learner._rows("judge", ours.rollouts(), advantages)
    batch = make_batch(rows, 0, ours.model.device, "packed")
    with ours.model.using("judge", train=True) as active, saved_bytes(ours.model.model) as total:
        held = ours.model.score(active, batch, 1.0, "packed")
    assert batch.packed is not None and held.logprobs.requires_grad
    planner = Planner(recipe, shape_of(str(tmp_path)), None, cuda=False)
    tokens, targets = batch.packed.ids_1T.shape[1], settings.rows * settings.completion_length
    logits = 4 * targets * settings.vocabulary
    estimate = planner._activations(tokens, targets) - LOGITS_HELD * logits
    assert estimate + 2.5 * logits == pytest.approx(total[0], rel=0.15)


# --- shapes -------------------------------------------------------------------------------------------------------


def test_shapes_are_found() -> None:
    assert shape_of("testbed").layers == 2
    shape = shape_of("Qwen/Qwen3-8B")
    assert shape.linear_weights + shape.other_weights == 8_190_735_360


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json"),
        ("[]", "cannot be read"),
        ('{"num_hidden_layers": 2, "hidden_size": 8}', "model_type"),
        ('{"model_type": "t5"}', "T5Config"),
        ('{"model_type": "qwen3", "num_attention_heads": "four"}', "num_attention_heads"),
    ],
    ids=["broken", "no mapping", "incomplete", "no causal language model", "wrong type"],
)
def test_a_configuration_that_cannot_be_planned_for(config: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigError, match=r"model\.base: the configuration of .* cannot be read") as caught:
        shape_of(str(tmp_path))
    assert message in str(caught.value) and "Give a folder with config.json" in str(caught.value)


def test_a_base_out_of_reach_says_which_are_known() -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*Qwen/Qwen3-8B"):
        shape_of("nobody/nothing-at-all")


# --- what the plan says -------------------------------------------------------------------------------------------


def test_what_does_not_fit_gets_advice() -> None:
    recipe = checked(2048, 1024)
    wide = recipe.model_copy(update={"model": recipe.model.model_copy(update={"quantization": "none"})})
    plan = make_plan(wide, shape_of("Qwen/Qwen3-8B"), 12 * GIB)
    assert plan.fits is False
    changes = dict(plan.advice)
    assert changes["model.quantization=nf4"] == pytest.approx(
        make_plan(recipe, shape_of("Qwen/Qwen3-8B"), 12 * GIB).least_bytes
    )
    small = make_plan(recipe, shape_of("Qwen/Qwen3-8B"), 6 * GIB)
    assert small.fits is False and small.advice == ()
    bare = recipe.model.model_copy(update={"quantization": "none", "gradient_checkpointing": False})
    both = make_plan(recipe.model_copy(update={"model": bare}), shape_of("Qwen/Qwen3-8B"), 12 * GIB)
    assert any("nf4" in change and "gradient_checkpointing" in change for change, _ in both.advice)


def test_more_of_anything_needs_more_memory() -> None:
    base = make_plan(checked(2048, 1024), shape_of("Qwen/Qwen3-8B"), None)
    for changed in (checked(4096, 1024), checked(2048, 2048), checked(2048, 1024, 64)):
        assert make_plan(changed, shape_of("Qwen/Qwen3-8B"), None).least_bytes > base.least_bytes
    assert make_plan(checked(2048, 1024), shape_of("Qwen/Qwen3-14B"), None).least_bytes > base.least_bytes
    assert all(stage.peak_bytes >= stage.least_bytes for stage in base.stages)


def test_orders_of_one_role_leave_the_other_out() -> None:
    recipe = load_recipe("testbed", ["schedule.order=judge_only"])
    names = [stage.stage for stage in plan_for(recipe, 8).stages]
    assert names == ["warm-up", "judge rollout", "judge update"]


@pytest.mark.parametrize("arguments", [{"gpu_gb": 0.0}, {"gpu_gb": float("nan")}, {"prompt_length": 10**6}])
def test_impossible_questions_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"--gpu-gb|--prompt-length"):
        plan_for(load_recipe("testbed"), **arguments)


# --- recipes ------------------------------------------------------------------------------------------------------


def test_every_recipe_fits_the_card_it_is_named_after() -> None:
    names = set(shipped_recipes())
    assert names == {*CARDS, "base", "testbed", "arrow-testbed", "smollm2-135m-cpu"}
    for name, card in CARDS.items():
        plan = plan_for(load_recipe(name), card)
        assert plan.fits, name
        assert plan.peak_bytes <= card * GIB, name


def one_layer(base: str) -> Any:
    """One layer of a base's widths, without weights."""
    import transformers as tf

    config = tf.Qwen3Config(**{**QWEN3[base], "vocab_size": 512, "num_hidden_layers": 1})
    with torch.device("meta"):
        return tf.Qwen3ForCausalLM(config)


@pytest.mark.parametrize("name", [name for name in CARDS if name != "released-8b"])
def test_every_recipe_is_built_to_the_backend(name: str) -> None:
    """Its adapters on one layer of its base's widths, without weights."""
    settings = load_recipe(name).model
    shape, base = shape_of(settings.base), one_layer(settings.base)
    model = with_adapters(base, build_tokenizer(), settings, 0)
    weights = sum(p.numel() for _, p in model.parameters("rubric"))
    assert weights * shape.layers == shape.lora_weights(settings)
    assert getattr(base, f"is_{checkpointing_name()}")


def test_the_released_checkpoints_are_two_models_to_be_asked() -> None:
    recipe = load_recipe("released-8b")
    pair = recipe.model.checkpoints
    assert pair is not None and pair.rubric != pair.judge
    plan = plan_for(recipe, 40)
    assert [stage.stage for stage in plan.stages] == ["inference"] and plan.length.tokens_per_cycle == {}
    assert plan.least_bytes > 2 * plan_for(load_recipe("qwen3-8b-16gb"), 40).stages[0].parts["weights"]
    assert plan_for(recipe, 12).fits is False
    base = recipe.model.base
    two = TwoModels({role: with_adapters(one_layer(base), build_tokenizer(), recipe.model, 0) for role in ROLES})
    assert two.prompt_tokens("gardens") == two.model_of("judge").prompt_tokens("gardens")
    prompts = PromptBuilder(Templates.of(recipe.prompts), two.control_tokens())
    assert two.prompt_tokens(prompts.rubric_prompt("gardens")) < recipe.model.max_context


def test_the_best_recipe_is_the_largest_base_that_fits() -> None:
    rows = [
        {"recipe": "arrow-testbed", "fits": True, "weights": 0, "least_gb": None},
        {"recipe": "testbed", "fits": True, "weights": 0, "least_gb": None},
        {"recipe": "small", "fits": True, "weights": 1, "least_gb": 5.0},
        {"recipe": "short", "fits": True, "weights": 2, "least_gb": 9.0},
        {"recipe": "long", "fits": True, "weights": 2, "least_gb": 14.0},
        {"recipe": "large", "fits": False, "weights": 3, "least_gb": 20.0},
    ]
    assert best(rows) == "long"
    assert best(rows[:2]) == "testbed"
    assert best([]) is None


def test_prompts_that_are_not_shared_are_cached_once_for_each_completion() -> None:
    recipe = checked(2048, 512)
    changed = {
        name: recipe.model_copy(update={"model": recipe.model.model_copy(update=fields)})
        for name, fields in {"shared": {}, "alone": {"shared_prefix": False}, "unsloth": {"backend": "unsloth"}}.items()
    }
    parts = {n: stage(make_plan(r, shape_of("Qwen/Qwen3-8B"), None), "judge rollout").parts for n, r in changed.items()}
    token = shape_of("Qwen/Qwen3-8B").cache * 2.0
    assert parts["shared"]["cache"] == (2048 + 8 * 512) * token
    assert parts["alone"]["cache"] == parts["unsloth"]["cache"] == 8 * 2560 * token
    assert parts["unsloth"]["rounded adapters"] == 0 < parts["alone"]["rounded adapters"]
