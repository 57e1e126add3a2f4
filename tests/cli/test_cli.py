"""Every verb of the command line, and what it says when it is given something it cannot use."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from rich.table import Table

from rubric_arm_lite import __version__
from rubric_arm_lite.cli import ask, common
from rubric_arm_lite.cli.main import main
from rubric_arm_lite.cli.train import RichProgress
from rubric_arm_lite.prompts import parse_judgement, parse_rubric
from rubric_arm_lite.report import safe_json
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.reward_model.verdict import PointwiseScore, Verdict
from rubric_arm_lite.types import ParseStatus
from tests import tiny
from tests.short_run import rewrite, short_sets
from tests.warm import begin, command, wait_for

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str | Path, stdin: str = "", folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run ``rubric-arm`` in this process, which has its libraries loaded; nothing it prints may be a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as changed, redirect_stdout(out), redirect_stderr(err):
        changed.setattr(sys, "argv", ["rubric-arm", *map(str, arguments)])
        changed.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        changed.chdir(folder)
        with pytest.raises(SystemExit) as stopped:
            main()
    done = subprocess.CompletedProcess(arguments, int(stopped.value.code or 0), out.getvalue(), err.getvalue())
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, as a user would; it has to load everything anew."""
    call = [sys.executable, "-m", "rubric_arm_lite", *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def refused(*arguments: str | Path, folder: Path = ROOT) -> str:
    """The one error that a call prints; its exit code is 2."""
    done = call(*arguments, folder=folder)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    return " ".join(done.stderr.split())


def test_version_and_help() -> None:
    version = re.fullmatch(r"(\S+)(?: \(commit (\S+)\))?", call("--version").stdout.strip())
    assert version and version[1] == __version__
    assert bool(version[2]) == (ROOT / ".git").exists()
    shown = call("--help").stdout
    verbs = (
        "run demo watch rubric judge score evaluate label report policy testbed show-recipe doctor plan bench data "
        "serve play"
    )
    assert all(f" {verb} " in shown for verb in verbs.split())


@pytest.mark.parametrize(
    ("words", "completed"), [("rubric-arm ev", ["evaluate"]), ("rubric-arm run --res", ["--resume"])]
)
def test_shells_complete_verbs_and_options(words: str, completed: list[str]) -> None:
    """As the script that ``rubric-arm --show-completion`` prints for bash asks for it."""
    code = "import sys; sys.argv = ['rubric-arm']; from rubric_arm_lite.cli.main import main; main()"
    env = {"_RUBRIC_ARM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    asked = [sys.executable, "-c", code]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, env=os.environ | env, check=False)
    assert (done.returncode, done.stdout.split()) == (0, completed), done.stderr
    assert "--show-completion" in call("--help").stdout


@pytest.mark.slow
def test_run_is_complete(finished_run: Path) -> None:
    for name in ("recipe.yaml", "versions.json", "data.json", "summary.json", "cross_play.json", "report.html"):
        assert (finished_run / name).is_file(), name
    evaluations = [
        row["name"]
        for row in map(json.loads, (finished_run / "metrics.jsonl").read_text().splitlines())
        if row["kind"] == "evaluation"
    ]
    phases = ["judge 1", "rubric 1", "judge 2", "rubric 2"]
    assert evaluations[:6] == ["base", "warm-up", *phases]
    assert len([name for name in evaluations if name.startswith("cross-play")]) == 4
    assert evaluations[-1] == "final"
    for role in ("rubric", "judge"):
        assert (finished_run / "adapters" / role / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_finished_demo_is_shown_again(finished_run: Path) -> None:
    before = (finished_run / "metrics.jsonl").read_bytes()
    done = call("demo", "--run-dir", finished_run, "--json", *short_sets())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recipe"] == "testbed"
    assert (finished_run / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_rubric_and_judge(finished_run: Path, tmp_path: Path) -> None:
    prompt = "Write a note about gardens for pilots. Include the word zinc."
    written = json.loads(call("rubric", finished_run, prompt, "--json").stdout)
    assert written["status"] in ("ok", "malformed", "truncated")
    from_stdin = call("rubric", finished_run, "-", stdin=prompt)
    assert from_stdin.stdout.strip() == written["text"].strip()

    pair = ("--a", "zinc stone table hug lull dare", "--b", "stone table window pencil basket ladder")
    by_hand = "1. The response includes the word zinc [Hard Rule]"
    one = json.loads(call("judge", finished_run, "--prompt", prompt, *pair, "--rubric", by_hand, "--json").stdout)
    assert one["winner"] in ("A", "B", None)
    assert "Winner" in one["judgement"]

    source, target = tmp_path / "in.jsonl", tmp_path / "out" / "out.jsonl"
    row = {"id": "p1", "prompt": prompt, "response_a": pair[1], "response_b": pair[3], "rubric": by_hand}
    source.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "p2"}) + "\n")
    assert call("judge", finished_run, source, target).returncode == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [r["id"] for r in rows] == ["p1", "p2"]
    assert rows[0]["winner"] == one["winner"]
    before = target.read_bytes()
    assert "give --overwrite" in refused("judge", finished_run, source, target, "--votes", "2")
    assert target.read_bytes() == before
    assert call("judge", finished_run, source, target, "--overwrite").returncode == 0


@pytest.mark.slow
def test_score(finished_run: Path, tmp_path: Path) -> None:
    """A run that was trained to compare can be asked, and the reader is told what that is worth."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    # The shipped base knows no word true; the pointwise recipe asks it in signs that it knows.
    recipe["prompts"] |= yaml.safe_load((ROOT / "recipes" / "arrow-testbed.yaml").read_text())["prompts"]
    rewrite(run, "recipe.yaml", yaml.safe_dump(recipe))
    prompt, response = "Write a note about gardens for pilots. Include the word zinc.", "zinc stone table hug lull dare"
    by_hand = "1. The response includes the word zinc [Hard Rule]\n2. The response is warm [Principle]"
    one = call("score", run, "--prompt", prompt, "--response", response, "--rubric", by_hand, "--json")
    row = json.loads(one.stdout)
    first, second = row["checks"]
    weighed = 3 * (first["p_true"] - first["p_false"]) + second["p_true"] - second["p_false"]
    assert row["score"] == pytest.approx(weighed / 4) and row["rubric"] == by_hand
    assert "trained to compare" in one.stderr
    shown = call("score", run, "--prompt", prompt, "--response", response, "--rubric", by_hand)
    assert f"Score from -1 to 1: {row['score']:.3f}" in shown.stdout

    source, target = tmp_path / "in.jsonl", tmp_path / "new" / "out.jsonl"
    case = {"id": "c1", "prompt": prompt, "response": response, "rubric": by_hand}
    source.write_text(json.dumps(case) + "\n" + json.dumps({**case, "id": "c2", "response": "stone table"}) + "\n")
    assert call("score", run, source, target).returncode == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [r["id"] for r in rows] == ["c1", "c2"]
    assert rows[0]["score"] == pytest.approx(row["score"], abs=1e-5)


def test_brackets_in_names_and_words_are_no_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "[").mkdir()
    target = tmp_path / "[" / "x].jsonl"
    ask.write_rows([{"id": "a"}], target, "1 pair judged")
    assert target.read_text() == '{"id": "a"}\n'
    monkeypatch.setattr(RubricRewardModel, "unknown_words", lambda self, *texts: ("[/yellow]", "[/b]"))
    common.warn_unknown_words(RubricRewardModel.__new__(RubricRewardModel), "text")
    with RichProgress(Console(stderr=True)) as progress:
        progress.note(f"{target} is read.")
    shown = capsys.readouterr().err.replace("\n", "")
    assert shown.count("[/x].jsonl") == 2 and "know: [/yellow], [/b]." in shown


@pytest.mark.slow
def test_evaluate_report_and_unknown_words(finished_run: Path, tmp_path: Path) -> None:
    values = json.loads(call("evaluate", finished_run, "--limit", "4", "--votes", "3", "--json").stdout)
    assert values["pairs"] == 4
    assert "voting@3" in values
    pairs = tmp_path / "pairs.jsonl"
    assert call("testbed", "pairs", pairs, "--prompts", "5", "--seed", "3").returncode == 0
    assert json.loads(call("evaluate", finished_run, pairs, "--json").stdout)["pairs"] == 20
    assert call("report", finished_run).stdout.split()[0].endswith("report.html")
    assert "does not know" in call("rubric", finished_run, "Write a poem about quarks").stderr


def test_show_recipe_and_doctor() -> None:
    assert "num_generations: 8" in call("show-recipe", "testbed").stdout
    assert json.loads(call("show-recipe", "testbed", "--set", "seed=7", "--json").stdout)["seed"] == 7
    found = json.loads(call("doctor", "--json").stdout)
    rows = {row["recipe"]: row for row in found["recipes"]}
    assert rows["testbed"]["fits"] is True and rows["qwen3-8b-12gb"]["fits"] is False
    assert "needs a GPU with 9.0 GiB" in rows["qwen3-8b-12gb"]["why"] and found["best"] == "testbed"
    assert "CPU cores" in call("doctor").stdout


BAD_CALLS: list[tuple[tuple[str, ...], str]] = [
    (("run", "no-such-recipe"), "no-such-recipe"),
    (("run", "testbed", "--set", "judge.max_step=3"), "max_steps"),
    (("run", "testbed", "--set", "judge.num_generations=1"), "zero advantage everywhere"),
    (("run", "testbed", "--set", "seed"), "--set"),
    (("run", "testbed", "--stage", "everything"), "not a stage"),
    (("run", "testbed", "--if-exists", "maybe"), "'maybe' is not one of"),
    (("run", "testbed", "--set", "model.base=/no/such/folder"), "does not exist"),
    (("run", "testbed", "--set", "data.source=/no/such.jsonl", "--set", "warmup.source=null"), "/no/such.jsonl"),
    (("rubric", "/no/such/run", "hello"), "not a run directory"),
    (("report", "/no/such/run"), "not a run directory"),
    (("judge", "/no/such/run"), "Give --prompt, --a and --b"),
    (("judge", "/no/such/run", "x.jsonl", "--prompt", "p"), "not both"),
    (("score", "/no/such/run", "--prompt", "p"), "Give --prompt and --response"),
    (("score", "/no/such/run", "x.jsonl", "--response", "r"), "not both"),
    (("score", "/no/such/run", "--prompt", "p", "--response", " "), "--response is empty"),
    (("score", "/no/such/run", "/no/such.jsonl"), "/no/such.jsonl"),
    (("score", "/no/such/run", "/no/such.jsonl", "."), "is a folder"),
    (("testbed", "pairs", "/dev/null", "--prompts", "100000"), "distinct prompts"),
    (("testbed", "pairs", "/dev/null", "--world", "english", "--prompts", "5000"), "distinct prompts"),
    (("testbed", "pairs", "/dev/null", "--world", "latin"), "--world latin: there is no such world. Use testbed or"),
    (("testbed", "pairs", "/dev/null/x.jsonl"), "Check the path"),
    (("testbed", "pairs", "."), "is a folder"),
    (("testbed", "pairs", "README.md"), "README.md exists. Name another file, or give --overwrite."),
    (("testbed", "pairs", "/dev/full"), "is full. Free some space and call it again."),
    (("run", "testbed", "--set", "evaluation.judge_max_tokens=300"), "No training pair fits model.max_context"),
    (("run", "testbed", "--set", "schedule.cycles=50", "--set", "data.train_prompts=20"), "cannot be split"),
    (("rubric", "/no/such/run", "   "), "the prompt is empty"),
    (("rubric", "/no/such/run", "p", "--concurrency", "4"), "Give --server"),
    (("score", "/no/such/run", "--server", "http://localhost"), "No such option"),
    (("score", "released-8b", "--state", "latest", "--prompt", "p", "--response", "r"), "have one state"),
    (("label", "/no/such/run", "in.jsonl", "out.jsonl", "--if-exists", "maybe"), "'maybe' is not one of"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD_CALLS, ids=lambda value: " ".join(value[:3]) if value else "")
def test_bad_calls_say_what_to_do(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    more = ("--run-dir", str(tmp_path / "run")) if arguments[0] == "run" else ()
    assert said in refused(*arguments, *more)


def test_a_mistake_ends_a_process_with_2() -> None:
    done = process("run", "no-such-recipe")
    assert (done.returncode, done.stdout) == (2, "") and "no-such-recipe" in done.stderr


def test_existing_and_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for choice in ("raise", "resume", "overwrite"):
        refused("run", "testbed", "--run-dir", tmp_path, "--if-exists", choice)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_judging_a_file_refuses_before_it_judges(finished_run: Path, tmp_path: Path) -> None:
    row = {"id": "p7", "prompt": "Write a note", "response_a": "stone", "response_b": "table", "rubric": "be nice"}
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(row) + "\n")
    assert "is a folder" in refused("judge", finished_run, source, tmp_path)
    assert "also the input" in refused("judge", finished_run, source, source)
    assert "pair p7: the given rubric does not parse" in refused("judge", finished_run, source, tmp_path / "out.jsonl")


@pytest.mark.slow
def test_what_was_taken_from_a_run_is_restored_or_named(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    weights = Path("adapters", "judge", "adapter_model.safetensors")
    (folder / weights).unlink()
    assert call("demo", "--run-dir", folder, "--json", *short_sets()).returncode == 0
    assert (folder / weights).read_bytes() == (finished_run / weights).read_bytes()
    for cache in folder.glob("checkpoints/*/cache.json"):
        cache.unlink()
    error = refused("demo", "--run-dir", folder, "--json", *short_sets())
    assert "cache.json" in error and "it is damaged, edited or gone" in error


@pytest.mark.slow
def test_a_run_that_failed_before_its_first_stage_leaves_its_name_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    refused("run", "testbed", "--run-dir", folder, "--set", "model.base=/no/such/folder")
    assert "does not exist" in refused("run", "testbed", "--run-dir", folder, "--set", "model.base=/no/other/folder")


@pytest.mark.slow
def test_another_recipe_is_refused(finished_run: Path) -> None:
    assert "another recipe" in refused("run", "testbed", "--resume", "--run-dir", finished_run, "--set", "seed=99")
    assert "exists" in refused("run", "testbed", "--run-dir", finished_run, *short_sets())


@pytest.mark.slow
def test_ctrl_c_exits_130_and_keeps_what_was_done(tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    process = begin(command, "run", "testbed", "--run-dir", folder, *short_sets(), log=log)
    wait_for((folder / "evaluations" / "base.json").exists, process, log)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    said = log.read_text()
    assert process.exitcode == 130, said
    assert "--resume" in said
    assert "Traceback" not in said
    assert (folder / "state.json").is_file()


@pytest.mark.slow
def test_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rubric_arm_lite.runs import directory as run_dir

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_dir, "atomic_write", full)
    assert "is full" in refused("run", "testbed", "--run-dir", tmp_path / "run")


def test_verdicts_outlive_a_disk_that_fills_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was judged for hours is printed where it cannot be written."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ask, "atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        ask.write_rows([{"id": "a"}], tmp_path / "out.jsonl", "1 pair judged")
    printed = capsys.readouterr()
    assert printed.out == '{"id": "a"}\n' and "printed in place of written" in printed.err


def test_plan() -> None:
    shown = call("plan", "qwen3-8b-12gb", "--gpu-gb", "12", "--tokens-per-second", "300", "--set", "judge.max_steps=10")
    assert "It fits." in shown.stdout and "hours" in shown.stdout
    found = json.loads(call("plan", "qwen3-8b-24gb", "--gpu-gb", "8", "--json").stdout)
    assert found["fits"] is False and found["least_bytes"] > 8 * 2**30
    assert {stage["stage"] for stage in found["stages"]} >= {"warm-up", "judge update", "rubric rollout"}
    assert "does not fit" in call("plan", "qwen3-8b-24gb", "--gpu-gb", "8").stdout
    assert "give the size of a card" in refused("plan", "testbed", "--gpu-gb", "-1")


def break_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a.bin"}}')


def break_quantization(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(fields))


def break_config(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "hidden_size": "wide\x1b[31m"}))


def break_architecture(folder: Path) -> None:
    from benchmarks import architectures

    architectures.write_folder("bert", {"vocab_size": 320, "hidden_size": 32, "num_attention_heads": 4}, folder)


BROKEN_BASES = {
    "safetensors files in the model's own folder": break_index,
    "GPTQ, AWQ or the like": break_quantization,
    "hidden_size": break_config,
    "lets tokens see those after them": break_architecture,
}


@pytest.mark.parametrize("message", BROKEN_BASES)
def test_plan_and_doctor_say_what_loading_would(message: str, tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_folder(), base)
    BROKEN_BASES[message](base)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"extends: testbed.yaml\nname: own\nmodel: {{base: {base}, max_context: 128}}\n")
    error = refused("plan", recipe)
    assert message in error and error == refused("run", recipe, "--run-dir", tmp_path / "run")
    assert "\x1b" not in error
    (row,) = json.loads(call("doctor", recipe, "--json").stdout)["recipes"]
    assert row["fits"] is False and " ".join(f"error: {row['why']}".split()) == error


HOSTILE = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202ereversed"
UNSAFE = ("\x1b", "\x07", "\x9b", "\u202e")


def test_no_text_of_a_model_or_of_data_sends_control_sequences_to_a_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rubric, judgement = parse_rubric(f"1. {HOSTILE} [Hard Rule]"), parse_judgement(HOSTILE, parse_rubric("x"))
    ask.print_verdict(Verdict(rubric, (judgement,), (judgement,)))
    ask.print_score(PointwiseScore(None, (), rubric, HOSTILE, ParseStatus.MALFORMED))
    ask.write_rows([{"text": HOSTILE}], None, "")
    common.print_json({"text": HOSTILE})
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": HOSTILE, "chosen": HOSTILE, "rejected": "b", "source": HOSTILE}) + "\n")
    shown = [capsys.readouterr().out]
    for console in (common.out, common.err):
        with console.capture() as capture:
            table = Table(HOSTILE)
            table.add_row(HOSTILE)
            console.print(HOSTILE, table, markup=False)
            RichProgress(console).result(HOSTILE, HOSTILE)
        shown.append(capture.get())
    for done in (call("data", "check", rows), call("data", "check", rows, "--subset", HOSTILE)):
        shown += [done.stdout, done.stderr]
    assert "red" in "".join(shown) and "\ufffd" in "".join(shown)
    assert not any(character in text for text in shown for character in UNSAFE)


def test_json_means_the_same_with_its_control_characters_escaped() -> None:
    written = json.dumps({"text": HOSTILE, "half": "\ud800"}, ensure_ascii=False)
    assert json.loads(safe_json(written)) == json.loads(written) and safe_json(written).encode()


def test_labeled_pairs_are_told_the_verb_that_takes_them(tmp_path: Path) -> None:
    """Not that `response_a` is missing: the rows are right, the verb is not."""
    source = tmp_path / "pairs.jsonl"
    source.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    for verb, form in (
        ("judge", "response_a and response_b."),
        ("score", "response."),
        ("label", "responses, a list."),
    ):
        told = refused(verb, "testbed", source, tmp_path / "out.jsonl")
        assert f"{source}, line 1: this pair is labeled" in told
        assert "rubric-arm evaluate RUN FILE" in told and told.rstrip().endswith(form)


def test_a_policy_without_its_reward_model_says_what_to_run(tmp_path: Path) -> None:
    for method in ("dpo", "iterdpo", "grpo"):
        assert "rubric-arm demo makes runs/demo" in refused("policy", method, "testbed", folder=tmp_path)


def test_recipes_of_policies_are_shown(tmp_path: Path) -> None:
    shown = call("show-recipe", "policy/testbed", "--set", "dpo.beta=0.3").stdout
    assert yaml.safe_load(shown)["dpo"]["beta"] == 0.3
    file = tmp_path / "policy.yaml"
    file.write_text("extends: testbed.yaml\ndpo: {beta: 0.4}\n")
    assert yaml.safe_load(call("show-recipe", file).stdout)["dpo"]["beta"] == 0.4
    assert "dpo.bta" in refused("show-recipe", "policy/testbed", "--set", "dpo.bta=0.3")
    assert "There is no recipe 'policy/testbet'" in refused("show-recipe", "policy/testbet")


@pytest.mark.parametrize("name", ["testbed", "policy/testbed"])
def test_recipes_are_explained_field_by_field(name: str) -> None:
    shown = call("show-recipe", name, "--explain").stdout
    assert yaml.safe_load(shown) == yaml.safe_load(call("show-recipe", name).stdout)
    if name == "testbed":
        size = "\n  # Completions per prompt: the group size G. [a whole number, at least 1]\n  num_generations: 8\n"
        assert (
            size in shown and "[judge_first, rubric_first, judge_only, rubric_only, simultaneous]\n  order: " in shown
        )
        assert "\n# The base model that both adapters share.\nmodel:\n" in shown
