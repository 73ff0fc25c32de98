"""What contenders of `benchmarks.dreamer` are given: sizes, weights, and sequences with noise.

The sizes are those of the preset `dreamer`. Kernels have TensorFlow's layouts: dense ones
`[in, out]`, those of convolutions `[height, width, in, out]`, and those of transposed convolutions
`[height, width, out, in]`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks import _problems as problems

Arrays = problems.Arrays

UNIMIX = 0.01
DYNAMICS_WEIGHT, REPRESENTATION_WEIGHT, FREE_NATS = 1.0, 0.1, 1.0
VECTOR_SCALE = 0.3  # Standard deviation of the likelihood of vectors.
VECTOR_BOUND = 20.0  # Vectors are clipped to this size after `symlog`.
REWARD_LIMIT, NUM_BINS = 22_025.0, 101
NORM_EPSILON = 1e-4
LEARNING_RATE, CLIP_NORM = 8e-4, 100.0
ADAM_EPSILON = 1e-7
PATCH = 4  # Pixels a side.
CHECKED_UPDATES = 3  # The loss before each of them is checked.


@dataclasses.dataclass(frozen=True)
class DreamerSize:
  """Sizes of the world model and of a batch.

  Attributes:
    observation: shape of an observation, `(numbers,)` or `(height, width, channels)`.
    batch, length: number of sequences, and of steps in each.
    deter, hidden: widths of the recurrent state, and of hidden layers.
    variables, classes: number of categorical variables, and of classes of each.
    filters: features of a patch; each halving of an image doubles them.
    image_units: width of an encoded image.
  """

  observation: tuple[int, ...] = (4,)
  batch: int = 16
  length: int = 32
  deter: int = 192
  hidden: int = 96
  variables: int = 16
  classes: int = 8
  filters: int = 16
  image_units: int = 192

  @property
  def pixels(self) -> bool:
    """Whether observations are images."""
    return len(self.observation) == 3

  @property
  def stoch(self) -> int:
    """Width of the stochastic state."""
    return self.variables * self.classes

  @property
  def features(self) -> int:
    """Width of what the decoder and the heads read."""
    return self.deter + self.stoch


def make_size(pixels: bool, **sizes: int) -> DreamerSize:
  """Returns the size of the race on vectors, or of that on images; `sizes` replace fields."""
  if pixels:
    sizes = {"observation": (64, 64, 3), "batch": 8, **sizes}
  return DreamerSize(**sizes)


def layers(size: DreamerSize) -> dict[str, tuple[tuple[int, ...], bool]]:
  """Returns the shape of each layer's kernel by name, and whether `RMSNorm` follows the layer."""
  hidden, features = size.hidden, size.features
  found = {
    "cell_input": ((size.stoch + problems.ACTION_SIZE, hidden), True),
    "gates": ((hidden + size.deter, 3 * size.deter), True),
    "prior_hidden": ((size.deter, hidden), True),
    "prior": ((hidden, size.stoch), False),
    "posterior_hidden": ((size.deter, hidden), True),
    "posterior": ((hidden, size.stoch), False),
    "reward_hidden": ((features, hidden), True),
    "reward": ((hidden, NUM_BINS), False),
    "termination_hidden": ((features, hidden), True),
    "termination": ((hidden, 1), False),
  }
  if not size.pixels:
    (numbers,) = size.observation
    return found | {
      "encoder.dense1": ((numbers, hidden), True),
      "encoder.dense2": ((hidden, hidden), True),
      "embedding": ((hidden, hidden), False),
      "decoder.dense1": ((features, hidden), True),
      "decoder.dense2": ((hidden, hidden), True),
      "decoder.output": ((hidden, numbers), False),
    }
  height, width, channels = size.observation
  few, some, many = size.filters, 2 * size.filters, 4 * size.filters
  patch, flat = PATCH**2 * channels, many * height * width // (4 * PATCH) ** 2
  return found | {
    "encoder.patches": ((patch, few), True),
    "encoder.conv1": ((4, 4, few, some), True),
    "encoder.conv2": ((4, 4, some, many), True),
    "encoder.dense": ((flat, size.image_units), True),
    "embedding": ((size.image_units, hidden), False),
    "decoder.dense": ((features, flat), True),
    "decoder.conv1": ((4, 4, some, many), True),
    "decoder.conv2": ((4, 4, few, some), True),
    "decoder.patches": ((few, patch), False),
  }


def weights(size: DreamerSize, seed: int = 0) -> Arrays:
  """Returns `NAME/kernel` and `NAME/bias` of each layer, and `NAME/gain` if `RMSNorm` follows."""
  generator = np.random.default_rng(seed)
  arrays = {}

  def normal(scale, shape):
    return generator.normal(0, scale, shape).astype(np.float32)

  for name, (shape, normalised) in layers(size).items():
    transposed = name.startswith("decoder.conv")
    # An output of a transposed convolution of stride 2 has a quarter of the kernel's inputs.
    fan_in = 4 * shape[-1] if transposed else np.prod(shape[:-1])
    num = shape[-2] if transposed else shape[-1]
    arrays[f"{name}/kernel"] = normal(fan_in**-0.5, shape)
    arrays[f"{name}/bias"] = normal(0.01, num)
    if normalised:
      arrays[f"{name}/gain"] = 1.0 + normal(0.1, num)
  return arrays


def sequences(size: DreamerSize, seed: int = 0) -> Arrays:
  """Returns a batch in arrival alignment, and the uniform noise of the posterior samples.

  Some episodes end within a sequence, and the last sequence is padded.
  """
  generator = np.random.default_rng(seed)
  lead = (size.batch, size.length)
  if size.pixels:
    height, width, _ = size.observation
    frames = problems.frames(size.batch * size.length, seed)[:, :height, :width]
    observation = frames.reshape(*lead, *size.observation)
  else:
    observation = generator.normal(0, 2, (*lead, *size.observation)).astype(np.float32)
  is_first = generator.uniform(size=lead) < 0.03
  is_first[:, 0] = True
  action = np.tanh(generator.normal(0, 1, (*lead, problems.ACTION_SIZE)))
  mask = np.ones(lead, bool)
  mask[-1, -3:] = False
  return {
    "observation": observation,
    "prev_action": np.where(is_first[..., np.newaxis], 0, action).astype(np.float32),
    "reward": np.where(is_first, 0, generator.normal(0, 3, lead)).astype(np.float32),
    "discount": (generator.uniform(size=lead) > 0.03).astype(np.float32),
    "is_first": is_first,
    "mask": mask,
    "noise": generator.uniform(size=(*lead, size.variables)).astype(np.float32),
  }


def reward_bins() -> np.ndarray:
  """Returns the values of the reward head, `float32[NUM_BINS]`, exponentially spaced."""
  spaced = np.linspace(-np.log1p(REWARD_LIMIT), np.log1p(REWARD_LIMIT), NUM_BINS)
  return (np.sign(spaced) * np.expm1(np.abs(spaced))).astype(np.float32)
