"""Whole policy runs on the testbed's base: each of the three commands, and what happens when they are killed."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rubric_arm_lite import training
from rubric_arm_lite.cli.main import app, main
from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError, DataError
from rubric_arm_lite.prompts.builder import wording
from rubric_arm_lite.recipe.load import dump_recipe, load_recipe, load_settings, recipe_hash, shipped_recipes
from rubric_arm_lite.recipe.policy import PolicyRecipe
from rubric_arm_lite.report import write_policy_report
from rubric_arm_lite.runs import Progress
from rubric_arm_lite.runs.directory import RunDirectory
from rubric_arm_lite.training.policy.dpo import REASONS
from rubric_arm_lite.training.policy.stages import stages_of
from rubric_arm_lite.training.policy.state import PolicyState, load_requests, start_answers
from rubric_arm_lite.training.run import train_policy
from tests.short_run import rewrite
from tests.warm import begin, kill_when
from tests.warm import command as rubric_arm

SHORT = (
    "data.train_prompts=24",
    "start.sft.max_steps=12",
    "start.sft.save_steps=4",
    "dpo.rounds=2",
    "dpo.max_steps=2",
    "dpo.save_steps=1",
    "policy.max_steps=1",
    "policy.prompts_per_step=3",
    "policy.num_generations=4",
    "policy.num_iterations=1",  # so that the first step's KL is that of the reference to itself
    "rounds=2",
    "checkpoint.save_steps=1",
    "evaluation.prompts=6",
    "evaluation.bootstrap=200",
)
FIRST = ["requests", "start", "rubrics", "evaluate 0"]
COMPARED = ("metrics.jsonl", "adapters/policy/adapter_model.safetensors", "summary.json", "report.html", "report.md")


class Killed(BaseException):
    """What a test raises in the middle of a run."""


class Recorder(Progress):
    """Keeps notes, and names of stages and results; raises at the ``deadly``-th call of :meth:`step`."""

    def __init__(self, deadly: int | None = None) -> None:
        self.notes: list[str] = []
        self.names: list[str] = []
        self._left = deadly

    def stage(self, name: str, steps: int) -> None:
        self.names.append(name)

    def step(self, done: int, values: dict[str, float]) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                raise Killed

    def result(self, name: str, text: str) -> None:
        self.names.append(f"= {name}")

    def note(self, text: str) -> None:
        self.notes.append(text)


def recipe_for(reward: Path, method: str, *more: str) -> PolicyRecipe:
    sets = (*SHORT, f"reward.run={reward}", f"method={method}", *more)
    return load_settings(PolicyRecipe, "testbed", sets)


def execute(recipe: PolicyRecipe, folder: Path, deadly: int | None = None) -> Recorder:
    progress = Recorder(deadly)
    train_policy(recipe, folder, if_exists="resume", progress=progress)
    write_policy_report(folder)
    return progress


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in COMPARED}


def rows_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [row for line in (folder / "metrics.jsonl").open() if (row := json.loads(line))["kind"] == kind]


def command(method: str, reward: Path, folder: Path) -> list[str]:
    sets = [part for value in SHORT for part in ("--set", value)]
    call = ["policy", method, "testbed", "--reward", str(reward), "--run-dir", str(folder)]
    return [*call, "--if-exists", "resume", "--json", *sets]


@pytest.fixture(scope="module")
def online_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of online GRPO, only read by the tests."""
    folder = tmp_path_factory.mktemp("online") / "run"
    execute(recipe_for(finished_run, "grpo"), folder)
    return folder


@pytest.mark.slow
def test_iterdpo_killed_and_resumed_is_identical(finished_run: Path, tmp_path: Path) -> None:
    recipe = recipe_for(finished_run, "iterdpo")
    execute(recipe, tmp_path / "whole")
    folder = tmp_path / "killed"
    process = begin(rubric_arm, *command("iterdpo", finished_run, folder), log=tmp_path / "log")
    kill_when((folder / "rounds" / "1" / "samples.jsonl").exists, process, tmp_path / "log")
    with pytest.raises(Killed):
        execute(recipe, folder, 3)  # in the trainer of a round
    execute(recipe, folder)
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")
    assert [row["name"] for row in rows_of(folder, "evaluation")] == ["start", "round 1", "round 2"]
    assert not list(folder.glob("trainer-*"))


