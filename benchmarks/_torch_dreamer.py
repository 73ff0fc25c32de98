"""Dreamer's world model as one would write it in PyTorch, for `benchmarks.dreamer`.

The encoder, the prior, the heads and the decoder run once for all steps; only the recurrent cell
and the posterior are in the loop over time. Images are patches in the encoder and in the loss, so
that the decoder need not put them together, and maps are in channels-last memory.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import _dreamer_problem as dreamer_problem
from benchmarks import _problems as problems
from benchmarks._torch_losses import two_hot
from benchmarks._worker import Task


class NormLinear(nn.Linear):
  """A dense layer, `RMSNorm` and an activation."""

  def __init__(self, inputs: int, units: int, activation=F.silu):
    super().__init__(inputs, units)
    self.norm = nn.RMSNorm(units, eps=dreamer_problem.NORM_EPSILON)
    self.activation = activation

  def forward(self, x, shift=0.0):
    return self.activation(self.norm(super().forward(x) + shift))


class NormConv(nn.Module):
  """A convolution of stride 2 on `[B, H, W, C]`, `RMSNorm` and SiLU."""

  def __init__(self, inputs: int, filters: int, transposed: bool = False):
    super().__init__()
    layer_class = nn.ConvTranspose2d if transposed else nn.Conv2d
    self.convolution = layer_class(inputs, filters, 4, stride=2, padding=1)
    self.convolution.to(memory_format=torch.channels_last)
    self.norm = nn.RMSNorm(filters, eps=dreamer_problem.NORM_EPSILON)

  def forward(self, x):
    x = self.convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return F.silu(self.norm(x))


def _image_networks(size: dreamer_problem.DreamerSize) -> tuple[nn.Module, nn.Module]:
  height, width, channels = size.observation
  few, some, many = size.filters, 2 * size.filters, 4 * size.filters
  patch = dreamer_problem.PATCH**2 * channels
  smallest = (height // (4 * dreamer_problem.PATCH), width // (4 * dreamer_problem.PATCH), many)
  encoder = OrderedDict(
    patches=NormLinear(patch, few),
    conv1=NormConv(few, some),
    conv2=NormConv(some, many),
    flatten=nn.Flatten(),
    dense=NormLinear(math.prod(smallest), size.image_units),
  )
  decoder = OrderedDict(
    dense=NormLinear(size.features, math.prod(smallest)),
    unflatten=nn.Unflatten(1, smallest),
    conv1=NormConv(many, some, transposed=True),
    conv2=NormConv(some, few, transposed=True),
    patches=nn.Linear(few, patch),
  )
  return nn.Sequential(encoder), nn.Sequential(decoder)


def _vector_networks(size: dreamer_problem.DreamerSize) -> tuple[nn.Module, nn.Module]:
  (numbers,), hidden = size.observation, size.hidden
  encoder = OrderedDict(dense1=NormLinear(numbers, hidden), dense2=NormLinear(hidden, hidden))
  decoder = OrderedDict(
    dense1=NormLinear(size.features, hidden),
    dense2=NormLinear(hidden, hidden),
    output=nn.Linear(hidden, numbers),
  )
  return nn.Sequential(encoder), nn.Sequential(decoder)


class WorldModel(nn.Module):
  """The RSSM with its encoder, decoder and heads, loss included."""

  def __init__(self, size: dreamer_problem.DreamerSize):
    super().__init__()
    self.size, hidden = size, size.hidden
    networks = _image_networks(size) if size.pixels else _vector_networks(size)
    self.encoder, self.decoder = networks
    self.embedding = nn.Linear(size.image_units if size.pixels else hidden, hidden)
    self.cell_input = NormLinear(size.stoch + problems.ACTION_SIZE, hidden)
    self.gates = NormLinear(hidden + size.deter, 3 * size.deter, nn.Identity())
    self.prior_hidden, self.prior = NormLinear(size.deter, hidden), nn.Linear(hidden, size.stoch)
    self.posterior_hidden = NormLinear(size.deter, hidden)
    self.posterior = nn.Linear(hidden, size.stoch)
    self.reward_hidden = NormLinear(size.features, hidden)
    self.reward = nn.Linear(hidden, dreamer_problem.NUM_BINS)
    self.termination_hidden = NormLinear(size.features, hidden)
    self.termination = nn.Linear(hidden, 1)
    self.register_buffer("bins", torch.from_numpy(dreamer_problem.reward_bins()))
    self._load(dreamer_problem.weights(size))

  @torch.no_grad()
  def _load(self, arrays) -> None:
    for key, value in arrays.items():
      name, kind = key.split("/")
      block, value = self.get_submodule(name), torch.from_numpy(value)
      layer = block.convolution if isinstance(block, NormConv) else block
      if kind == "gain":
        block.norm.weight.copy_(value)
      elif kind == "bias":
        layer.bias.copy_(value)
      else:
        layer.weight.copy_(value.T if value.ndim == 2 else value.permute(3, 2, 0, 1))

  def loss(self, batch, noise):
    """The mean over steps that are not padding, `float32[]`."""
    target, embedding = self.embed(batch["observation"])
    return self.loss_of_states(batch, target, *self.observe(embedding, batch, noise))

  def embed(self, observation):
    """Observations in the units of the networks, `[B T, ...]`, and embeddings `[B, T, hidden]`."""
    target = self._network_units(observation)
    embedding = self.embedding(self.encoder(target - 0.5 if self.size.pixels else target))
    return target, embedding.unflatten(0, observation.shape[:2])

  def observe(self, embedding, batch, noise):
    """The states and the posterior's logits of all steps, each `[B, T, ...]`."""
    rows = embedding.shape[0]
    deter, stoch = torch.zeros(rows, self.size.deter), torch.zeros(rows, self.size.stoch)
    kept = 1.0 - batch["is_first"].float()[..., None]
    steps = (kept, kept * batch["prev_action"], embedding, noise)
    found = []
    for inputs in zip(*(s.unbind(1) for s in steps), strict=True):
      deter, stoch, logits = self.step(deter, stoch, *inputs)
      found.append((deter, stoch, logits))
    return tuple(torch.stack(column, 1) for column in zip(*found, strict=True))

  def step(self, deter, stoch, keep, action, embedding, noise):
    """One step: the next state, and the posterior's logits."""
    deter = keep * deter
    x = self.cell_input(torch.cat([keep * stoch, action], -1))
    reset, candidate, update = self.gates(torch.cat([x, deter], -1)).chunk(3, dim=-1)
    candidate = torch.tanh(reset.sigmoid() * candidate)
    deter = torch.lerp(deter, candidate, (update - 1.0).sigmoid())
    logits = self.posterior(self.posterior_hidden(deter, embedding))
    return deter, self._sample(logits, noise), logits

  def loss_of_states(self, batch, target, deter, stoch, posterior):
    """The loss, from what `embed` and `observe` return."""
    features = torch.cat([deter, stoch], -1)
    error = self.decoder(features.flatten(0, 1)) + (0.5 if self.size.pixels else 0.0) - target
    error = error.square().flatten(1).sum(-1).unflatten(0, batch["mask"].shape)
    scale = 1.0 if self.size.pixels else 2.0 * dreamer_problem.VECTOR_SCALE**2
    reward = self.reward(self.reward_hidden(features))
    termination = self.termination(self.termination_hidden(features))[..., 0]
    loss = (
      error / scale
      + self._balanced_kl(posterior, self.prior(self.prior_hidden(deter)))
      - (two_hot(batch["reward"], self.bins) * F.log_softmax(reward, -1)).sum(-1)
      + F.binary_cross_entropy_with_logits(termination, 1.0 - batch["discount"], reduction="none")
    )
    mask = batch["mask"].float()
    return (loss * mask).sum() / mask.sum()

  def _network_units(self, observation):
    """Rows of numbers, `[B T, D]`, or of patches in [0, 1], `[B T, h, w, PATCH PATCH C]`."""
    if not self.size.pixels:
      x = observation.flatten(0, 1)
      bound = dreamer_problem.VECTOR_BOUND
      return (x.sign() * x.abs().log1p()).clamp(-bound, bound)
    patch = dreamer_problem.PATCH
    x = observation.flatten(0, 1).unflatten(1, (-1, patch)).unflatten(3, (-1, patch))
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3).float() * (1.0 / 255.0)

  def _probabilities(self, logits):
    """Probabilities with the uniform share, `[..., variables, classes]`."""
    logits = logits.unflatten(-1, (self.size.variables, self.size.classes))
    share = dreamer_problem.UNIMIX
    return (1.0 - share) * logits.softmax(-1) + share / self.size.classes

  def _sample(self, logits, noise):
    """One-hot samples with straight-through gradients, `[B, variables * classes]`."""
    probabilities = self._probabilities(logits)
    fixed = probabilities.detach()
    index = (fixed.cumsum(-1)[..., :-1] <= noise[..., None]).sum(-1)
    one_hot = F.one_hot(index, self.size.classes).float()
    return (one_hot + (probabilities - fixed)).flatten(1)

  def _balanced_kl(self, posterior, prior):
    p, log_q = self._probabilities(posterior), self._probabilities(prior).log()
    log_p = p.log()
    dynamics = (p.detach() * (log_p.detach() - log_q)).sum((-2, -1))
    representation = (p * (log_p - log_q.detach())).sum((-2, -1))
    free = dreamer_problem.FREE_NATS
    return dreamer_problem.DYNAMICS_WEIGHT * dynamics.clamp(min=free) + (
      dreamer_problem.REPRESENTATION_WEIGHT * representation.clamp(min=free)
    )


