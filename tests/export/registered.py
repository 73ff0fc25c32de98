"""Registers a gymnasium id when it is imported, as a package of environments does."""

import gymnasium

from tests.envs.toys import AsymmetricEnv

gymnasium.register("Asymmetric-v0", "tests.export.registered:AsymmetricEnv", max_episode_steps=12)

__all__ = ["AsymmetricEnv"]
