"""The TRL reward: rewards by hand for each baseline, both formats, and two real steps of TRL's own trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.reward_model.trl import GreedyAnswers, rubric_arm_reward
from rubric_arm_lite.types import Rubric
from tests import tiny
from tests.players import judgement
from tests.reward_model.test_model import model, prompts_for


def by_length(a: str, b: str, rubric: Rubric, index: int) -> str:
    """Longer is better, of equals the first; one word makes the judge speechless."""
    if "mute" in a + b:
        return "no verdict"
    return judgement(rubric, "A" if len(a) >= len(b) else "B")


def test_half_the_orders_won_against_a_column() -> None:
    judge = model(by_length)
    reward = rubric_arm_reward(judge, "column", column="reference")
    logged: dict[str, float] = {}
    rewards = reward(
        prompts=["p", "p", "p", "q"],
        completions=["long answer", "no", "yes", "mute"],
        reference=["yes", "yes", "yes", "yes"],
        completion_ids=[[1], [2], [3], [4]],
        trainer_state=None,
        log_metric=logged.__setitem__,
    )
    assert rewards == [1.0, 0.0, 0.5, 0.0], "a verdict that cannot be read is a lost order"
    assert reward.__name__ == "rubric_arm_reward" and reward.callback is None
    assert reward.totals == {"judgements": 8, "unparsed": 2, "comparisons": 4, "not_judged": 0}
    assert logged["rubric_arm/unparsed"] == 2 / 8 and logged["rubric_arm/orders_agree"] == 2 / 4
    assert len(prompts_for(judge, "rubric")) == 2, "one rubric per prompt"
    reward(["p"], ["x"], reference=["y"])
    assert reward.totals["comparisons"] == 5 and len(prompts_for(judge, "rubric")) == 2


def test_conversations_are_read_as_texts_are() -> None:
    judge = model(by_length)
    reward = rubric_arm_reward(judge, lambda prompts: ["yes"] * len(prompts))
    chat = [{"role": "user", "content": "p"}]
    plain = reward(["p", "p"], ["longer", "no"])
    assert reward([chat, chat], [[{"role": "assistant", "content": text}] for text in ("longer", "no")]) == plain
    assert len(prompts_for(judge, "rubric")) == 1, "a conversation of one turn is its text"
    turns = [{"role": "system", "content": "s"}, *chat]
    assert reward([turns], [[{"role": "assistant", "content": ""}]]) == [0.0], "an empty completion is judged"


def test_completions_with_tools_are_judged_by_their_last_answer() -> None:
    """As TRL writes them: with calls, results of any form, and without an answer where that was cut off whole."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function"}]}
    result = {"role": "tool", "name": "search", "content": [{"type": "text", "text": "found"}]}
    answer = {"role": "assistant", "content": "longer"}
    reward = rubric_arm_reward(model(by_length), lambda prompts: ["yes"] * len(prompts))
    chats = [[call, result, answer], [call, result], [call], [{"role": "assistant", "tool_calls": []}]]
    assert reward(["p"] * 4, chats) == [1.0, 0.0, 0.0, 0.0]


def test_group_is_the_mean_over_the_others() -> None:
    """Lengths 4, 2, 2 of one prompt: 1; (0 + ½) / 2; the same. Two of another: 1 and 0."""
    judge = model(by_length)
    reward = rubric_arm_reward(judge, "group")
    rewards = reward(["p", "q", "p", "p", "q"], ["aaaa", "x", "bb", "cc", "yyy"])
    assert rewards == [1.0, 0.0, 0.25, 0.25, 1.0]
    assert reward.totals["comparisons"] == 3 + 1 and len(prompts_for(judge, "judge")) == 2 * 4
    with pytest.raises(DataError, match="at least 2 completions"):
        reward(["p", "q"], ["a", "b"])


def test_what_cannot_be_judged_earns_nothing_and_is_counted() -> None:
    no_rubric = rubric_arm_reward(model(by_length, generator=lambda *_: "no rubric"), "column")
    assert no_rubric(["p"], ["good"], baseline=["x"]) == [0.0] and no_rubric.totals["not_judged"] == 1
    long = rubric_arm_reward(model(by_length), "column")
    assert long(["p", "p"], ["good " * 900, "good"], baseline=["x", "x"]) == [0.0, 1.0]
    assert long.totals["not_judged"] == 1


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="not one of greedy, column, group"):
        rubric_arm_reward(model(), "best")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"no column `baseline` .*its columns: other"):
        rubric_arm_reward(model(), "column")(["p"], ["a"], other=["b"])
    with pytest.raises(ConfigError, match=r"callbacks=\[reward.callback\]"):
        rubric_arm_reward(model())(["p"], ["a"])
    with pytest.raises(DataError, match="gave 1 answers to 2 prompts"):
        rubric_arm_reward(model(), lambda prompts: ["x"])(["p", "q"], ["a", "b"])
    for answers in (None, "xy", iter(["x", "y"])):
        with pytest.raises(DataError, match="gave no list of answers to 2 prompts"):
            rubric_arm_reward(model(), lambda prompts, a=answers: a)(["p", "q"], ["a", "b"])
    with pytest.raises(DataError, match="2 prompts came with 3 completions"):
        rubric_arm_reward(model(), "group")(["p", "p"], ["a", "b", "c"])
    with pytest.raises(DataError, match="completion 1 ends with a message by 'user'"):
        rubric_arm_reward(model(), "group")(["p"], [[{"role": "user", "content": "x"}]])
    with pytest.raises(ConfigError, match="at least 1"):
        GreedyAnswers(0)
    with pytest.raises(ConfigError, match="votes: 0"):
        rubric_arm_reward(model(), "group", votes=0)
    with pytest.raises(ConfigError, match=r"reward\.judge: pointwise"):
        rubric_arm_reward(model(reward={"judge": "pointwise"}), "group")


@pytest.mark.slow
@pytest.mark.parametrize("conversational", [True, False])
def test_trl_trains_with_it(conversational: bool, tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    """Two steps of a plain GRPOTrainer, the policy's own greedy answer as the baseline."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    folder = tiny_folder()
    policy = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    texts = list(tiny.PROMPTS[:2])
    rows: list[Any] = [[{"role": "user", "content": text}] for text in texts] if conversational else texts
    judge = model(by_length)
    reward = rubric_arm_reward(judge)
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=reward,
        callbacks=[reward.callback],
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_dict({"prompt": rows}),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            max_steps=2,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=6,
            learning_rate=1e-2,
            seed=1,
        ),
    )
    assert reward.callback is not None
    expected = reward.callback(rows)
    ids = trainer.processing_class(
        trainer.processing_class.apply_chat_template(rows[0], tokenize=False, add_generation_prompt=True)
        if conversational
        else rows[0],
        return_tensors="pt",
    )["input_ids"]
    alone = policy.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    assert expected[0] == trainer.processing_class.decode(alone, skip_special_tokens=True), "padding changes nothing"
    trainer.train()
    logs = [row for row in trainer.state.log_history if "rewards/rubric_arm_reward/mean" in row]
    assert len(logs) == 2 and all(0 <= row["rewards/rubric_arm_reward/mean"] <= 1 for row in logs)
    assert all(row["rubric_arm/unparsed"] == row["rubric_arm/not_judged"] == 0 for row in logs)
    assert reward.totals["comparisons"] == 8 and reward.totals["judgements"] == 16
    assert any(not before[name].equal(tensor) for name, tensor in policy.state_dict().items())
