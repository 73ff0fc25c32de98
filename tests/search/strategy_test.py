"""What every strategy promises, and the helpers that they share."""

import math

import numpy as np
import pytest
import tensorflow as tf

from wm_tf.search import strategy
from wm_tf.search.cem import CEM
from wm_tf.search.cma_es import CMAES
from wm_tf.search.mppi import MPPI
from wm_tf.search.open_es import OpenES

ALL = {
  "cem": CEM(),
  "cem_planner": CEM(
    num_kept_elites=2, antithetic=True, correlation=0.5, action_size=2, momentum=0.1, bounds=(-2, 2)
  ),
  "mppi": MPPI(adapt_scale=True, control_cost=0.1, correlation=0.5, action_size=2),
  "open_es": OpenES(scale_decay=0.99),
  "cma_es": CMAES(),
  "cma_es_lazy": CMAES(decompose_every=3, active=False),
  "sep_cma_es": CMAES(separable=True),
}
every_strategy = pytest.mark.parametrize("search", ALL.values(), ids=ALL.keys())


def sphere(x, seed=None):
  return -tf.reduce_sum(tf.square(x - 1.0), -1)


def rosenbrock(x, seed=None):
  return -tf.reduce_sum(100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2, -1)


def noisy_start(batch_size, size, seed=0, dtype=tf.float32):
  return tf.random.stateless_normal([batch_size, size], [seed, 7], dtype=dtype)


def leaves(state):
  return [np.asarray(leaf) for leaf in tf.nest.flatten(state)]


def assert_same(a, b, **tolerance):
  tf.nest.assert_same_structure(a, b)
  for x, y in zip(leaves(a), leaves(b), strict=True):
    if tolerance:
      np.testing.assert_allclose(x, y, **tolerance)
    else:
      np.testing.assert_array_equal(x, y)


def after(search, mean, num, fitness_fn=sphere, seed=(3, 4)):
  return strategy.maximize(search, fitness_fn, mean, tf.constant(seed), num)


# How far below the optimum (0) the mean may lie, from the origin (sphere -4, Rosenbrock -3) in 4
# dimensions, in each of 3 rows. A scale that has a lower bound leaves an error, and a diagonal
# Gaussian creeps along Rosenbrock's curved valley; the full CMA-ES must arrive.
@pytest.mark.parametrize(
  "search, num_iterations, sphere_error, rosenbrock_error",
  [
    (CEM(num_candidates=100, num_elites=20), 60, 1e-10, None),
    (CEM(num_candidates=100, num_elites=10, min_scale=0.03), 400, 1e-3, 0.2),
    (MPPI(num_candidates=200, initial_scale=0.05, temperature=0.1), 400, 1e-3, 0.3),
    (MPPI(num_candidates=200, initial_scale=1.0, adapt_scale=True), 60, 1e-10, None),
    (MPPI(num_candidates=200, min_scale=0.05, adapt_scale=True), 400, 1e-3, 0.6),
    (OpenES(num_candidates=100, initial_scale=0.05, learning_rate=0.02), 1000, 1e-4, 0.8),
    (CMAES(initial_scale=0.3, num_candidates=16), 300, 1e-10, 1e-8),
    (CMAES(initial_scale=0.1, num_candidates=32, separable=True), 400, 1e-10, 0.3),
  ],
)
def test_converges(search, num_iterations, sphere_error, rosenbrock_error):
  seeds = tf.constant([[0, 0], [1, 0], [2, 0]])

  def run(fitness_fn):
    state = strategy.maximize(search, fitness_fn, tf.zeros([3, 4]), seeds, num_iterations)
    return fitness_fn(search.mean(state)), search.best(state)

  for fitness_fn, error in ((sphere, sphere_error), (rosenbrock, rosenbrock_error)):
    if error is None:
      continue
    at_mean, best = tf.function(run)(fitness_fn)
    assert np.all(-at_mean.numpy() <= error), at_mean.numpy()
    assert np.all(-best.fitness.numpy() <= error), best.fitness.numpy()
    np.testing.assert_allclose(fitness_fn(best.x), best.fitness, rtol=1e-4, atol=1e-9)