@pytest.mark.slow
def test_online_grpo_that_dies_ends_as_one_that_does_not(online_run: Path, finished_run: Path, tmp_path: Path) -> None:
    recipe = recipe_for(finished_run, "grpo")
    for moment in (2, 3):  # in the start, and after a step of the first round
        with pytest.raises(Killed):
            execute(recipe, tmp_path / "killed", moment)
    execute(recipe, tmp_path / "killed")
    assert bytes_of(tmp_path / "killed") == bytes_of(online_run)
    evaluations = rows_of(online_run, "evaluation")
    assert evaluations[0]["independent/win_rate"] == evaluations[0]["trained/win_rate"] == 0.5
    assert abs(evaluations[0]["kl"]) < 1e-4 < abs(evaluations[-1]["kl"])
    steps = rows_of(online_run, "step")
    assert [(row["round"], row["step"]) for row in steps] == [(1, 0), (2, 0)]
    assert steps[0]["kl"] < 0.01, "the reference is the start, but for the adapter's dropout"


@pytest.mark.slow
def test_dpo_by_its_command(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = CliRunner().invoke(app, command("dpo", finished_run, folder), catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["method"] == "dpo" and found["name"] == "round 1" and found["alarms"] == []
    page = Path(found["report"]).read_text("utf-8")
    assert page.count("<svg") == 4 and "Round 1:" in page and "<script" not in page
    assert "| round 1 |" in (folder / "report.md").read_text("utf-8")
    labels = rows_of(folder, "labels")[0]
    assert sum(labels[reason] for reason in REASONS) == 24
    logged = rows_of(folder, "dpo")
    assert list(logged[0]) == ["kind", "round", "step", "loss", "rewards/margins", "rewards/accuracies"]
    assert [row["step"] for row in logged] == [1, 2] and logged[0]["loss"] > 0
    assert [row["step"] for row in rows_of(folder, "start")] == [2, 4, 6, 8, 10, 12]


@pytest.mark.slow
def test_a_run_belongs_to_its_reward_model_and_requests(online_run: Path, finished_run: Path, tmp_path: Path) -> None:
    recipe, folder = recipe_for(finished_run, "grpo"), tmp_path / "run"
    shutil.copytree(online_run, folder)
    assert execute(recipe, folder).names == [], "a finished run is left alone"
    described = json.loads((folder / "data.json").read_text())
    rewrite(folder, "data.json", json.dumps({**described, "reward_model": {}}))
    with pytest.raises(CheckpointError, match="is not the run of a policy"):
        write_policy_report(finished_run)
    with pytest.raises(CheckpointError, match=r"another reward model or judge \(reward_model changed\)"):
        execute(recipe, folder)
    rewrite(folder, "data.json", json.dumps({**described, "reward_settings": "others"}))
    with pytest.raises(CheckpointError, match=r"\(reward_settings changed\)\. .* with --if-exists overwrite"):
        execute(recipe, folder)


@pytest.mark.slow
def test_own_prompts_another_base_and_a_second_run_as_judge(
    finished_run: Path, tiny_folder: Any, tmp_path: Path
) -> None:
    asked = [(topic, word) for topic in ("gardens", "rivers", "trains", "kitchens") for word in ("zinc", "silk")]
    prompts = [{"prompt": f"Write a note about {topic} for pilots. Avoid the word {word}."} for topic, word in asked]
    turns = [{"role": role, "content": "gardens"} for role in ("user", "assistant", "user")]
    rows = [*prompts, prompts[0], {"prompt": turns}, {"prompt": "stone " * 120}]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_for(
        finished_run,
        "grpo",
        f"data.source={file}",
        "data.test_fraction=0.4",
        "start.source=null",
        f"model={{base: {tiny_folder('llama')}, dtype: float32, max_context: 128, lora: {{r: 4, alpha: 8}}}}",
        f"evaluation.judge={finished_run}",
        "evaluation.judge_state=warm-up",
        "rounds=1",
    )
    progress = execute(recipe, tmp_path / "run")
    assert progress.notes[:3] == [
        f"{file}: 11 rows read, 10 prompts kept; skipped: 1 with the prompt of an earlier row.",
        "1 conversations were skipped: single requests only.",
        "1 requests do not fit the context with an answer or a rubric and were skipped.",
    ]
    last = rows_of(tmp_path / "run", "evaluation")[-1]
    assert "independent/win_rate" in last and "score" not in last
    saved = json.loads((tmp_path / "run" / "adapters" / "policy" / "adapter_config.json").read_text())
    assert saved["r"] == 4
    before = json.loads((tmp_path / "run" / "data.json").read_text())
    other = {**before, "independent_judge": {**before["independent_judge"], "judge": "0"}}
    rewrite(tmp_path / "run", "data.json", json.dumps(other))
    with pytest.raises(CheckpointError, match=r"\(independent_judge changed\)"):
        execute(recipe, tmp_path / "run")


def test_every_shipped_policy_recipe_loads_and_is_written_back(tmp_path: Path) -> None:
    recipes = shipped_recipes(PolicyRecipe)
    assert list(recipes) == ["qwen2.5-7b", "qwen3-8b-shared", "testbed"]
    paths = set(recipes.values())
    assert not paths & set(shipped_recipes().values())
    for path in paths:
        recipe = load_settings(PolicyRecipe, str(path))
        (tmp_path / path.name).write_text(dump_recipe(recipe))
        assert load_settings(PolicyRecipe, str(tmp_path / path.name)) == recipe
    with pytest.raises(ConfigError, match=r"the name of a shipped recipe: qwen2\.5-7b, qwen3-8b-shared, testbed"):
        load_settings(PolicyRecipe, "demo")


def test_stages() -> None:
    assert stages_of(PolicyRecipe(method="grpo")) == [*FIRST, "train", "final"]
    assert stages_of(PolicyRecipe(method="dpo"))[4:] == ["sample 1", "label 1", "train 1", "evaluate 1", "final"]
    assert len(stages_of(PolicyRecipe(method="iterdpo"))) == 4 + 3 * 4 + 1


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["data.source=p.jsonl"], "start.source: testbed has responses to the testbed's prompts only"),
        (
            ["data.source=p.jsonl", "start.source=null"],
            "evaluation.judge: oracle knows the prompts of",
        ),
        (["dpo.bta=0.2"], "Did you mean `dpo.beta`?"),
        (["model={max_context: 16}"], "leaves no room for a prompt"),
        (
            ["answers.max_completion_length=128", "model={max_context: 128}"],
            "answers.max_completion_length: 128 leaves",
        ),
        (
            ["method=grpo", "policy.max_completion_length=128", "model={max_context: 128}"],
            "leaves no room for a prompt",
        ),
        (["method=ppo"], "Allowed: dpo, iterdpo, grpo"),
        (["data.evaluation=p.jsonl"], "p.jsonl' is not used with data.source: testbed"),
    ],
)
def test_mistakes_in_a_policy_recipe(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(PolicyRecipe, "testbed", sets)
    assert message in str(caught.value)


def test_room_is_kept_for_the_answers_that_the_method_writes(tmp_path: Path, finished_run: Path) -> None:
    """With the policy on the reward model's base its context is not in the policy's recipe."""
    assert recipe_for(finished_run, "dpo", "policy.max_completion_length=512").longest_answer == 16
    assert recipe_for(finished_run, "grpo", "policy.max_completion_length=512").longest_answer == 512
    recipe = recipe_for(finished_run, "dpo", "answers.max_completion_length=256")
    with pytest.raises(ConfigError, match=r"256 leaves no room for a prompt in model\.max_context \(256\)"):
        execute(recipe, tmp_path / "run")


@pytest.mark.slow
def test_a_start_that_was_killed_does_not_go_on_with_other_answers(tmp_path: Path, finished_run: Path) -> None:
    asked = [(topic, word) for topic in ("gardens", "rivers", "trains", "kitchens") for word in ("zinc", "silk")]
    texts = [f"Write a note about {topic} for pilots. Avoid the word {word}." for topic, word in asked]
    prompts, answers = tmp_path / "p.jsonl", tmp_path / "a.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    answers.write_text("".join(json.dumps({"prompt": text, "response": "stone table"}) + "\n" for text in texts))
    sets = (f"data.source={prompts}", "data.test_fraction=0.4", f"start.source={answers}", "evaluation.judge=null")
    recipe = recipe_for(finished_run, "dpo", *sets)
    with pytest.raises(Killed):
        execute(recipe, tmp_path / "run", deadly=2)
    whole = answers.read_text()
    answers.write_text(whole.replace("stone table", "window"))
    with pytest.raises(CheckpointError, match=r"\(start_answers changed\)"):
        execute(recipe, tmp_path / "run")
    answers.write_text(whole)
    with pytest.raises(Killed):
        execute(recipe, tmp_path / "run", deadly=1)


def test_a_reward_model_that_is_not_there(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path / "nowhere", "dpo")
    with pytest.raises(CheckpointError, match="is not a run directory"):
        execute(recipe, tmp_path / "run")
    with pytest.raises(CheckpointError, match="Make one with rubric-arm run"):
        CliRunner().invoke(app, command("dpo", tmp_path / "nowhere", tmp_path / "r"), catch_exceptions=False)
    policy_run = tmp_path / "policy"
    policy_run.mkdir()
    (policy_run / "recipe.yaml").write_text(dump_recipe(recipe))
    with pytest.raises(CheckpointError, match=r"is the run of a policy, .* Use its reward model, .*nowhere"):
        execute(recipe_for(policy_run, "dpo"), tmp_path / "run")
    with pytest.raises(ConfigError, match="--if-exists maybe: use raise, resume or overwrite"):
        train_policy("testbed", if_exists="maybe")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="is not a run directory"):
        write_policy_report(tmp_path)


