"""``rubric-arm bench`` at a small size: every verb, the same work on both sides, and refusals. Times are not tested."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.against_trl import measure, peer, sweep
from benchmarks.against_trl.memory import Meter, measure_alone, run_alone
from benchmarks.against_trl.ours import FullLengthSampler, Ours, Run, check_lengths, write_adapters
from benchmarks.against_trl.peer import Peer
from benchmarks.against_trl.work import PARTS, VERBS, BenchSettings, Verb, Work, make_folder
from rubric_arm_lite.cli import main as cli
from rubric_arm_lite.errors import BackendError, TrainingError

SMALL = BenchSettings(
    prompt_length=48,
    completion_length=5,
    num_generations=3,
    width=64,
    layers=1,
    prompts=2,
    vocabulary=512,
    runs=1,
    threads=1,
)
TOKENS = {"rollout": 6 * 5, "update": 6 * 5, "step": (2 * 5 + 6 * 5) + (6 * 5 + 6 * 5)}
"""Tokens of one run: 2 prompts, 3 completions of 5; a step also writes 2 rubrics and 6 judgements."""


def options(settings: BenchSettings = SMALL) -> list[str]:
    """The settings as they stand on a command line, without memory, which takes a process per side."""
    words = ["--no-memory"]
    for name, value in settings.to_dict().items():
        if value not in (None, False):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def bench(*arguments: str) -> str:
    """What ``rubric-arm bench`` writes to standard output."""
    done = CliRunner().invoke(cli.app, ["bench", *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one error that a call prints; its exit code is 2."""
    monkeypatch.setattr(sys, "argv", ["rubric-arm", "bench", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and not printed.out
    return " ".join(printed.err.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small work's model and adapters."""
    made = make_folder(Work(SMALL), tmp_path_factory.mktemp("bench"))
    write_adapters(Work(SMALL), made)
    return made


@pytest.fixture(scope="module")
def ours(folder: Path) -> Ours:
    return Ours(Work(SMALL), folder, 2)


# --- verbs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_measures_both_sides(verb: Verb) -> None:
    found = json.loads(bench(verb, *options(), "--json"))
    assert found["verb"] == verb
    for side in ("ours", "theirs"):
        seconds = found[side]["seconds"]
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        assert found[side]["tokens"] == TOKENS[verb]
        assert found[side]["tokens_per_second"] == pytest.approx(TOKENS[verb] / seconds["median"])
        assert found[side]["peak_memory_bytes"] is None
    ratio = found["theirs"]["seconds"]["median"] / found["ours"]["seconds"]["median"]
    assert found["ratio"] == pytest.approx(ratio)
    assert found["ratio_pairs"]["min"] <= found["ratio"] <= found["ratio_pairs"]["max"]
    assert found["settings"]["prompt_length"] == 48 and found["settings"]["threads"] == 1
    assert found["versions"]["trl"] and found["switch_microseconds"] > 0
    if verb == "rollout":
        assert found["loss_difference"] is None
    else:
        assert found["loss_difference"] <= 1e-6
        assert found["agreement"]["gradient_difference"] <= 1e-4
        assert found["agreement"]["gradient_norm_ours"] > 0
        assert 6 % found["settings"]["peer_batch"] == 0 and found["settings"]["peer_batch_tried"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_prints_a_table_of_our_side_alone(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.metadata, "version", _absent)  # as if TRL were not installed
    monkeypatch.setitem(sys.modules, "trl", None)
    printed = bench(verb, *options(), "--against", "none")
    assert printed.startswith(f"{verb}: P = 48, C = 5, G = 3, 2 prompts, 1 layers of width 64, float32, 1 thread")
    for label in ("seconds, median", "fastest to slowest", "tokens/s", "tokens computed", "adapter switch"):
        assert label in printed
    assert ("Weights are random" in printed) is (verb == "step")


def test_bare_bench_runs_all_three_at_the_default_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Verb, BenchSettings]] = []

    def small(verb: Verb, settings: BenchSettings, *rest: Any) -> dict[str, Any]:
        asked.append((verb, settings))
        return real(verb, replace(SMALL, runs=settings.runs), *rest)

    real = measure.measure
    monkeypatch.setattr(measure, "measure", small)
    found = json.loads(bench("--json", "--no-memory", "--against", "none", "--runs", "1", "--threads", "1"))
    assert asked == [(verb, BenchSettings(runs=1, threads=1)) for verb in VERBS]
    s = asked[0][1]
    assert (s.prompt_length, s.completion_length, s.num_generations, s.layers, s.width) == (512, 64, 8, 4, 256)
    assert found["ratio"] is None and found["ours"] == found["step"]["ours"]
    assert [found[verb]["verb"] for verb in VERBS] == list(VERBS)


def test_a_sweep_varies_one_setting_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sweep.SWEEP, "num_generations", (2, 3))
    arguments = ("--against", "none", "--sweep", "--axis", "num-generations", "--output", str(tmp_path), "--json")
    found = json.loads(bench("rollout", *options(), *arguments))
    points = found["sweep"]["num_generations"]
    assert [point["settings"]["num_generations"] for point in points] == [2, 3]
    assert [point["ours"]["tokens"] for point in points] == [2 * 2 * 5, 2 * 3 * 5]
    assert points[1]["ours"] == found["ours"]
    assert json.loads((tmp_path / "bench-rollout.json").read_text()) == found
    assert "| num_generations | 2 |" in (tmp_path / "bench-rollout.md").read_text()
    assert (tmp_path / "bench-rollout.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "bench-rollout.png").read_bytes().startswith(b"\x89PNG")


# --- the same work on both sides ------------------------------------------------------------------------------------


def test_lengths_and_texts_are_exact_on_both_sides(folder: Path, ours: Ours) -> None:
    groups = ours.rollout()
    assert [len(group.prompt_ids) for group in groups] == [48, 48]
    assert {len(s.token_ids) for group in groups for s in group.samples} == {5}
    assert len({group.prompt_ids for group in groups}) == 2
    assert not {i for g in groups for s in g.samples for i in s.token_ids} & set(ours.work.control_ids)
    theirs = Peer(ours.work, folder, "rollout", 1)
    trainer, rows = theirs._trainers["rollout"], theirs._rows_of_step()
    prompts, completions = trainer._generate([row["prompt"] for row in rows])[:2]
    assert [tuple(ids) for ids in prompts] == [group.prompt_ids for group in groups for _ in range(3)]
    assert [len(ids) for ids in completions] == [5] * 6


def test_long_completions_never_end_early(folder: Path, ours: Ours) -> None:
    long = replace(SMALL, completion_length=64, prompt_length=128, layers=2)
    made = make_folder(Work(long), folder / "long")
    write_adapters(Work(long), made)
    for group in Ours(Work(long), made, 1).rollout():
        assert {len(s.token_ids) for s in group.samples} == {64}
        assert len({s.token_ids for s in group.samples}) == 3


def test_a_step_writes_what_it_should_and_moves_each_adapter(folder: Path) -> None:
    ours = Ours(Work(SMALL), folder, 1)
    before = {role: ours.model.fingerprint(role) for role in ("judge", "rubric")}
    assert ours.run("judge", 0).tokens == 2 * 5 + 6 * 5
    assert ours.model.fingerprint("judge") != before["judge"]
    assert ours.model.fingerprint("rubric") == before["rubric"]
    assert ours.run("rubric", 0).tokens == 6 * 5 + 6 * 5
    assert ours.model.fingerprint("rubric") != before["rubric"]


def test_a_side_that_reads_or_writes_another_number_of_tokens_is_refused() -> None:
    check_lengths([[1, 2], [3, 4]], 2)
    with pytest.raises(AssertionError, match=r"\[1\] tokens instead of 2"):
        check_lengths([[1, 2], [3]], 2)


@pytest.mark.parametrize("rows", [6, 2, 1])
def test_every_micro_batch_of_theirs_makes_our_update(rows: int, folder: Path) -> None:
    from transformers import TrainerCallback

    ours = Ours(Work(SMALL), folder, 1)
    theirs = Peer(Work(replace(SMALL, peer_batch=rows)), folder, "update", 1, ours.rollouts())
    first = theirs.first_update()
    norms = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Keeps the norm of the accumulated gradient."""

        def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(grads)))

    theirs._trainers["update"].add_callback(Watch())
    theirs.drive("update", lambda: None, lambda _: None)
    values = ours.update(ours.rollouts()).values
    assert values["grad_norm"] < 1  # TRL clips before the callback
    assert first == pytest.approx((values["loss"], values["grad_norm"]), rel=1e-4, abs=1e-6)
    assert norms == pytest.approx([values["grad_norm"]], rel=1e-4)


def test_sides_that_compute_different_things_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "first_update", lambda self: (0.5, 1.0))
    with pytest.raises(TrainingError, match="compute different things"):
        measure.measure("update", SMALL, "trl", False, lambda _: None)


def test_rubrics_that_do_not_parse_are_replaced_and_others_kept(ours: Ours) -> None:
    work = ours.work
    block = work.block(0)

    class Two:
        """Writes one rubric that parses and one that does not."""

        tokens_written = 0

        def sample(self, adapter: Any, examples: Any, sampling: Any) -> Any:
            group = ours.rollout()[0]
            texts = ("1. The response is short. [Principle]", "no rubric", "nor this")
            samples = tuple(replace(s, text=t) for s, t in zip(group.samples, texts, strict=True))
            example = replace(group.example, example_id=block.prompt_id)
            return [replace(group, example=example, prompt_ids=group.prompt_ids[:12], samples=samples)]

        def fingerprint(self, adapter: Any) -> str:
            return ""

        def prompt_tokens(self, prompt: str) -> int:
            return len(prompt)

    reader = FullLengthSampler(Two(), work)
    [group] = reader.sample("rubric", [], ours_sampling())
    assert [s.text for s in group.samples] == [
        "1. The response is short. [Principle]",
        work.rubric(block.prompt_id, 1).text,
        work.rubric(block.prompt_id, 2).text,
    ]
    assert {s.finish_reason for s in group.samples} == {"stop"}
    assert reader.fingerprint(None) == "" and reader.prompt_tokens("ab") == 2


def ours_sampling() -> Any:
    from rubric_arm_lite.models.sampler import Sampling

    return Sampling(5, 3)


def test_switching_adapters_leaves_the_base_as_it_is(ours: Ours) -> None:
    def digest() -> str:
        hashed = hashlib.sha256()
        for name, parameter in ours.model.model.named_parameters():
            if "lora_" not in name:
                hashed.update(parameter.detach().numpy().tobytes())
        return hashed.hexdigest()

    before = digest()
    assert ours.switch_microseconds(5) > 0
    assert digest() == before


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_memory_runs_each_side_once(side: Any, verb: Verb, folder: Path) -> None:
    peak = run_alone(side, verb, SMALL, folder)
    assert peak.before_bytes > 0 and peak.peak_bytes >= 0 and "resident memory" in peak.how


@pytest.mark.skipif(torch.cuda.is_available(), reason="resident memory is measured on a CPU")
@pytest.mark.parametrize("resets", [True, False])
def test_the_meter_sees_a_peak_and_says_how(resets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not resets:
        monkeypatch.setattr("benchmarks.against_trl.memory._reset_high_water", lambda: False)
    meter = Meter()
    meter.start()
    held = [torch.ones(2**23) for _ in range(8)]
    if not resets:
        meter._stopped.wait(0.2)
    del held
    meter.start()  # only the first start counts
    peak = meter.stop()
    assert peak.peak_bytes > 2**27
    assert ("sampled" in peak.how) is not resets


def test_memory_of_a_fresh_process_and_of_one_that_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measure_alone("ours", "rollout", SMALL, folder).before_bytes > 0
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho Traceback >&2\necho Out of memory. >&2\nexit 7\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(BackendError, match=r"Memory of ours: the process ended with 7 \(Out of memory\.\)"):
        measure_alone("ours", "rollout", SMALL, folder)


# --- steadiness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slowest", "steady"), [(1.4, True), (1.6, False)])
def test_a_wide_spread_is_marked(slowest: float, steady: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [Run(1.0, 30), Run(slowest, 30)]
    monkeypatch.setattr(measure._Measurement, "_alternate", lambda self, ours, steps: (runs, []))
    found = measure.measure("rollout", replace(SMALL, runs=2), "none", False, lambda _: None)
    assert found["steady"] is steady
    assert any("Not steady" in note for note in found["notes"]) is not steady
    assert found["ours"]["seconds"] == {"min": 1.0, "median": (1 + slowest) / 2, "max": slowest}


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("update", "--num-generations", "1"), "at least 2 completions"),
        (("update", "--against", "verl"), "--against verl: unknown trainer. Use trl"),
        (("rollout", "--width", "100"), "multiple of 64. Use 128"),
        (("rollout", "--prompt-length", "20"), "--prompt-length 20"),
        (("rollout", "--completion-length", "3"), "--completion-length 4 or more"),
        (("rollout", "--vocabulary", "10"), "--vocabulary 10: the templates and words need"),
        (("step", "--runs", "0"), "--runs 0: must be at least 1"),
        (("step", "--threads", "0"), "--threads 0: must be at least 1"),
        (("step", "--seed", "-1"), "--seed -1: must not be negative"),
        (("step", "--peer-batch", "5"), "--peer-batch 5: must divide the 64 completions"),
        (("step", "--axis", "width"), "only a sweep has axes. Add --sweep"),
        (("step", "--sweep", "--axis", "depth"), "a sweep does not vary this setting"),
        (("--sweep",), "--sweep varies the settings of one verb. Write rubric-arm bench update --sweep"),
        (("speed",), "bench speed: not a verb. Use rollout, update, step"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message in refused(capsys, monkeypatch, *arguments)


def _absent(name: str) -> str:
    raise peer.metadata.PackageNotFoundError(name)


def test_a_missing_or_broken_trl_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(peer.metadata, "version", lambda name: "1.15.0")
    said = refused(capsys, monkeypatch, "update")
    assert "TRL 1.15.0 fails on a CPU without triton. Install another version" in said
    monkeypatch.setattr(peer.metadata, "version", _absent)
    assert "TRL is not installed" in refused(capsys, monkeypatch, "update")


def test_a_step_has_a_part_per_role() -> None:
    assert PARTS["step"] == ("judge", "rubric")