@every_strategy
def test_shapes_and_dtypes(search):
  for dtype in (tf.float32, tf.float64):
    state = search.init(noisy_start(3, 6, dtype=dtype))
    x = search.ask(state, [1, 2])
    assert x.dtype == dtype and x.shape[0] == 3 and x.shape[2] == 6
    new = search.tell(state, x, sphere(x))
    assert [(t.shape, t.dtype) for t in tf.nest.flatten(new)] == [
      (t.shape, t.dtype) for t in tf.nest.flatten(state)
    ]
    assert all(t.shape[0] == 3 for t in tf.nest.flatten(new))
    assert search.mean(new).shape == (3, 6)
    best = search.best(new)
    row = np.argmax(sphere(x), -1)
    np.testing.assert_array_equal(best.x, x.numpy()[range(3), row])
    np.testing.assert_array_equal(best.fitness, sphere(x).numpy().max(-1))


@every_strategy
def test_seed_decides_everything(search):
  state = search.init(noisy_start(2, 6))
  x = search.ask(state, [1, 2])
  np.testing.assert_array_equal(x, search.ask(state, [1, 2]))
  assert np.abs(x - search.ask(state, [1, 3])).max() > 1e-3
  assert np.abs(x[0] - state.mean[0] - (x[1] - state.mean[1])).max() > 1e-3
  assert_same(after(search, noisy_start(2, 6), 5), after(search, noisy_start(2, 6), 5))


@every_strategy
def test_two_problems_equal_one_and_one(search):
  # Rows differ in start, in seed and, by the NaN, in which candidates fail.
  mean = noisy_start(2, 6, dtype=tf.float64)
  seeds = tf.constant([[3, 4], [5, 6]])

  def fitness_fn(x, seed):
    return tf.where(x[..., 0] > 0.5, np.nan, sphere(x))

  both = strategy.maximize(search, fitness_fn, mean, seeds, 7)
  for row in range(2):
    # One seed with its own row, and one seed for the call, are the same for a single problem.
    for seed in (seeds[row : row + 1], seeds[row]):
      one = strategy.maximize(search, fitness_fn, mean[row : row + 1], seed, 7)
      # Matrix products of other batch sizes may round otherwise.
      part = tf.nest.pack_sequence_as(both, [leaf[row : row + 1] for leaf in leaves(both)])
      assert_same(part, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.inf], ids=str)
@every_strategy
def test_failed_candidate_never_wins(search, bad):
  state = search.init(noisy_start(1, 6, dtype=tf.float64))
  x = search.ask(state, [1, 2])
  fitness = sphere(x).numpy()
  winner = np.argmax(fitness)
  fitness[0, winner] = bad
  new = search.tell(state, x, fitness)
  runner_up = np.nanargmax(np.where(np.isfinite(fitness), fitness, np.nan))
  np.testing.assert_array_equal(search.best(new).x[0], x[0, runner_up])
  assert search.best(new).fitness[0] == fitness[0, runner_up]
  assert all(np.all(np.isfinite(leaf)) for leaf in leaves(new) if leaf.size)
  # Every bad value means the same, and means what any fitness below all the others means, except
  # that a strategy may ignore a failure where it would learn from a bad candidate.
  fitness[0, winner] = np.nan
  assert_same(new, search.tell(state, x, fitness))
  if not isinstance(search, (CMAES, MPPI)):
    fitness[0, winner] = -1e9
    assert_same(new, search.tell(state, x, fitness))


