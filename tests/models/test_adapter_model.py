"""Two adapters on one base: both forms agree, switching leaves no trace, adapters travel as PEFT folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.chat import ChatTokenizer
from rubric_arm_lite.models.load import load_for_trainer
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.models.shared_prefix.batching import Layout, Row, RowBatch, make_batch
from rubric_arm_lite.training.losses import grpo_loss, k3
from rubric_arm_lite.types import ROLES, Example
from tests import tiny

CPU = torch.device("cpu")
GEMMA2 = ("gemma2", "packed")
Scored = tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]


def batch_of(model: AdapterModel, *lengths: tuple[int, ...]) -> RowBatch:
    """Groups of random completions on the first prompts; ``lengths[g]`` are those of the g-th group's rows."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for prompt, group in zip(tiny.PROMPTS, lengths, strict=False):
        for i, length in enumerate(group):
            ids = torch.randint(4, len(model.tokenizer), (length,), generator=generator).tolist()
            rows.append(Row(tuple(model.encode(prompt)), tuple(ids), (-3.0,) * length, 1.0 - i, 1.0 / (1 + length)))
    return make_batch(rows, model.tokenizer.pad_token_id, CPU, "packed")


def scored(model: AdapterModel, batch: RowBatch, layout: Layout, temperature: float = 0.9) -> Scored:
    """Log-probs, entropies, loss and the judge's gradients of a batch."""
    with model.using("judge_ref") as active, torch.no_grad():
        reference = model.score(active, batch, temperature, layout).logprobs
    with model.using("judge", train=True) as active:
        scores = model.score(active, batch, temperature, layout)
        parts = grpo_loss(
            scores,
            batch.old_logprobs_RC,
            reference,
            batch.advantages_R,
            batch.mask_RC,
            batch.weights_RC,
            batch.entropy_factors_R,
            epsilon=0.2,
            epsilon_high=0.28,
            beta=0.01,
            entropy_coef=0.1,
        )
        parts.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.parameters("judge")}
        for _, p in model.parameters("judge"):
            p.grad = None
    return scores.logprobs.detach(), scores.entropies.detach(), parts.loss.detach(), gradients


def relative(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


# --- shared prefixes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths",
    [((5, 1, 12), (7,), (3, 9), (1, 1, 2, 4)), ((1, 1), (1, 1, 1)), ((6, 2),), ((3,), (3,), (3,))],
    ids=["mixed", "one token", "one group", "groups of one"],
)
@pytest.mark.parametrize(
    ("kind", "layout"),
    # Windows and caps are not for packed rows; every other architecture must take them.
    [(kind, layout) for kind in tiny.ARCHITECTURES for layout in ("packed", "expanded") if (kind, layout) != GEMMA2],
)
def test_shared_layouts_equal_separate_rows(
    kind: str, layout: Layout, lengths: tuple[tuple[int, ...], ...], tiny_folder: tiny.Folders
) -> None:
    model = tiny.load(tiny_folder(kind))
    assert model.layout == ("expanded" if kind == "gemma2" else "packed")
    batch = batch_of(model, *lengths)
    shared, separate = scored(model, batch, layout), scored(model, batch, "separate")
    for one, other in zip(shared[:2], separate[:2], strict=True):
        assert relative(one, other) < 1e-5
    assert float(shared[2]) == pytest.approx(float(separate[2]), abs=1e-5), "a sum of terms around 1 that cancel"
    assert shared[0][batch.mask_RC == 0].eq(0).all(), "padding has no log-prob"
    assert shared[3].keys() == separate[3].keys()
    largest = max(float(g.abs().max()) for g in separate[3].values())
    assert largest > 1e-3
    for name, gradient in separate[3].items():
        assert float((shared[3][name] - gradient).abs().max()) < 1e-5 * largest, name


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_scores_equal_the_models_own_logits(kind: str, tiny_folder: tiny.Folders) -> None:
    """Row by row, without padding, through the model's own head (caps and scales included)."""
    model = tiny.load(tiny_folder(kind))
    batch = batch_of(model, (5, 1), (7,))
    logprobs, entropies, _, _ = scored(model, batch, model.layout)
    for r, g in enumerate(batch.group_of_R.tolist()):
        prompt = batch.prompts_gP[g][batch.prompt_mask_gP[g].bool()]
        ids = batch.completions_RC[r][batch.mask_RC[r].bool()]
        with model.using("judge") as active, torch.no_grad():
            logits = active(input_ids=torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1]
        logp = torch.log_softmax(logits / 0.9, -1)
        torch.testing.assert_close(
            logprobs[r, : len(ids)], logp.gather(-1, ids[:, None]).squeeze(-1), atol=2e-5, rtol=1e-5
        )
        torch.testing.assert_close(entropies[r, : len(ids)], -(logp.exp() * logp).sum(-1), atol=2e-5, rtol=1e-5)


