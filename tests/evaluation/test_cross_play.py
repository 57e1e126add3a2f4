"""Swapped adapters and the cross-play of runs: every number is that of evaluating the combination by hand."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rubric_arm_lite import RubricRewardModel
from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation import cross_play, evaluate_run
from rubric_arm_lite.recipe import dump_recipe, load_recipe
from rubric_arm_lite.runs import adapter_folder, recipe_of_run, states_of, swapped_adapter
from rubric_arm_lite.types import ROLES
from tests.cli.test_cli import call, refused
from tests.short_run import SHORT, rewrite


def by_hand(rubric: Path, judge: Path, run: Path) -> dict[str, float]:
    """The values of a generator and a judge, loaded as two PEFT folders, on the pairs that a run holds out."""
    model = RubricRewardModel.from_adapters(recipe_of_run(run), rubric, judge)
    return evaluate_run(model, None, 1, None)[0].values


@pytest.fixture
def other_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose final adapters are as if nothing had been trained, so that they write other texts."""
    other = Path(shutil.copytree(finished_run, tmp_path / "other"))
    change(other, "adapters", 0.0)
    return other


def change(run: Path, folder: str, factor: float) -> None:
    """Scale what the adapters in a folder of a run add to the base, as if the run itself had written them so."""
    state = json.loads((run / "state.json").read_text())
    for role in ROLES:
        name = f"{folder}/{role}/adapter_model.safetensors"
        weights = load_file(run / name)
        save_file({key: w * factor if "lora_B" in key else w for key, w in weights.items()}, run / name)
        state["hashes"][name] = sha256((run / name).read_bytes()).hexdigest()
    (run / "state.json").write_text(json.dumps(state))


def test_a_swap_is_the_combination_that_it_names(finished_run: Path, other_run: Path) -> None:
    ours, theirs = (adapter_folder(finished_run, role, "warm-up") for role in ROLES), other_run / "adapters"
    rubric, judge = ours
    expected = by_hand(rubric, theirs / "judge", finished_run)
    reverse = by_hand(theirs / "rubric", judge, finished_run)
    assert expected != reverse != by_hand(rubric, judge, finished_run) != expected, "each swap shows"
    swapped = RubricRewardModel.from_run(finished_run, "warm-up", judge_from=other_run)
    assert evaluate_run(swapped, None, 1, None)[0].values == expected
    both = RubricRewardModel.from_run(other_run, judge_from=f"{finished_run}@warm-up")
    assert evaluate_run(both, None, 1, None)[0].values == reverse
    options = ("--rubric-from", f"{finished_run}@warm-up", "--judge-from", other_run)
    done = call("evaluate", finished_run, *options, "--json")
    assert json.loads(done.stdout) == {**expected, "skipped_too_long": 0}


