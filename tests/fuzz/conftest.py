"""How much is made up: little in `make test`, much in `make faults` (`FUZZ_PROFILE=long`)."""

import os

import hypothesis

_COMMON = dict(
  deadline=None,  # A machine that is busy with other things needs its time.
  database=None,  # What fails prints how to repeat it; nothing is left in the checkout.
  print_blob=True,
  suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile("quick", max_examples=20, **_COMMON)
hypothesis.settings.register_profile("long", max_examples=400, **_COMMON)
hypothesis.settings.load_profile(os.environ.get("FUZZ_PROFILE", "quick"))


def pytest_collection_modifyitems(config, items):
  """With FUZZ_SEED the same is made up each time."""
  if seed := os.environ.get("FUZZ_SEED"):
    for item in items:
      function = getattr(item, "obj", None)
      if hasattr(function, "hypothesis"):
        function._hypothesis_internal_use_seed = int(seed)
