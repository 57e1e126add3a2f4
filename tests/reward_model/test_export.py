"""Exports: plain PEFT folders and merged checkpoints that say the same as the run, and cards that say what they are."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rubric_arm_lite.data.testbed import base_folder
from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.recipe import load_recipe
from rubric_arm_lite.reward_model import RubricRewardModel, export_run
from rubric_arm_lite.reward_model.export import model_card
from tests.cli.test_cli import call, refused
from tests.runs.test_directory import edit, flip
from tests.short_run import rewrite, short_sets

PAIR = ("--prompt", "Write a note.", "--a", "stone", "--b", "table")

PROMPT = "Write a note about rivers for children. Include the word amber."
pytestmark = pytest.mark.slow


def logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


def test_adapters_and_merged_checkpoints_are_the_runs_own(finished_run: Path, tmp_path: Path) -> None:
    plain, merged = tmp_path / "plain", tmp_path / "merged"
    assert export_run(finished_run, plain) == [plain / "rubric", plain / "judge"]
    done = call("export", finished_run, merged, "--merge")
    assert done.stdout.split() == [str(merged / "rubric"), str(merged / "judge")]
    model = RubricRewardModel.from_run(finished_run).model
    for role in ("rubric", "judge"):
        ids = model.encode(PROMPT)
        with model.using(role) as active:
            expected = logits(active, ids)
        base = AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.float32)
        bare = logits(base, ids)
        adapter = PeftModel.from_pretrained(base, plain / role)
        assert float((logits(adapter, ids) - expected).abs().max()) < 1e-4
        whole = AutoModelForCausalLM.from_pretrained(merged / role, dtype=torch.float32)
        assert float((logits(whole, ids) - expected).abs().max()) < 1e-3
        assert float((bare - expected).abs().max()) > 0.01, "the adapter does something"
        assert AutoTokenizer.from_pretrained(merged / role).chat_template
        assert not list((merged / role).glob("*.bin"))


def test_cards_say_what_is_known(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_run(finished_run, tmp_path / "out")
    summary = json.loads((finished_run / "summary.json").read_text())
    for role, says in (("rubric", "writes a rubric"), ("judge", "names the better one")):
        card = (tmp_path / "out" / role / "README.md").read_text()
        _, header, body = card.split("---\n", 2)
        assert "base_model" not in yaml.safe_load(header), "the Hub takes its own ids only"
        assert says in body and f"| accuracy, both orders | {summary['accuracy']:.3f} |" in body
        recipe = body.split("```yaml\n")[1].split("\n```")[0]
        assert recipe == (tmp_path / "out" / "recipe.yaml").read_text().rstrip()
        assert load_recipe(tmp_path / "out" / "recipe.yaml").name == "testbed"
        monkeypatch.chdir(tmp_path / "out")
        loaded: dict[str, Any] = {}
        exec(body.split("```python\n")[1].split("\n```")[0], loaded)
        assert loaded["pair"].rubric("Write a note about gardens for pilots. Include the word zinc.").text
        assert str(finished_run) not in card and str(Path.home()) not in card
    export_run(finished_run, tmp_path / "before", state="warm-up")
    assert "Nothing is recorded for the state `warm-up`" in (tmp_path / "before" / "judge" / "README.md").read_text()


@pytest.mark.parametrize("merge", [False, True])
def test_the_card_of_a_run_with_a_plugin_loads_its_recipe_without_it(finished_run: Path, merge: bool) -> None:
    recipe = load_recipe(finished_run / "recipe.yaml")
    assert 'load_recipe("recipe.yaml")' in model_card(finished_run, recipe, "judge", "final", merge)
    mine = recipe.model_copy(update={"reward": recipe.reward.model_copy(update={"function": "mine.py:f"})})
    card = model_card(finished_run, mine, "judge", "final", merge)
    assert 'load_recipe("recipe.yaml", check_names=False)' in card


def test_what_cannot_be_exported(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not empty"):
        export_run(finished_run, tmp_path / "used")
    assert (tmp_path / "used" / "mine.txt").read_text() == "keep"
    assert "is not a run directory" in refused("export", tmp_path / "used", tmp_path / "new")
    assert "not one of final, warm-up, latest" in refused("export", finished_run, tmp_path / "new", "--state", "best")
    broken = tmp_path / "broken"
    shutil.copytree(finished_run, broken)
    whole = (broken / "summary.json").read_text()
    rewrite(broken, "summary.json", "{")
    with pytest.raises(CheckpointError, match=r"summary\.json is damaged"):
        export_run(broken, tmp_path / "new")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*draft"))
    rewrite(broken, "summary.json", whole)
    file = broken / "adapters" / "judge" / "adapter_model.safetensors"
    flip(file)
    for verb in (
        ("export", broken, tmp_path / "new"),
        ("evaluate", broken),
        ("judge", broken, *PAIR),
        ("serve", broken),
    ):
        assert "adapter_model.safetensors is not the file that was committed" in refused(*verb)
    assert not (tmp_path / "new").exists()
    assert call("rubric", broken, "Write a note.", "--state", "latest").returncode == 0, "another state is whole"
    call("run", "testbed", "--run-dir", broken, "--resume", *short_sets())
    assert file.read_bytes() == (finished_run / file.relative_to(broken)).read_bytes(), "written again by a resume"
    (broken / "metrics.jsonl").write_text("")
    assert "does not begin with the" in refused("report", broken)


@pytest.mark.parametrize("name", ["recipe.yaml", "data.json", "evaluations/base.json"])
def test_a_file_of_the_run_that_was_edited_is_noticed_by_every_verb(
    finished_run: Path, tmp_path: Path, name: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    edit(run / name)
    verbs: list[tuple[Any, ...]] = [
        ("export", run, tmp_path / "new"),
        ("evaluate", run),
        ("judge", run, *PAIR),
        ("rubric", run, "Write a note."),
        ("serve", run),
        ("report", run),
        ("run", "testbed", "--run-dir", run, "--resume", *short_sets()),
        ("policy", "dpo", "testbed", "--reward", run, "--run-dir", tmp_path / "policy"),
    ]
    for verb in verbs:
        said = refused(*verb)
        assert f"{name} is not the file that was committed" in said
        assert ("copy it, change the copy" if name == "recipe.yaml" else "Restore it") in said


def test_a_full_disk_is_that_of_the_target(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's error names the file that was read."""

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        said = refused("export", finished_run, tmp_path / "out")
    assert f"The disk that holds {tmp_path / 'out'} is full. Free some space and export again." in said
    assert list(tmp_path.iterdir()) == []


def test_into_a_folder_that_is_there(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, and one behind a link; the weights are for whom the umask allows."""
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there" / ".draft").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    export_run(finished_run, Path())
    export_run(finished_run, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    for folder in (Path(), tmp_path / "there"):
        assert sorted(path.name for path in folder.iterdir()) == ["judge", "recipe.yaml", "rubric"]
    card, weights = (Path("judge", name).stat() for name in ("README.md", "adapter_model.safetensors"))
    assert card.st_mode == weights.st_mode
    assert export_run(finished_run, tmp_path / "new")
