"""A run as one screen, whether or not another process is writing it: stage, time left, curves, alarms, newest texts.

A run directory goes in and is only read, without its lock or its hashes; a panel of rich comes out, for a terminal or a
notebook. Texts of models and data are shown as they are, without control characters.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.evaluation.metrics import evaluation_caveats
from rubric_arm_lite.recipe import PolicyRecipe, Recipe, load_settings
from rubric_arm_lite.report.panels import thinned
from rubric_arm_lite.report.read import STAGE_NAMES, parts_of, read_file, read_metrics, safe_text
from rubric_arm_lite.runs import METRICS, RECIPE, STATE, LogRow, RunState, read_jsonl, read_state
from rubric_arm_lite.training.alarms import ALARM, alarm_texts
from rubric_arm_lite.training.schedule import ScheduledPhase, part_of_data, scheduled_phases, steps_in_phase
from rubric_arm_lite.training.trackers import curves
from rubric_arm_lite.training.tripwire import SET_BACK, return_text

_CURVES = {
    "evaluation/accuracy": ("accuracy", "green"),
    "evaluation/trained/win_rate": ("win rate, reward model", "green"),
    "evaluation/independent/win_rate": ("win rate, independent", "cyan"),
    "warmup/rubric/loss": ("warm-up loss, rubric", "dark_orange"),
    "warmup/judge/loss": ("warm-up loss, judge", "blue"),
    "start/loss": ("loss of the start", "blue"),
    "dpo/loss": ("DPO loss", "blue"),
    "judge/reward": ("reward, judge", "blue"),
    "rubric/reward": ("reward, rubric", "dark_orange"),
    "policy/reward": ("reward, policy", "blue"),
    "judge/entropy": ("entropy, judge", "blue"),
    "rubric/entropy": ("entropy, rubric", "dark_orange"),
    "policy/entropy": ("entropy, policy", "blue"),
}
"""Curves by the names that trackers use: title and color."""
STAGE_ROLES = {"warmup-rubric": "rubric", "warmup-judge": "judge"}
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
"""Characters of a curve."""
_TAIL = 4 * 2**20
"""Bytes at the end of the rollout log in which the newest texts are looked for."""
_MARKED = re.compile(r"\[[^\]\n]{1,40}\]|Winner:.*|Response [AB]\b")
"""What stands out in a rubric or judgement."""


def live_view(run: str | Path) -> Panel:
    """What is known of a run now, of a reward model or a policy.

    Raises:
        CheckpointError: if the folder is no run directory, or a file in it is damaged.
    """
    run = Path(run)
    recipe, state = _recipe(run), read_state(run / STATE) if (run / STATE).exists() else RunState("")
    data = read_file(run / "data.json") if (run / "data.json").exists() else LogRow("", {})
    by_kind = read_metrics(run)
    phases, stages = phases_of(recipe, data), _stages(recipe, state)
    parts: list[RenderableType] = [_stage_line(stages)]
    if (current := next((name for name, done in stages.items() if not done), None)) is not None:
        parts.append(_progress(run, recipe, state, by_kind, current, phases))
    parts += [_curve_table(by_kind), *_reward_parts(by_kind)]
    parts += [Text(f"! {alarm}", style="bold red") for alarm in _alarms(recipe, by_kind)]
    for title, text, color in _newest_texts(run):
        shown = Text(safe_text(_excerpt(text)))
        shown.highlight_regex(_MARKED, style=f"bold {color}")
        parts.append(Panel(shown, title=Text(title), title_align="left", border_style=color))
    return Panel(Group(*parts), title=Text(safe_text(f"{recipe.name} · {run}")), title_align="left")


def is_finished(run: str | Path) -> bool:
    """Whether the last stage of a run is committed."""
    file = Path(run) / STATE
    return file.exists() and "final" in read_state(file).stages


def duration(seconds: float) -> str:
    """A time for people: ``40 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """A curve in one line, from the lowest to the highest value; more values than ``width`` are averaged."""
    means = [y for _, y in thinned(list(enumerate(values)), width)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = high - low or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int((y - low) / span * len(_BARS)))] for y in means)


def _recipe(run: Path) -> Recipe | PolicyRecipe:
    """The recipe of either kind of run; the file is not compared with its hash, as the run may be starting."""
    if not (run / RECIPE).is_file():
        raise CheckpointError(f"{run} is not a run directory: it has no {RECIPE}. Name one, such as runs/testbed.")
    try:
        return load_settings(Recipe, run / RECIPE, check_names=False)
    except ConfigError:
        with suppress(ConfigError):
            return load_settings(PolicyRecipe, run / RECIPE, check_names=False)
        raise


