"""The shipped base, its tokenizer, the script that builds it, and the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.testbed_base.build import BuildSettings, Corpus, build
from benchmarks.testbed_base.tokenizer import build_tokenizer, write_tokenizer
from rubric_arm_lite.data.testbed import base_folder
from rubric_arm_lite.data.testbed.preference import make_rubric, oracle, oracle_accuracy
from rubric_arm_lite.data.testbed.trajectories import Teacher
from rubric_arm_lite.data.testbed.world import World, criterion_met, named_attributes, parse_task, principle_criterion
from rubric_arm_lite.prompts import PromptBuilder, Templates, parse_rubric
from rubric_arm_lite.recipe.fields import ModelSettings, WorldSettings
from rubric_arm_lite.recipe.load import load_recipe

WORLD = World(3, WorldSettings(topics=5, attributes=10))


def test_shipped_base_is_small_safe_and_complete() -> None:
    folder = base_folder()
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 * 2**20
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]


def test_shipped_tokenizer_is_the_one_the_code_writes(tmp_path: Path) -> None:
    """If this fails after a change of templates or words: run ``rubric-arm testbed build`` and ship the new base."""
    write_tokenizer(tmp_path)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (base_folder() / name).read_text(), name


@pytest.mark.parametrize("judge", ["judge", "judge_paper"])
def test_every_text_of_the_world_has_its_words_and_decodes_exactly(judge: str) -> None:
    tokenizer = build_tokenizer()
    prompts = PromptBuilder(Templates.load(judge=judge))
    for row in Teacher(WORLD).trajectories(WORLD.blocks("train", 60), seed=0):
        judge_prompt = row.judge_prompt(prompts, parse_rubric(row.judged_rubric or ""))
        texts = [prompts.rubric_prompt(row.prompt), judge_prompt, row.rubric, row.judgement]
        for text in texts:
            chat = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids, text
            assert tokenizer.decode(ids) == chat


def test_a_pointwise_judge_s_texts_have_their_words_and_its_prompts_but_for_the_tags() -> None:
    recipe = load_recipe("arrow-testbed")
    tokenizer = build_tokenizer()
    prompts, words = PromptBuilder(Templates.of(recipe.prompts)), recipe.prompts.pointwise_words
    options = [tokenizer(option, add_special_tokens=False)["input_ids"] for option in words.options]
    assert len(options[0]) == len(options[1]) == 1 and options[0] != options[1], "a probability is that of one token"
    for t in Teacher(WORLD, words=words).trajectories(WORLD.blocks("train", 60), seed=0):
        ids = tokenizer(t.judgement, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == t.judgement
        text = t.judge_prompt(prompts, parse_rubric(t.judged_rubric or ""))
        assert tokenizer(text, add_special_tokens=False)["input_ids"].count(tokenizer.unk_token_id) == 5


def test_fixed_parts_are_not_found_inside_words() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("The response is formal [Principle]", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([i]) for i in ids] == ["The response", " is", " formal", " [Principle]"]


def test_build_is_deterministic(tmp_path: Path) -> None:
    settings = BuildSettings(steps=3, batch_size=4)
    seen: list[float] = []
    build(tmp_path / "a", settings, lambda step, loss: seen.append(loss))
    build(tmp_path / "b", settings)
    build(tmp_path / "c", BuildSettings(steps=3, batch_size=4, seed=1))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert len(seen) == 3
    assert weights[0] == weights[1] != weights[2]


def test_shipped_config_is_what_the_script_would_make(tmp_path: Path) -> None:
    build(tmp_path, BuildSettings(steps=1, batch_size=2))
    shape = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "vocab_size")
    shipped, made = (json.loads((f / "config.json").read_text()) for f in (base_folder(), tmp_path))
    assert [shipped[key] for key in shape] == [made[key] for key in shape]


def test_shipped_base_reads_attributes() -> None:
    """It can judge single criteria, which is what reinforcement learning needs to build on."""
    import random

    from rubric_arm_lite.models.load import load_model

    model = load_model(ModelSettings(max_context=256), seed=0)
    tokenizer = model.tokenizer
    verdicts = [tokenizer.convert_tokens_to_ids(text) for text in (" is met.", " is missed.")]
    corpus, rng = Corpus(BuildSettings()), random.Random(11)
    right = total = 0
    for _ in range(40):
        prompt, text = corpus.judgement(rng, messy=False)
        head = model.encode(prompt)
        ids = torch.tensor([head + model.encode_completion(text)])
        with model.using(None) as network, torch.no_grad():
            guesses = network(input_ids=ids).logits.argmax(-1)[0, :-1]
        wanted = ids[0, 1:]
        asked = torch.isin(wanted, torch.tensor(verdicts)) & (torch.arange(len(wanted)) >= len(head) - 1)
        right += int((guesses == wanted)[asked].sum())
        total += int(asked.sum())
    assert right / total > 0.95


def test_oracle_is_perfect_with_the_true_rubric_only() -> None:
    pairs = [pair for block in WORLD.blocks("test", 150) for pair in block.pairs]
    found = oracle(WORLD, pairs)
    assert found["true"] == 1.0
    assert found["hard_rule"] < 0.75
    assert found["random"] < 0.75
    assert found["generic"] < 0.8


def test_oracle_counts_ties_half_and_refuses_strangers() -> None:
    block = WORLD.blocks("test", 1)[0]
    empty = make_rubric([principle_criterion("no such thing")])
    assert oracle_accuracy(WORLD, block.pairs, lambda task: empty) == 0.5
    with pytest.raises(ValueError, match="at least one pair"):
        oracle_accuracy(WORLD, [], WORLD.true_rubric)
    task = parse_task(str(block.prompt))
    assert task is not None
    rubric = WORLD.true_rubric(task)
    assert named_attributes(rubric) == set(WORLD.likes[task.topic])
    weights = (2, 1, 1)
    response = block.pairs[0].chosen
    assert WORLD.points(rubric, response) == sum(
        w for w, c in zip(weights, rubric.criteria, strict=True) if criterion_met(c, response)
    )