@every_strategy
def test_failed_generation_changes_nothing(search):
  state = after(search, noisy_start(2, 6), 3)
  x = search.ask(state, [1, 2])
  assert_same(search.tell(state, x, np.full(x.shape[:2], np.nan, np.float32)), state)
  # Row by row.
  fitness = sphere(x).numpy()
  whole = search.tell(state, x, fitness)
  fitness[0] = [np.nan, np.inf] * (x.shape[1] // 2) + [-np.inf] * (x.shape[1] % 2)
  half = search.tell(state, x, fitness)
  for old, new, part in zip(leaves(state), leaves(whole), leaves(half), strict=True):
    np.testing.assert_array_equal(part[0], old[0])
    np.testing.assert_array_equal(part[1], new[1])
  # And from the start: the mean is the best that is known.
  fresh = search.init(noisy_start(1, 6))
  best = search.best(search.tell(fresh, x[:1], np.full([1, x.shape[1]], np.nan)))
  np.testing.assert_array_equal(best.x, fresh.mean)
  assert best.fitness[0] == -np.inf


@every_strategy
def test_candidate_that_is_not_finite_fails(search):
  state = search.init(noisy_start(1, 6))
  x = search.ask(state, [1, 2]).numpy()
  fitness = sphere(tf.constant(x)).numpy()
  x[0, 0, 0], x[0, 1, 2], fitness[0, :2] = np.nan, np.inf, 1e6
  new = search.tell(state, x, fitness)
  assert all(np.all(np.isfinite(leaf)) for leaf in leaves(new) if leaf.size)
  assert search.best(new).fitness[0] == fitness[0, 2:].max()


@every_strategy
def test_best_is_kept(search):
  state = search.init(tf.zeros([1, 4]))
  x = search.ask(state, [0, 0])
  fitness = np.arange(x.shape[1], dtype=np.float32)[None]
  first = search.best(search.tell(state, x, fitness))
  worse = search.best(search.tell(search.tell(state, x, fitness), x - 1, fitness - 1))
  better = search.best(search.tell(search.tell(state, x, fitness), x - 1, fitness + 1))
  np.testing.assert_array_equal(first.x, x[:, -1])
  assert_same(worse, first)
  np.testing.assert_array_equal(better.x, x[:, -1] - 1)


@pytest.mark.parametrize(
  "search",
  [search for search in ALL.values() if not isinstance(search, MPPI)],
  ids=[name for name in ALL if name != "mppi"],
)
def test_only_the_order_of_fitness_counts(search):
  mean = noisy_start(1, 6, dtype=tf.float64)
  plain = after(search, mean, 10)
  twisted = after(search, mean, 10, lambda x, seed: 5 - tf.sqrt(-sphere(x)))
  for name in plain._fields:
    if name not in ("best", "elite_fitness"):
      assert_same(getattr(plain, name), getattr(twisted, name))
  np.testing.assert_array_equal(plain.best.x, twisted.best.x)


def test_ties_go_to_the_first():
  x = tf.reshape(tf.range(8.0), [1, 8, 1])
  fitness = tf.constant([[1.0, 2.0, 1.0, 2.0, 1.0, 1.0, 2.0, -np.inf]])
  np.testing.assert_array_equal(strategy.top_k(x, fitness, 5)[0][0, :, 0], [1, 3, 6, 0, 2])


@pytest.mark.slow
@every_strategy
def test_compiles_with_xla(search):
  state = after(search, noisy_start(2, 4), 3)
  seed = tf.constant([[1, 2], [3, 4]])

  @tf.function(jit_compile=True)
  def compiled(state, seed):
    x = search.ask(state, seed)
    return x, search.tell(state, x, sphere(x))

  x, new = compiled(state, seed)

  # From the same seed XLA draws other numbers, of the same distribution.
  def spread(x):
    return np.std(x - state.mean[:, tf.newaxis])

  np.testing.assert_allclose(spread(x), spread(search.ask(state, seed)), rtol=0.5)
  expected = search.tell(state, x, sphere(x))
  if isinstance(search, CMAES) and not search.separable:
    # Eigenvectors are defined up to their sign: compare the products that matter.
    def square(s):
      return tf.matmul(s.basis * s.axes[:, tf.newaxis] ** 2, s.basis, transpose_b=True)

    np.testing.assert_allclose(square(new), square(expected), atol=1e-5)
    new, expected = new._replace(basis=()), expected._replace(basis=())
  assert_same(new, expected, rtol=1e-4, atol=1e-5)


def test_maximize_compiles_with_xla():
  run = tf.function(
    lambda seed: CEM().best(strategy.maximize(CEM(), sphere, tf.zeros([2, 4]), seed, 40)),
    jit_compile=True,
  )
  assert np.all(run(tf.constant([[1, 2], [3, 4]])).fitness > -1e-6)


@pytest.mark.slow
@every_strategy
def test_survives_saved_model(search, tmp_path):
  # As in serving: any batch size, a seed per row, and state that travels.
  class Served(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None, 2], tf.int32)])
    def plan(self, mean, seed):
      return search.best(strategy.maximize(search, sphere, mean, seed, 5))

    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None, 2], tf.int32)])
    def first(self, mean, seed):
      state = search.init(mean)
      return {"x": search.ask(state, seed), "state": tf.nest.flatten(state)}

  module = Served()
  example = search.init(tf.zeros([1, 4]))
  specs = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in tf.nest.flatten(example)]

  @tf.function
  def step(x, fitness, *flat):
    state = tf.nest.pack_sequence_as(example, flat)
    return tf.nest.flatten(search.tell(state, x, fitness))

  num = search.ask(example, [0, 0]).shape[1]
  shapes = tf.TensorSpec([None, num, 4]), tf.TensorSpec([None, num])
  module.step = step
  tf.saved_model.save(module, str(tmp_path), signatures=step.get_concrete_function(*shapes, *specs))
  loaded = tf.saved_model.load(str(tmp_path))

  for mean, seed in ((noisy_start(3, 4), [[1, 2], [3, 4], [5, 6]]), (noisy_start(1, 4), [[1, 2]])):
    seed = tf.constant(seed)
    assert_same(
      tuple(loaded.plan(mean, seed)),
      tuple(search.best(strategy.maximize(search, sphere, mean, seed, 5))),
      rtol=1e-4,
      atol=1e-5,
    )
    state = search.init(mean)
    x = search.ask(state, seed)
    first = loaded.first(mean, seed)
    np.testing.assert_allclose(first["x"], x, rtol=1e-5, atol=1e-6)
    new = loaded.step(first["x"], sphere(first["x"]), *first["state"])
    assert_same(new, tf.nest.flatten(search.tell(state, x, sphere(x))), rtol=1e-4, atol=1e-5)


