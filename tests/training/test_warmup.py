"""The warm-up: completion-only, the same tokens as everywhere, and continued after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import SFTConfig

from rubric_arm_lite.data import RunData
from rubric_arm_lite.data.testbed.world import World
from rubric_arm_lite.data.trajectories import WarmupRow
from rubric_arm_lite.errors import DataError, TrainingError
from rubric_arm_lite.prompts.builder import PromptBuilder, Templates
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.recipe import load_recipe
from rubric_arm_lite.recipe.fields import SFTSettings
from rubric_arm_lite.training import warmup
from rubric_arm_lite.training.warmup import (
    COMPLETE,
    last_complete,
    on_one_card,
    read_warmup_rows,
    role_examples,
    update_count,
    warm_up_role,
)
from tests import tiny

SETTINGS = SFTSettings(max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2, save_steps=2)


def quiet(step: int, values: dict[str, float]) -> None:
    """Log nothing."""


def rows_of_teacher(name: str, prompts: int) -> list[WarmupRow]:
    """The rows of a recipe's teacher in the world of seed 5."""
    recipe = load_recipe(name, ["seed=5", f"warmup.prompts={prompts}"])
    data = RunData([], [], 0, world=World(5, recipe.data.world))
    return read_warmup_rows(recipe, data)[0]


@pytest.fixture(scope="module")
def rows() -> list[WarmupRow]:
    return rows_of_teacher("testbed", prompts=6)


def builder(model: Any) -> PromptBuilder:
    return PromptBuilder(Templates.load(), model.control_tokens())


def fresh(folder: Path, dropout: float = 0.0) -> Any:
    return tiny.load(folder, stirred=False, max_context=128, lora={"r": 4, "alpha": 8, "dropout": dropout})


def weights(model: Any, role: str) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.parameters(role)}


def test_examples_are_what_inference_would_see(tiny_folder: Any, rows: list[WarmupRow]) -> None:
    model = fresh(tiny_folder("qwen3"))
    prompts = builder(model)
    (prompt_ids, text_ids), *_ = role_examples(rows, "rubric", model, prompts)[0]
    assert prompt_ids == model.encode(prompts.rubric_prompt(rows[0].prompt))
    assert text_ids[-1] in model.end_ids
    assert model.tokenizer.decode(text_ids[:-1]) == rows[0].rubric
    whole = model.tokenizer.apply_chat_template(
        [
            {"role": "user", "content": prompts.rubric_prompt(rows[0].prompt)},
            {"role": "assistant", "content": rows[0].rubric},
        ],
        tokenize=False,
    )
    assert model.tokenizer(whole, add_special_tokens=False)["input_ids"][: len(prompt_ids + text_ids)] == (
        prompt_ids + text_ids
    )


def test_a_pointwise_row_shows_one_response(tiny_folder: Any) -> None:
    model = fresh(tiny_folder("qwen3"))
    prompts = PromptBuilder(Templates.load(pointwise="pointwise_bare"), model.control_tokens())
    found = rows_of_teacher("arrow-testbed", prompts=2)
    assert [row.response_b for row in found] == [None] * len(found)
    (prompt_ids, text_ids), *_ = role_examples(found, "judge", model, prompts)[0]
    rubric = parse_rubric(found[0].judged_rubric or "")
    assert prompt_ids == model.encode(prompts.pointwise_prompt(found[0].prompt, rubric, found[0].response_a))
    assert text_ids == model.encode_completion(found[0].judgement)


def test_rows_without_a_usable_rubric_teach_the_generator_only(tiny_folder: Any) -> None:
    model = fresh(tiny_folder("qwen3"))
    row = WarmupRow("Write a note about rivers for pilots. Avoid the word silk.", "no list", "stone", "table", "x")
    assert len(role_examples([row], "rubric", model, builder(model))[0]) == 1
    with pytest.raises(DataError, match="No warm-up example is left for the judge"):
        role_examples([row], "judge", model, builder(model))


def test_too_long_rows_are_counted(tiny_folder: Any, rows: list[WarmupRow]) -> None:
    model = fresh(tiny_folder("qwen3"))
    long = WarmupRow(rows[0].prompt, "1. The response is warm [Principle]\n" * 40, "a", "b", "c")
    examples, too_long = role_examples([*rows, long], "rubric", model, builder(model))
    assert (len(examples), too_long) == (len(rows), 1)


