"""``warmup.from``: a run that starts from another run's adapters."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from rubric_arm_lite import load_recipe, train
from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError
from rubric_arm_lite.recipe import dump_recipe, recipe_hash
from rubric_arm_lite.runs import adapter_folder, run_and_state
from tests.short_run import SHORT, rewrite

SHARED = (*SHORT, "warmup.source=null")


def weights(folder: Path) -> str:
    return sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("suffix", "state"), [("", "warm-up"), ("@final", "final")])
def test_a_run_starts_where_another_one_stands(finished_run: Path, tmp_path: Path, suffix: str, state: str) -> None:
    run = tmp_path / "run"
    train("testbed", run, overrides=[*SHARED, f"warmup.from={finished_run}{suffix}"], until="warmup")
    for role in ("rubric", "judge"):
        expected = weights(adapter_folder(finished_run, role, state))
        assert weights(adapter_folder(run, role, "warm-up")) == weights(adapter_folder(run, role, "latest")) == expected
    evaluations = {p.stem: json.loads(p.read_text())["values"] for p in (run / "evaluations").glob("*.json")}
    earlier = json.loads((finished_run / "evaluations" / f"{state}.json").read_text())["values"]
    assert evaluations["warm-up"]["accuracy"] == earlier["accuracy"] and evaluations["base"] != evaluations["warm-up"]


def test_a_run_from_a_warm_up_goes_on_as_the_run_that_made_it(finished_run: Path, tmp_path: Path) -> None:
    """The same seed and schedule: only where the warm-up came from differs, so the same bytes come out."""
    run = tmp_path / "run"
    result = train("testbed", run, overrides=[*SHARED, f"warmup.from={finished_run}"])
    for role in ("rubric", "judge"):
        assert weights(result.adapters[role]) == weights(finished_run / "adapters" / role)


def test_a_warm_up_can_go_on_from_other_adapters(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    shutil.copytree(finished_run / "adapters", folder)
    run = tmp_path / "run"
    train("testbed", run, overrides=[*SHORT, f"warmup.from={folder}"], until="warmup-judge")
    for role in ("rubric", "judge"):
        trained = weights(adapter_folder(run, role, "warm-up"))
        assert trained not in (weights(folder / role), weights(adapter_folder(finished_run, role, "warm-up")))


def test_a_started_run_needs_its_source_no_more_and_notices_a_changed_one(finished_run: Path, tmp_path: Path) -> None:
    folder, run = tmp_path / "adapters", tmp_path / "run"
    shutil.copytree(finished_run / "adapters", folder)
    sets = [*SHARED, f"warmup.from={folder}"]
    train("testbed", run, overrides=sets, until="base")
    shutil.copy(adapter_folder(finished_run, "judge", "warm-up") / "adapter_model.safetensors", folder / "judge")
    with pytest.raises(CheckpointError, match="now holds other adapters than when"):
        train("testbed", run, overrides=sets, if_exists="resume")
    shutil.copy(finished_run / "adapters" / "judge" / "adapter_model.safetensors", folder / "judge")
    train("testbed", run, overrides=sets, if_exists="resume", until="warmup-judge")
    shutil.rmtree(folder)
    assert "warmup" in train("testbed", run, overrides=sets, if_exists="resume", until="warmup").stages


def test_what_cannot_be_a_start_is_refused_before_anything_is_evaluated(finished_run: Path, tmp_path: Path) -> None:
    def start(source: Path | str, *more: str) -> None:
        train("testbed", tmp_path / "run", overrides=[*SHARED, f"warmup.from={source}", *more], if_exists="overwrite")

    with pytest.raises(CheckpointError, match="is no run directory"):
        start(tmp_path / "nowhere")
    with pytest.raises(BackendError, match=r"has no adapter_config\.json"):
        start(finished_run.parent)
    with pytest.raises(BackendError, match=r"state: 'middle' is not one of"):
        start(f"{finished_run}@middle")
    with pytest.raises(BackendError, match=r"has rank 8, the recipe says model\.lora\.r: 4"):
        start(finished_run, "model.lora.r=4")
    changed = Path(shutil.copytree(finished_run, tmp_path / "changed"))
    versions = json.loads((changed / "versions.json").read_text())
    rewrite(changed, "versions.json", json.dumps({**versions, "base weights": "0" * 16}))
    with pytest.raises(CheckpointError, match=r"warmup\.from: .* was trained on other weights of the base"):
        start(changed)
    with pytest.raises(ConfigError, match="whose adapters this run starts from"):
        train("testbed", finished_run, overrides=[*SHARED, f"warmup.from={finished_run}@final"], if_exists="overwrite")
    assert (finished_run / "summary.json").is_file(), "nothing is lost"
    assert not (tmp_path / "run" / "evaluations").exists()


def test_the_field_is_called_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("testbed", ["warmup.from=runs/a@final"])
    assert recipe.warmup.from_ == f"{tmp_path}/runs/a@final"
    (tmp_path / "mine.yaml").write_text(dump_recipe(recipe))
    assert f"from: {tmp_path}/runs/a@final" in (tmp_path / "mine.yaml").read_text()
    assert recipe_hash(load_recipe("mine.yaml")) == recipe_hash(recipe) != recipe_hash(load_recipe("testbed"))
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert load_recipe("testbed", ["warmup.from=runs/a@final"]) == recipe, "whatever exists"
    with pytest.raises(ConfigError, match=r"`warmup\.from` is 3\. Allowed: text or null"):
        load_recipe("testbed", ["warmup.from=3"])


def test_a_run_and_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd@name").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_and_state("runs/a@final", "warm-up") == (Path("runs/a"), "final")
    assert run_and_state("runs/a", "warm-up") == (Path("runs/a"), "warm-up")
    assert run_and_state("odd@name", "warm-up") == (Path("odd@name"), "warm-up")
    assert run_and_state("o@dd/run", "final") == (Path("o@dd/run"), "final")
