"""The time of a run, measured beforehand: one step of each kind on this machine, at the lengths of the warm-up's texts.

Input: a recipe. Output: seconds by stage and the peak memory. Nothing is kept. An adapter that has learned nothing does
not know where a text ends, so samples are cut at the mean length of the warm-up's completions, and a warm-up text
stands in for each: rewards are then computed from rubrics and judgements of the usual form.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.evaluation import make_evaluator
from rubric_arm_lite.evaluation.metrics import mean
from rubric_arm_lite.models import Sampler, Sampling
from rubric_arm_lite.models.memory import peak_bytes
from rubric_arm_lite.models.sampler import SamplerWrapper
from rubric_arm_lite.recipe import Recipe, dump_recipe, recipe_hash
from rubric_arm_lite.reward_model import RubricCache, RubricGenerator
from rubric_arm_lite.runs import Progress, RunDirectory
from rubric_arm_lite.training.advantages import GroupAdvantages
from rubric_arm_lite.training.alternating import rollout_step
from rubric_arm_lite.training.phases import make_phases
from rubric_arm_lite.training.plan import evaluation_tokens, length_of
from rubric_arm_lite.training.schedule import part_of_data, scheduled_phases, steps_in_phase
from rubric_arm_lite.training.state import TrainingState
from rubric_arm_lite.training.warmup import role_examples, update_count, warm_up_role
from rubric_arm_lite.types import ROLES, Example, Role, RolloutGroup

WARMUP_STEPS = 4
"""Updates of a warm-up that are timed, after a first one."""
SECONDS = 60.0
"""Time for a step or an evaluation: of a longer one so many prompts are timed as fit into it."""


@dataclass(frozen=True, slots=True)
class MeasuredTime:
    """Seconds that a run takes by stage, extrapolated from steps that were timed, and the peak memory of these steps.

    Every group of a timed step carries a gradient and every judgement is new, so a phase takes less where groups carry
    none, or where the frozen judge meets a rubric again.
    """

    seconds: dict[str, float]
    peak_bytes: int


class WarmupTexts(SamplerWrapper):
    """Samples for their cost: as many tokens as a warm-up text has on average, with such a text in their place."""

    def __init__(self, sampler: Sampler, texts: dict[Role, list[str]], lengths: dict[Role, int]) -> None:
        super().__init__(sampler)
        self._lengths = lengths
        self._texts = {role: cycle(written) for role, written in texts.items()}

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """See :class:`~rubric_arm_lite.models.Sampler`."""
        role: Role = "judge" if adapter in ("judge", "judge_ref") else "rubric"
        limited = replace(sampling, max_tokens=min(sampling.max_tokens, self._lengths[role]))
        texts = self._texts[role]
        return [
            replace(group, samples=tuple(replace(s, text=next(texts), finish_reason="stop") for s in group.samples))
            for group in self._sampler.sample(adapter, examples, limited)
        ]


def measure_run(recipe: Recipe, progress: Progress | None = None) -> MeasuredTime:
    """Time a step of every stage of a recipe on this machine, and extrapolate to the whole run.

    Raises:
        ConfigError: if the recipe trains nothing, or has no warm-up texts.
        BackendError: if the base cannot be loaded.
        DataError: if a source cannot be read, or no pair fits the context.
    """
    progress = progress or Progress()
    if recipe.model.checkpoints is not None or recipe.warmup.source is None:
        raise ConfigError(
            "--measure times the training of adapters at the lengths of warm-up texts, and this recipe has none. Give "
            "warmup.source."
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(RunDirectory.open(folder / "run", dump_recipe(recipe), recipe_hash(recipe))) as directory:
            state = TrainingState(recipe, directory, progress)
            examples = {role: role_examples(state.warmup_rows, role, state.model, state.prompts)[0] for role in ROLES}
            seconds = _warmups_and_phases(state, examples, folder)
    return MeasuredTime(seconds, peak_bytes(state.model.model.device))


_Examples = dict[Role, list[tuple[list[int], list[int]]]]


def _warmups_and_phases(state: TrainingState, examples: _Examples, folder: Path) -> dict[str, float]:
    """Seconds by stage, in the order of a run. Phases are timed first: their adapters must not know an end yet."""
    recipe, model = state.recipe, state.model
    model.freeze_references()
    texts = {role: [model.tokenizer.decode(c[:-1]) for _, c in examples[role]] for role in ROLES}
    lengths = {role: round(mean([len(completion) for _, completion in examples[role]])) for role in ROLES}
    sampler = WarmupTexts(state.sampler, texts, lengths)
    generator = RubricGenerator(sampler, state.prompts, RubricCache(recipe.cache.capacity))
    trained = {role for phase in scheduled_phases(recipe.schedule) for role in phase.roles}
    steps = {role: _step_seconds(state, generator, role) for role in ROLES if role in trained}
    phases = {}
    for phase in (schedule := scheduled_phases(recipe.schedule)):
        part = part_of_data(state.data.train, phase.cycle, schedule[-1].cycle + 1, phase.split)
        phases[phase.label] = sum(steps_in_phase(part, recipe.grpo(role)) * steps[role] for role in phase.roles)

    state.progress.stage("an evaluation", 1)
    given = recipe.evaluation.model_copy(update={"vote_pairs": recipe.evaluation.pairs, "probes": 0})

    def evaluate(count: int) -> None:
        settings = given.model_copy(update={"pairs": count})
        make_evaluator(recipe, generator, settings, state.data.test).evaluate("measured")

    pairs = min(given.pairs, len(state.data.test))
    tokens = pairs * (given.rubric_max_tokens + 4 * given.judge_max_tokens)  # two orders, greedy and sampled
    every = sum(evaluation_tokens(recipe, length_of(recipe)).values())
    evaluations = _seconds_of(pairs, evaluate) * every / tokens
    warmups = {f"warm-up {role}": _warmup_seconds(state, role, examples[role], folder / role) for role in ROLES}
    return {**warmups, **phases, "evaluations": evaluations}


def _seconds_of(items: int, work: Callable[[int], None]) -> float:
    """Seconds of work on so many items: as many are timed as fit into :data:`SECONDS`, judged by a first one."""
    count = 1
    for _ in range(2):
        start = time.perf_counter()
        work(count)
        seconds = time.perf_counter() - start
        measured, count = count, max(1, min(items, int(SECONDS / seconds)))
    return seconds * items / measured


def _step_seconds(state: TrainingState, generator: RubricGenerator, role: Role) -> float:
    """Seconds of one step of a phase: prompts, samples, rewards and the update."""
    state.progress.stage(f"a step of the {role} phase", 1)
    recipe, settings, blocks = state.recipe, state.recipe.grpo(role), state.data.train

    def step(prompts: int) -> None:
        smaller = recipe.model_copy(update={role: settings.model_copy(update={"prompts_per_step": prompts})})
        phase = make_phases(smaller, generator.with_new_cache())[role]
        done = rollout_step(smaller, phase, blocks, generator.sampler, 0, 0)
        signs = tuple(1.0 if i % 2 else -1.0 for i in range(settings.num_generations))
        state.learner.update(role, done.groups, [GroupAdvantages(signs, True) for _ in done.groups])
        state.learner.optimizers[role].state.clear()

    return _seconds_of(min(settings.prompts_per_step, len(blocks)), step)


def _warmup_seconds(
    state: TrainingState, role: Role, examples: list[tuple[list[int], list[int]]], folder: Path
) -> float:
    """Seconds of a role's warm-up."""
    sft = state.recipe.warmup.rubric if role == "rubric" else state.recipe.warmup.judge
    times: list[float] = []
    state.progress.stage(f"warm-up {role}", WARMUP_STEPS + 1)

    def log(step: int, values: dict[str, float]) -> None:
        times.append(time.perf_counter())
        state.progress.step(step, values)

    # Every step is logged, and no checkpoint is written in between.
    few = sft.model_copy(update={"max_steps": WARMUP_STEPS + 1, "save_steps": WARMUP_STEPS + 7})
    warm_up_role(state.model, role, examples, few, state.recipe.seed, folder, log)
    return (times[-1] - times[0]) / WARMUP_STEPS * update_count(sft, len(examples))