@pytest.mark.parametrize("method", ["dpo", "iterdpo", "grpo"])
def test_an_interrupted_command_says_how_to_continue(
    method: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_policy", interrupted, raising=False)
    monkeypatch.setattr("sys.argv", ["rubric-arm", "policy", method, "testbed"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert "Interrupted. What was committed is kept; continue with --resume." in capsys.readouterr().err


@pytest.mark.parametrize("field", ["data.train_prompts", "evaluation.prompts"])
def test_more_prompts_than_the_world_has(field: str, tmp_path: Path, finished_run: Path) -> None:
    recipe = recipe_for(finished_run, "dpo", f"{field}=9999")
    with pytest.raises(
        ConfigError, match=r"The \w+ split has \d+ distinct prompts, 9999 were requested\. Ask for fewer"
    ):
        execute(recipe, tmp_path / "run")


def test_what_could_only_fail_late_is_refused_at_once(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the start is trained and rubrics are written, which takes hours with a large model."""
    arrow = tmp_path / "arrow"
    arrow.mkdir()
    (arrow / "recipe.yaml").write_text(dump_recipe(load_recipe("arrow-testbed")))
    cases: list[tuple[Path, str, type[Exception], str]] = [
        (arrow, "name=x", ConfigError, f"{arrow}: reward.judge: pointwise"),
        (finished_run, f"evaluation.judge={arrow}", ConfigError, f"{arrow}: reward.judge: pointwise"),
        (finished_run, f"evaluation.judge={tmp_path}", CheckpointError, "is not a run directory"),
        (finished_run, f"evaluation.judge={finished_run}", ConfigError, "is the reward model itself"),
        (finished_run, "rounds=25", ConfigError, "data.train_prompts: 24 cannot be split into rounds: 25 parts"),
    ]
    for reward, given, kind, said in cases:
        with pytest.raises(kind, match=re.escape(said)):
            execute(recipe_for(reward, "grpo", given), tmp_path / "run")
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    for method, section in (("grpo", "policy"), ("dpo", "dpo"), ("dpo", "start.sft")):
        with pytest.raises(BackendError, match="needs bitsandbytes"):
            execute(recipe_for(finished_run, method, f"{section}.optim=adamw_8bit"), tmp_path / method)
    assert not json.loads((tmp_path / "run" / "state.json").read_text())["stages"]


def test_a_run_does_not_overwrite_what_it_reads(tmp_path: Path, finished_run: Path) -> None:
    before = sorted(finished_run.rglob("*"))
    for place, more in (
        (finished_run, []),
        (tmp_path, ["--set", f"start.adapter={tmp_path / 'adapters' / 'policy'}"]),
        (tmp_path, ["--set", f"data.source={tmp_path / 'p.jsonl'}", "--set", "start.source=null"]),
    ):
        call = [*command("dpo", finished_run, place), *more, "--if-exists", "overwrite"]
        with pytest.raises(ConfigError, match="which this run reads") as caught:
            CliRunner().invoke(app, [*call, "--set", "evaluation.judge=null"], catch_exceptions=False)
        assert "Choose another --run-dir" in str(caught.value)
    assert sorted(finished_run.rglob("*")) == before


def test_requests_out_of_preference_data(tmp_path: Path, finished_run: Path) -> None:
    """Prompts of a published format, of described columns, and of another file that is held out."""
    texts = [
        f"Write a note about {topic} for pilots. Avoid the word zinc." for topic in ("gardens", "rivers", "trains")
    ]
    pairs = [{"input": text, "output_1": "a", "output_2": "a", "label": 0} for text in texts]
    held_out = [{"chosen": [{"role": "user", "content": texts[0].upper()}, {"role": "assistant", "content": "a"}]}]
    held_out[0]["rejected"] = [held_out[0]["chosen"][0], {"role": "assistant", "content": "b"}]
    for name, rows in (("pairs", pairs), ("held", held_out)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = f"data.evaluation={tmp_path / 'held.jsonl'}"
    for choice in ("data.format=auto", "data.columns={prompt: input}"):
        sets = (f"data.source={tmp_path / 'pairs.jsonl'}", choice, "start.source=null", "evaluation.judge=null")
        requests = load_requests(recipe_for(finished_run, "dpo", *sets, held), None, lambda text: True)
        assert {request.text for request in requests.train} == set(texts[1:])
        assert [request.text for request in requests.test] == [texts[0].upper()]
        assert [counts.kept for counts in requests.sources] == [3, 1]


def test_requests_too_long_for_the_generator_are_left_out(tmp_path: Path, finished_run: Path) -> None:
    """The policy's own context is wider than the reward model's."""
    file = tmp_path / "p.jsonl"
    asked = [(topic, word) for topic in ("gardens", "rivers", "trains", "kitchens") for word in ("zinc", "silk")]
    texts = [f"Write a note about {topic} for pilots. Avoid the word {word}." for topic, word in asked]
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in (*texts, "stone " * 230)))
    sets = (f"data.source={file}", "data.test_fraction=0.4", "start.source=null", "evaluation.judge=null")
    wide = ("model={base: testbed, dtype: float32, max_context: 400}", "data.train_prompts=null")
    recipe = recipe_for(finished_run, "dpo", *sets, *wide)
    directory = RunDirectory.open(tmp_path / "run", dump_recipe(recipe), recipe_hash(recipe))
    state = PolicyState(recipe, directory, Progress())
    directory.close()
    assert {r.text for r in (*state.requests.train, *state.requests.test)} == set(texts)
    assert state.requests.too_long == 1


def test_the_start_does_not_imitate_answers_to_held_out_requests(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"request {i}", "response": f"answer {i}"}) + "\n" for i in range(3)))
    sets = ["data.source=p.jsonl", "evaluation.judge=null", f"start.source={file}"]
    recipe = load_settings(PolicyRecipe, "testbed", sets)
    held_out = {wording("Request 1!")}
    assert start_answers(recipe, None, held_out) == [(f"request {i}", f"answer {i}") for i in (0, 2)]
    with pytest.raises(DataError, match="every row is a conversation, or answers a held-out request"):
        start_answers(recipe, None, {wording(f"request {i}") for i in range(3)})


def test_rubrics_that_are_gone(online_run: Path, finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(online_run, folder)
    state = json.loads((folder / "state.json").read_text())
    state["stages"].remove("final")
    (folder / "state.json").write_text(json.dumps(state))
    recipe = recipe_for(finished_run, "grpo")
    directory = RunDirectory.open(folder, dump_recipe(recipe), recipe_hash(recipe), "resume")
    lines = (folder / "rubrics.jsonl").read_text().splitlines(keepends=True)
    for kept in ("", lines[0], lines[0] + '{"key": "from 0", "rubrics": [1]}\n', lines[0] + "?\n"):
        (folder / "rubrics.jsonl").write_text(kept)
        with pytest.raises(CheckpointError, match=r"rubrics\.jsonl.*[Rr]estore it"):
            _ = PolicyState(recipe, directory, Progress()).judge
    directory.close()


def test_prompts_that_are_all_conversations(tmp_path: Path, finished_run: Path) -> None:
    file = tmp_path / "p.jsonl"
    turns = [{"role": role, "content": "gardens"} for role in ("user", "assistant")]
    rows = [{"prompt": [*turns, {"role": "user", "content": word}]} for word in ("zinc", "silk", "raven")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_for(finished_run, "dpo", f"data.source={file}", "start.source=null", "evaluation.judge=null")
    with pytest.raises(DataError, match=r"No training request of .* is a single text"):
        execute(recipe, tmp_path / "run")
