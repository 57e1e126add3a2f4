"""A run knows the weights of its base, however they are stored or loaded, and warns when they are others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rubric_arm_lite.models import base_fingerprint, other_base
from tests import tiny
from tests.cli.test_cli import call, process
from tests.short_run import rewrite, short_sets


def test_the_fingerprint_is_that_of_the_weights(tmp_path: Path) -> None:
    """Not of their files or of the precision they are loaded in; every tensor counts."""
    base = tiny.make_folder("qwen3", tmp_path / "base")
    expected = base_fingerprint(tiny.settings(base))
    assert expected and len(expected) == 16
    for changes in ({"quantization": "nf4"}, {"dtype": "float16"}, {"max_context": 64}):
        assert base_fingerprint(tiny.settings(base, **changes)) == expected
    model = AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path / "in parts", max_shard_size="20KB")
    assert len(list((tmp_path / "in parts").glob("*.safetensors"))) > 2
    assert base_fingerprint(tiny.settings(tmp_path / "in parts")) == expected
    found = {expected}
    for _, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.mul_(1.01)
        model.save_pretrained(tmp_path / "other")
        found.add(str(base_fingerprint(tiny.settings(tmp_path / "other"))))
        with torch.no_grad():
            parameter.div_(1.01)
    assert len(found) == 1 + len(list(model.named_parameters()))


def test_files_that_are_not_here_have_none(tmp_path: Path) -> None:
    assert base_fingerprint(tiny.settings(Path("nobody/nothing"))) is None
    assert base_fingerprint(tiny.settings(tmp_path)) is None


def test_an_older_run_does_not_know_its_base(tmp_path: Path) -> None:
    base = tiny.settings(tiny.make_folder("qwen3", tmp_path / "base"))
    run = tmp_path / "run"
    run.mkdir()
    assert other_base(run, base) is None
    for known, warns in ((None, False), (base_fingerprint(base), False), ("0" * 16, True)):
        (run / "versions.json").write_text(json.dumps({"base weights": known} if known else {}))
        assert (other_base(run, base) is not None) == warns


@pytest.mark.slow
def test_a_run_on_another_base_warns_in_one_line(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    pair = ("judge", run, "--prompt", "Write a note.", "--a", "stone", "--b", "table")
    resume = ("run", "testbed", "--run-dir", run, "--resume", *short_sets())
    verbs = (pair, ("evaluate", run, "--limit", "4"), ("export", run, tmp_path / "out", "--merge"), resume)
    assert "other weights" not in call(*pair).stderr
    versions = json.loads((run / "versions.json").read_text())
    for number, verb in enumerate(verbs):  # Python shows a text once in a process
        rewrite(run, "versions.json", json.dumps({**versions, "base weights": f"{number:016}"}))
        done = process(*verb) if verb is resume else call(*verb)
        lines = (done.stdout + done.stderr).splitlines()
        found = [line for line in lines if "was trained on other weights of the base testbed" in line]
        assert (done.returncode, len(found)) == (0, 1), done.stderr
