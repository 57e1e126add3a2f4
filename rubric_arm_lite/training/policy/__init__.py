"""Policy post-training against a finished reward model (paper, sec. 4.3): DPO, iterative DPO and online GRPO.

:mod:`players` loads policy and reward model; :mod:`referee` asks the reward model; :mod:`pairs` samples and labels;
:mod:`dpo` trains on pairs with TRL; :mod:`phase` is online GRPO's phase; :mod:`evaluate` measures a policy against the
one it started from; :mod:`statistics` holds the numbers behind that; :mod:`pipeline` is a whole run.
"""
