"""A short run of what `python -m tests.serving.fuzz` does at length."""

from tests.serving import fuzz


def test_made_up_requests_get_the_right_codes(target, rest):
  report = fuzz.run(target, rest, requests=1500, seconds=60, seed=1)
  assert not report.problems, "\n".join(report.problems)
  assert report.requests > 100
  kinds = {kind for kind, _ in report.codes}
  assert len(kinds) == 10
  # They reach beyond the parsers.
  assert ("tensors", "OK") in report.codes and ("JSON", "200") in report.codes
