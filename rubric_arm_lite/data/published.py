"""The published formats, one table entry each, and the choice of a source's format: by name, Hub id or columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.formats import (
    OWN,
    TWO_SCORES,
    TWO_TEXTS,
    Format,
    by_name,
    by_score,
    by_sign,
    by_value,
    majority,
    unless_equal,
)
from rubric_arm_lite.data.rows import Row
from rubric_arm_lite.recipe import ColumnSettings, is_plugin, load_plugin


def _listed(answers: str, text: str, score: str) -> dict[str, Any]:
    """The fields of a format that compares scored responses."""
    labels = {"responses": TWO_TEXTS, "label": by_score, "label_columns": TWO_SCORES}
    return {"answers": answers, "text": text, "score": score, "unmistakable": True, **labels}


_VOTES = Format(
    "arena",
    "lmsys/chatbot_arena_conversations",
    "lmarena-ai/arena-human-preference-100k",
    prompt=None,
    responses=("conversation_a", "conversation_b"),
    label=by_name,
    label_columns=("winner",),
    turn="turn",
    unmistakable=True,
)
_PUBLISHED = (
    Format(
        "openrubric",
        "OpenRubrics/OpenRubric-v2",
        "OpenRubrics/OpenRubrics",
        prompt="instruction",
        responses=("response_a", "response_b"),
        label=by_name,
        label_columns=("winner",),
        subset="source",
        # The card calls it the judge's trajectory; which of these the column is named was not verified.
        judgement=("judge", "judgement", "judgment", "judge_trajectory", "trajectory"),
        unmistakable=True,
    ),
    Format(
        "ultrafeedback",
        "HuggingFaceH4/ultrafeedback_binarized",
        split="train_prefs",
        label=unless_equal,
        label_columns=("score_chosen", "score_rejected"),
    ),
    Format("skywork", "Skywork/Skywork-Reward-Preference-80K-v0.2", prompt=None, subset="source"),
    Format(
        "helpsteer3",
        "nvidia/HelpSteer3",
        config="preference",
        prompt="context",
        responses=("response1", "response2"),
        label=by_sign,
        label_columns=("overall_preference",),
        subset="domain",
        unmistakable=True,
    ),
    Format("rubricarm-arena", "chardizard/RubricARM-ChatbotArena-ARMJudge-Correct"),
    Format("tulu3", "allenai/llama-3.1-tulu-3-8b-preference-mixture", subset="source"),
    Format("hh-rlhf", "Anthropic/hh-rlhf", prompt=None, transcripts=True, unmistakable=True),
    Format(
        "shp",
        "stanfordnlp/SHP",
        prompt="history",
        responses=("human_ref_A", "human_ref_B"),
        label=by_value([1], [0]),
        label_columns=("labels",),
        subset="domain",
        unmistakable=True,
    ),
    Format(
        "nectar", "berkeley-nest/Nectar", **_listed("answers", "answer", "rank"), lowest_is_best=True, transcripts=True
    ),
    Format(
        "ultrafeedback-raw",
        "openbmb/UltraFeedback",
        prompt="instruction",
        subset="source",
        **_listed("completions", "response", "overall_score"),
    ),
    Format(
        "helpsteer2-preference",
        prompt="prompt",
        responses=("response_1", "response_2"),
        label=by_sign,
        label_columns=("preference_strength",),
        unmistakable=True,
    ),
    Format("helpsteer2", "nvidia/HelpSteer2", **_listed("", "response", "helpfulness")),
    _VOTES,
    replace(_VOTES, name="mt-bench", hub_id="lmsys/mt_bench_human_judgments", older_id="", split="human"),
    Format(
        "webgpt",
        "openai/webgpt_comparisons",
        prompt="question.full_text",
        responses=("answer_0", "answer_1"),
        label=by_score,
        label_columns=("score_0", "score_1"),
        unmistakable=True,
    ),
    Format(
        "safe-rlhf",
        "PKU-Alignment/PKU-SafeRLHF",
        responses=("response_0", "response_1"),
        label=by_value([0], [1]),
        label_columns=("better_response_id",),
        unmistakable=True,
    ),
    Format("orca-dpo", "Intel/orca_dpo_pairs", prompt="question", system="system", unmistakable=True),
    Format("sharegpt", prompt="conversations", system="system", unmistakable=True),
    Format("alpaca", prompt=("instruction", "input"), system="system", history="history", unmistakable=True),
    Format(
        "llmbar",
        prompt="input",
        responses=("output_1", "output_2"),
        label=by_value([1], [2]),
        label_columns=("label",),
        unmistakable=True,
    ),
    Format(
        "auto-j",
        responses=("response 1", "response 2"),
        label=by_value([0], [1], [2]),
        label_columns=("label",),
        subset="scenario",
        unmistakable=True,
    ),
    Format(
        "pandalm",
        prompt=("instruction", "input"),
        responses=("response1", "response2"),
        label=majority(by_value([1], [2], [0])),
        label_columns=("annotator1", "annotator2", "annotator3"),
        unmistakable=True,
    ),
    Format(
        "judgebench",
        "ScalerLab/JudgeBench",
        split="gpt",
        prompt="question",
        responses=("response_A", "response_B"),
        label=by_value(["A>B"], ["B>A"]),
        label_columns=("label",),
        subset="source",
        unmistakable=True,
    ),
    Format("rmb", prompt="conversation_input", responses=("chosen.answer", "reject.answer"), unmistakable=True),
    Format(
        "rmb-best-of-n",
        prompt="conversation_input",
        responses=("bon_best", "loser_list"),
        text="answer",
        in_lists=True,
        unmistakable=True,
    ),
    Format("writing", "m-a-p/Writing-Preference-Bench", responses=("chosen.text", "rejected.text"), unmistakable=True),
    Format(
        "writing-response", responses=("chosen.response", "rejected.response"), subset="language", unmistakable=True
    ),
    Format("several", in_lists=True, subset="subset", unmistakable=True),
)
FORMATS = {format.name: format for format in _PUBLISHED}
"""Every published format, by name."""


def known_format(source: str) -> Format | None:
    """The format of a known Hub id, in any letter case, or of a folder whose path ends in one, as a clone's may."""
    name = "/".join(Path(source).parts[-2:]).lower()
    by_id = {hub_id.lower(): format for format in FORMATS.values() for hub_id in (format.hub_id, format.older_id)}
    return by_id.get(name) if name else None