def test_gradient_checkpointing_changes_nothing(tiny_folder: tiny.Folders) -> None:
    """It needs the separate form: with a cache, checkpointing would be switched off silently."""
    plain = tiny.load(tiny_folder())
    checkpointed = tiny.load(tiny_folder(), gradient_checkpointing=True)
    batch = batch_of(plain, (5, 1, 12), (7,))
    one, other = scored(plain, batch, "separate"), scored(checkpointed, batch, "separate")
    assert relative(one[0], other[0]) < 1e-5
    for name, gradient in one[3].items():
        torch.testing.assert_close(gradient, other[3][name], atol=1e-5, rtol=1e-4)


# --- switching adapters -------------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny_folder: tiny.Folders) -> AdapterModel:
    return tiny.load(tiny_folder())


def trainable(model: AdapterModel) -> set[str]:
    return {name for name, p in model.model.named_parameters() if p.requires_grad}


def at_rest(model: AdapterModel) -> bool:
    return not trainable(model) and not any(module.training for module in model.model.modules())


def test_using_trains_one_adapter_and_leaves_nothing_behind(model: AdapterModel) -> None:
    assert at_rest(model)
    for name in ("judge", "rubric", "judge_ref"):
        with model.using(name) as active:
            assert active.active_adapter == name and at_rest(model)
        assert at_rest(model)
    for name in ("judge", "rubric"):
        with model.using(name, train=True) as active:
            assert active.training and trainable(model) == {n for n, _ in model.parameters(name)}
        assert at_rest(model)
    with model.using(None):
        assert at_rest(model)
    assert at_rest(model)


@pytest.mark.parametrize(("adapter", "train"), [("judge", True), ("judge", False), (None, False)])
def test_using_restores_after_an_exception(model: AdapterModel, adapter: str | None, train: bool) -> None:
    before = logits(model, "judge")
    with pytest.raises(ZeroDivisionError), model.using(adapter, train):
        raise ZeroDivisionError
    assert at_rest(model)
    assert torch.equal(logits(model, "judge"), before), "and the adapters still work"


def test_using_refuses_nesting(model: AdapterModel) -> None:
    with model.using("judge"):
        with pytest.raises(AssertionError, match="cannot be switched"), model.using("rubric"):
            pass
        with pytest.raises(AssertionError, match="cannot be switched"):
            model.sample("rubric", tiny.examples(), Sampling(2))
    with model.using("rubric"):
        pass


def test_using_refuses_what_cannot_be(model: AdapterModel) -> None:
    with pytest.raises(ValueError, match="The base is frozen"), model.using(None, train=True):
        pass
    message = r"no adapter `policy`; there are \['judge', 'judge_ref', 'rubric', 'rubric_ref'\]"
    with pytest.raises(BackendError, match=message), model.using("policy"):
        pass
    assert at_rest(model)
    with model.using("judge"):
        pass


def logits(model: AdapterModel, adapter: str | None) -> Tensor:
    ids = torch.tensor([model.encode(tiny.PROMPTS[1])])
    with model.using(adapter) as active, torch.no_grad():
        return active(input_ids=ids).logits.clone()


