import re

import pytest
import yaml
from django.core.management import call_command
from django.test import Client

pytestmark = pytest.mark.django_db


def test_schema_is_generated_without_a_warning(tmp_path):
    """Every operation is described, and the document is valid OpenAPI."""
    file = tmp_path / "schema.yaml"

    call_command("spectacular", validate=True, fail_on_warn=True, file=str(file))

    operations = {
        operation["operationId"]: operation
        for path in yaml.safe_load(file.read_text())["paths"].values()
        for method, operation in path.items()
        if method != "parameters"
    }
    assert len(operations) > 60
    assert all(operation["summary"] and operation["tags"] for operation in operations.values())


def test_schema_is_served_to_everybody():
    """It says nothing that the public source does not."""
    answer = Client().get("/api/schema/", headers={"Accept": "application/json"})

    assert answer.status_code == 200
    assert answer.json()["info"]["title"] == "Ballast console API"


def test_docs_keep_to_the_content_security_policy():
    """No inline script, no inline style, nothing from elsewhere."""
    answer = Client().get("/api/docs/")
    page = answer.content.decode()

    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert "<style" not in page
    assert not re.search(r"\sstyle=", page)
    assert all(url.startswith(("/", "./")) for url in re.findall(r'(?:src|href)="([^"]+)"', page))


def test_docs_script_is_a_file_of_its_own():
    """The settings come as JavaScript from the same address."""
    answer = Client().get("/api/docs/?script=")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/javascript")
    assert "/api/schema/" in answer.content.decode().replace("\\u002D", "-")
