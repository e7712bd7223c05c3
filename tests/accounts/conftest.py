"""Fixtures for signing in."""

import pytest
from django.core.cache import cache
from django.test import Client


@pytest.fixture
def doors():
    """Nobody has failed to sign in yet: counts and locks lie in Redis, which no transaction rolls back."""
    cache.clear()


@pytest.fixture
def quick_hashes(settings):
    """Passwords are hashed by something that takes no time; which hasher is used in truth is a test of its own."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def browser():
    """Somebody's browser, with CSRF checks off where they are not what is tested."""
    return Client()
