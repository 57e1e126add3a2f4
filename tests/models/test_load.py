"""Loading: any causal language model works; a folder that cannot is refused with what to do."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import architectures
from rubric_arm_lite.data.testbed import base_folder
from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models.load import check_before_loading, choose_dtype, load_for_trainer, load_model
from rubric_arm_lite.models.lora import import_peft
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.recipe.fields import ModelSettings
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.types import ROLES
from tests import tiny


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_any_causal_model_loads_samples_and_learns(kind: str, tiny_folder: tiny.Folders) -> None:
    recipe = tiny.recipe(tiny_folder(kind), judge={"beta": 0.1}, rubric={"beta": 0.1})
    model = load_model(recipe.model, seed=0)
    model.freeze_references()
    learner = Learner(model, recipe)
    for role in ROLES:
        before = tiny.everything(model)
        groups = model.sample(role, tiny.examples(), Sampling(6, 4))
        metrics = learner.update(role, groups, tiny.spread(groups)).values
        assert metrics["kl"] == pytest.approx(0, abs=1e-6), "the adapter is still its reference"
        assert metrics["grad_norm"] > 0
        changed = tiny.changed(before, tiny.everything(model))
        assert changed and all(f".{role}." in name for name in changed)


def test_the_seed_decides_the_fresh_adapters(tiny_folder: tiny.Folders) -> None:
    settings = tiny.settings(tiny_folder())
    torch.manual_seed(0)
    one = load_model(settings, seed=1)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    other = load_model(settings, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state), "the global state is left alone"
    for role in ROLES:
        assert one.fingerprint(role) == other.fingerprint(role) != load_model(settings, seed=2).fingerprint(role)
    assert one.fingerprint("rubric") != one.fingerprint("judge")


def test_an_attention_cap_is_kept(tiny_folder: tiny.Folders) -> None:
    """transformers' sdpa leaves Gemma-2's cap on attention scores out without a word."""
    asked = load_model(tiny.settings(tiny_folder("gemma2"), attention="sdpa"), seed=0)
    eager = load_model(tiny.settings(tiny_folder("gemma2"), attention="eager"), seed=0)
    ids = torch.tensor([asked.encode(tiny.PROMPTS[2])])
    with torch.no_grad():
        assert torch.equal(asked.model(input_ids=ids).logits, eager.model(input_ids=ids).logits)


def test_chosen_dtype(monkeypatch: pytest.MonkeyPatch, tiny_folder: tiny.Folders) -> None:
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    for name, dtype in named.items():
        assert choose_dtype(tiny.settings(tiny_folder(), dtype=name)) is dtype
    auto = tiny.settings(tiny_folder(), dtype="auto")
    for cuda, bf16, dtype in (
        (False, False, torch.float32),
        (True, True, torch.bfloat16),
        (True, False, torch.float16),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        # torch says that a T4 has bfloat16, emulated and slow
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, b=bf16: b or including_emulation
        )
        assert choose_dtype(auto) is dtype


def test_bfloat16_loads(tiny_folder: tiny.Folders) -> None:
    model = load_model(tiny.settings(tiny_folder(), dtype="bfloat16"), seed=0)
    assert model.model.get_base_model().dtype == torch.bfloat16
    assert all(s.finish_reason for g in model.sample("judge", tiny.examples(), Sampling(3)) for s in g.samples)


def test_nf4_loads_and_learns(tmp_path: Path) -> None:
    """In 4 bits on a CPU (bitsandbytes packs layers of whole blocks only, hence the larger shape)."""
    pytest.importorskip("bitsandbytes")
    folder = tiny.make_folder("llama", tmp_path, hidden_size=64, intermediate_size=128)
    model = tiny.load(folder, quantization="nf4")
    before = tiny.everything(model)
    groups = tiny.rollouts(model, tokens=6)
    learner = Learner(model, tiny.recipe(folder, model={"quantization": "nf4"}, judge={"learning_rate": 1e-3}))
    learner.update("judge", groups, tiny.spread(groups))
    assert tiny.changed(before, tiny.everything(model)) == {name for name, _ in model.parameters("judge")}
    assert any(name.endswith("weight.absmax") for name in before), "the base's constants are among what was compared"


@pytest.mark.skipif(not (base_folder() / "config.json").is_file(), reason="the shipped base is not built yet")
def test_the_shipped_base_loads() -> None:
    model = load_model(ModelSettings(base="testbed", max_context=256), seed=0)
    assert model.sample(None, tiny.examples(), Sampling(3))[0].samples


# --- folders that cannot be used ----------------------------------------------------------------------------------


def config(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: _edit(folder / "config.json", changes)


def tokenizer(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: _edit(folder / "tokenizer_config.json", changes)


def _edit(file: Path, changes: dict[str, Any]) -> None:
    value = {**json.loads(file.read_text("utf-8")), **changes}
    file.write_text(json.dumps({k: v for k, v in value.items() if v is not None}), "utf-8")


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def remove(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_a_layer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if ".1.mlp." not in k}, folder / "model.safetensors", {"format": "pt"})


def without_special(name: str) -> Callable[[Path], object]:
    return tokenizer(**{name: None})


def index(**weights: Any) -> Callable[[Path], object]:
    """Weights in two files that an index names, both there; then the index is replaced."""

    def split(folder: Path) -> None:
        state = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").unlink()
        for file in ("a.safetensors", "a.bin", "../outside.safetensors"):
            (folder / file).write_bytes(state)
        _edit_new(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weights})

    return split


def _edit_new(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value), "utf-8")


def as_bert(folder: Path) -> None:
    """Its masked language model is also a causal one, if its configuration says so; without that it is not."""
    import transformers as tf

    shape = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    tf.BertLMHeadModel(tf.BertConfig(**shape, intermediate_size=48)).save_pretrained(folder)


DEEP = b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "does not exist. Give a folder, a Hub id (owner/name) or testbed."),
    "a file": (as_file, "is a file. Give the folder that holds config.json."),
    "no config": (remove("config.json"), "has no config.json, so it is not a model folder."),
    "config cut": (write("config.json", b'{"a": '), "config.json is not JSON"),
    "config not a mapping": (write("config.json", b"[]"), "config.json is not a mapping. Copy the model again."),
    "config not text": (write("config.json", b"\xff\xfe"), "config.json is not JSON"),
    "other architecture": (
        config(architectures=["BertForMaskedLM"], model_type="bert"),
        "is a BertForMaskedLM; a causal language model (…ForCausalLM) is needed.",
    ),
    "unknown type": (config(model_type="nonsense", architectures=None), "cannot be loaded"),
    "pickle only": (pickle_only, "has no *.safetensors. Convert its weights; pickle files are not read."),
    "weights cut": (write("model.safetensors", b"\x10\x00\x00"), "cannot be loaded"),
    "weights of another size": (config(hidden_size=64), "in its weights and 320×64 by config.json"),
    "a layer is missing": (
        without_a_layer,
        "lacks 3 of its weights, for example `model.layers.1.mlp.down",
    ),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"), "tokenizer"),
    "tokenizer cut": (write("tokenizer.json", b'{"version": "1.0"'), "tokenizer.json is not JSON"),
    "no chat template": (
        remove("chat_template.jinja"),
        "has no chat template. Use an instruction-tuned model, or add chat_template.jinja to its folder.",
    ),
    "config too deep": (write("config.json", DEEP), "config.json is not JSON"),
    "tokenizer too deep": (write("tokenizer.json", DEEP), "tokenizer.json is not JSON"),
    "tokenizer's config too deep": (write("tokenizer_config.json", DEEP), "tokenizer_config.json is not JSON"),
    "tokenizer not a mapping": (write("tokenizer.json", b"[1]"), "tokenizer.json is not a mapping"),
    "generation config too deep": (write("generation_config.json", DEEP), "generation_config.json is not JSON"),
    "generation config not a mapping": (
        write("generation_config.json", b"3"),
        "generation_config.json is not a mapping",
    ),
    **{
        f"end tokens of another type, {value}": (
            write("generation_config.json", f'{{"eos_token_id": {value}}}'.encode()),
            "eos_token_id in generation_config.json is neither",
        )
        for value in ("[[1]]", "{}", '{"a": 1}')
    },
    "architectures of another type": (config(architectures=7), "architectures is no list"),
    "layers of another type": (config(num_hidden_layers="two"), "cannot be loaded"),
    "heads of another type": (config(num_attention_heads=[1]), "cannot be loaded"),
    "activation of another type": (config(hidden_act={"a": 1}), "cannot be loaded"),
    **{
        f"{field} of another type": (config(**{field: value}), f"{field} is no number")
        for field, value in (
            ("logit_scale", [[1]]),
            ("logits_scaling", "text"),
            ("final_logit_softcapping", {"a": 1}),
            ("max_position_embeddings", "long"),
        )
    },
    "type of another type": (config(model_type=["a"]), "cannot be loaded"),
    "end token of another type": (tokenizer(eos_token=[1, 2]), "The tokenizer of"),
    "template of another type": (
        lambda f: [remove("chat_template.jinja")(f), tokenizer(chat_template=7)(f)],
        "okenizer",
    ),
    "GPTQ": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "GPTQ, AWQ or the like"),
    "AWQ": (config(quantization_config={"quant_method": "awq", "bits": 4}), "GPTQ, AWQ or the like"),
    "an adapter in the base": (write("adapter_config.json", b"{}"), "also holds an adapter"),
    "index that names a pickle file": (index(w="a.bin"), "Only *.safetensors files in the model's own folder"),
    "index that leaves the folder": (index(w="../outside.safetensors"), "Only *.safetensors files"),
    "index with an absolute path": (index(w="/tmp/a.safetensors"), "Only *.safetensors files"),
    "index with a number": (index(w=3), "Only *.safetensors files"),
    "index without files": (index(), "weight_map names no files"),
    "index that is cut": (write("model.safetensors.index.json", b"{"), "index.json is not JSON"),
    "index that config.json names": (
        lambda f: [
            config(transformers_weights="other.safetensors.index.json")(f),
            _edit_new(f / "other.safetensors.index.json", {"metadata": {}, "weight_map": {"w": "a.bin"}}),
        ],
        "config.json names its weights in transformers_weights",
    ),
    "more layers than memory holds": (
        config(num_hidden_layers=10**9, layer_types=None),
        "num_hidden_layers is more than 4096",
    ),
    "config that is enormous": (write("generation_config.json", b" " * (17 * 2**20)), "has more than 16777216 bytes"),
    "sees what follows": (as_bert, "lets tokens see those after them"),
    "no end token": (without_special("eos_token"), "has no end token. Set eos_token in tokenizer_config.json."),
}


NOT_FORESEEN = (
    *(name for name in BROKEN if name.startswith("end tokens")),
    "weights cut",
    "weights of another size",
    "a layer is missing",
)
"""What only the loaded model shows."""


@pytest.mark.parametrize("name", BROKEN)
def test_unusable_folders_are_refused(name: str, tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    """With the same words before anything is loaded."""
    breaks, message = BROKEN[name]
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder(), folder)
    breaks(folder)
    with pytest.raises(BackendError) as caught:
        load_model(tiny.settings(folder), seed=0)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 600
    if name in NOT_FORESEEN:
        check_before_loading(tiny.settings(folder))
        return
    with pytest.raises(BackendError) as foreseen:
        check_before_loading(tiny.settings(folder))
    assert str(foreseen.value) == str(caught.value)


@pytest.mark.parametrize("kind", [*tiny.ARCHITECTURES, "gpt_oss", "recurrent_gemma", "doge"])
def test_a_base_that_loads_is_not_refused_before(kind: str, tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    folder = tmp_path
    if kind in tiny.ARCHITECTURES:
        folder = tiny_folder(kind)
    else:
        architectures.write_folder(
            kind, json.loads(Path(architectures.__file__).with_suffix(".json").read_text())[kind], folder
        )
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_before_loading(tiny.settings(folder))
    assert torch.equal(torch.random.get_rng_state(), state)
    check_before_loading(ModelSettings(base="nobody/nothing-at-all"))  # nothing is known, and nothing is asked


def test_both_checkpoints_are_checked_before_they_are_loaded(tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    pair = {"rubric": str(tiny_folder()), "judge": str(tmp_path)}
    with pytest.raises(BackendError, match=r"model\.checkpoints\.judge: model\.base: .* has no config\.json"):
        check_before_loading(ModelSettings.model_validate({"checkpoints": pair, "max_context": 64}))


def test_no_trainer_reads_an_adapter_from_a_pickle_file(tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(BackendError, match=r"has no adapter_model\.safetensors"):
        load_for_trainer(tiny.settings(tiny_folder()), tmp_path)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = tiny.make_folder("qwen3", tmp_path / "model", vocab_size=100)
    with pytest.raises(BackendError, match=r"the tokenizer has \d+ tokens, the model embeds 100\. They do not belong"):
        load_model(tiny.settings(folder), seed=0)


def test_a_context_beyond_the_models_is_refused(tiny_folder: tiny.Folders) -> None:
    message = rf"model.max_context: {tiny.CONTEXT + 1} is more than `.*` can take \({tiny.CONTEXT}\)"
    with pytest.raises(BackendError, match=message):
        load_model(tiny.settings(tiny_folder(), max_context=tiny.CONTEXT + 1), seed=0)


def test_target_modules_that_do_not_exist_are_refused(tiny_folder: tiny.Folders) -> None:
    settings = tiny.settings(tiny_folder(), lora={"r": 4, "alpha": 8, "target_modules": ("nonsense",)})
    with pytest.raises(BackendError, match=r"model.lora does not fit"):
        load_model(settings, seed=0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("q_proj", "v_prj"), "no layer is called v_prj. Correct the name, or use all-linear"),
        (("q_proj", "roj"), "no layer is called roj"),
        (("q_proj", "embed_tokens"), "model.embed_tokens is an embedding. Name linear layers"),
        (("q_proj", "lm_head"), "lm_head shares its weights with the embedding"),
    ],
)
def test_targets_that_cannot_work_are_refused(names: tuple[str, ...], message: str, tiny_folder: tiny.Folders) -> None:
    settings = tiny.settings(tiny_folder("qwen3"), lora={"target_modules": names})
    with pytest.raises(BackendError, match=f"model.lora does not fit `.*`: target_modules: {message}"):
        load_model(settings, seed=0)


def test_a_head_of_its_own_can_have_an_adapter(tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    """It is sampled with, trained and merged."""
    from transformers import AutoModelForCausalLM

    from rubric_arm_lite.reward_model.export import write_merged

    lora = {"r": 4, "alpha": 8, "target_modules": ("q_proj", "lm_head")}
    model = tiny.load(tiny_folder("qwen2"), lora=lora)
    learner = Learner(model, tiny.recipe(tiny_folder("qwen2"), {"lora": lora}))
    groups = tiny.rollouts(model)
    before = tiny.weights(model, "judge")
    assert learner.update("judge", groups, tiny.spread(groups)).values["log_ratio/max"] < 1e-4
    assert tiny.changed(before, tiny.weights(model, "judge")) == set(before)
    assert any("lm_head" in name for name in before)
    model.save_adapter("judge", tmp_path / "adapter")
    write_merged(model.settings, tmp_path / "adapter", tmp_path / "merged")
    ids = torch.tensor([groups[0].prompt_ids])
    with model.using("judge") as active, torch.no_grad():
        expected = active(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "nowhere"])
def test_names_that_are_no_hub_id(name: str) -> None:
    with pytest.raises(BackendError, match=r"does not exist. Give a folder, a Hub id"):
        load_model(ModelSettings(base=name), seed=0)


def test_a_hub_id_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline and not in the cache."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackendError, match="`nobody/nothing-at-all` cannot be loaded"):
        load_model(ModelSettings(base="nobody/nothing-at-all"), seed=0)


def test_nf4_without_bitsandbytes_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: tiny.Folders
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BackendError, match=r"needs bitsandbytes. Install it, in the project's folder.*'\.\[gpu\]'"):
        load_model(tiny.settings(tiny_folder(), quantization="nf4"), seed=0)


@pytest.mark.parametrize(("quantization", "cuda", "told"), [("none", False, 0), ("nf4", True, 0), ("nf4", False, 1)])
def test_a_notice_on_4_bits_on_a_cpu_is_kept_for_those_whom_it_concerns(
    quantization: str, cuda: bool, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """bitsandbytes logs it when PEFT imports it first; whatever else is logged then comes through."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    notice = "Failed to load CPU gemm_4bit_forward from kernels-community: %s"
    (tmp_path / "peft.py").write_text(
        f"import logging\nlogger = logging.getLogger({logger.name!r})\n"
        f"logger.warning({notice!r}, 'no kernels')\nlogger.warning('something real')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "peft", ModuleType("peft"))  # so that the real one, or none, is put back
    del sys.modules["peft"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    caplog.set_level(logging.WARNING, logger.name)  # the command line, tested in the same process, raises it
    import_peft(tiny.settings(base_folder(), quantization=quantization))
    import peft  # as everything does that comes later

    assert [m.partition(" CPU")[0] for m in caplog.messages] == ["Failed to load"] * told + ["something real"]
    assert peft.__file__ == str(tmp_path / "peft.py") and not logger.filters, "nothing is left behind"
    logger.warning(notice, "again")
    assert "again" in caplog.text, "only what our own import says is looked at"


def test_a_torchao_that_peft_refuses_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: tiny.Folders
) -> None:
    """As on Colab: PEFT raises at every LoRA layer because a package is installed that nobody here uses."""
    from peft.import_utils import is_torchao_available

    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text("")
    (tmp_path / "torchao-0.10.0.dist-info").mkdir()
    (tmp_path / "torchao-0.10.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))  # remembers what was there before
    monkeypatch.delitem(sys.modules, "torchao")
    is_torchao_available.cache_clear()
    with pytest.raises(ImportError, match="incompatible version of torchao"):
        is_torchao_available()
    settings = tiny.settings(tiny_folder())
    with pytest.warns(UserWarning, match=r"torchao 0\.10\.0 .*pip uninstall torchao") as notes:
        check_before_loading(settings)
        model = load_model(settings, seed=0)
    assert len([note for note in notes if "torchao" in str(note.message)]) == 1, "one note, however often it is used"
    assert model.sample("judge", tiny.examples(), Sampling(4, 1))
    is_torchao_available.cache_clear()
