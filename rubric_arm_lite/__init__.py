"""Rubric-ARM on one consumer GPU: a rubric generator and a judge, learned by alternating GRPO.

Importing this package loads neither torch nor transformers; each is imported where it is used. What stands here and in
the ``__init__`` of each room is the public interface; anything else may move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rubric_arm_lite.recipe import Recipe as Recipe
    from rubric_arm_lite.recipe import load_recipe as load_recipe
    from rubric_arm_lite.reward_model import RubricRewardModel as RubricRewardModel
    from rubric_arm_lite.reward_model import Verdict as Verdict
    from rubric_arm_lite.reward_model import rubric_arm_reward as rubric_arm_reward
    from rubric_arm_lite.training import train as train
    from rubric_arm_lite.training import train_policy as train_policy
    from rubric_arm_lite.types import PreferencePair as PreferencePair
    from rubric_arm_lite.types import Rubric as Rubric

__version__ = "0.2.0"


def lazy_door(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package that imports an exported name when it is first used.

    Args:
        exports: names by the module of ``package`` that defines them.
    """
    modules = {name: module for module, names in exports.items() for name in names}

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return load, lambda: sorted(modules), list(modules)


__getattr__, __dir__, __all__ = lazy_door(
    __name__,
    {
        "recipe": ["Recipe", "load_recipe"],
        "reward_model": ["RubricRewardModel", "Verdict", "rubric_arm_reward"],
        "training": ["train", "train_policy"],
        "types": ["PreferencePair", "Rubric"],
    },
)