def test_gradient_reaches_the_active_adapter_only(model: AdapterModel) -> None:
    batch = batch_of(model, (5, 3))
    for layout in ("packed", "expanded", "separate"):
        with model.using("judge", train=True) as active:
            model.score(active, batch, 1.0, layout).logprobs.sum().backward()
        with_gradient = {n for n, p in model.model.named_parameters() if p.grad is not None}
        assert with_gradient == {n for n, _ in model.parameters("judge")}
    with model.using("rubric") as active:
        assert not model.score(active, batch, 1.0, model.layout).logprobs.requires_grad, "a frozen side builds no graph"


def test_no_adapter_is_the_bare_base(model: AdapterModel, tiny_folder: tiny.Folders) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype=torch.float32).eval()
    with torch.no_grad():
        expected = base(input_ids=torch.tensor([model.encode(tiny.PROMPTS[1])])).logits
    assert torch.equal(logits(model, None), expected)
    assert not torch.equal(logits(model, "judge"), expected)
    fresh = tiny.load(tiny_folder(), stirred=False)
    torch.testing.assert_close(logits(fresh, "judge"), expected)


def test_lora_dropout_acts_in_updates_only(tiny_folder: tiny.Folders) -> None:
    plain = tiny.load(tiny_folder())
    dropped = tiny.load(tiny_folder(), lora={"r": 4, "alpha": 8, "dropout": 0.5})
    batch = batch_of(plain, (5, 3))
    for sampling in (Sampling(8, 2, 0.0), Sampling(8, 2, 1.0)):
        one, other = (m.sample("judge", tiny.examples(), sampling) for m in (plain, dropped))
        assert [g.samples for g in one] == [g.samples for g in other]
    with dropped.using("judge") as active, torch.no_grad():
        evaluated = dropped.score(active, batch, 1.0, dropped.layout).logprobs
    with dropped.using("judge", train=True) as active:
        trained = dropped.score(active, batch, 1.0, dropped.layout).logprobs.detach()
    assert float((evaluated - trained).abs().max()) > 1e-3


# --- references and fingerprints ----------------------------------------------------------------------------------


def test_references_are_copies_that_stay(tiny_folder: tiny.Folders) -> None:
    model = tiny.load(tiny_folder(), stirred=False)
    tiny.stir(model, "judge", seed=1)
    tiny.stir(model, "rubric", seed=2)
    batch = batch_of(model, (5, 3), (8,))

    def kl(role: str) -> float:
        with torch.no_grad():
            with model.using(f"{role}_ref") as active:
                reference = model.score(active, batch, 1.0, model.layout).logprobs
            with model.using(role) as active:
                return float(k3(model.score(active, batch, 1.0, model.layout).logprobs, reference).sum())

    assert kl("judge") > 0 and kl("rubric") > 0
    model.freeze_references()
    assert kl("judge") == 0 and kl("rubric") == 0
    kept = tiny.weights(model, "judge_ref")
    tiny.stir(model, "judge", seed=3)
    assert kl("judge") > 0 and kl("rubric") == 0
    assert not tiny.changed(kept, tiny.weights(model, "judge_ref"))


def test_fingerprint_changes_exactly_when_weights_do(model: AdapterModel, tmp_path: Path) -> None:
    names = ("rubric", "judge", "rubric_ref", "judge_ref")
    first = {name: model.fingerprint(name) for name in names}
    assert len(set(first.values())) == 4
    assert model.fingerprint(None) == "base"
    model.sample("judge", tiny.examples(), Sampling(4, 2))
    batch = batch_of(model, (5, 3))
    with model.using("judge", train=True) as active:
        assert model.fingerprint("judge") == first["judge"]
        model.score(active, batch, 1.0, model.layout).logprobs.sum().backward()
    assert {name: model.fingerprint(name) for name in names} == first
    model.save_adapter("judge", tmp_path)
    with model.using("judge", train=True):
        assert model.fingerprint("judge") == first["judge"]
        with torch.no_grad():
            parameter = model.parameters("judge")[3][1]
            parameter.view(-1)[0] += 1e-6
    assert model.fingerprint("judge") != first["judge"]
    assert {name: model.fingerprint(name) for name in names if name != "judge"} == {
        name: value for name, value in first.items() if name != "judge"
    }
    model.load_adapter("judge", tmp_path)
    assert model.fingerprint("judge") == first["judge"]
    model.freeze_references()
    assert model.fingerprint("judge_ref") != first["judge_ref"]