@every_strategy
def test_checkpoint_resumes_exactly(search, tmp_path):
  def run(state, steps):
    return [state := search.tell(state, x := search.ask(state, [i, 0]), sphere(x)) for i in steps][
      -1
    ]

  state = search.init(noisy_start(2, 4))
  straight = run(state, range(6))

  halfway = tf.nest.map_structure(tf.Variable, run(state, range(3)))
  path = tf.train.Checkpoint(search=halfway).write(str(tmp_path / "search"))
  restored = tf.nest.map_structure(lambda t: tf.Variable(tf.zeros_like(t)), state)
  tf.train.Checkpoint(search=restored).read(path).assert_consumed()
  assert_same(run(tf.nest.map_structure(tf.convert_to_tensor, restored), range(3, 6)), straight)


def test_maximize_gives_fresh_seeds():
  # The noise of the candidates and the seeds of the fitness must differ every generation.
  rows = tf.constant([[1, 2], [3, 4]])
  seen = []

  def fitness_fn(x, seed):
    assert seed.shape == (2, 2)
    seen.append(np.asarray(seed))
    return sphere(x)

  tf.config.run_functions_eagerly(True)
  try:
    strategy.maximize(CEM(), fitness_fn, tf.zeros([2, 3]), rows, 4)
  finally:
    tf.config.run_functions_eagerly(False)
  assert len({tuple(row) for seeds in seen for row in seeds}) == 8


