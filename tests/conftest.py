"""Fixtures that tests of every app share. What they are made of is in `factories.py`."""

import os

from hypothesis import settings

# `HYPOTHESIS_PROFILE=deep` (make deep) looks longer; the default keeps `make test` quick and the same on every run.
settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("deep", deadline=None, max_examples=300, stateful_step_count=60, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
