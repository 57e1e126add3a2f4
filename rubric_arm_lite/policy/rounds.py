"""One round of DPO: sample from the policy, label with the reward model, train (paper, sec. 4.3).

The reference of a round is the policy that the round begins with, so in iterative DPO the policy of the round before.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rubric_arm_lite.policy.dpo import train_dpo
from rubric_arm_lite.policy.pairs import REASONS, Progress, SampledPair, TrainingPair, label_pairs, sample_pairs
from rubric_arm_lite.policy.state import PolicyState
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.warmup import updates


def sample_round(state: PolicyState, number: int) -> None:
    """Two answers of the policy to every training request."""
    state.watcher.stage(f"sample {number}", len(state.requests.train))
    _sampled(state, number, lambda done, of: state.watcher.step(done, {}))


def label_round(state: PolicyState, number: int) -> None:
    """Ask the reward model about every pair, and say how many are kept and why the others are not."""
    state.watcher.stage(f"label {number}", len(state.requests.train))
    _, reasons = _labelled(state, number, lambda done, of: state.watcher.step(done, {}))
    state.directory.append("metrics.jsonl", {"kind": "labels", "round": number, **reasons})
    total = sum(reasons.values())
    found = ", ".join(f"{reason} {count}" for reason, count in reasons.items() if count)
    state.watcher.said(f"label {number}", f"{reasons['kept'] / total:.0%} of {total} pairs kept ({found})")


def train_round(state: PolicyState, number: int, stage: str) -> None:
    """Train on the pairs that were kept, and commit the policy of this round."""
    settings, directory = state.recipe.dpo, state.directory
    kept, _ = _labelled(state, number, lambda done, of: None)
    before = directory.checkpoint_path()
    if before is None:
        raise AssertionError("The stage start has written a checkpoint.")
    state.let_go()
    folder = state.round_file(number, "trainer")
    state.watcher.stage(f"train {number}", updates(settings, len(kept)))
    seed = derive_seed(state.recipe.seed, "dpo", number)
    trained, history = train_dpo(
        settings, state.model_settings, before / "policy", kept, seed, folder, state.watcher.step
    )
    for row in history:
        directory.append("metrics.jsonl", {"kind": "dpo", "round": number, **row})

    def save(target: Path) -> None:
        trained.save_pretrained(target / "policy", selected_adapters=["default"], save_embedding_layers=False)
        shutil.copytree(before / "policy_ref", target / "policy_ref")

    directory.commit(save, stage=stage, keep=state.recipe.checkpoint.save_total_limit)
    shutil.rmtree(folder, ignore_errors=True)


def _sampled(state: PolicyState, number: int, progress: Progress) -> list[SampledPair]:
    return sample_pairs(
        state.players.policy,
        state.prompts,
        state.requests.train,
        state.recipe.answers,
        derive_seed(state.recipe.seed, "round", number),
        state.round_file(number, "samples.jsonl"),
        state.job("samples", number),
        progress,
    )


def _labelled(state: PolicyState, number: int, progress: Progress) -> tuple[list[TrainingPair], dict[str, int]]:
    sampled = _sampled(state, number, lambda done, of: None)
    file = state.round_file(number, "labels.jsonl")
    kept, reasons = label_pairs(state.referee, sampled, file, state.job("labels", number), progress)
    return kept, {reason: reasons[reason] for reason in REASONS}
