"""Recipe models: bounds of single fields, checks across fields, and what a default recipe is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from rubric_arm_lite.recipe.fields import GRPOSettings, Recipe, Settings
from rubric_arm_lite.recipe.policy import PolicyRecipe


def nested(field: str, value: Any) -> dict[str, Any]:
    """``a.b`` and a value as nested mappings."""
    tree: Any = value
    for key in reversed(field.split(".")):
        tree = {key: tree}
    assert isinstance(tree, dict)
    return tree


def models(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A settings model and all below it, each with its dotted place."""
    yield prefix, model
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from models(field.annotation, f"{prefix}.{name}" if prefix else name)


SECTIONS = dict(models(Recipe))


def nested_kinds(annotation: Any) -> Iterator[type]:
    """The classes that a field's annotation names."""
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from nested_kinds(part)


def literals(annotation: Any) -> Iterator[Any]:
    """The values of the literals in a field's annotation."""
    for part in get_args(annotation):
        yield from [part] if get_origin(annotation) is Literal else literals(part)


def all_sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A settings model and all below it, those included that may be null."""
    yield model
    for field in model.model_fields.values():
        for kind in nested_kinds(field.annotation):
            if issubclass(kind, BaseModel):
                yield from all_sections(kind)


CLASSES = {*all_sections(Recipe), *all_sections(PolicyRecipe)}


def test_the_default_recipe_is_valid_and_runs_the_testbed() -> None:
    recipe = Recipe()
    assert recipe.data.source == recipe.warmup.source == recipe.model.base == "testbed"
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_grpo_gives_the_settings_of_the_role() -> None:
    recipe = Recipe(judge=GRPOSettings(num_generations=4), rubric=GRPOSettings(num_generations=6))
    assert recipe.grpo("judge").num_generations == 4
    assert recipe.grpo("rubric").num_generations == 6


@pytest.mark.parametrize("section", sorted(CLASSES, key=lambda model: model.__name__))
def test_every_field_has_a_line_of_documentation(section: type[BaseModel]) -> None:
    """A sentence; one that tells choices apart by name tells all of them."""
    for name, field in section.model_fields.items():
        inner = [kind for kind in nested_kinds(field.annotation) if issubclass(kind, BaseModel)]
        text = " ".join(" ".join([field.description or "", *(kind.__doc__ or "" for kind in inner)]).split())
        assert len(text.split()) >= 2 and text.endswith("."), f"{section.__name__}.{name}: write its line ({text!r})"
        choices = {value for value in literals(field.annotation) if isinstance(value, str)}
        if len(choices) > 1 and name != "format":
            missing = {choice for choice in choices if f"`{choice}`" not in text}
            assert not missing, f"{section.__name__}.{name}: its line does not name {missing}"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_is_frozen_and_closed(section: str) -> None:
    model = SECTIONS[section]
    assert issubclass(model, Settings)
    settings = model()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, next(iter(model.model_fields)), None)
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({"no_such_field": 1})


def test_sections_are_all_found() -> None:
    assert {"judge", "rubric", "model.lora", "data.world", "warmup.teacher", "warmup.judge"} < set(SECTIONS)


OUT_OF_BOUNDS = [
    ("name", ""),
    ("name", ".hidden"),
    ("name", "a/b"),
    ("name", "a" * 65),
    ("seed", -1),
    ("threads", 0),
    ("model.max_context", 0),
    ("model.dtype", "float64"),
    ("model.quantization", "int8"),
    ("model.attention", "flash"),
    ("model.lora.r", 0),
    ("model.lora.alpha", 0.0),
    ("model.lora.alpha", float("inf")),
    ("model.lora.dropout", 1.0),
    ("model.lora.target_modules", "q_proj"),
    ("data.test_fraction", 0.0),
    ("data.test_fraction", 1.0),
    ("data.train_prompts", 0),
    ("data.world.topics", 1),
    ("data.world.topics", 7),
    ("data.world.attributes", 13),
    ("data.world.liked", 1.1),
    ("data.world.liked", float("nan")),
    ("data.world.label_noise", 0.5),
    ("warmup.prompts", 0),
    ("warmup.teacher.careless", -0.1),
    ("warmup.rubric.learning_rate", 0.0),
    ("warmup.judge.lr_scheduler_type", "cos"),
    ("judge.num_generations", 0),
    ("judge.temperature", 0.0),
    ("judge.beta", -0.001),
    ("judge.loss_type", "ppo"),
    ("rubric.scale_rewards", "batch"),
    ("rubric.adam_beta2", 1.0),
    ("rubric.max_grad_norm", 0.0),
    ("rubric.max_steps", 0),
    ("reward.format_weight", -1.0),
    ("reward.format_mode", "lenient"),
    ("reward.unparsed", "skip"),
    ("reward.judge_orders", "two"),
    ("reward.judge", "both"),
    ("reward.short_bonus", -0.1),
    ("reward.short_from", 0),
    ("prompts.pointwise_words.met", ""),
    ("schedule.order", "judge"),
    ("schedule.cycles", 0),
    ("schedule.until.phase", "policy"),
    ("schedule.until.metric", "loss"),
    ("schedule.until.at_least", 1.5),
    ("cache.capacity", 0),
    ("evaluation.showcase", -1),
    ("evaluation.unparsed_value", 2.0),
    ("checkpoint.save_total_limit", 0),
]


@pytest.mark.parametrize(("field", "value"), OUT_OF_BOUNDS)
def test_a_value_out_of_bounds_is_refused_at_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(nested(field, value))
    assert {".".join(map(str, error["loc"]))[: len(field)] for error in caught.value.errors()} == {field}


ENGLISH: dict[str, Any] = {"model": {"base": "some/model"}, "warmup": {"source": "english"}}
CONFLICTS = [
    (nested("judge.num_generations", 1), "num_generations: 1 gives zero advantage"),
    (nested("rubric.num_generations", 1), "num_generations: 1 gives zero advantage"),
    (nested("judge.epsilon", 1.0), "epsilon: 1 must be below 1"),
    (nested("data.world", {"topics": 5}), "attributes: 8 is too few for 5 topics"),
    (nested("data.world", {"liked": 0.7}), "liked + disliked is 1.05, above 1"),
    (nested("warmup.teacher.true_principle", 0.75), "true_principle + generic_principle is 1.2, above 1"),
    (nested("judge.max_completion_length", 4096), "judge.max_completion_length: 4096 leaves no room for a prompt"),
    (nested("model.max_context", 512), "leaves no room for a prompt in model.max_context (512)"),
    (nested("data.source", "pairs.jsonl"), "data.source is 'pairs.jsonl'"),
    (nested("data.split", "train"), "split: source testbed has nothing to choose from"),
    (nested("data.subset", ("code",)), "subset: source testbed has nothing to choose from"),
    ({"warmup": {"source": None, "rows": 5}}, "rows: source null has nothing to choose from"),
    (nested("data.evaluation", "mine.jsonl"), "evaluation: 'mine.jsonl' would not be used, as source: testbed holds"),
    (nested("data.evaluation_split", "test_prefs"), "evaluation_split: 'test_prefs' is the split of data.evaluation"),
    (
        nested("data.decontaminate", ("rewardbench",)),
        "decontaminate: rewardbench would not be used, as source: testbed has",
    ),
    (nested("data.train_prompts", 2), "data.train_prompts: 2 cannot be split into schedule.cycles: 3 parts"),
    (nested("judge.pairs_per_prompt", 5), "pairs_per_prompt: 5 is more than data.world.pairs_per_prompt (4)"),
    (nested("rubric.pairs_per_prompt", 5), "pairs_per_prompt: 5 is more than data.world.pairs_per_prompt (4)"),
    (nested("data.source", "english"), "but data.source is 'english'. Give english, or null to start from the base."),
    (nested("warmup.source", "english"), "warmup.source: english writes trajectories of the english's world, but"),
    (
        {"data": {"source": "english"}, "warmup": {"source": "english"}},
        "data.source: english needs a language model, but model.base is testbed",
    ),
    (
        {
            **ENGLISH,
            "data": {"source": "english", "english": {"pairs_per_prompt": 2}},
            "rubric": {"pairs_per_prompt": 3},
        },
        "pairs_per_prompt: 3 is more than data.english.pairs_per_prompt (2)",
    ),
    ({**ENGLISH, "data": {"source": "english", "evaluation": "x.jsonl"}}, "as source: english holds out prompts"),
    (
        {**ENGLISH, "data": {"source": "english", "decontaminate": ("rewardbench",)}},
        "decontaminate: rewardbench would not be used, as source: english has",
    ),
    ({**ENGLISH, "data": {"source": "english", "split": "train"}}, "split: source english has nothing to choose from"),
    ({**ENGLISH, "data": {"source": "english", "english": {"styles": 7}}}, "styles: 7 is too few for 4 kinds"),
    (
        nested("prompts.judge_template", "judge_short"),
        "judge_short asks for a form that the testbed's warm-up does not",
    ),
    (nested("model.dtype", "float16"), "model.dtype: float16 cannot train the testbed's base"),
    (nested("reward", {"judge": "pointwise", "judge_orders": "both"}), "reward.judge_orders: both is for two"),
    (
        {"reward": {"judge": "pointwise"}, "schedule": {"until": {"metric": "consistency"}}},
        "schedule.until.metric: consistency compares two orders",
    ),
    (nested("prompts.pointwise_words.met", "yes"), "the built-in pointwise_template asks for `Answer: true`"),
    (nested("prompts.pointwise_words.met", "true "), "'true ' has blanks at its ends"),
    (nested("prompts.pointwise_words.answer", "a\nb"), "has blanks at its ends or a line break"),
    (nested("prompts.pointwise_words", {"met": "met", "missed": "not met"}), "cannot be told apart at a line's end"),
]


@pytest.mark.parametrize(("tree", "message"), CONFLICTS)
def test_fields_that_do_not_go_together_are_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(tree)
    assert message in str(caught.value)


ALLOWED = [
    {"data": {"source": "pairs.jsonl"}, "warmup": {"source": None}},
    {"data": {"source": "pairs.jsonl"}, "warmup": {"source": "rows.jsonl"}, "judge": {"pairs_per_prompt": 9}},
    {
        "data": {"source": "a/b", "split": "x", "subset": ["c"], "evaluation": "a/b", "evaluation_split": "y"},
        "warmup": {"source": "a/b", "format": "openrubric", "sample": 9, "streaming": True},
    },
    {"data": {"world": {"topics": 6, "attributes": 12}}},
    {"data": {"world": {"liked": 0.65}}},
    {"judge": {"num_generations": 2, "epsilon": 0.99}},
    {"judge": {"pairs_per_prompt": 4}},
    {"data": {"train_prompts": 3}},
    {"judge": {"max_completion_length": 4095}},
    {"model": {"dtype": "float16", "quantization": "nf4"}},
    {"model": {"dtype": "float16", "base": "Qwen/Qwen3-0.6B"}},
    {"model": {"lora": {"target_modules": ["q_proj", "v_proj"]}}},
    {"schedule": {"until": {"at_least": 1}}},
    {"reward": {"judge": "pointwise"}, "schedule": {"until": {"metric": "accuracy"}}},
    {"prompts": {"pointwise_template": "mine.jinja", "pointwise_words": {"answer": "", "met": "yes", "missed": "no"}}},
]


@pytest.mark.parametrize("tree", ALLOWED)
def test_the_neighbors_of_a_conflict_are_allowed(tree: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(tree)
    assert Recipe.model_validate(recipe.model_dump()) == recipe
