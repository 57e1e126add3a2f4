"""unsloth's backend: for real in its CPU mode, in a process of its own, where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models import load_model
from rubric_arm_lite.models.generate import choose_tokens
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.models.unsloth import AGREEMENT, SeededChoice, prepare
from tests import tiny

BESIDE = Path(sys.prefix) / "unsloth"
"""Where ``make test`` puts it with the older libraries that it needs: apart from the others, and before them."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not (BESIDE / "unsloth").is_dir() and importlib.util.find_spec("unsloth") is None:
        pytest.skip("unsloth is not installed; make test puts it beside the other packages")
    folder = tmp_path_factory.mktemp("unsloth")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.unsloth_script", str(folder / "run")]
    paths = os.pathsep.join([str(root), str(BESIDE), *[p for p in sys.path if p.endswith("site-packages")]])
    env = {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(folder / "cache")}
    env.pop("TORCHDYNAMO_DISABLE", None)  # unsloth compiles where it can
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=env, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.parametrize("base", ["plain", "nf4"])
def test_it_computes_what_transformers_does(base: str, found: dict[str, Any]) -> None:
    seen = found[base]
    assert (seen["kind"], seen["layout"], seen["adapters"]) == ("UnslothModel", "separate", ["judge", "rubric"])
    assert seen["same_tokens"], "samples depend on the example's seed, whoever decodes"
    assert seen["logprobs"] < 1e-4
    assert seen["gradient"] < 1e-4
    assert not seen["trainable_at_rest"] and not seen["training_at_rest"]


@pytest.mark.slow
def test_a_base_whose_updates_differ_from_its_samples_is_found_out(found: dict[str, Any]) -> None:
    assert found["other_updates"] > AGREEMENT[torch.float32]


@pytest.mark.slow
def test_the_testbed_trains_through_it(found: dict[str, Any]) -> None:
    trained = found["trained"]
    assert set(trained["roles"]) == {"judge", "rubric"}
    assert trained["first_kl"] == pytest.approx([0.0] * len(trained["first_kl"]), abs=1e-6)
    assert trained["log_ratio"] < 1e-3, "an update sees the log-probs that the rollout was drawn with"
    losses = trained["losses"]
    assert losses[0] > 1.2 * losses[1], "the generator's warm-up learns"


def test_without_it_there_is_one_clear_error() -> None:
    if importlib.util.find_spec("unsloth") is not None:
        pytest.skip("unsloth is installed here")
    with pytest.raises(BackendError, match=r"unsloth cannot be used .* Install it, in the project's folder"):
        prepare()


def test_a_machine_that_it_refuses_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it raises errors of several kinds, this one where it finds no device that it knows."""
    (tmp_path / "unsloth").mkdir()
    (tmp_path / "unsloth" / "__init__.py").write_text('raise NotImplementedError("No torch accelerator is here.")\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    with pytest.raises(BackendError, match=r"unsloth cannot be used \(.*No torch accelerator is here.*transformers"):
        prepare()


def test_it_sees_no_folder_whose_index_names_other_files(
    tiny_folder: tiny.Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    unsloth = ModuleType("unsloth")
    loader = SimpleNamespace(from_pretrained=lambda model_name, **_: seen.append(model_name) or (None, None))
    vars(unsloth)["FastLanguageModel"] = loader
    monkeypatch.setitem(sys.modules, "unsloth", unsloth)
    folder = shutil.copytree(tiny_folder(), tmp_path / "base")
    index = folder / "model.safetensors.index.json"
    for shard in ("a.bin", "../outside.safetensors"):
        index.write_text(json.dumps({"weight_map": {"w": shard}}))
        with pytest.raises(BackendError, match=r"Only \*\.safetensors files in the model's own folder are read"):
            load_model(tiny.settings(folder, backend="unsloth"), 0)
        assert not seen
    index.unlink()
    with pytest.raises(AttributeError):  # the fake loader's model is none
        load_model(tiny.settings(folder, backend="unsloth"), 0)
    assert seen == [str(folder)]


@pytest.mark.parametrize("sampling", [Sampling(8, 3), Sampling(8, 3, 0.7, 0.8), Sampling(8, 1, 0.0)])
def test_greedy_decoding_can_only_choose_what_was_drawn(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(3)
    uniforms = torch.rand((5, 8), generator=generator) if sampling.temperature else None
    choice = SeededChoice(uniforms, sampling)
    for t in range(8):
        scores = torch.randn((5, 11), generator=generator)
        ids, logprobs = choose_tokens(scores, None if uniforms is None else uniforms[:, t], sampling)
        assert torch.equal(choice(torch.zeros((5, t)), scores).argmax(-1), ids)
        assert torch.equal(choice.ids[t], ids) and torch.equal(choice.logprobs[t], logprobs)
