"""One run from recipe to report: base → warm-up → alternating GRPO → evaluation, in stages that can be resumed.

Everything that happens is appended to the run directory's logs; progress goes to a watcher. The order of stages is
fixed; each is committed when it is done, and the alternating stage commits inside as well.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.evaluation import AdapterPair, Evaluation
from rubric_arm_lite.evaluation.caveats import few_pairs_caveats, unparsed_caveats
from rubric_arm_lite.models import ALONE, AdapterModel, Processes
from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.runs import RunDirectory, package_versions
from rubric_arm_lite.training.hooks import AlternatingStage
from rubric_arm_lite.training.schedule import STAGES
from rubric_arm_lite.training.state import RunParts, Watcher
from rubric_arm_lite.training.warmup import role_examples, rows_of_testbed, updates, warm_up_role
from rubric_arm_lite.types import ROLES, Role


def versions(model: AdapterModel) -> dict[str, Any]:
    """What this run was made with: packages, machine, and the git revision where there is one."""
    names = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
    found: dict[str, Any] = dict(package_versions(names))
    found["device"] = torch.cuda.get_device_name() if model.device.type == "cuda" else platform.processor() or "cpu"
    found["threads"] = torch.get_num_threads()
    found["git"] = _git_revision()
    return found


def _git_revision() -> str | None:
    here = Path(__file__).resolve().parents[1]
    if not (here.parent / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


CROSS_PLAY = {
    "warm-up judge, warm-up rubrics": AdapterPair("rubric_ref", "judge_ref"),
    "trained judge, warm-up rubrics": AdapterPair("rubric_ref", "judge"),
    "warm-up judge, trained rubrics": AdapterPair("rubric", "judge_ref"),
    "trained judge, trained rubrics": AdapterPair("rubric", "judge"),
}


class Run:
    """A run in progress."""

    def __init__(self, recipe: Recipe, directory: RunDirectory, watcher: Watcher, processes: Processes = ALONE) -> None:
        if recipe.model.checkpoints is not None:
            raise ConfigError(
                "model.checkpoints: full checkpoints are asked and evaluated, not trained. Use rubric-arm evaluate, "
                "judge or rubric with this recipe, or a recipe without model.checkpoints."
            )
        self.recipe = recipe
        self.directory = directory
        self.watcher = watcher
        self.parts = RunParts(recipe, directory, watcher, processes)

    # --- stages -------------------------------------------------------------------------------------------------

    def execute(self, until: str | None = None) -> None:
        """Do every stage that is not done yet, up to and including ``until``."""
        self.parts.restore()
        wanted = STAGES[: STAGES.index(until) + 1] if until else STAGES
        for counts in self.parts.counts:
            if counts.skipped:
                self.watcher.note(counts.line("rows"))
        if self.parts.data.too_long:
            self.watcher.note(
                f"{self.parts.data.too_long} pairs are longer than model.max_context ({self.recipe.model.max_context} "
                "tokens) and were left out."
            )
        for caveat in few_pairs_caveats(len(self.parts.evaluator.pairs)):
            self.watcher.note(caveat)
        if self.directory.state.stages:
            self._check_same_data()
        else:
            self.directory.write_json("versions.json", versions(self.parts.model))
            self._describe_data()
        for stage in wanted:
            if stage in self.directory.state.stages:
                continue
            started, tokens = time.perf_counter(), self.parts.sampler.tokens_written
            match stage:
                case "base":
                    self._evaluate("base", AdapterPair(None, None))
                    self.directory.commit(stage=stage)
                case "warmup-rubric":
                    self._warm_up("rubric", stage)
                case "warmup-judge":
                    self._warm_up("judge", stage)
                case "warmup":
                    self._evaluate("warm-up")
                    self.directory.commit(stage=stage)
                case "alternating":
                    AlternatingStage(self.parts, self._evaluate).train()
                    self.directory.commit(stage=stage)
                case "cross-play":
                    self._cross_play()
                    self.directory.commit(stage=stage)
                case "final":
                    self._finish(stage)
            if stage != "alternating":
                self.parts.log_time(stage, started, tokens)
        if "final" in self.directory.state.stages:
            self._restore_lost_adapters()

    def _describe_data(self) -> None:
        data = self.parts.data
        described: dict[str, Any] = {
            "train_prompts": len(data.train),
            "train_pairs": sum(len(block.pairs) for block in data.train),
            "test_pairs": len(self.parts.evaluator.pairs),
            "left_out_too_long": data.too_long,
            "fingerprint": data.fingerprint(),
        }
        if self.parts.counts:
            described["sources"] = [counts.as_json() for counts in self.parts.counts]
        if data.world is not None:
            from rubric_arm_lite.data.testbed.oracle import oracle

            described["oracle"] = oracle(data.world, self.parts.evaluator.pairs)
            described["likes"] = data.world.likes
        self.directory.write_json("data.json", described)

    def _check_same_data(self) -> None:
        file = self.directory.path / "data.json"
        try:
            before = json.loads(file.read_text("utf-8"))["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} is damaged or of an older version ({type(error).__name__}: {error}). Keep this run as it "
                "is and start anew under another name."
            ) from error
        if before != self.parts.data.fingerprint():
            raise CheckpointError(
                f"{self.recipe.data.source} now holds other pairs than when {self.directory.path} began. Restore the "
                "data, or start anew under another name."
            )

    def _evaluate(self, name: str, players: AdapterPair | None = None, votes: int = 1) -> Evaluation:
        self.watcher.stage(f"evaluate {name}", 1)
        evaluation = self.parts.evaluator.evaluate(name, players, votes)
        self.directory.append("metrics.jsonl", {"kind": "evaluation", "name": name, **evaluation.values})
        self.directory.write_json(
            f"evaluations/{_slug(name)}.json",
            {"name": name, "values": evaluation.values, "rows": evaluation.rows, "showcase": evaluation.showcase},
        )
        self.watcher.evaluated(evaluation)
        if name == "warm-up":  # the base is not expected to know the form, and the report says it of the end
            for caveat in unparsed_caveats(evaluation.values, self.recipe.evaluation.unparsed_value):
                self.watcher.note(caveat)
        return evaluation

    def _warm_up(self, role: Role, stage: str) -> None:
        settings = self.recipe.warmup
        folder = self.directory.path / "warmup" / role
        if settings.source is not None:
            rows = self.parts.warmup_rows
            if settings.source == "testbed":
                pointwise = self.recipe.reward.judge == "pointwise"
                words = self.recipe.prompts.pointwise_words if pointwise else None
                rows = rows_of_testbed(settings, self.parts.data.world, self.recipe.seed, words)
            examples, too_long = role_examples(rows, role, self.parts.model, self.parts.prompts)
            if too_long:
                self.watcher.note(f"{too_long} warm-up rows of the {role} are longer than the context; left out.")
            skipped = len(rows) - len(examples) - too_long
            if skipped:
                self.watcher.note(f"{skipped} warm-up rows have a rubric that does not parse; the judge skips them.")
            sft = settings.rubric if role == "rubric" else settings.judge
            self.watcher.stage(f"warm-up {role}", updates(sft, len(examples)))
            seed = self.recipe.seed
            losses = warm_up_role(
                self.parts.model, role, examples, sft, seed, folder, self.watcher.step, self.parts.processes
            )
            for step, loss in losses:
                self.directory.append("metrics.jsonl", {"kind": "warmup", "role": role, "step": step, "loss": loss})
        if role == "judge":
            self.parts.model.freeze_references()
        self.directory.commit(self.parts.save, stage=stage, keep=self.recipe.checkpoint.save_total_limit)
        if self.directory.writes:
            shutil.rmtree(folder, ignore_errors=True)

    def _cross_play(self) -> None:
        found = {}
        for name, players in CROSS_PLAY.items():
            found[name] = self._evaluate(f"cross-play: {name}", players).values
        self.directory.write_json("cross_play.json", found)

    def _finish(self, stage: str) -> None:
        evaluation = self._evaluate("final", votes=self.recipe.evaluation.votes)
        for role in ROLES if self.directory.writes else ():
            self.parts.model.save_adapter(role, self.directory.path / "adapters" / role)
        self.directory.write_json(
            "summary.json", {"recipe": self.recipe.name, "seed": self.recipe.seed, **evaluation.values}
        )
        self.directory.commit(stage=stage)

    def _restore_lost_adapters(self) -> None:
        """Write the adapters of a finished run again if somebody took them away."""
        for role in ROLES if self.directory.writes else ():
            folder = self.directory.path / "adapters" / role
            if not (folder / "adapter_model.safetensors").is_file():
                self.watcher.note(f"{folder} was gone and is written again from the last checkpoint.")
                self.parts.model.save_adapter(role, folder)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")
