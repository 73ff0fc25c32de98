import dataclasses
import json
import re
import types
import typing

import pytest

from wm_tf import config as config_lib
from wm_tf.config import ConfigError, ExperimentConfig, make_config
from wm_tf.config.experiment import Options
from wm_tf.training.loop import FitConfig

_HEURISTICS = make_config().collect.heuristics
every_preset = pytest.mark.parametrize("preset", config_lib.preset_names())


@every_preset
def test_json_round_trip(preset):
  config = make_config(preset)
  assert config.preset == preset
  values = json.loads(json.dumps(config_lib.to_dict(config)))
  again = config_lib.from_dict(values)
  assert again == config and hash(again) == hash(config)  # Tuples again, not lists
  assert json.loads(json.dumps(config_lib.to_dict(again))) == values


def test_round_trip_of_changed_values():
  config = make_config(
    "debug",
    [
      "vae.row_weights=((0, 8, 2), (56, 64, 4.5))",
      "vae_fit.first.steps_per_epoch=7",
      "dynamics_fit.shuffle_buffer=None",
      "collect.heuristics=()",
      "environment=tests.fakes:TargetEnv",
    ],
  )
  assert config.vae.row_weights == ((0, 8, 2.0), (56, 64, 4.5))
  assert config.collect.heuristics == ()
  assert config.environment == "tests.fakes:TargetEnv"
  assert config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config)))) == config


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("num_iterations=3", 3),
    ("dynamics.num_mixtures = 8", 8),
    ("vae.beta=2", 2.0),
    ("vae.beta=1e-3", 1e-3),
    ("dynamics.predict_change=False", False),
    ("dynamics.mixture_kind=joint", "joint"),
    ("vae.encoder_filters=(8, 16, 16, 32)", (8, 16, 16, 32)),
    ("vae.encoder_filters=[8, 16, 16, 32]", (8, 16, 16, 32)),
    ("vae.decoder_filters=8,16,32", (8, 16, 32)),
    ("dynamics.reward_bins=(-1, 0.5)", (-1.0, 0.5)),
    ("vae.row_weights=[[0, 8, 2], (9, 10, 0.5)]", ((0, 8, 2.0), (9, 10, 0.5))),
    (f"collect.heuristics={_HEURISTICS[:1]}", _HEURISTICS[:1]),
    ("vae_fit.first.patience=4", 4),
    ("vae_fit.first.checkpoint_every=None", None),
    ("controller.dream.horizon=30", 30),
  ],
)
def test_an_override_changes_one_field(text, value):
  default = make_config()
  config = make_config(overrides=[text])
  path = text.partition("=")[0].strip()
  before, after = dict(config_lib.flatten(default)), dict(config_lib.flatten(config))
  assert after[path] == value and type(after[path]) is type(value)
  assert {name for name in before if before[name] != after[name]} == {path}
  assert make_config() == default


def test_later_overrides_win():
  assert make_config("debug", ["vae.beta=2", "vae.beta=3"]).vae.beta == 3.0


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("dynamics.num_mixture=8", r"'dynamics.num_mixture'; did you mean dynamics\.num_mixtures"),
    ("dinamics.num_mixtures=8", r"did you mean dynamics\.num_mixtures"),
    ("num_mixtures=8", r"did you mean dynamics\.num_mixtures"),
    ("vae.num_mixtures=8", r"did you mean .*dynamics\.num_mixtures"),
    ("controller.horizon=8", r"did you mean .*controller\.dream\.horizon"),
    ("vae.learning_rate=1e-3", r"did you mean .*vae_fit\.first\.learning_rate"),
    ("vae.beta.scale=1", r"Unknown field 'vae.beta.scale'; did you mean .*vae\.beta"),
    ("xyzzy=1", "known are: .*num_iterations, .*vae.beta"),
    ("=1", "Unknown field ''"),
    ("vae.beta", "must look like dynamics.num_mixtures=8, got 'vae.beta'"),
    ("vae=3", "vae is a group; override one of its fields: latent_size, encoder_filters"),
    ("vae_fit.first=3", "vae_fit.first is a group; .*learning_rate"),
    ("vae.latent_size=32.0", "vae.latent_size=32.0: 32.0 is not a value of type int"),
    ("vae.latent_size=many", "'many' is not a value of type int"),
    ("vae.latent_size=True", "True is not a value of type int"),
    ("vae.latent_size=None", "None is not a value of type int"),
    ("vae.beta=True", "True is not a value of type float"),
    ("vae.beta='1'", "'1' is not a value of type float"),
    ("dynamics.predict_change=true", "'true' is not a value of type bool"),
    ("dynamics.predict_change=1", "1 is not a value of type bool"),
    ("vae.decoder_filters=(8, 16)", r"\(8, 16\) is not a value of type tuple"),
    ("vae.decoder_filters=8", "8 is not a value of type tuple"),
    ("vae.encoder_filters=(8, 16, 16, 'x')", "'x' is not a value of type int"),
    ("vae.row_weights=((0, 8, None),)", "None is not a value of type float"),
    ("vae_fit.first.patience=soon", "'soon' is not"),
    ("vae_fit.first.patience=1.5", "1.5 is not a value of type int"),
    # What the dataclasses themselves refuse.
    ("vae.latent_size=0", "vae.latent_size=0: .*must be positive"),
    ("vae.encoder_filters=(8, 16, 16)", "vae.encoder_filters takes 4 numbers"),
    ("vae_fit.first.num_epochs=0", "num_epochs must be positive"),
    ("planner.optimiser=sgd", "planner.optimiser=sgd: Unknown search"),
    ("dynamics.mixture_kind=jiont", "dynamics.mixture_kind must be one of"),
    ("dynamics.reward_bins=(1.0, 0.0)", "reward_bins must be two or more increasing numbers"),
    ("controller.strategy=adam", "controller.strategy=adam: Unknown search"),
  ],
)
def test_a_bad_override_is_an_error(text, message):
  with pytest.raises(ConfigError, match=message):
    make_config("debug", [text])


