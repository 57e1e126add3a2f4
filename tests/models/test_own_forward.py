"""Models of many architectures against their own forward pass, and what a model that differs is told."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import architectures
from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models import load_model
from rubric_arm_lite.models.logprobs import Head
from tests import tiny

TABLE: dict[str, dict[str, Any]] = json.loads(Path(architectures.__file__).with_suffix(".json").read_text("utf-8"))
EXPECTED = {
    "gpt2": "shared, packed",  # dropout of its own
    "gpt_oss": "copied, expanded",  # sinks and windows; no sdpa
    "bloom": "copied, expanded",  # biases in place of positions; no sdpa
    "hyperclovax": "shared, packed",  # multiplies its logits where Granite divides
    "granite": "shared, packed",
    "gemma3_text": "copied, expanded",
    "qwen3_moe": "shared, packed",
    "llama4_text": "copied, expanded",  # chunks, and a router that returns two values
    "diffllama": "copied, expanded",  # asks for attention twice in a layer
    "doge": "copied, expanded",  # its mask replaces the causal one, which sdpa leaves out; newer versions mend that
    "qwen3_next": "copied, separate",
    "qwen3_5_text": "copied, separate",
    "lfm2": "copied, separate",
    "falcon_h1": "copied, separate",
    "minimax": "copied_by_length, separate",  # padding changes its state
    "recurrent_gemma": "none, separate",  # keeps its state in its layers
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_sampling_and_updates_agree_with_the_models_own_forward(kind: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = architectures.check(kind, TABLE[kind], tmp_path)
    assert result.good, result.row()
    assert result.layout == EXPECTED[kind] or (kind == "doge" and result.layout == "shared, packed")


def test_a_head_of_an_unknown_form_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.make_folder("qwen3", tmp_path)
    monkeypatch.setattr(Head, "__call__", lambda self, hidden: self._layer(hidden) * 1.1)
    with pytest.raises(BackendError, match="computes its logits from the last hidden states in a way"):
        load_model(tiny.settings(folder), 0)


def test_dropout_of_the_base_is_off_in_updates(tmp_path: Path) -> None:
    fields = {**TABLE["seed_oss"], "attention_dropout": 0.5, "residual_dropout": 0.5}
    architectures.write_folder("seed_oss", fields, tmp_path)
    model = load_model(tiny.settings(tmp_path), 0)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), model.using("judge", train=True) as active:
        first, second = (active(input_ids=ids).logits for _ in range(2))
    assert torch.equal(first, second)


def test_eager_attention_where_there_is_no_other_is_said_in_one_line(tmp_path: Path) -> None:
    architectures.write_folder("gpt_oss", TABLE["gpt_oss"], tmp_path)
    with pytest.warns(UserWarning, match="no sdpa attention .* eager") as caught:
        load_model(tiny.settings(tmp_path), 0)
    assert len([w for w in caught if "sdpa" in str(w.message)]) == 1