def test_maximize_takes_a_tensor_of_iterations():
  run = tf.function(lambda num: strategy.maximize(CEM(), sphere, tf.zeros([1, 3]), [1, 2], num))
  assert_same(run(tf.constant(4)), after(CEM(), tf.zeros([1, 3]), 4, seed=(1, 2)), rtol=1e-5)


def test_centred_ranks():
  fitness = tf.constant([[3.0, -1.0, 7.0, 5.0], [2.0, 2.0, 9.0, -np.inf], [4.0, 4.0, 4.0, 4.0]])
  third = 1 / 3
  expected = [[0.5 - 2 * third, -0.5, 0.5, third - 0.5 + third], [0, 0, 0.5, -0.5], [0] * 4]
  np.testing.assert_allclose(strategy.centred_ranks(fitness), expected, atol=1e-7)


def test_correlated_noise_is_an_autoregression():
  noise = tf.random.stateless_normal([2, 2000, 5 * 3], [1, 2])
  rho, z = 0.7, noise.numpy().reshape(2, 2000, 5, 3)
  expected = [z[:, :, 0]]
  for t in range(1, 5):
    expected.append(rho * expected[-1] + math.sqrt(1 - rho**2) * z[:, :, t])
  actual = strategy.correlate(noise, rho, 3).numpy().reshape(2, 2000, 5, 3)
  np.testing.assert_allclose(actual, np.stack(expected, 2), atol=1e-5)
  np.testing.assert_allclose(actual.std((0, 1)), 1.0, atol=0.06)
  assert strategy.correlate(noise, 0.0, 4) is noise
  with pytest.raises(ValueError, match="whole number of actions of 4"):
    strategy.correlate(noise, 0.5, 4)


def test_bad_input_is_named():
  with pytest.raises(ValueError, match=r"mean must be a float tensor \[B, D\].*float32\(3,\)"):
    CEM().init(tf.zeros([3]))
  with pytest.raises(ValueError, match="int32"):
    CMAES().init(tf.zeros([1, 3], tf.int32))
  state = CEM().init(tf.zeros([1, 3]))
  with pytest.raises(ValueError, match=r"seed must be int32\[2\]"):
    CEM().ask(state, [[[1, 2]]])
  with pytest.raises(ValueError, match=r"tell takes x \[B, N, D\]"):
    CEM().tell(state, tf.zeros([64, 3]), tf.zeros([64]))
  with pytest.raises(ValueError, match="weighs exactly 7 candidates; tell got 8"):
    CMAES().tell(CMAES().init(tf.zeros([1, 3])), tf.zeros([1, 8, 3]), tf.zeros([1, 8]))


@pytest.mark.parametrize(
  "make, name",
  [
    (lambda: CEM(num_elites=1), "num_elites"),
    (lambda: CEM(num_elites=65), "num_elites"),
    (lambda: CEM(num_kept_elites=9), "num_kept_elites"),
    (lambda: CEM(num_candidates=63, antithetic=True), "num_candidates"),
    (lambda: CEM(momentum=1.0), "momentum"),
    (lambda: CEM(bounds=(1.0, 1.0)), "bounds"),
    (lambda: MPPI(correlation=1.0), "correlation"),
    (lambda: MPPI(momentum=-0.1), "momentum"),
    (lambda: MPPI(temperature=0.0), "temperature"),
    (lambda: OpenES(num_candidates=5), "num_candidates"),
    (lambda: OpenES(initial_scale=0.0), "initial_scale"),
    (lambda: CMAES(num_candidates=3), "num_candidates"),
    (lambda: CMAES(initial_scale=0.0), "initial_scale"),
    (lambda: CMAES(decompose_every=0), "decompose_every"),
  ],
)
def test_bad_configuration_is_named(make, name):
  with pytest.raises(ValueError, match=name):
    make()