def _compile(model: WorldModel, compiled: str) -> None:
  """Compiles the `whole` loss with its loop unrolled, or its `parts`: one step, and the rest.

  The whole has more than a thousand operations, whose compilation takes many minutes.
  """
  names = {"": (), "parts": ("embed", "step", "loss_of_states"), "whole": ("loss",)}[compiled]
  for name in names:
    setattr(model, name, torch.compile(getattr(model, name)))


def _make_update(model: WorldModel):
  """Returns `update(batch, noise)`, which returns the loss and the gradient's norm before it."""
  parameters = list(model.parameters())
  # PyTorch adds epsilon after the correction of the bias. This one is equal in the first update.
  epsilon = dreamer_problem.ADAM_EPSILON / math.sqrt(1.0 - 0.999)
  rate = dreamer_problem.LEARNING_RATE
  optimizer = torch.optim.Adam(parameters, rate, eps=epsilon, fused=True)

  def update(batch, noise):
    optimizer.zero_grad(set_to_none=True)
    loss = model.loss(batch, noise)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, dreamer_problem.CLIP_NORM)
    optimizer.step()
    return loss.item(), norm

  return update


def world_model(
  steps: int, pixels: bool, compiled: str = "", threads: int = 0, **sizes: int
) -> Task:
  """Updates of the world model; see the task of the same name of ours.

  Args:
    steps: updates in a repetition.
    pixels: whether observations are images.
    compiled: `whole` or `parts`, see `_compile`; empty for an eager contender.
    threads: number of threads; 0 for one on each core.
    **sizes: replace fields of `DreamerSize`.
  """
  threads = threads or os.cpu_count()
  torch.set_num_threads(threads)
  size = dreamer_problem.make_size(pixels, **sizes)
  batch = {k: torch.from_numpy(v) for k, v in dreamer_problem.sequences(size).items()}
  noise, model = batch.pop("noise"), WorldModel(size)
  _compile(model, compiled)
  update = _make_update(model)
  found = [update(batch, noise) for _ in range(dreamer_problem.CHECKED_UPDATES)]
  check = {
    "losses": [loss for loss, _ in found],
    "gradient_norm": float(found[0][1]),
    "parameters": sum(p.numel() for p in model.parameters()),
  }

  def run():
    torch.set_num_threads(threads)  # Contenders of one process differ in it.
    for _ in range(steps):
      update(batch, torch.rand(noise.shape))

  return Task(run, check)


TASKS = {"dreamer_world_model": world_model}
