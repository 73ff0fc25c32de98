"""What one would write in PyTorch: the same models, in its own layouts, with its own layers.

Convolutions in channels-last memory, `nn.LSTM`, the fused Adam, no gradient where none is needed;
each task eager or through `torch.compile`, in float32 or under bfloat16 autocast.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import _problems as problems
from benchmarks import _torch_dreamer as dreamer_tasks
from benchmarks._torch_losses import two_hot
from benchmarks._worker import Task


def _parameter(layer: nn.Module, name: str, value: np.ndarray) -> None:
  with torch.no_grad():
    getattr(layer, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _load_dense(layer: nn.Linear, arrays, name: str) -> None:
  _parameter(layer, "weight", arrays[f"{name}/kernel"].T)
  _parameter(layer, "bias", arrays[f"{name}/bias"])


class VAE(nn.Module):
  """The paper's VAE, loss included."""

  def __init__(self, latent: int, seed: int = 0):
    super().__init__()
    arrays, channels, filters = problems.vae_weights(latent, seed), 3, problems.ENCODER_FILTERS
    self.encoder = nn.ModuleList()
    for i, num in enumerate(filters):
      self.encoder.append(nn.Conv2d(channels, num, 4, stride=2))
      _parameter(self.encoder[-1], "weight", arrays[f"encoder{i}/kernel"].transpose(3, 2, 0, 1))
      _parameter(self.encoder[-1], "bias", arrays[f"encoder{i}/bias"])
      channels = num
    flat = arrays["posterior/kernel"].shape[0]
    self.posterior, self.expand = nn.Linear(flat, 2 * latent), nn.Linear(latent, flat)
    _load_dense(self.posterior, arrays, "posterior")
    _load_dense(self.expand, arrays, "expand")
    self.decoder, channels = nn.ModuleList(), flat
    for i, num in enumerate((*problems.DECODER_FILTERS, 3)):
      kernel = arrays[f"decoder{i}/kernel"]
      self.decoder.append(nn.ConvTranspose2d(channels, num, kernel.shape[0], stride=2))
      _parameter(self.decoder[-1], "weight", kernel.transpose(3, 2, 0, 1))
      _parameter(self.decoder[-1], "bias", arrays[f"decoder{i}/bias"])
      channels = num

  def encode(self, x):
    for layer in self.encoder:
      x = F.relu(layer(x))
    x = x.permute(0, 2, 3, 1).flatten(1)  # As TensorFlow flattens; free in channels-last memory.
    loc, log_scale = self.posterior(x).float().chunk(2, dim=-1)
    return loc, log_scale.clamp(-7.0, 2.0)

  def decode(self, z):
    x = self.expand(z)[:, :, None, None]
    for layer in self.decoder[:-1]:
      x = F.relu(layer(x))
    return torch.sigmoid(self.decoder[-1](x).float())

  def loss(self, frames, noise):
    target = self.as_input(frames)
    loc, log_scale = self.encode(target)
    mean = self.decode(loc + log_scale.exp() * noise)
    squared = (mean - target).square().sum((1, 2, 3))
    kl = (0.5 * (loc.square() + (2 * log_scale).exp() - 1) - log_scale).sum(-1)
    return (squared + kl.clamp(min=0.5 * loc.shape[1])).mean()

  def as_input(self, frames):
    return frames.permute(0, 3, 1, 2).to(torch.float32) * (1.0 / 255.0)

  def draw_noise(self, frames):
    return torch.randn(frames.shape[0], self.posterior.out_features // 2)


def _soft_bound(x, low, high):
  return low + F.softplus(high - F.softplus(high - x) - low)


class MDNRNN(nn.Module):
  """The MDN-RNN with its density, reward and termination heads, loss included."""

  def __init__(self, size: problems.DreamSize):
    super().__init__()
    arrays, inputs = problems.dynamics_weights(size), size.latent + problems.ACTION_SIZE
    self.size = size
    self.lstm = nn.LSTM(inputs, size.hidden, batch_first=True)
    _parameter(self.lstm, "weight_ih_l0", arrays["lstm/kernel"].T)
    _parameter(self.lstm, "weight_hh_l0", arrays["recurrent/kernel"].T)
    _parameter(self.lstm, "bias_ih_l0", arrays["lstm/bias"])
    # PyTorch's second bias is redundant: it is held at zero and does not count.
    _parameter(self.lstm, "bias_hh_l0", np.zeros_like(arrays["lstm/bias"]))
    self.lstm.bias_hh_l0.requires_grad_(False)
    self.mixture = nn.Linear(size.hidden + inputs, 3 * size.latent * size.mixtures)
    self.reward_hidden = nn.Linear(size.hidden, problems.HEAD_HIDDEN)
    self.reward = nn.Linear(problems.HEAD_HIDDEN, len(problems.REWARD_BINS))
    self.termination_hidden = nn.Linear(size.hidden, problems.HEAD_HIDDEN)
    self.termination = nn.Linear(problems.HEAD_HIDDEN, 1)
    for name in ("mixture", "reward_hidden", "reward", "termination_hidden", "termination"):
      _load_dense(getattr(self, name), arrays, name)
    for name in ("latent_loc", "latent_scale", "change_scale"):
      self.register_buffer(name, torch.from_numpy(arrays[name]))
    self.register_buffer("bins", torch.tensor(problems.REWARD_BINS))

  def density(self, h, inputs):
    """Logits, locs and log-scales, each `[..., Z, K]`."""
    parts = self.mixture(torch.cat([h, inputs], -1)).float().chunk(3, dim=-1)
    shape = (*h.shape[:-1], self.size.latent, self.size.mixtures)
    logits, loc, log_scale = (part.reshape(shape) for part in parts)
    return logits, loc, log_scale

  def reward_logits(self, h):
    return self.reward(F.relu(self.reward_hidden(h))).float()

  def termination_logit(self, h):
    return self.termination(F.relu(self.termination_hidden(h))).float()[..., 0]

  def loss(self, batch, noise):
    loc, log_scale = batch["observation"].chunk(2, dim=-1)
    z = loc + log_scale.exp() * noise
    standard = (z[:, :-1] - self.latent_loc) / self.latent_scale
    inputs = torch.cat([standard, batch["prev_action"][:, 1:]], -1)
    h, _ = self.lstm(inputs)
    target = ((z[:, 1:] - z[:, :-1]) / self.change_scale)[..., None]
    logits, loc, log_scale = self.density(h, inputs)
    log_scale = _soft_bound(log_scale, -5.0, 2.0)
    log_prob = -0.5 * ((target - loc) * (-log_scale).exp()).square() - log_scale
    log_prob = log_prob - 0.5 * math.log(2 * math.pi)
    nll = -torch.logsumexp(F.log_softmax(logits, -1) + log_prob, -1).sum(-1)
    reward_loss = -(
      two_hot(batch["reward"][:, 1:], self.bins) * F.log_softmax(self.reward_logits(h), -1)
    )
    termination_loss = F.binary_cross_entropy_with_logits(
      self.termination_logit(h),
      1.0 - batch["discount"][:, 1:],
      pos_weight=torch.tensor(problems.TERMINATION_WEIGHT),
      reduction="none",
    )
    mask = batch["mask"][:, 1:].float()

    def mean(x):
      return (x * mask).sum() / mask.sum().clamp(min=1.0)

    return mean(nll) / self.size.latent + mean(reward_loss.sum(-1)) + mean(termination_loss)

  def draw_noise(self, batch):
    return torch.randn(*batch["observation"].shape[:2], self.size.latent)

  # The dream.

  def imagine(self, z, h, c, action, choice, normal, temperature: float):
    """One step of `B` rows; returns the next state, the reward and the discount."""
    inputs = torch.cat([(z - self.latent_loc) / self.latent_scale, action], -1)
    lstm = self.lstm
    gates = F.linear(inputs, lstm.weight_ih_l0, lstm.bias_ih_l0) + F.linear(h, lstm.weight_hh_l0)
    i, f, g, o = gates.chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    logits, loc, log_scale = self.density(h, inputs)
    cumulative = torch.softmax(logits / temperature, -1).cumsum(-1)[..., :-1]
    index = (cumulative <= choice[..., None]).sum(-1, keepdim=True)
    loc, log_scale = loc.gather(-1, index)[..., 0], log_scale.gather(-1, index)[..., 0]
    scale = _soft_bound(log_scale, -5.0, 2.0).exp()
    z = z + (loc + scale * math.sqrt(temperature) * normal) * self.change_scale
    bound = problems.LATENT_BOUND * self.latent_scale
    z = torch.clamp(z, self.latent_loc - bound, self.latent_loc + bound)
    reward = torch.softmax(self.reward_logits(h), -1) @ self.bins
    discount = torch.sigmoid(math.log(problems.TERMINATION_WEIGHT) - self.termination_logit(h))
    return z, h, c, reward, discount


def _training(model, batch, noise, steps: int, compiled: bool, bfloat16: bool) -> Task:
  parameters = [p for p in model.parameters() if p.requires_grad]

  def loss_of(batch, noise):
    context = torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    with context:
      return model.loss(batch, noise)

  loss = loss_of(batch, torch.from_numpy(noise))
  loss.backward()
  norm = torch.stack([p.grad.norm() for p in parameters]).norm()
  check = {
    "loss": float(loss.detach()),
    "gradient_norm": float(norm),
    "parameters": sum(p.numel() for p in parameters),
  }
  step = _make_step(model, torch.compile(loss_of) if compiled else loss_of)

  def run():
    for _ in range(steps):
      step(batch)

  return Task(run, check)


def _make_step(model, loss_of):
  parameters = [p for p in model.parameters() if p.requires_grad]
  optimizer = torch.optim.Adam(parameters, problems.LEARNING_RATE, fused=True)

  def step(batch):
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(batch, model.draw_noise(batch))
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, problems.CLIP_NORM)
    optimizer.step()
    loss.item()

  return step


