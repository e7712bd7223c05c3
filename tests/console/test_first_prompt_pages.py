"""The prompt pages of a deployment that serves nothing yet: what they say comes next, and whom to ask for it."""

from controlplane.prompts.models import Prompt
from tests.console.conftest import words
from tests.factories import crew, make_prompt, make_routing

PAGE = "/prompts/support-answer/"
SUBMIT = f"{PAGE}submit/"


def test_list_without_a_prompt_says_what_to_do(db, signed_in):
    """Whoever may add one is offered it; everybody else is told whom to ask."""
    may_add, may_not = (signed_in(one).get("/prompts/") for one in (crew.owner, crew.auditor))

    assert "No prompt yet" in words(may_add)
    assert 'href="/prompts/new/"' in may_add.content.decode()
    assert "Ask an admin for a role on a prompt" in words(may_not)
    assert 'href="/prompts/new/"' not in may_not.content.decode()


def test_prompt_is_created_once_and_its_first_version_comes_next(db, signed_in):
    """The second of the same name is refused beside its field, and who may not is told which role it takes."""
    make_routing()
    browser = signed_in(crew.owner)
    asked = {"slug": "greeting", "title": "Greeting", "route": "chat"}

    first, second = (browser.post("/prompts/new/", asked) for _ in range(2))
    refused = signed_in(crew.admin).post("/prompts/new/", {**asked, "slug": "other"})

    assert first.url == "/prompts/greeting/submit/"
    assert second.status_code == 400
    assert "already exists" in second.context["form"].errors["slug"][0]
    assert refused.status_code == 403
    assert "Prompt owner" in refused.content.decode()
    assert Prompt.objects.count() == 1


def test_prompt_without_a_live_version_says_what_comes_next(db, signed_in):
    """Whoever may submit is told how; everybody else that its owner has not."""
    make_prompt()

    owner, auditor = (signed_in(one).get(PAGE) for one in (crew.owner, crew.auditor))

    assert "Submit a first version, then propose it" in words(owner)
    assert f'href="{SUBMIT}"' in owner.content.decode()
    assert "Its owner has not put a version live yet" in words(auditor)
    assert f'href="{SUBMIT}"' not in auditor.content.decode()
