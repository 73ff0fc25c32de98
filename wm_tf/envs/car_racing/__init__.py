"""CarRacing-v3: the environment, its fast simulator, a scripted driver and tuned settings."""

from wm_tf.envs.car_racing.environment import CarRacing, CarRacing3D, CarRacingOptions

__all__ = ["CarRacing", "CarRacing3D", "CarRacingOptions"]
