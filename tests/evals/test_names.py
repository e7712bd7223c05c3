import pytest

from controlplane.evals.names import pinned, read_pinned


def test_a_name_is_read_as_it_was_written():
    """Slug and number, there and back."""
    assert read_pinned(pinned("help-centre_2", 12)) == ("help-centre_2", 12)


@pytest.mark.parametrize("name", ["", "golden", "golden@", "@1", "golden@0", "golden@1.5", "golden@1@2", "golden@²"])
def test_what_names_no_version_is_none(name):
    """Also a number that the database could not hold."""
    assert read_pinned(name) is None
    assert read_pinned("golden@9999999999") is None