def vae(batch: int, steps: int, latent: int = 32, compiled=False, bfloat16=False) -> Task:
  """VAE training."""
  noise = np.random.default_rng(1).normal(0, 1, (batch, latent)).astype(np.float32)
  model = VAE(latent).to(memory_format=torch.channels_last)
  frames = torch.from_numpy(problems.frames(batch))
  return _training(model, frames, noise, steps, compiled, bfloat16)


def vae_epochs(data: str, batch: int, epochs: int, seed: int) -> Task:
  """The held-out squared error of a frame after each epoch."""
  frames = np.load(data)
  train, held_out = (torch.from_numpy(frames[name]) for name in ("train", "held_out"))
  torch.manual_seed(seed)
  model = VAE(32, seed).to(memory_format=torch.channels_last)
  step, errors = _make_step(model, model.loss), []
  for number in range(epochs):
    for rows in problems.epoch(len(train), batch, seed, number):
      step(train[rows])
    with torch.inference_mode():
      target = model.as_input(held_out)
      squared = (model.decode(model.encode(target)[0]) - target).square()
    errors.append(float(squared.sum((1, 2, 3)).mean()))
  return Task(lambda: None, {"squared_error": errors})


def dynamics(
  batch: int, length: int, steps: int, latent: int = 32, compiled=False, bfloat16=False
) -> Task:
  """MDN-RNN training on cached posteriors."""
  arrays = problems.sequences(batch, length, latent)
  noise = arrays.pop("noise")
  model = MDNRNN(problems.DreamSize(latent=latent))
  tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
  return _training(model, tensors, noise, steps, compiled, bfloat16)


