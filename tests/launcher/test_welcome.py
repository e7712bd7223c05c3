"""The closing words of a start."""

import ast
from pathlib import Path

from launcher.environment import read_settings
from launcher.welcome import sdk_snippet, welcome


def test_the_snippet_is_a_program_for_this_gateway() -> None:
    """It parses as Python and calls the port it is given."""
    snippet = sdk_snippet("http://127.0.0.1:9999")

    ast.parse(snippet)
    assert 'base_url="http://127.0.0.1:9999/v1"' in snippet
    assert "stream=True" in snippet
    assert '"id": "support-answer"' in snippet


def test_outside_the_demo_no_demo_account_is_offered(tmp_path: Path) -> None:
    """They do not exist there."""
    words = welcome(read_settings({"BALLAST_DEMO": "false"}, project=tmp_path))

    assert "ballast-demo" not in words
    assert "launcher manage create_admin" in words