def format_of_columns(settings: ColumnSettings) -> Format:
    """The format that a recipe's ``data.columns`` describe."""
    first, second, tie = map(_as_tuple, (settings.first, settings.second, settings.tie))
    winner = _as_tuple(settings.winner)
    response_a, response_b = settings.responses
    format = Format(
        "columns",
        prompt=settings.prompt,
        system=settings.system or "",
        responses=(response_a, response_b),
        label=majority(by_value(first, second, tie) if first else by_name) if winner else None,
        label_columns=winner,
        transcripts=settings.transcripts,
        subset=settings.subset or "",
    )
    score = settings.score or settings.rank
    if score is None:
        return format
    listed = _listed(settings.answers or "", settings.text, score)
    return replace(format, **listed, lowest_is_best=settings.score is None)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def choose_format(name: str, source: str, row: Row) -> Format:
    """The format of that name; for `auto` the one that the Hub id or the source's first row tells, else our own.

    Raises:
        ConfigError: if the name is a plug-in's that cannot be loaded.
    """
    if is_plugin(name):
        return replace(OWN, name=name, plugin=load_plugin(name, "format"))
    if name != "auto":
        return FORMATS.get(name, OWN)
    candidates = (format for format in FORMATS.values() if format.unmistakable and format.fits(row))
    return known_format(source) or next(candidates, OWN)