def _make_score(size: problems.DreamSize, compiled: bool):
  """`score(parameters, z, h, c, basis, choice, normal) -> float32[N]`, and its state arrays."""
  model, repeats = MDNRNN(size), size.candidates

  def step(weights, bias, z, h, c, choice, normal, total, alive):
    standard = (z - model.latent_loc) / model.latent_scale
    features = torch.cat([standard, h], -1).reshape(size.candidates, size.rollouts, -1)
    action = torch.tanh(torch.baddbmm(bias, features, weights)).reshape(z.shape[0], -1)
    # All candidates meet the same luck: noise is drawn once and repeated.
    choice, normal = choice.repeat(repeats, 1), normal.repeat(repeats, 1)
    z, h, c, reward, discount = model.imagine(z, h, c, action, choice, normal, problems.TEMPERATURE)
    return z, h, c, total + alive * reward, alive * discount

  step = torch.compile(step) if compiled else step

  def score(parameters, z, h, c, basis_loc, basis, choice, normal):
    weights = parameters.reshape(size.candidates, size.basis + 1, problems.ACTION_SIZE)
    bias, weights = weights[:, -1:], basis @ weights[:, :-1]  # The basis folded in, once.
    bias = bias - basis_loc[None, None] @ weights
    z, h, c = (x.repeat(repeats, 1) for x in (z, h, c))
    total, alive = torch.zeros(len(z)), torch.ones(len(z))
    for t in range(size.horizon):
      z, h, c, total, alive = step(weights, bias, z, h, c, choice[:, t], normal[:, t], total, alive)
    return total.reshape(size.candidates, size.rollouts).mean(1)

  return score


def dream(repeats: int = 1, compiled=False, **size) -> Task:
  """A whole population through its dreams."""
  size = problems.DreamSize(**size)
  arrays = {name: torch.from_numpy(value) for name, value in problems.dream(size).items()}
  choice, normal = arrays.pop("choice"), arrays.pop("normal")
  shape = choice.shape
  score = _make_score(size, compiled)
  with torch.inference_mode():
    check = {"imagined_return": score(**arrays, choice=choice, normal=normal).tolist()}

  def run():
    with torch.inference_mode():
      for _ in range(repeats):
        score(**arrays, choice=torch.rand(shape), normal=torch.randn(shape)).numpy()

  return Task(run, check)


def generation(**size) -> Task:
  """A whole generation: the dream in PyTorch, ask and tell by pycma."""
  import cma

  size = problems.DreamSize(**size)
  arrays = {name: torch.from_numpy(value) for name, value in problems.dream(size).items()}
  shape = arrays.pop("choice").shape
  del arrays["normal"], arrays["parameters"]
  score = _make_score(size, compiled=False)
  options = {"popsize": size.candidates, "seed": 1, "verbose": -9}
  start = np.zeros((size.basis + 1) * problems.ACTION_SIZE)
  search = cma.CMAEvolutionStrategy(start, 0.1, options)

  def run():
    asked = search.ask()
    parameters = torch.from_numpy(np.asarray(asked, np.float32))
    with torch.inference_mode():
      noise = {"choice": torch.rand(shape), "normal": torch.randn(shape)}
      returns = score(parameters, **arrays, **noise).numpy()
    search.tell(asked, -returns.astype(np.float64))

  return Task(run, {})


def matrix_product(size: int) -> Task:
  """A float32 product of two square matrices."""
  a, b = torch.randn(size, size), torch.randn(size, size)
  return Task(lambda: float((a @ b)[0, 0]), {})


TASKS = {
  "vae": vae,
  "vae_epochs": vae_epochs,
  "dynamics": dynamics,
  "dream": dream,
  "generation": generation,
  "matrix_product": matrix_product,
  **dreamer_tasks.TASKS,
}
