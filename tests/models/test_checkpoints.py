"""Generator and judge as two full checkpoints: loaded like bases, asked by role, equal to the adapters they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.testbed_base.tokenizer import build_tokenizer
from rubric_arm_lite.errors import BackendError, ConfigError
from rubric_arm_lite.models.load import TwoModels, load_model, load_two_models
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.recipe.fields import CheckpointPair, ModelSettings
from rubric_arm_lite.recipe.load import load_recipe
from rubric_arm_lite.reward_model import export_run
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.runs.states import recipe_of_run
from tests import tiny
from tests.cli.test_cli import call, refused


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A generator and a judge of other architectures, the judge with a larger tokenizer."""
    root = tmp_path_factory.mktemp("two")
    rubric, judge = tiny.make_folder("qwen3", root / "rubric"), tiny.make_folder("llama", root / "judge", seed=1)
    tokenizer = build_tokenizer(["quark", " quark"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|extra|>"]})
    tokenizer.chat_template = "<|im_start|>user\nstone table " + str(tokenizer.chat_template)
    tokenizer.save_pretrained(judge)
    return rubric, judge


def settings(rubric: Path, judge: Path, **changes: object) -> ModelSettings:
    pair = CheckpointPair(rubric=str(rubric), judge=str(judge))
    return tiny.settings(rubric, checkpoints=pair.model_dump(), gradient_checkpointing=True, **changes)


def test_each_role_is_its_own_model(folders: tuple[Path, Path]) -> None:
    two = load_two_models(settings(*folders), seed=0)
    sampling = Sampling(12, 3)
    written = 0
    for role, folder in zip(("rubric", "judge"), folders, strict=True):
        alone = load_model(tiny.settings(folder), 0).sample(None, tiny.examples(), sampling)
        asked = two.sample(role, tiny.examples(), sampling)
        assert [g.prompt_ids for g in asked] == [g.prompt_ids for g in alone]
        assert [[s.token_ids for s in g.samples] for g in asked] == [[s.token_ids for s in g.samples] for g in alone]
        written += sum(len(sample.token_ids) for group in asked for sample in group.samples)
    assert two.tokens_written == written
    with pytest.raises(BackendError, match="`base` is not one of the two checkpoints"):
        two.sample(None, tiny.examples(), sampling)


def test_tokenizers_may_differ(folders: tuple[Path, Path]) -> None:
    two = load_two_models(settings(*folders), seed=0)
    assert {"<|im_start|>", "<|extra|>"} <= set(two.control_tokens())
    assert len(set(two.control_tokens())) == len(two.control_tokens())
    text = "quark"
    lengths = {role: model.prompt_tokens(text) for role, model in two.models.items()}
    assert len(set(lengths.values())) == 2 and two.prompt_tokens(text) == max(lengths.values())


def test_fingerprints_tell_weights_apart(folders: tuple[Path, Path], tmp_path: Path) -> None:
    rubric, _ = folders
    same = load_two_models(settings(rubric, rubric), seed=0)
    other = load_two_models(settings(rubric, tiny.make_folder("qwen3", tmp_path / "other", seed=5)), seed=3)
    assert same.fingerprint("rubric") == same.fingerprint("judge") == other.fingerprint("rubric")
    assert other.fingerprint("judge") != other.fingerprint("rubric")


def test_quantization_is_applied(folders: tuple[Path, Path]) -> None:
    pytest.importorskip("bitsandbytes")
    two = load_two_models(settings(*folders, quantization="nf4"), seed=0)
    for model in two.models.values():
        kinds = {type(module).__name__ for module in model.model.modules()}
        assert "Linear4bit" in kinds
    assert two.fingerprint("rubric") != two.fingerprint("judge")


def test_errors_name_the_role(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"model\.checkpoints\.judge: .*does not exist"):
        load_two_models(settings(folders[0], tmp_path / "none"), seed=0)
    with pytest.raises(ConfigError, match="is not set"):
        load_two_models(tiny.settings(folders[0]), seed=0)
    recipe = tmp_path / "two.yaml"
    recipe.write_text("extends: base.yaml\nmodel: {checkpoints: {rubric: a}}\n")
    with pytest.raises(ConfigError, match=r"model\.checkpoints\.judge"):
        load_recipe(recipe)
    recipe.write_text("extends: released-8b.yaml\nmodel: {backend: unsloth}\n")
    with pytest.raises(ConfigError, match="unsloth cannot run the two models"):
        load_recipe(recipe)
    assert "can be used and evaluated, but not trained" in refused("run", "released-8b", "--run-dir", tmp_path / "run")
    assert "for the adapters of a run" in refused("rubric", "released-8b", "hello", "--state", "latest")


@pytest.mark.slow
def test_merged_checkpoints_judge_as_the_adapters_do(finished_run: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    export_run(finished_run, merged, merge=True)
    adapters = RubricRewardModel.from_run(finished_run)
    recipe = recipe_of_run(finished_run)
    checkpoints = RubricRewardModel.from_pretrained(merged / "rubric", merged / "judge", recipe)
    assert isinstance(checkpoints.model, TwoModels)
    prompt = "Write a note about gardens for pilots. Include the word zinc."
    answers = ["zinc stone table hug lull", "stone window dare", "zinc pencil giggle clown", "barn zinc hush hush"]
    by_hand = "1. The response includes the word zinc [Hard Rule]\n2. The response is calm [Principle]"
    cases = [(prompt, a, b, rubric) for a in answers for b in answers if a < b for rubric in (by_hand, None)]
    ours, theirs = adapters.compare_many(cases), checkpoints.compare_many(cases)
    assert [v.rubric for v in ours] == [v.rubric for v in theirs]
    assert [v.original + v.swapped for v in ours] == [v.original + v.swapped for v in theirs]

    own = tmp_path / "own.yaml"  # as a user would: paths beside the recipe, over the command line
    own.write_text(
        "extends: testbed.yaml\nname: own\nmodel: {checkpoints: {rubric: merged/rubric, judge: merged/judge}}\n"
    )
    done = call("judge", own, "--prompt", prompt, "--a", answers[0], "--b", answers[1], "--rubric", by_hand, "--json")
    assert done.returncode == 0, done.stderr
    assert f'"winner": "{adapters.compare(prompt, *answers[:2], by_hand).winner or "null"}"' in done.stdout.replace(
        "null", '"null"'
    )
