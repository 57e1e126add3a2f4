"""Policy post-training against a finished reward model (paper, sec. 4.3): DPO, iterative DPO and online GRPO.

:mod:`.run` has ``train_policy``; :mod:`.stages` are its stages. :mod:`.state` loads what they work with,
:mod:`.requests` reads the prompts, :mod:`.judges` has both judges. :mod:`.pairs` samples and labels; :mod:`.dpo` trains
on pairs with TRL; :mod:`.online` is online GRPO; :mod:`.evaluate` compares a policy with the one it started from.
"""
