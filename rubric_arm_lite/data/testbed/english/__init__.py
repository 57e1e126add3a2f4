"""The English world: short requests and answers in real English, whose styles are liked or not by kind of request.

Input: a seed and :class:`~rubric_arm_lite.recipe.EnglishSettings`.
Output: an :class:`~.world.EnglishWorld`. Requests and answers stand in ``texts/`` and were written for it
(:mod:`.texts`); :mod:`.styles` adds styles to an answer and reads them back without error; :mod:`.trajectories` writes
judgements in the short form.
"""
