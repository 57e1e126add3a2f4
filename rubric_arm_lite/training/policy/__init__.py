"""Policy post-training against a finished reward model (paper, sec. 4.3): DPO, iterative DPO and online GRPO.

:mod:`.stages` has the stages of ``train_policy``, and online GRPO. :mod:`.state` loads what they work with: models,
requests and both judges. :mod:`.dpo` samples and labels pairs and trains on them with TRL; :mod:`.evaluate` compares a
policy with the one it started from.
"""