def phases_of(recipe: Recipe | PolicyRecipe, data: Mapping[str, Any]) -> list[tuple[ScheduledPhase, int]]:
    """The phases of GRPO with their steps, as far as the data have been counted."""
    prompts = int(data.get("train_prompts", data.get("train_requests", 0)))
    if isinstance(recipe, Recipe):
        phases = scheduled_phases(recipe.schedule)
    else:
        phases = [ScheduledPhase(i, i, recipe.roles) for i in range(recipe.rounds if recipe.method == "grpo" else 0)]
    if not phases or prompts < (cycles := phases[-1].cycle + 1):
        return []
    counted: Any = range(prompts)
    shares = {p.index: part_of_data(counted, p.cycle, cycles, p.split) for p in phases}
    return [(p, max(steps_in_phase(shares[p.index], recipe.grpo(role)) for role in p.roles)) for p in phases]


def _stages(recipe: Recipe | PolicyRecipe, state: RunState) -> dict[str, bool]:
    """The stages of a run, with the phases inside them, and whether each is done."""
    stages: dict[str, bool] = {}
    if isinstance(recipe, PolicyRecipe):
        from rubric_arm_lite.training.policy.stages import stages_of

        for name in stages_of(recipe):
            inside = [f"round {k + 1}" for k in range(recipe.rounds)] if name == "train" else [name]
            done = name in state.stages
            stages |= {part: done or (name == "train" and state.position[0] > k) for k, part in enumerate(inside)}
        return stages
    return parts_of(recipe, state, {stage: stage for stage in STAGE_NAMES})


def _stage_line(stages: Mapping[str, bool]) -> Text:
    line, current = Text(), next((name for name, done in stages.items() if not done), None)
    for name, done in stages.items():
        mark, style = ("✓", "green") if done else ("▶", "bold yellow") if name == current else ("·", "dim")
        line.append(f"{mark} {name}  ", style=style)
    return line


def _progress(
    run: Path,
    recipe: Recipe | PolicyRecipe,
    state: RunState,
    by_kind: Mapping[str, list[LogRow]],
    current: str,
    phases: Sequence[tuple[ScheduledPhase, int]],
) -> Text:
    """Where the current stage stands, and about how long it and the rest of the schedule take."""
    slot = state.position[0]
    remaining = phases[slot:] if current in _labels(recipe, phases) else []
    done, total = _trainer_progress(run, by_kind, current)
    if remaining:
        done, total = _steps_done(by_kind["step"], slot), remaining[0][1]
    # A stage begins when the one before has logged its time, or its evaluation has been written.
    files = [run / "timings.jsonl", run / "data.json", *(run / "evaluations").glob("*.json")]
    began, logged = (max((f.stat().st_mtime for f in of if f.exists()), default=0.0) for of in (files, [run / METRICS]))
    pace = (logged - began) / done if done and logged > began else None
    text = Text(current, style="bold")
    if done or total:
        text.append(f"  step {done}{f' of {total}' if total else ''}")
    times = list(read_jsonl(run / "timings.jsonl"))
    paces = {phase.roles: pace for phase, _ in remaining[:1] if pace is not None}
    for phase, _ in phases[:slot]:
        if count := _steps_done(by_kind["step"], phase.index):
            seconds = sum(float(row["seconds"]) for row in times if row["stage"] == phase.label)
            paces |= {phase.roles: seconds / count} if seconds else {}
    if remaining:
        pace = paces.get(remaining[0][0].roles)
    if pace is not None and total is not None:
        text.append(f"  about {duration(pace * max(0, total - done))} left", style="cyan")
    if len(remaining) > 1 and all(phase.roles in paces for phase, _ in remaining):
        evaluations = [float(row["seconds"]) for row in times if str(row["stage"]).startswith("evaluate ")]
        rest = sum(paces[phase.roles] * steps for phase, steps in remaining) - paces[remaining[0][0].roles] * done
        rest += sum(evaluations) / max(1, len(evaluations)) * len(remaining)
        text.append(f", {duration(rest)} in the schedule", style="cyan")
    if logged:
        text.append(f"  last row {duration(max(0.0, time.time() - logged))} ago", style="dim")
    return text


def _labels(recipe: Recipe | PolicyRecipe, phases: Sequence[tuple[ScheduledPhase, int]]) -> list[str]:
    """The names of the phases among the stages."""
    return [phase.label if isinstance(recipe, Recipe) else f"round {phase.cycle + 1}" for phase, _ in phases]


def _steps_done(steps: Sequence[LogRow], slot: int) -> int:
    """The steps of a phase, or of a policy's round, that are logged."""
    places = ((row.get("slot", int(row.get("round", 0)) - 1), int(row["step"]) + 1) for row in steps)
    return max((step for where, step in places if where == slot), default=0)


