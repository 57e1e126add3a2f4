"""Chat templates as models bring them: each works, or is one error."""

from __future__ import annotations

import json
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from benchmarks.testbed_base.tokenizer import build_tokenizer
from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models import chat as chats
from rubric_arm_lite.models.chat import ChatTokenizer
from rubric_arm_lite.models.load import load_model
from rubric_arm_lite.recipe import ModelSettings, dump_recipe, load_recipe
from tests import tiny

TURNS = "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + CONTENT + '<|im_end|>\\n' }}{%- endfor %}"
TURN = TURNS.replace("CONTENT", "m.content")
ASK = "{{ '<|im_start|>assistant\\n' }}"
USABLE = {
    "trim": TURNS.replace("CONTENT", "m.content | trim") + ASK,
    "raises on an empty message": TURN.replace(
        "%}{{", "%}{%- if not m.content %}{{ raise_exception('empty') }}{%- endif %}{{", 1
    )
    + ASK,
    "skips an empty message": "{%- for m in messages %}{%- if m.content %}{{ '<|im_start|>' + m.role + '\\n' + "
    "m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}" + ASK,
    "a list of parts": "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{%- for c in m.content %}"
    "{{ c.text }}{%- endfor %}{{ '<|im_end|>\\n' }}{%- endfor %}" + ASK,
    "always thinks": TURN + "{{ '<|im_start|>assistant\\n<think>\\n' }}",
    "no generation prompt": TURN,
    "user turns alone": "{%- for m in messages %}{%- if m.role != 'user' %}{{ raise_exception('no') }}{%- endif %}"
    "{{ m.content }}{%- endfor %}",
}
UNUSABLE = {
    "{%- for m in messages %}{{ m.content": "cannot be used: .*. Correct it",
    "hello": "leaves out the user's message",
    "{% for i in range(10**12) %}{% endfor %}{{ messages[0].content }}": "cannot be used: ",
    "{{ raise_exception('never') }}": "never",
    "{{ messages[0].content.nothing.at_all }}": "cannot be used: ",
    "{% if enable_thinking %}{{ raise_exception('no thoughts') }}{% endif %}{{ messages[0].content }}": "no thoughts",
    "{{ messages[0].content }}{% if enable_thinking %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}": "more than 0.5 seconds",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "more than 0.5 seconds",
}


def tokenizer_with(template: str) -> Any:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", USABLE.values(), ids=USABLE)
def test_templates_of_every_kind_keep_the_message(template: str) -> None:
    chat = ChatTokenizer(tokenizer_with(template))
    text = chat.tokenizer.decode(chat.encode("Write a note about rivers"))
    assert text.count("Write a note about rivers") == 1
    with pytest.raises(BackendError, match="control tokens"):
        chat.encode(f"rivers {chat.tokenizer.eos_token} rivers")


@pytest.mark.parametrize("template", UNUSABLE, ids=range(len(UNUSABLE)))
def test_a_template_that_cannot_be_used_is_one_error(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chats, "TEMPLATE_SECONDS", 0.5)
    with pytest.raises(BackendError, match=UNUSABLE[template]) as caught:
        ChatTokenizer(tokenizer_with(template))
    assert "\n" not in str(caught.value)


def test_a_template_that_fails_on_a_prompt_is_one_error() -> None:
    failing = "{% if messages[0].content != 'rivers' %}{{ raise_exception('a\n\x1b[31mb') }}{% endif %}"
    chat = ChatTokenizer(tokenizer_with(failing + "{{ messages[0].content }}"))
    with pytest.raises(BackendError, match=r"cannot be used: a\. Correct it"):
        chat.encode("gardens")


def test_a_tokenizer_that_fails_on_a_text_is_one_error(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    fields = json.loads(file.read_text("utf-8"))
    fields["model"]["unk_token"] = "nowhere in the vocabulary"
    file.write_text(json.dumps(fields), "utf-8")
    with pytest.raises(BackendError, match=r"cannot read a text \(WordLevel error.*Copy its tokenizer files again"):
        ChatTokenizer(AutoTokenizer.from_pretrained(tmp_path)).encode("xylophones")


@pytest.mark.parametrize(
    ("call", "written"),
    [
        ("strftime_now('%A, %-d. %B %Y')", "Thursday, 1. January 2026"),
        ("strftime_now(format='%Y-%m-%d')", "2026-01-01"),
        ("strftime_now('%d%% %%d')", "01% %d"),
        ("(strftime_now('%B') | upper)", "JANUARY"),
        ("(strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024')", "01 Jan 2026"),
    ],
)
def test_dates_are_written_as_strftime_would(call: str, written: str) -> None:
    """Templates of Llama 3, Mistral and gpt-oss ask so."""
    chat = ChatTokenizer(tokenizer_with("{%- set date = " + call + " %}\n{{ date }} {{ messages[0].content }}"))
    assert chat._wrap("rivers") == f"{written} rivers"


def test_the_date_in_a_template_is_that_of_the_recipe() -> None:
    tokenizer = tokenizer_with("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}")
    first, later = ChatTokenizer(tokenizer), ChatTokenizer(tokenizer, ModelSettings(chat_date=date(2031, 2, 3)))
    assert first._wrap("rivers") == "01 Jan 2026 rivers"
    assert later._wrap("rivers") == "03 Feb 2031 rivers"
    recipe = load_recipe("testbed", ["model.chat_date=2031-02-03"])
    assert recipe.model.chat_date == date(2031, 2, 3) and "chat_date: '2031-02-03'" in dump_recipe(recipe)


def test_a_turn_that_ends_otherwise_than_the_tokenizer_says_ends_a_completion() -> None:
    tokenizer = tokenizer_with("{%- for m in messages %}{{ m.role + m.content + '<|pad|>\\n' }}{%- endfor %}")
    with pytest.warns(UserWarning, match=r"ends a turn with `<\|pad\|>`, not with its end token"):
        chat = ChatTokenizer(tokenizer)
    assert chat.end_id == tokenizer.pad_token_id and chat.encode_completion("rivers")[-1] == tokenizer.pad_token_id
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ChatTokenizer(build_tokenizer()).end_id == tokenizer.eos_token_id
        unknown = tokenizer_with("{%- for m in messages %}{{ m.role + ' ' + m.content + ' xylophone' }}{%- endfor %}")
        assert ChatTokenizer(unknown).end_id == unknown.eos_token_id, "not the token of all unknown words"


def test_a_missing_pad_token_is_replaced_and_changes_nothing(tmp_path: Any) -> None:
    folder = tiny.make_folder("qwen3", tmp_path)
    expected = tiny.rollouts(tiny.load(folder))
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.warns(UserWarning, match=r"has no pad token, so `.*` is used"):
        model = load_model(tiny.settings(folder), 0)
    assert model.tokenizer.pad_token == "<|pad|>"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert tiny.rollouts(tiny.load(folder)) == expected
