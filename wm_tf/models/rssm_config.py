"""The configuration of an `RSSM`."""

from __future__ import annotations

import dataclasses

from wm_tf.checks import check_at_least, check_choice, check_counts, check_positive, check_shares
from wm_tf.models.gru import CELLS
from wm_tf.models.stochastic import STOCHASTIC_KINDS


@dataclasses.dataclass(frozen=True)
class RSSMConfig:
  """Sizes and loss weights of an `RSSM`.

  Attributes:
    deter_size: D, the width of the recurrent state.
    hidden_size: width of the hidden layers of the cell, the prior and the posterior.
    cell: `gru`, or `block_gru` with block-diagonal recurrent weights.
    num_blocks: number of blocks of a `block_gru`.
    stochastic: `categorical` (DreamerV2 and V3) or `gaussian` (Dreamer).
    stoch_size: S, the number of categorical variables or of Gaussian numbers.
    num_classes: C, the number of classes of a categorical variable.
    unimix: share of the uniform distribution in every categorical variable.
    min_scale: smallest standard deviation of a Gaussian number.
    prior_layers: number of hidden layers of the prior.
    image_filters: features of a patch of 4 x 4 pixels; each halving of an image doubles them.
    image_units: width of an encoded image.
    vector_units: widths of the dense layers that encode and decode vectors.
    standardise_vectors: whether vectors are standardised after `symlog`, by the data that the model
      is first fitted to. In online training these are of random actions, and later ones can lie
      many standard deviations from them.
    vector_scale: standard deviation of the likelihood of vectors, in the units of the network. At
      1, differences that decide an episode, such as of the pole's angle in CartPole, weigh little.
    head_hidden_size: width of the hidden layer in the reward and termination heads; 0 for none.
    reward_limit: the largest absolute reward that symexp two-hot represents.
    dynamics_weight, representation_weight: weights of the KL that trains the prior, and of the KL
      that trains the posterior.
    free_nats: nats per step below which neither KL is penalised further.
    reward_weight, termination_weight: weights of the two losses in nats per step.
    termination_positive_weight: weight of a terminal step in the termination loss; other steps
      have weight 1.
  """

  deter_size: int = 256
  hidden_size: int = 128
  cell: str = "gru"
  num_blocks: int = 8
  stochastic: str = "categorical"
  stoch_size: int = 16
  num_classes: int = 16
  unimix: float = 0.01
  min_scale: float = 0.1
  prior_layers: int = 1
  image_filters: int = 16
  image_units: int = 192
  vector_units: tuple[int, ...] = (128, 128)
  standardise_vectors: bool = False
  vector_scale: float = 0.3
  head_hidden_size: int = 128
  reward_limit: float = 22_025.0
  dynamics_weight: float = 1.0
  representation_weight: float = 0.1
  free_nats: float = 1.0
  reward_weight: float = 1.0
  termination_weight: float = 1.0
  termination_positive_weight: float = 1.0

  def __post_init__(self):
    check_choice(self, "cell", CELLS, group="rssm.")
    check_choice(self, "stochastic", STOCHASTIC_KINDS, group="rssm.")
    check_counts(self, "deter_size", "hidden_size", "num_blocks", "stoch_size", group="rssm.")
    check_counts(self, "num_classes", "prior_layers", group="rssm.")
    check_counts(self, "image_filters", "image_units", group="rssm.")
    check_positive(self, "min_scale", "vector_scale", "reward_limit", "termination_positive_weight")
    check_at_least(0, self, "dynamics_weight", "representation_weight", "free_nats")
    check_at_least(0, self, "head_hidden_size", "reward_weight", "termination_weight")
    check_shares(self, "unimix")
    if self.cell == "block_gru" and self.deter_size % self.num_blocks:
      raise ValueError(
        f"rssm.deter_size={self.deter_size} must be a multiple of rssm.num_blocks="
        f"{self.num_blocks}."
      )
    if not self.vector_units or min(self.vector_units) < 1:
      raise ValueError(f"rssm.vector_units must be positive numbers, got {self.vector_units}.")
