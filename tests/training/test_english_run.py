"""A run in the English world, with a tiny random base that reads any text, through the stages of every run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from benchmarks.testbed_base.tokenizer import CHAT_TEMPLATE
from rubric_arm_lite.data import load_data
from rubric_arm_lite.data.testbed import EnglishWorld, known_task
from rubric_arm_lite.data.testbed.english.texts import requests
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.models.load import load_model
from rubric_arm_lite.prompts import parse_rubric
from rubric_arm_lite.recipe import PolicyRecipe, Recipe, dump_recipe, load_recipe
from rubric_arm_lite.report import write_report
from rubric_arm_lite.training.policy.state import Request, load_requests, oracle, start_answers
from rubric_arm_lite.training.run import train
from rubric_arm_lite.training.warmup import read_warmup_rows
from tests import tiny

RECIPE = """\
name: english
threads: 1
model: {{base: {base}, dtype: float32, max_context: 1024, lora: {{r: 4, alpha: 8}}}}
prompts: {{rubric_template: rubric_short, judge_template: {judge}}}
data: {{source: english, train_prompts: 24, english: {{distractions: 1, max_words: 24}}}}
warmup:
  source: english
  prompts: 8
  rubric: {{max_steps: 2, per_device_train_batch_size: 4}}
  judge: {{max_steps: 2, per_device_train_batch_size: 4}}
judge: {{num_generations: 2, prompts_per_step: 2, max_steps: 1, max_completion_length: 160}}
rubric: {{num_generations: 2, prompts_per_step: 2, max_steps: 1, max_completion_length: 24, pairs_per_prompt: 2}}
schedule: {{cycles: 1}}
reward: {{judge_max_tokens: 24}}
evaluation: {{pairs: 4, rubric_max_tokens: 24, judge_max_tokens: 24, vote_pairs: 2, votes: 2, bootstrap: 20}}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 with random weights, whose tokenizer was trained on the world's texts and reads every byte."""
    folder = tmp_path_factory.mktemp("english-base")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|pad|>", "<|im_end|>", "<|im_start|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((text for r in requests().values() for text in (r.text, *r.answers)), trainer)
    whole = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>", chat_template=CHAT_TEMPLATE
    )
    tiny.make_folder("qwen3", folder, vocab_size=1200, pad_token_id=0, eos_token_id=1, max_position_embeddings=1024)
    whole.save_pretrained(folder)
    return folder


def recipe_of(base: Path, folder: Path, judge: str = "judge_short", *overrides: str) -> Recipe:
    file = folder / "english.yaml"
    file.write_text(RECIPE.format(base=base, judge=judge))
    return load_recipe(file, overrides)


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["judge_short", "judge"])
def test_every_stage_runs_in_the_english_world(judge: str, base: Path, tmp_path: Path) -> None:
    result = train(recipe_of(base, tmp_path, judge), tmp_path / "run")
    assert result.stages[-1] == "final" and "principle_recall" in result.summary
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (data["train_prompts"], data["test_pairs"], data["skipped_too_long"]) == (24, 4, 0)
    assert data["oracle"]["true"] == 1.0 > data["oracle"]["hard_rule"]
    assert set(data["likes"]) == {"question", "writing", "editing", "advice"}
    page = write_report(tmp_path / "run")[0].read_text()
    assert "Principles named" in page
    described = "true rubric" in page.lower() or "true rubrics" in page.lower()
    assert described, "the oracle's ceiling is drawn"


def test_the_data_of_a_run_hold_the_world(base: Path, tmp_path: Path) -> None:
    recipe = recipe_of(base, tmp_path, "judge_short", "data.english.label_noise=0.3")
    data = load_data(recipe, lambda pair: 100)
    world = data.world
    assert isinstance(world, EnglishWorld) and data.recall is not None
    assert (len(data.train), len(data.test)) == (24, 16)
    wrong = [pair for block in data.train for pair in block.pairs if _gap(world, pair) < 0]
    assert wrong and not [pair for pair in data.test if _gap(world, pair) < 0], "labels of held-out pairs are right"
    true = world.true_rubric(known_task(world, data.train[0].prompt))
    assert data.recall(data.train[0].prompt, true) == 1.0
    assert data.fingerprint() == load_data(recipe, lambda pair: 100).fingerprint()
    with pytest.raises(ConfigError, match=r"data\.test_prompts, .* or evaluation\.prompts\), or raise .*max_words"):
        load_data(recipe_of(base, tmp_path, "judge_short", "evaluation.pairs=2000"), lambda pair: 100)


def _gap(world: EnglishWorld, pair: Any) -> int:
    task = known_task(world, pair.prompt)
    return world.score(task, pair.chosen) - world.score(task, pair.rejected)


def test_a_recipe_is_written_and_read_again(base: Path, tmp_path: Path) -> None:
    recipe = recipe_of(base, tmp_path)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    assert (recipe.data.source, recipe.warmup.source) == ("english", "english"), "no paths beside the recipe"


def test_warm_up_texts_fit_what_the_model_is_asked_for(base: Path, tmp_path: Path) -> None:
    recipe = recipe_of(base, tmp_path)
    rows, counts = read_warmup_rows(recipe, load_data(recipe, lambda pair: 100))
    model = load_model(recipe.model, 0)
    assert len(rows) == 32 and counts == ()
    for row in rows:
        assert parse_rubric(row.judged_rubric or "").usable
        assert model.tokenizer.decode(model.encode_completion(row.judgement)).startswith(row.judgement)


def test_a_policy_in_the_english_world_has_its_requests_answers_and_oracle(tmp_path: Path) -> None:
    world = EnglishWorld(3)
    recipe = PolicyRecipe.model_validate(
        {
            "reward": {"run": str(tmp_path)},
            "data": {"source": "english", "train_prompts": 10},
            "start": {"source": "english"},
            "evaluation": {"prompts": 5, "judge": "oracle"},
        }
    )
    assert recipe.inputs == [str(tmp_path)]
    found = load_requests(recipe, world, lambda text: True)
    assert (len(found.train), len(found.test)) == (10, 5)
    assert len(start_answers(recipe, world)) == 10 * 4 * 2
    pair = world.blocks("test", 1)[0].pairs[0]
    request = Request("a", str(pair.prompt))
    preferences, scores = oracle(world)([request.comparison(pair.chosen, pair.rejected)])
    assert preferences == [1.0] and scores == [float(world.score(known_task(world, pair.prompt), pair.chosen))]
    with pytest.raises(ValueError, match="Not a prompt of the english's world"):
        oracle(world)([Request("b", "Hello?").comparison("x", "y")])