def test_only_its_adapter_learns_and_the_loss_is_on_the_completion(
    tiny_folder: Any, rows: list[WarmupRow], tmp_path: Path
) -> None:
    model = fresh(tiny_folder("qwen3"))
    examples, _ = role_examples(rows, "judge", model, builder(model))
    other, base = weights(model, "rubric"), model.model.get_base_model().get_input_embeddings().weight.clone()
    losses: list[float] = []
    warm_up_role(
        model,
        "judge",
        examples,
        SFTSettings(max_steps=30, learning_rate=1e-2, per_device_train_batch_size=4),
        0,
        tmp_path,
        lambda step, values: losses.append(values["loss"]),
    )
    assert losses[-1] < losses[0]
    assert all(torch.equal(weights(model, "rubric")[name], value) for name, value in other.items())
    assert torch.equal(model.model.get_base_model().get_input_embeddings().weight, base)


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_a_large_vocabulary_has_the_same_loss_with_the_head_on_completions_only(
    family: str, tiny_folder: Any, rows: list[WarmupRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = tiny_folder(family), SETTINGS.model_copy(update={"gradient_accumulation_steps": 2})
    plain, large = fresh(folder), fresh(folder)
    examples, _ = role_examples(rows, "judge", plain, builder(plain))
    expected = warm_up_role(plain, "judge", examples, settings, 3, tmp_path / "plain", quiet)

    seen: list[int] = []
    base = large.model.get_base_model()
    base.get_output_embeddings().register_forward_hook(lambda module, given, out: seen.append(out[..., 0].numel()))
    monkeypatch.setattr(warmup, "LARGE_VOCABULARY", 1)
    history = warm_up_role(large, "judge", examples, settings, 3, tmp_path / "large", quiet)
    assert [loss for _, loss in history] == pytest.approx([loss for _, loss in expected], rel=1e-4)
    theirs = weights(plain, "judge")
    assert all(torch.allclose(value, theirs[name], atol=1e-4) for name, value in weights(large, "judge").items())
    passes = settings.max_steps * settings.gradient_accumulation_steps
    longest = max(len(completion) for _, completion in examples)
    assert 0 < sum(seen) <= passes * settings.per_device_train_batch_size * longest
    assert "forward" not in vars(base)


@pytest.mark.parametrize(("fused", "name"), [(True, "nll"), (False, "chunked_nll")])
def test_the_loss_of_a_large_vocabulary_is_in_chunks_with_every_version_of_trl(
    fused: bool, name: str, tiny_folder: Any, rows: list[WarmupRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer import utils

    def asked(**fields: Any) -> Any:
        raise Killed(fields["loss_type"])

    model = fresh(tiny_folder("qwen3"))
    examples, _ = role_examples(rows, "judge", model, builder(model))
    monkeypatch.setattr(warmup, "LARGE_VOCABULARY", 1)
    monkeypatch.setattr("trl.SFTConfig", asked)
    if fused:
        monkeypatch.setattr(utils, "add_fused_lm_head", None, raising=False)
    else:
        monkeypatch.delattr(utils, "add_fused_lm_head", raising=False)
    with pytest.raises(Killed, match=f"^{name}$"):
        warm_up_role(model, "judge", examples, SETTINGS, 3, tmp_path, quiet)


def test_a_process_trains_on_one_of_the_cards_it_sees(tmp_path: Path) -> None:
    """Two would be an ``nn.DataParallel`` of twice the rows, as on a Kaggle machine with two T4."""
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=4)
    assert config.n_gpu == 0
    config._n_gpu = 2
    assert config.train_batch_size == 8
    assert (on_one_card(config).n_gpu, config.train_batch_size) == (1, 4)


class Killed(BaseException):
    """Stands for a kill -9 inside the trainer."""


def test_killed_warmup_goes_on_from_its_last_complete_checkpoint(
    tiny_folder: Any, rows: list[WarmupRow], tmp_path: Path
) -> None:
    folder = tiny_folder("qwen3")
    unbroken = fresh(folder, dropout=0.2)
    examples, _ = role_examples(rows, "judge", unbroken, builder(unbroken))
    history = warm_up_role(unbroken, "judge", examples, SETTINGS, 3, tmp_path / "a", quiet)

    broken = fresh(folder, dropout=0.2)
    calls = []

    def die_after_first_save(path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise Killed

    original = Path.touch
    try:
        Path.touch = lambda self, *a, **k: die_after_first_save(self) or original(self, *a, **k)  # type: ignore[method-assign]
        with pytest.raises(Killed):
            warm_up_role(broken, "judge", examples, SETTINGS, 3, tmp_path / "b", quiet)
    finally:
        Path.touch = original  # type: ignore[method-assign]
    # The second checkpoint has all its files but no marker: it must not be trusted.
    assert (tmp_path / "b" / "checkpoint-4").is_dir()
    resumed = fresh(folder, dropout=0.2)
    assert last_complete(tmp_path / "b") == str(tmp_path / "b" / "checkpoint-2")
    assert not (tmp_path / "b" / "checkpoint-4").exists()
    assert warm_up_role(resumed, "judge", examples, SETTINGS, 3, tmp_path / "b", quiet) == history
    assert [step for step, _ in history] == [2, 4, 6]
    assert resumed.fingerprint("judge") == unbroken.fingerprint("judge")


def test_updates_counts_epochs_and_accumulation() -> None:
    assert update_count(SFTSettings(max_steps=7), 100) == 7
    settings = SFTSettings(per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=1.5)
    assert update_count(settings, 100) == 20, "13 updates a pass, the last one on half a batch, as the trainer does"


def test_last_complete_ignores_strangers(tmp_path: Path) -> None:
    assert last_complete(tmp_path) is None
    for name, complete in (("checkpoint-2", True), ("checkpoint-10", True), ("checkpoint-12", False)):
        (tmp_path / name).mkdir()
        if complete:
            (tmp_path / name / COMPLETE).touch()
    (tmp_path / "other").mkdir()
    assert last_complete(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_warmup_that_changes_nothing_is_an_error(
    tiny_folder: Any, rows: list[WarmupRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(tiny_folder("qwen3"))
    examples, _ = role_examples(rows, "rubric", model, builder(model))
    monkeypatch.setattr("trl.SFTTrainer.train", lambda self, **_: None)
    with pytest.raises(TrainingError, match="left the adapter `rubric` unchanged"):
        warm_up_role(model, "rubric", examples, SETTINGS, 0, tmp_path, quiet)


def test_a_warm_up_on_4_bits_starts_from_the_adapter_as_it_is(rows: list[WarmupRow], tmp_path: Path) -> None:
    """TRL rounds it to bfloat16; steps too small to show leave A to the last bit, and float32, as it was."""
    pytest.importorskip("bitsandbytes")
    folder = tiny.make_folder("llama", tmp_path / "base", hidden_size=64, intermediate_size=128)
    model = tiny.load(folder, stirred=False, quantization="nf4")
    examples, _ = role_examples(rows, "rubric", model, builder(model))
    before = weights(model, "rubric")
    settings = SFTSettings(max_steps=1, per_device_train_batch_size=4, learning_rate=1e-12)
    warm_up_role(model, "rubric", examples, settings, 0, tmp_path / "trainer", quiet)
    after = weights(model, "rubric")
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert tiny.changed(before, after) == {name for name in before if "lora_B" in name}
    assert "forward" not in vars(model.model.get_base_model())


def test_control_tokens_in_a_completion_are_text(tiny_folder: Any, rows: list[WarmupRow]) -> None:
    """A teacher's text that holds the model's control tokens would teach turns that never ended."""
    model = fresh(tiny_folder("qwen3"))
    end = model.tokenizer.eos_token
    hostile = [replace(row, rubric=row.rubric.replace(" [", f" {end} [", 1)) for row in rows[:3]]
    assert all(end in row.rubric for row in hostile)
    found, _ = role_examples(hostile, "rubric", model, builder(model))
    assert all(text.count(model.tokenizer.eos_token_id) == 1 for _, text in found)
