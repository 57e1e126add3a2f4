"""DPO with TRL: the reference is the policy it starts from, token ids arrive as sampled, a killed training goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rubric_arm_lite.errors import DataError, TrainingError
from rubric_arm_lite.models.load import load_model
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.recipe.policy import DPOSettings
from rubric_arm_lite.training.policy import dpo
from rubric_arm_lite.training.policy.dpo import TrainingPair, train_dpo
from tests import tiny

SETTINGS = DPOSettings(learning_rate=1e-2, per_device_train_batch_size=2, max_steps=4, save_steps=2)


class Made:
    """A policy saved as an adapter, pairs of its own answers, and trainings on them."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.settings = tiny.settings(folder)
        model = load_model(self.settings, 0, ("policy",))
        tiny.stir(model, "policy", seed=1)
        self.adapter = place / "policy"
        model.save_adapter("policy", self.adapter)
        groups = model.sample("policy", tiny.examples(), Sampling(12, 2))
        self.pairs = []
        for group in groups:
            self.pairs.append(TrainingPair(group.prompt_ids, *group.samples))

    def train(self, place: Path, settings: DPOSettings = SETTINGS, log: Any = lambda step, values: None) -> Any:
        return train_dpo(settings, self.settings, self.adapter, self.pairs, 3, place, log)


@pytest.fixture
def made(tiny_folder: Any, tmp_path: Path) -> Made:
    return Made(tiny_folder(), tmp_path)


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if ".default." in name}


def test_it_starts_at_ln_2_and_learns(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = dpo.first_loss

    def watched(trainer: Any, rows: Any) -> float:
        seen.append(real(trainer, rows))
        return seen[-1]

    monkeypatch.setattr(dpo, "first_loss", watched)
    settings = SETTINGS.model_copy(update={"max_steps": 10, "sft_weight": 0.0, "save_steps": 10})
    _, history = made.train(tmp_path / "trainer", settings)
    assert seen == [pytest.approx(math.log(2), abs=1e-4)]
    assert history[-1]["step"] == 10
    assert history[-1]["rewards/margins"] > 0.05


def test_a_reference_that_is_not_the_start_is_refused(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dpo.first_loss

    def with_another_reference(trainer: Any, pairs: Any) -> float:
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if ".ref." in name:
                    parameter.mul_(0.0)  # what "adapters off" would be
        return real(trainer, pairs)

    monkeypatch.setattr(dpo, "first_loss", with_another_reference)
    with pytest.raises(TrainingError, match=r"in place of ln 2 = 0.6931: its reference is not the policy"):
        made.train(tmp_path / "trainer")


@pytest.mark.parametrize("loss", [0.725, math.nan, math.inf, 0.0])
def test_first_losses_that_are_not_ln_2(
    loss: float, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpo, "first_loss", lambda *_: loss)
    with pytest.raises(TrainingError, match="in place of ln 2"):
        made.train(tmp_path / "trainer")


def test_the_trainer_sees_the_sampled_ids(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(trainer: Any, pairs: Any) -> float:
        batch = trainer.data_collator([trainer.train_dataset[0]])
        pair = made.pairs[0]
        for ids, mask, answer in zip(
            batch["input_ids"], batch["completion_mask"], (pair.chosen, pair.rejected), strict=True
        ):
            whole = [*pair.prompt_ids, *answer.token_ids]
            assert ids[: len(whole)].tolist() == whole
            assert ids[mask.bool()].tolist() == list(answer.token_ids)
        return math.log(2)

    monkeypatch.setattr(dpo, "first_loss", look)
    made.train(tmp_path / "trainer")


def test_a_killed_training_goes_on_to_the_same_weights(made: Made, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(step: int, values: dict[str, float]) -> None:
        if step == 4:
            raise Killed

    whole, history = made.train(tmp_path / "whole")
    with pytest.raises(Killed):
        made.train(tmp_path / "killed", log=kill)
    resumed, again = made.train(tmp_path / "killed")
    assert again == history
    assert not tiny.changed(trained_weights(whole), trained_weights(resumed))


def test_a_step_is_reported_when_it_ends_with_all_that_the_log_has_of_it(made: Made, tmp_path: Path) -> None:
    seen = []

    def log(step: int, values: dict[str, float]) -> None:
        assert not (tmp_path / "trainer" / f"checkpoint-{step + 2}").exists(), "the next steps have not been made"
        seen.append({"step": step, **values})

    _, history = made.train(tmp_path / "trainer", log=log)
    assert [row["step"] for row in seen] == [2, 4]
    assert seen == history
    assert {"loss", "rewards/margins", "rewards/accuracies"} < seen[0].keys()


def test_a_loss_that_is_not_finite_ends_training(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_trainer(trainer: Any, folder: Path, seed: int, log: Any, names: Any) -> None:
        log(2, {"loss": math.nan})

    monkeypatch.setattr(dpo, "run_trainer", run_trainer)
    with pytest.raises(TrainingError, match="A loss of DPO is not finite"):
        made.train(tmp_path / "trainer", log=lambda *_: pytest.fail("it would not go into a log"))


def test_no_pairs(made: Made, tmp_path: Path) -> None:
    made.pairs = []
    with pytest.raises(DataError, match="No pair is left to train on"):
        made.train(tmp_path / "trainer")