def _trainer_progress(run: Path, by_kind: Mapping[str, list[LogRow]], stage: str) -> tuple[int, int | None]:
    """The last step that a stage of SFT or DPO has logged, and all its steps once the trainer has saved them."""
    role = STAGE_ROLES.get(stage)
    rows = [row for row in by_kind["warmup"] if row["role"] == role]
    rows += by_kind["start"] if stage == "start" else []
    rows += [row for row in by_kind["dpo"] if stage == f"train {row['round']}"]
    folder = run / "warmup" / role if role else run / f"trainer-{stage.replace(' ', '-')}"
    total = None
    for file in sorted(folder.rglob("trainer_state.json"), key=lambda file: file.stat().st_mtime)[-1:]:
        with suppress(OSError, ValueError, KeyError, TypeError):  # it may be half written
            total = int(json.loads(file.read_text("utf-8"))["max_steps"])
    done = int(rows[-1]["step"]) if rows else 0
    return done, total if total is None or done <= total else None  # a repeated warm-up counts on


def _curve_table(by_kind: Mapping[str, list[LogRow]]) -> Table:
    """One line per curve that has a value."""
    series = _series(by_kind)
    table = Table.grid(padding=(0, 1))
    for name, (title, color) in _CURVES.items():
        if values := series.get(name):
            ends = f"{values[0]:.3f} → {values[-1]:.3f}" if len(values) > 1 else f"{values[-1]:.3f}"
            table.add_row(Text(title, style=color), Text(sparkline(values), style=color), Text(ends))
    return table


def _reward_parts(by_kind: Mapping[str, list[LogRow]]) -> list[Text]:
    """The parts of each role's reward in its last step."""
    lines = []
    for role, row in {str(row.get("role", "policy")): row for row in by_kind["step"]}.items():
        parts = [f"{name.split('/', 1)[1]} {row[name]:.2f}" for name in row if name.startswith("reward/")]
        if parts:
            lines.append(Text(f"reward of the {role} in its last step: {'  '.join(parts)}", style="dim"))
    return lines


def _series(by_kind: Mapping[str, list[LogRow]]) -> dict[str, list[float]]:
    """All values of every curve, by its name in trackers."""
    series: dict[str, list[float]] = defaultdict(list)
    for rows in by_kind.values():
        for row in rows:
            for name, value in curves(row).items():
                series[name].append(value)
    return series


def _alarms(recipe: Recipe | PolicyRecipe, by_kind: Mapping[str, list[LogRow]]) -> list[str]:
    """What went wrong, or makes the numbers mean less than they seem to."""
    evaluations = by_kind["evaluation"]
    if isinstance(recipe, PolicyRecipe):
        if not any("independent/win_rate" in row for row in evaluations):
            return []
        from rubric_arm_lite.training.policy.evaluate import alarms

        return [alarm.text() for alarm in alarms(evaluations, recipe.evaluation.alarm_margin)]
    last = evaluation_caveats(evaluations[-1], recipe.evaluation.unparsed_value) if evaluations else []
    return [*(return_text(row) for row in by_kind[SET_BACK]), *alarm_texts(by_kind[ALARM]), *last]


def _newest_texts(run: Path) -> list[tuple[str, str, str]]:
    """Title, text and color of the newest rubric and judgement, or of the policy's newest answer."""
    texts: dict[str, tuple[str, str]] = {}
    examples = sorted((run / "evaluations").glob("*.json"), key=lambda file: file.stat().st_mtime)[-1:]
    for file in examples:
        evaluation = read_file(file)
        for item in evaluation.get("showcase", [])[:1]:
            texts["rubric"] = f"rubric after {evaluation['name']}", str(item["rubric"])
            texts["judge"] = f"judgement after {evaluation['name']}", str(item["judgement"])
        for item in evaluation.get("rows", [])[:1]:
            if "answer" in item:
                texts["policy"] = f"answer after {evaluation['name']}", str(item["answer"])
    names = {"rubric": "newest rubric", "judge": "newest judgement", "policy": "newest answer"}
    for role, row in _newest_rollouts(run / "rollouts.jsonl").items():
        best = max(row["samples"], key=lambda sample: float(sample["reward"]))
        texts[role] = (
            f"{names[role]}, {row['phase']}, step {row['step'] + 1}, reward {best['reward']:.2f}",
            best["text"],
        )
    colors = {"rubric": "dark_orange", "judge": "blue", "policy": "blue"}
    return [(safe_text(texts[role][0]), texts[role][1], color) for role, color in colors.items() if role in texts]


def _newest_rollouts(file: Path) -> dict[str, dict[str, Any]]:
    """The last row of each role near the end of the log of rollouts, without reading all of it."""
    if not file.exists():
        return {}
    with file.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - _TAIL))
        lines = log.read().split(b"\n")[1 if size > _TAIL else 0 : -1]  # the last line may be half written
    rows: dict[str, dict[str, Any]] = {}
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            if row["samples"]:
                rows[str(row["role"])] = row
    return rows


def _excerpt(text: str, lines: int = 6) -> str:
    """The first lines of a text, and its last one."""
    parts = [line[:300] for line in text.strip().splitlines()]
    return "\n".join(parts if len(parts) <= lines else [*parts[: lines - 2], "…", parts[-1]])