def test_unknown_preset_is_an_error():
  with pytest.raises(ConfigError, match="Unknown preset 'quikstart'; did you mean quickstart"):
    make_config("quikstart")
  with pytest.raises(ConfigError, match="known are: default, "):
    make_config("xyzzy")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda v: v.update(color=1), "config: unknown field 'color'"),
    (lambda v: v["vae"].update(betta=1.0), "config.vae: unknown field 'betta'; did you mean beta?"),
    (lambda v: v["vae"].pop("beta"), "config.vae: field 'beta' is missing; .*another version"),
    (lambda v: v.pop("planner"), "config: field 'planner' is missing"),
    (lambda v: v["vae"].update(beta="1"), "config.vae.beta: '1' is not a value of type float"),
    (lambda v: v.update(vae=3), "config.vae: 3 is not a value of type VAEConfig"),
    (lambda v: v["vae_fit"]["first"].update(patience="x"), "config.vae_fit.first.patience: 'x'"),
    (lambda v: v["vae"].update(latent_size=0), "config.vae: .*latent_size must be positive"),
    (lambda v: v["vae"].update(row_weights=[[0, 8]]), re.escape("config.vae.row_weights: [0, 8]")),
  ],
)
def test_bad_saved_values_are_an_error(change, message):
  values = json.loads(json.dumps(config_lib.to_dict(make_config())))
  change(values)
  with pytest.raises(ConfigError, match=message):
    config_lib.from_dict(values)


def test_what_an_older_version_did_not_know_has_its_default():
  config = make_config("quickstart", ["vae.beta=2.5"])
  values = json.loads(json.dumps(config_lib.to_dict(config)))
  del values["dynamics"]["ensemble_size"], values["planner"]["disagreement_penalty"]
  assert config_lib.from_dict(config_lib.completed(values)) == config
  values["dynamics"]["ensemble_sise"] = 3  # What no version knows is an error still.
  with pytest.raises(ConfigError, match="unknown field 'ensemble_sise'"):
    config_lib.from_dict(config_lib.completed(values))


def _checks(annotation) -> bool:
  """Whether `_coerce` knows what a type means."""
  arguments = typing.get_args(annotation)
  if typing.get_origin(annotation) in (types.UnionType, typing.Union):
    rest = [a for a in arguments if a is not type(None)]
    return len(rest) == 1 and _checks(rest[0])
  if typing.get_origin(annotation) is tuple:
    return all(_checks(a) for a in arguments if a is not Ellipsis)
  if dataclasses.is_dataclass(annotation):
    return all(_checks(hint) for hint in typing.get_type_hints(annotation).values())
  return annotation in (int, float, bool, str, Options)


def test_every_field_has_a_type_that_is_checked():
  assert _checks(ExperimentConfig)
  assert not _checks(list[int]) and not _checks(int | float)


def test_every_field_can_be_overridden_with_its_own_value():
  config = make_config("quickstart")
  overrides = [f"{name}={value}" for name, value in config_lib.flatten(config)]
  assert len(overrides) > 60
  assert make_config("debug", overrides) == config


@every_preset
def test_presets_hold_together(preset):
  """Settings that are checked only when they meet, late in a run."""
  config = make_config(preset)
  config.planner.strategy(action_size=2)
  assert config.controller.population_size >= 4
  assert config.controller.hidden_components <= config.dynamics.hidden_size
  assert config.controller.hidden_components <= 2 * config.controller.num_starts
  assert config.dynamics_fit.sequence_length >= 2
  assert 0 < config.collect.held_out < 1
  # Some held-out episode, on any seeds.
  assert config.collect.num_episodes >= 2
  assert isinstance(config.vae_fit.first, FitConfig)


def test_the_number_of_updates_of_online_training():
  """The first ones, and `train_ratio` for each step after the exploration."""
  settings = config_lib.OnlineConfig(num_steps=3000, prefill=1000, pretrain_updates=100)
  assert settings.derived(has_images=False).num_updates() == 100 + 2000
  assert settings.derived(has_images=True).num_updates() == 100 + 800
  short = dataclasses.replace(settings.derived(has_images=True), max_updates=300)
  assert short.num_updates() == 300
  recorded = dataclasses.replace(settings.derived(has_images=False), collect=False)
  assert recorded.num_updates() == 100 + 3000
