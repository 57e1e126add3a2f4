"""Policy post-training against a finished reward model (paper, sec. 4.3): DPO, iterative DPO and online GRPO.

:mod:`.run` has ``train_policy``; :mod:`.stages` are its stages. :mod:`.judges` loads policy and reward model and asks
the latter; :mod:`.requests` reads the prompts; :mod:`.pairs` samples and labels; :mod:`.dpo` trains on pairs with TRL;
:mod:`.online` is online GRPO; :mod:`.evaluate` measures a policy against the one it started from.
"""