def test_every_verb_that_asks_takes_a_swap(finished_run: Path, other_run: Path) -> None:
    prompt = "Write a letter about rivers for doctors. Include the word silk."
    done = call("rubric", finished_run, prompt, "--rubric-from", other_run, "--json")
    expected = call("rubric", other_run, prompt, "--json").stdout
    assert done.stdout == expected != call("rubric", finished_run, prompt, "--json").stdout
    for verb in ("judge", "score", "label", "serve", "play", "evaluate"):
        assert "--judge-from" in call(verb, "--help").stdout
    assert "--judge-from" in call("bench", "inference", "--help").stdout
    done = call(
        "bench", "inference", "--run", finished_run, "--judge", "trained", "--limit", "4", "--judge-from",
        f"{other_run}@warm-up", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_swap_that_does_not_fit_is_refused_by_name(finished_run: Path, other_run: Path, tmp_path: Path) -> None:
    assert "Give --out" in refused("evaluate", finished_run, "--rubric-from", other_run, "--benchmarks", "rewardbench")
    assert "on this machine" in refused(
        "rubric", finished_run, "p", "--judge-from", other_run, "--server", "http://localhost:1"
    )
    assert "take no adapters" in refused("rubric", "released-8b", "p", "--judge-from", other_run)
    assert "Give --run alone" in refused("bench", "inference", "--judge-from", other_run)
    assert "is not a run directory" in refused("rubric", finished_run, "p", "--rubric-from", tmp_path)
    assert "is not one of final" in refused("rubric", finished_run, "p", "--rubric-from", f"{other_run}@middle")
    versions = json.loads((other_run / "versions.json").read_text())
    rewrite(other_run, "versions.json", json.dumps({**versions, "base weights": "0" * 16}))
    error = refused("rubric", finished_run, "p", "--rubric-from", other_run)
    assert "was trained on another base (testbed, weights 0000000000000000)" in error
    rewrite(other_run, "versions.json", json.dumps({**versions, "base weights": None}))
    swapped_adapter(finished_run, "rubric", str(other_run))  # not noted down: the names are compared
    recipe = load_recipe("testbed", [*SHORT, "model.base=elsewhere"])
    rewrite(other_run, "recipe.yaml", dump_recipe(recipe))
    with pytest.raises(CheckpointError, match="another base"):
        swapped_adapter(finished_run, "rubric", str(other_run))


def test_an_adapter_is_asked_only_with_its_own_template(finished_run: Path, other_run: Path) -> None:
    rewrite(
        other_run, "recipe.yaml", dump_recipe(load_recipe("testbed", [*SHORT, "prompts.judge_template=judge_paper"]))
    )
    swapped_adapter(finished_run, "rubric", str(other_run))
    with pytest.raises(CheckpointError, match=r"has prompts\.judge_template: judge_paper, .* has prompts"):
        swapped_adapter(finished_run, "judge", str(other_run))
    pointwise = load_recipe("testbed", [*SHORT, "reward.judge=pointwise", "reward.judge_orders=one"])
    rewrite(other_run, "recipe.yaml", dump_recipe(pointwise))
    with pytest.raises(CheckpointError, match=r"has prompts\.pointwise_template: pointwise"):
        swapped_adapter(finished_run, "judge", str(other_run))


def test_cross_play_is_every_combination_by_hand(finished_run: Path, other_run: Path) -> None:
    done: list[tuple[int, int]] = []
    played = cross_play([finished_run, f"{other_run}@final"], progress=lambda *now: done.append(now))
    names = [f"{finished_run.name}@warm-up", f"{finished_run.name}@final", f"{other_run.name}@final"]
    assert played.generators[0] == names[0] and set(names) <= set(played.generators) & set(played.judges)
    assert done[-1] == (len(done), len(done)) == (len(played.generators) * len(played.judges),) * 2
    folders = [
        {role: adapter_folder(run, role, state) for role in ROLES}
        for run, state in ((finished_run, "warm-up"), (finished_run, "final"), (other_run, "final"))
    ]
    compared = ("accuracy", "accuracy_low", "position_bias", "consistency", "principle_recall", "format")
    for i, rubric in enumerate(folders):
        for j, judge in enumerate(folders):
            cell = played.cells[played.generators.index(names[i])][played.judges.index(names[j])]
            expected = by_hand(rubric["rubric"], judge["judge"], finished_run)
            assert [cell[name] for name in compared] == [expected[name] for name in compared]
    assert (0, 0) in played.partners and played.notes == ()


def test_checkpoints_that_are_kept_are_played_too(other_run: Path) -> None:
    first, *kept, final = states_of(other_run)
    change(other_run, f"checkpoints/{kept[0]}", 0.5)
    played = cross_play([other_run], limit=4)
    assert played.generators == played.judges == tuple(dict.fromkeys((first, kept[0], kept[-1], final)))


def test_equal_adapters_are_measured_once(finished_run: Path, other_run: Path) -> None:
    played = cross_play([f"{finished_run}@warm-up", f"{other_run}@warm-up", f"{other_run}@final"], limit=4)
    run, other = finished_run.name, other_run.name
    assert played.generators == played.judges == (f"{run}@warm-up", f"{other}@final")
    assert played.partners == ((0, 0), (1, 1))


def test_co_adaptation_of_two_states_is_their_interaction(finished_run: Path) -> None:
    played = cross_play([f"{finished_run}@warm-up", f"{finished_run}@final"], limit=12)
    assert played.generators == played.judges == ("warm-up", "final")
    (a, b), (c, d) = [[cell["accuracy"] for cell in row] for row in played.cells]
    assert played.co_adaptation is not None
    value, low, high = played.co_adaptation
    assert value == pytest.approx((a - b - c + d) / 4) and low <= value <= high
    logged = json.loads((finished_run / "cross_play.json").read_text())
    assert b == logged["trained judge, warm-up rubrics"]["accuracy"]


def test_the_verb_prints_the_matrix(finished_run: Path, other_run: Path) -> None:
    done = call("cross-play", finished_run, "--limit", "4")
    assert "warm-up" in done.stdout and "on 4 pairs" in done.stdout and "Co-adaptation" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("warm-up"))
    value = json.loads(call("cross-play", finished_run, "--limit", "4", "--json").stdout)
    assert f"{100 * value['cells'][0][0]['accuracy']:.1f}*" in row
    data = json.loads((other_run / "data.json").read_text())
    rewrite(other_run, "data.json", json.dumps({**data, "fingerprint": "another"}))
    done = call("cross-play", f"{finished_run}@final", f"{other_run}@warm-up", "--limit", "4")
    assert "did not learn from the data of" in done.stdout
    assert "is not a run directory" in refused("cross-play", finished_run, other_run / "nowhere")
