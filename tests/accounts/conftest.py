"""Fixtures for signing in."""

import pytest
from django.core.cache import cache
from django.test import Client

from tests.accounts.door import PATIENCE_SECONDS


@pytest.fixture
def doors(settings):
    """Nobody has failed to sign in yet: counts and locks lie in Redis, which no transaction rolls back.

    A Redis that pauses is waited for: after two seconds signing in would be closed, which tests of their own look at.
    """
    patient = {"socket_connect_timeout": PATIENCE_SECONDS, "socket_timeout": PATIENCE_SECONDS}
    settings.CACHES = {"default": {**settings.CACHES["default"], "OPTIONS": patient}}
    cache.clear()


@pytest.fixture
def quick_hashes(settings):
    """Passwords are hashed by something that takes no time; which hasher is used in truth is a test of its own."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def browser():
    """Somebody's browser, with CSRF checks off where they are not what is tested."""
    return Client()
