"""Comparisons: numbers against hand-computed ones, paired tests, and hostile names; runs are written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.recipe import dump_recipe, load_recipe
from rubric_arm_lite.report import compare, write_comparison
from rubric_arm_lite.report.comparison import holm, sign_flip_p
from tests.cli.test_cli import call, refused

PHASES = ("judge 1", "rubric 1")


def write_run(
    run: Path,
    seed: int,
    verdicts: Sequence[float],
    sets: Sequence[str] = (),
    steps: int = 3,
    start: float = 0.5,
    data: str = "same",
) -> Path:
    """A run directory whose final evaluation has these accuracies per pair."""
    (run / "evaluations").mkdir(parents=True)
    (run / "recipe.yaml").write_text(dump_recipe(load_recipe("testbed", [*sets, f"seed={seed}", "schedule.cycles=1"])))
    accuracy = sum(verdicts) / len(verdicts)
    rows: list[dict[str, Any]] = [evaluation("base", 0.4), evaluation("warm-up", start)]
    for slot, phase in enumerate(PHASES):
        role = phase.split()[0]
        rows += [{"kind": "step", "slot": slot, "phase": phase, "role": role, "step": i} for i in range(steps)]
        rows.append(evaluation(phase, start + (accuracy - start) * (slot + 1) / 2))
    rows.append(evaluation("final", accuracy))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [{"pair_id": f"p{i}", "original": value, "swapped": value} for i, value in enumerate(verdicts)]
    (run / "evaluations" / "final.json").write_text(json.dumps({"name": "final", "values": {}, "rows": judged}))
    times = [("base", 2.0, 10), ("judge 1", 5.0, 100), ("rubric 1", 7.0, 200), ("rubric 1", 1.0, 50)]
    rows = [{"stage": stage, "seconds": seconds, "tokens": tokens} for stage, seconds, tokens in times]
    (run / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "data.json").write_text(json.dumps({"fingerprint": f"{data}-{seed}"}))
    return run


def evaluation(name: str, accuracy: float) -> dict[str, Any]:
    values = {"accuracy": accuracy, "position_bias": 0.1, "consistency": 0.9, "format_sampled": 0.8, "pairs": 4.0}
    return {"kind": "evaluation", "name": name, **values}


VERDICTS: Mapping[str, Sequence[Sequence[float]]] = {
    "plain": [(1, 1, 0, 0), (1, 0, 0, 0), (1, 1, 1, 0)],
    "no-kl": [(1, 1, 1, 0), (1, 1, 1, 0), (1, 1, 1, 1)],
}
SETS = {"plain": ["name=plain"], "no-kl": ["name=no-kl", "judge.beta=0.0"]}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / arm / f"seed-{seed}", seed, verdicts, SETS[arm])
        for arm, by_seed in VERDICTS.items()
        for seed, verdicts in enumerate(by_seed)
    ]


def test_values_are_those_computed_by_hand(runs: list[Path]) -> None:
    compared = compare(runs)
    assert [arm.label for arm in compared.arms] == ["plain", "no-kl"] and compared.baseline == "plain"
    plain, other = compared.arms
    assert plain.values["accuracy"].by_seed == {0: 0.5, 1: 0.25, 2: 0.75}
    assert (plain.values["accuracy"].mean, plain.values["accuracy"].sd) == (0.5, 0.25)
    assert plain.values["accuracy"].text() == "50.0 ± 25.0"
    assert plain.values["gain"].mean == 0.0 and plain.values["warm_up"].sd == 0.0
    assert plain.cost["tokens"].mean == 360 and plain.cost["phase_tokens"].mean == 350
    assert plain.cost["seconds"].mean == 15.0 and plain.cost["phase_seconds"].mean == 13.0
    assert [x for x, _, _ in other.curves["accuracy"]] == [0, 3, 6], "after the warm-up and each phase, in updates"
    assert [y for _, y, _ in other.curves["accuracy"]] == pytest.approx([0.5, (0.5 + 5 / 6) / 2, 5 / 6])
    assert compared.fields == {"judge.beta": (json.dumps(load_recipe("testbed").judge.beta), "0.0")}


def test_tests_are_paired_over_seeds_and_over_pairs(runs: list[Path]) -> None:
    compared = compare(runs)
    assert compared.arms[0].over_seeds is None and compared.arms[0].over_pairs is None
    seeds, pairs = compared.arms[1].over_seeds, compared.arms[1].over_pairs
    assert seeds is not None and pairs is not None
    differences = [0.25, 0.5, 0.25]
    assert (seeds.count, seeds.difference) == (3, pytest.approx(1 / 3))
    assert seeds.interval == pytest.approx(stats.t.interval(0.95, 2, 1 / 3, stats.sem(differences)))
    assert seeds.p == 0.25 == seeds.p_holm, "all of 3 signs agree: 2 of 8 flips are as extreme"
    assert (pairs.count, pairs.difference) == (12, pytest.approx(1 / 3))
    assert pairs.p == 2 * 0.5**4, "four pairs changed, all for the better"
    assert pairs.interval is not None and 0 <= pairs.interval[0] < 1 / 3 < pairs.interval[1]
    assert any("Over 3 seeds no p below 0.25 is possible" in note for note in compared.notes)
    reverse = compare(runs, baseline="no-kl").arms[0].over_seeds
    assert reverse is not None and reverse.difference == pytest.approx(-1 / 3)
    with pytest.raises(ConfigError, match=r"--baseline none: there is no such arm\. Use one of plain, no-kl"):
        compare(runs, baseline="none")


def test_holm_is_for_the_number_of_arms() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": 0.03, "c": 0.06, "b": 0.06}
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_sign_flips_are_exact_for_few_and_sampled_for_many() -> None:
    assert sign_flip_p([1.0] * 5) == 2 / 32
    assert sign_flip_p([1.0, 1.0, -1.0]) == 1.0
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([3.0, 1.0, 1.0, 1.0]) == 2 / 16
    many = [1.0] * 30 + [-1.0] * 10
    assert sign_flip_p(many) == pytest.approx(stats.binomtest(30, 40).pvalue, abs=0.003)


def test_only_the_same_pairs_are_compared_pair_by_pair(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", 0, (1, 0), ["name=a"]),
        write_run(tmp_path / "b", 0, (1, 1), ["name=b", "judge.beta=0.5"], data="other"),
        write_run(tmp_path / "c", 1, (1, 1), ["name=c", "judge.beta=0.7"]),
    ]
    compared = compare(runs)
    assert compared.arms[1].over_pairs is None and compared.arms[1].over_seeds is not None
    assert compared.arms[1].over_seeds.p is None, "one seed"
    assert compared.arms[2].over_seeds is None, "no seed in common"
    assert any("other held-out pairs" in note for note in compared.notes)
    assert any("no seed in common" in note for note in compared.notes)


def test_equal_runs_are_arms_of_their_own_and_unfinished_ones_are_left_out(tmp_path: Path) -> None:
    twice = [write_run(tmp_path / name, 0, (1, 0)) for name in ("first", "second")]
    assert [arm.label for arm in compare(twice).arms] == ["testbed", "second"]
    log = twice[1] / "metrics.jsonl"
    log.write_text("".join(line for line in log.open() if '"final"' not in line))
    compared = compare(twice)
    assert [len(arm.runs) for arm in compared.arms] == [1]
    assert any("is not finished and left out" in note for note in compared.notes)
    with pytest.raises(CheckpointError, match=r"is a finished run\. Finish one"):
        compare(twice[1:])
    with pytest.raises(CheckpointError, match="is not a run directory"):
        compare([tmp_path / "nowhere"])


def test_names_are_text_wherever_they_are_shown(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    evil = "<script>alert(1)</script> | $x_1$ \\input{/etc/passwd} \u202e\x1b[31m"
    for arm in ("plain", "evil"):
        for seed in (0, 1):
            write_run(folder / arm / f"seed-{seed}", seed, (1, 0), [f"judge.beta={len(arm)}"])
    arms = {"plain": {"folder": "plain", "set": []}, evil: {"folder": "evil", "set": []}}
    noted = {"name": "x</title>", "description": "<b>", "recipe": "testbed", "arms": arms, "seeds": [0, 1, 7]}
    (folder / "sweep.json").write_text(json.dumps(noted))
    compared, files = write_comparison([folder], folder)
    page, text, rows = (file.read_text() for file in files)
    assert [file.name for file in files] == ["compare.html", "compare.md", "compare.tex"]
    for shown in (page, text, rows):
        assert "\u202e" not in shown and "\x1b" not in shown
    assert "<script" not in page and "x</title>" not in page and "&lt;script&gt;" in page
    assert page.count("<svg") == 3, "a curve per value that was measured"
    assert "\\input" not in rows and r"\textbackslash{}input\{/etc/passwd\}" in rows and r"\$x\_1\$" in rows
    assert text.startswith("# x</title>") and "| <script>alert(1)</script> / $x_1$" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|") and "±" in line}) <= 3
    assert json.loads(json.dumps(compared.as_json()))["arms"][1]["values"]["accuracy"]["by_seed"] == {
        "0": 0.5,
        "1": 0.5,
    }


def test_the_verb_prints_and_writes(runs: list[Path], tmp_path: Path) -> None:
    done = call("compare", *runs, "--out", tmp_path / "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "50.0 ± 25.0" in done.stdout and "judge.beta" in done.stdout and "+33.3" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.html", "compare.md", "compare.tex"]
    page = (tmp_path / "out" / "compare.html").read_bytes()
    other = ("compare", *runs, "--out", tmp_path / "out", "--baseline", "no-kl")
    assert "compare.html exists. Name another file, or give --overwrite." in refused(*other, folder=tmp_path)
    assert (tmp_path / "out" / "compare.html").read_bytes() == page
    assert call(*other, "--overwrite", folder=tmp_path).returncode == 0
    assert (tmp_path / "out" / "compare.html").read_bytes() != page
    assert call("compare", *runs, "--out", tmp_path / "out", "--overwrite", folder=tmp_path).returncode == 0
    value = json.loads(call("compare", *runs, "--json", "--baseline", "no-kl", folder=tmp_path).stdout)
    assert value["baseline"] == "no-kl" and value["arms"][0]["over_pairs"]["count"] == 12
    assert (tmp_path / "comparison" / "compare.html").exists()
    latex = (tmp_path / "out" / "compare.tex").read_text().splitlines()
    assert latex[2].startswith(r"no-kl & 50.0 $\pm$ 0.0 & 83.3 $\pm$ 14.4 & +33.3 & 0.250 & +33.3 &")
    assert "is not a run directory" in refused("compare", tmp_path / "nowhere")