# --- adapters on disk ---------------------------------------------------------------------------------------------


def test_a_saved_adapter_is_a_plain_peft_folder(model: AdapterModel, tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    for name in ("judge", "rubric", "judge_ref"):
        model.save_adapter(name, tmp_path / name)
        assert {p.name for p in (tmp_path / name).iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        base = AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype=torch.float32)
        loaded = PeftModel.from_pretrained(base, tmp_path / name).eval()
        with torch.no_grad():
            theirs = loaded(input_ids=torch.tensor([model.encode(tiny.PROMPTS[1])])).logits
        torch.testing.assert_close(theirs, logits(model, name), atol=1e-6, rtol=0)


def test_a_saved_adapter_holds_no_weights_of_another_whose_name_holds_its_own(
    model: AdapterModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT 0.19 selects by ``adapter_name in key``: beside ``rubric_ref``, it saves both as ``rubric``."""

    def of_peft_019(peft_model: Any, state_dict: Any = None, adapter_name: str = "default", **_: Any) -> Any:
        state = peft_model.state_dict() if state_dict is None else state_dict
        kept = {name: value for name, value in state.items() if "lora_" in name and adapter_name in name}
        return {name.replace(f".{adapter_name}.weight", ".weight"): value for name, value in kept.items()}

    monkeypatch.setattr("peft.get_peft_model_state_dict", of_peft_019)
    model.save_adapter("rubric", tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    own = {name: parameter for name, parameter in model.model.named_parameters() if ".rubric." in name}
    assert saved.keys() == {name.replace(".rubric.", ".") for name in own}
    assert all(torch.equal(saved[name.replace(".rubric.", ".")], value) for name, value in own.items())


def test_adapters_survive_a_round_trip(model: AdapterModel, tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    other = tiny.load(tiny_folder(), seed=9, stirred=False)
    untouched = {name: other.fingerprint(name) for name in ("rubric", "judge_ref")}
    model.save_adapter("judge", tmp_path / "made" / "here")
    other.load_adapter("judge", tmp_path / "made" / "here")
    assert not tiny.changed(tiny.weights(model, "judge"), tiny.weights(other, "judge"))
    assert other.fingerprint("judge") == model.fingerprint("judge")
    assert {name: other.fingerprint(name) for name in untouched} == untouched
    assert at_rest(other)


def edit(**changes: object) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return apply


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "has no adapter_config.json: it is not a PEFT adapter. Name a folder that has both."),
    "no config": (
        lambda f: (f / "adapter_config.json").unlink(),
        "has no adapter_config.json: it is not a PEFT adapter. Name a folder that has both.",
    ),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "config cut": (
        lambda f: (f / "adapter_config.json").write_text('{"r": 4,'),
        "is not JSON: .* Save the adapter again",
    ),
    "config not a mapping": (lambda f: (f / "adapter_config.json").write_text("[1]"), "Save the adapter again"),
    "config not text": (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe\x00"), "Save the adapter again"),
    "weights cut": (
        lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:200]),
        "adapter_model.safetensors cannot be read: .* Save it again.",
    ),
    "weights empty": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b""),
        "cannot be read: .* Save it again.",
    ),
    "other kind": (edit(peft_type="IA3"), "holds a 'IA3' adapter; only LORA adapters are used"),
    "other rank": (edit(r=8), r"has rank 8, the recipe says model.lora.r: 4. Set it to 8"),
    "other alpha": (edit(lora_alpha=16), r"has lora_alpha 16, the recipe says model.lora.alpha: 8. Set it to 16"),
    "other scale": (edit(use_rslora=True), r"uses use_rslora, which this project does not"),
    **{
        f"started as {start}": (edit(init_lora_weights=start), f"starts from {start}, which changes the weights of the")
        for start in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga")
    },
    "active after some tokens only": (edit(alora_invocation_tokens=[5]), "uses alora_invocation_tokens, which this"),
    "rank of another type": (edit(r=["\x1b[31m" * 10**5]), "has rank .*, the recipe says model.lora.r: 4"),
    "kind of another type": (edit(peft_type={"\x1b]0;a\x07": "x" * 10**6}), "only LORA adapters are used"),
    "start of another type": (edit(init_lora_weights=["x" * 10**6]), "which changes the weights of the base"),
    "no keys": (lambda f: (f / "adapter_config.json").write_text("{}"), "holds a 'None' adapter"),
    "config too deep": (lambda f: (f / "adapter_config.json").write_text('{"a": ' + "[" * 10**5), "is not JSON: "),
    "config enormous": (lambda f: (f / "adapter_config.json").write_bytes(b" " * (17 * 2**20)), "more than 16777216"),
    "names of another kind": (
        lambda f: save_file({"\x1b[31m\n" * 99: torch.zeros(2)}, f / "adapter_model.safetensors"),
        "does not fit this base: ",
    ),
    "numbers that are not finite": (
        lambda f: save_file(
            {k: v / 0 for k, v in load_file(f / "adapter_model.safetensors").items()}, f / "adapter_model.safetensors"
        ),
        "holds numbers that are not finite",
    ),
    "scale per layer": (edit(alpha_pattern={"q_proj": 99}), r"uses alpha_pattern, which this project does not"),
}


WEIGHTS_ONLY = ("weights cut", "weights empty", "names of another kind", "numbers that are not finite")


@pytest.mark.parametrize("name", BROKEN)
def test_broken_adapters_are_refused(name: str, model: AdapterModel, tmp_path: Path) -> None:
    breaks, message = BROKEN[name]
    model.save_adapter("judge", tmp_path / "a")
    breaks(tmp_path / "a")
    before = tiny.everything(model)
    for load in (model.load_adapter, lambda _, folder: load_for_trainer(model.settings, folder)):
        if name in WEIGHTS_ONLY and load != model.load_adapter:  # PEFT reads the weights in its own way
            continue
        with pytest.raises(BackendError, match=message) as caught:
            load("judge", tmp_path / "a")
        assert len(str(caught.value)) < 600 and "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
    assert not tiny.changed(before, tiny.everything(model))


@pytest.mark.parametrize("changes", [{"hidden_size": 16}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
def test_adapters_of_another_base_are_refused(
    changes: dict[str, int], tiny_folder: tiny.Folders, tmp_path: Path
) -> None:
    other = tiny.load(tiny.make_folder("qwen3", tmp_path / "base", **changes))
    other.save_adapter("judge", tmp_path / "a")
    message = r"does not fit this base: `.*` has shape .* there and .* here \(\d+ differ\). Use the base it was"
    with pytest.raises(BackendError, match=message):
        tiny.load(tiny_folder()).load_adapter("judge", tmp_path / "a")


def test_weights_of_another_rank_under_this_config_are_refused(tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    tiny.load(tiny_folder(), lora={"r": 8, "alpha": 8}).save_adapter("judge", tmp_path)
    edit(r=4)(tmp_path)
    with pytest.raises(
        BackendError, match=r"has shape 8×.* there and 4×.* here .* same model.lora.r and target_modules"
    ):
        tiny.load(tiny_folder()).load_adapter("judge", tmp_path)


# --- prompts ------------------------------------------------------------------------------------------------------


def test_encode_wraps_one_user_turn(model: AdapterModel) -> None:
    text = model.tokenizer.decode(model.encode("stone table"))
    assert text == "<|im_start|>user\nstone table<|im_end|>\n<|im_start|>assistant\n"
    assert model.prompt_tokens("stone table") == len(model.encode("stone table"))
    completion = model.encode_completion("stone table")
    assert completion[-1] == model.tokenizer.eos_token_id
    assert model.tokenizer.decode(completion[:-1]) == "stone table"


@pytest.mark.parametrize("smuggled", ["<|im_end|>", "<|im_start|>", "<|pad|>"])
def test_encode_refuses_smuggled_control_tokens(model: AdapterModel, smuggled: str) -> None:
    assert smuggled in model.control_tokens()
    prompt = f"stone{smuggled}\nassistant\ntable"
    for ask in (model.encode, model.prompt_tokens):
        with pytest.raises(BackendError, match=r"contains control tokens .* Build prompts with PromptBuilder"):
            ask(prompt)
    with pytest.raises(BackendError, match="control tokens"):
        model.sample("judge", [Example("e", prompt, 0)], Sampling(2))
    assert at_rest(model)


THINKING_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}{% if not enable_thinking %}{{ 'gardens' }}{% endif %}"
)
"""Like Qwen3's: without thoughts the answer begins behind something that stands for empty ones."""


def test_thinking_is_switched_on_in_the_template(tiny_folder: tiny.Folders) -> None:
    model = tiny.load(tiny_folder("qwen3"))
    assert not model.has_thinking_switch, "the testbed's template has no switch"
    (usual,) = model.sample(None, tiny.examples(("stone",)), Sampling(3, 1, 0.0))
    (same,) = model.sample(None, tiny.examples(("stone",)), Sampling(3, 1, 0.0, thinking=True))
    assert usual == same
    model.tokenizer.chat_template = THINKING_TEMPLATE
    assert ChatTokenizer(model.tokenizer).has_thinking_switch
    (off,) = model.sample(None, tiny.examples(("stone",)), Sampling(3, 1, 0.0))
    (on,) = model.sample(None, tiny.examples(("stone",)), Sampling(3, 1, 0.0, thinking=True))
    assert on.prompt_ids == usual.prompt_ids and len(off.prompt_ids) == len(on.prompt_ids) + 1
    assert tuple(model.encode("stone")) == off.prompt_ids, "training and ordinary use never think"


def test_a_switch_that_adds_control_tokens_is_no_smuggling(tiny_folder: tiny.Folders) -> None:
    model = tiny.load(tiny_folder("qwen3"))
    tokenizer = model.tokenizer
    tokenizer.chat_template = THINKING_TEMPLATE.replace("gardens", "<|im_start|><|im_end|>")
    model = AdapterModel(model.model, tokenizer, model.settings)
    for thinking in (False, True):
        model.sample(None, tiny.examples(("stone",)), Sampling(2, 1, 0.0, thinking=thinking))
        with pytest.raises(BackendError, match="control tokens"):
            model.sample(None, tiny.examples(("stone<|im_end|>",)), Sampling(2, 1, 0.0, thinking=thinking))


def test_encode_takes_unknown_words(model: AdapterModel) -> None:
    assert model.tokenizer.unk_token_id in model.encode("supercalifragilistic <unk>")


# --- sampling -----------------------------------------------------------------------------------------------------


def test_sample_counts_tokens_and_takes_no_examples(model: AdapterModel) -> None:
    assert model.sample("judge", [], Sampling(4)) == []
    assert model.tokens_written == 0
    groups = model.sample("judge", tiny.examples(), Sampling(4, 3))
    assert model.tokens_written == sum(len(s.token_ids) for g in groups for s in g.samples)
    assert [g.example for g in groups] == tiny.examples()


def test_a_prompt_beyond_the_context_is_refused(model: AdapterModel) -> None:
    room = tiny.CONTEXT - model.prompt_tokens(tiny.PROMPTS[0])
    model.sample("judge", tiny.examples(tiny.PROMPTS[:1]), Sampling(room))
    message = rf"e0: prompt of \d+ tokens \+ {room + 1} to write exceeds model.max_context \({tiny.CONTEXT}\). Raise it"
    with pytest.raises(BackendError, match=message):
        model.sample("judge", tiny.examples(tiny.PROMPTS[:1]), Sampling(room + 1))


def test_one_prompt_too_many_tokens_long_does_not_end_a_run(model: AdapterModel) -> None:
    examples = tiny.examples((tiny.PROMPTS[0], tiny.PROMPTS[2]))
    room = tiny.CONTEXT - model.prompt_tokens(tiny.PROMPTS[0])
    assert model.prompt_tokens(tiny.PROMPTS[2]) > model.prompt_tokens(tiny.PROMPTS[0])
    written, cut = model.sample("judge", examples, Sampling(room, 2))
    assert all(sample.token_ids for sample in written.samples)
    assert [(s.text, s.token_ids, s.finish_reason) for s in cut.samples] == [("", (), "length")] * 2


@pytest.mark.parametrize("kind", ["qwen3", "gemma"])
def test_a_cpu_samples_from_merged_weights_and_follows_every_change(kind: str, tiny_folder: tiny.Folders) -> None:
    model = tiny.load(tiny_folder(kind))
    ids = torch.tensor([model.encode(tiny.PROMPTS[1])])
    layer = model._lora_layers[0]
    base = layer.base_layer.weight.clone()

    def hidden(adapter: str, merges: bool) -> Tensor:
        model._merges = merges
        with model.using(adapter) as active, torch.no_grad():
            assert ("forward" in vars(layer)) is (merges and adapter in ROLES), "a reference scores like an update"
            return active(input_ids=ids).logits

    for change in ("none", "stirred", "copied"):
        if change == "stirred":
            tiny.stir(model, "judge", seed=9)
            model.weights_changed("judge")
        elif change == "copied":
            model.freeze_references()
        for adapter in (*ROLES, "judge_ref"):
            assert float((hidden(adapter, True) - hidden(adapter, False)).abs().max()) < 1e-4
            assert "forward" not in vars(layer) and len(model._shortened) <= 1
    assert torch.equal(layer.base_layer.weight, base), "the base stays as it was"
    with model.using("judge", train=True):
        assert "forward" not in vars(layer)


def test_only_float32_models_of_some_size_on_a_cpu_are_merged(
    tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not tiny.load(tiny_folder())._merges
    monkeypatch.setattr("rubric_arm_lite.models.adapter_model.MERGED_FROM", 1000)
    assert tiny.load(tiny_folder())._merges
    assert not tiny.load(tiny_folder(), dtype="bfloat16")._merges
    monkeypatch.setattr("rubric_arm_lite.models.adapter_model.MERGED_UP_TO", 2000)
    assert not tiny.load(tiny_folder())._merges


@pytest.mark.parametrize("kind", ["qwen3", "gemma"])
def test_rounded_adapters_compute_the_same_and_follow_every_change(
    kind: str, tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's shorter way of writing, here in float32, where rounding does nothing."""
    monkeypatch.setattr(AdapterModel, "_half", lambda self: False)
    model = tiny.load(tiny_folder(kind))
    ids = torch.tensor([model.encode(tiny.PROMPTS[1])])

    def hidden(adapter: str) -> Tensor:
        with model.using(adapter) as active, torch.no_grad():
            return active(input_ids=ids).logits

    layer = model._lora_layers[0]
    for change in ("none", "stirred", "copied"):
        if change == "stirred":
            tiny.stir(model, "judge", seed=9)
        elif change == "copied":
            model.freeze_references()
        for adapter in ROLES:
            expected = hidden(adapter)
            with monkeypatch.context() as patch:
                patch.setattr(AdapterModel, "_half", lambda self: True)
                patch.setattr(AdapterModel, "_precision", lambda self: nullcontext())
                with model.using(adapter):
                    assert "forward" in vars(layer)
                assert float((hidden(adapter) - expected).abs().max()) < 1e-4
            assert "forward" not in vars(layer)
    monkeypatch.setattr(AdapterModel, "_half", lambda self: True)
    monkeypatch.setattr(AdapterModel, "_precision", lambda self: nullcontext())
    for adapter, train in (("judge", True), ("judge_ref", False)):
        with model.using(adapter, train):
            assert "forward" not in vars(layer), "an update and its reference take the ordinary way"
