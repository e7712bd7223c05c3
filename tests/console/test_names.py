"""Names that forms ask for where there may be thousands: offered while they are typed, looked up when they are sent."""

import pytest

from controlplane.accounts.models import RoleGrant
from controlplane.accounts.roles import Role
from controlplane.console.names import OFFERED
from controlplane.evals.runs import EvalStandard
from tests.console.conftest import said, words
from tests.eval_runs import make_calibrated_judge, make_standard
from tests.eval_sets import make_set_version
from tests.evals.test_runs import LANE, make_rows
from tests.factories import crew, make_operator, make_prompt, make_tenant, make_version

pytestmark = pytest.mark.django_db

RUN = "/evals/sets/golden/run/"
STANDARD = "/evals/sets/golden/standard/"
PERSON = "/access/people/newcomer/"


def make_prompts(count, *, named="many"):
    return [make_prompt(f"{named}-{place}") for place in range(count)]


def offered(browser, kind, part=""):
    return browser.get(f"/names/{kind}.json", {"part": part}).json()["names"]


# --- offered ---------------------------------------------------------------------------------------------------------
def test_prompts_are_offered_by_any_part_of_their_name(signed_in):
    """Those that begin with it come first, and however many there are, a few are offered."""
    make_prompts(2 * OFFERED)
    make_prompt("zeta-one")
    make_prompt("also-zeta")
    browser = signed_in(crew.owner)

    assert offered(browser, "prompts", " ZETA ") == ["zeta-one", "also-zeta"]
    assert len(offered(browser, "prompts")) == OFFERED
    assert offered(browser, "prompts", "no such name") == []


def test_only_what_the_reader_may_see_is_offered(signed_in):
    """A prompt that is none of theirs does not exist for them."""
    mine, _ = make_prompt("mine"), make_prompt("theirs")
    reader = make_operator("reader", Role.PROMPT_OWNER, on=mine)

    assert offered(signed_in(reader), "prompts") == ["mine"]


@pytest.mark.usefixtures("deployment")
def test_subjects_are_newest_versions_every_version_of_one_and_lanes(signed_in):
    """Named in full, a prompt gives all that it had."""
    prompt = make_prompt("zeta")
    make_version(prompt, "one")
    make_version(prompt, "two")
    browser = signed_in(crew.owner)

    assert "zeta@2" in offered(browser, "subjects")
    assert "zeta@1" not in offered(browser, "subjects")
    assert LANE in offered(browser, "subjects")
    assert offered(browser, "subjects", "zeta@") == ["zeta@2", "zeta@1"]
    assert offered(browser, "subjects", LANE.upper()) == [LANE]


def test_targets_of_roles_are_everything_prompts_and_tenants(signed_in):
    """Many prompts leave room for tenants; with a kind named, only of that kind."""
    make_prompts(OFFERED)
    make_tenant("acme")
    browser = signed_in(crew.admin)

    everywhere = offered(browser, "targets")

    assert everywhere[:2] == ["everything", "prompt:many-0"]
    assert "tenant:acme" in everywhere
    assert offered(browser, "targets", "tenant:") == ["tenant:acme"]
    assert offered(browser, "targets", "prompt:many-1") == ["prompt:many-1", "prompt:many-10", "prompt:many-11"]


def test_tenants_are_offered_by_any_part_of_their_name(signed_in):
    """Those that begin with it come first; who may see no tenant is offered none."""
    for slug in ("acme", "beta-acme", *(f"tenant-{place}" for place in range(2 * OFFERED))):
        make_tenant(slug)

    assert offered(signed_in(crew.admin), "tenants", " ACME ") == ["acme", "beta-acme"]
    assert len(offered(signed_in(crew.admin), "tenants")) == OFFERED
    assert offered(signed_in(crew.owner), "tenants", "acme") == []


def test_names_of_no_kind_are_missing(signed_in):
    """As any address that leads nowhere."""
    assert signed_in(crew.admin).get("/names/secrets.json").status_code == 404


# --- on pages --------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("deployment")
def test_forms_take_as_much_however_many_prompts_there_are(signed_in, queries):
    """Queries and names on the page stay the same while prompts grow."""
    make_standard(make_set_version("golden", *make_rows(1)), prompt="support-answer")
    make_operator("newcomer")
    make_prompts(OFFERED)
    browser = signed_in(crew.admin)
    pages = (RUN, STANDARD, PERSON)
    before = [(queries(lambda url=url: browser.get(url)), browser.get(url).content.count(b"<option")) for url in pages]

    for prompt in make_prompts(3 * OFFERED, named="more"):
        make_version(prompt, "first")

    after = [(queries(lambda url=url: browser.get(url)), browser.get(url).content.count(b"<option")) for url in pages]
    assert after == before


@pytest.mark.usefixtures("deployment")
def test_run_form_begins_with_the_newest_version_of_the_prompt_of_the_standard(signed_in):
    """Which is what is asked most often."""
    make_standard(make_set_version("golden", *make_rows(1)), prompt="support-answer")

    page = signed_in(crew.owner).get(RUN).content.decode()

    assert 'value="support-answer@1"' in page
    assert 'data-names="/names/subjects.json"' in page
    assert 'list="id_subject_names"' in page
    assert '<datalist id="id_subject_names"><option value="' in page


@pytest.mark.usefixtures("deployment")
@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ("nobody@1", "there is no prompt 'nobody', or you may not see it"),
        ("nobody", "there is no prompt 'nobody', or you may not see it"),
        ("support-answer", "say which version of prompt 'support-answer': support-answer@1 is the newest"),
        ("support-answer@²", "say which version of prompt 'support-answer': support-answer@1 is the newest"),
        ("blank@1", "prompt 'blank' has no version yet"),
        ("a/b/c/d", "there is no lane 'a/b/c/d' in the routing table in force"),
    ],
)
def test_what_was_typed_and_is_not_there_is_named(signed_in, subject, told):
    """Beside the field, which keeps it."""
    make_standard(make_set_version("golden", *make_rows(1)))
    make_prompt("blank")

    refused = signed_in(crew.owner).post(RUN, {"subject": subject, "number": "1"})

    assert refused.status_code == 400
    assert told in words(refused)
    assert f'value="{subject}"' in refused.content.decode()


@pytest.mark.usefixtures("deployment")
def test_standard_of_an_unknown_prompt_is_refused_by_its_name(signed_in):
    """Nothing is set."""
    make_set_version("golden", *make_rows(1))
    make_calibrated_judge()
    asked = {"judges": ["grounded@1"], "threshold_grounded": "90", "max_cost": "2", "reason": "r", "prompt": "nobody"}

    refused = signed_in(crew.owner).post(STANDARD, asked)

    assert refused.status_code == 400
    assert "there is no prompt 'nobody', or you may not see it" in words(refused)
    assert not EvalStandard.objects.exists()


def test_role_is_granted_on_everything_only_by_saying_so(signed_in):
    """Nothing typed is asked for; what does not exist is named; both grant nothing."""
    make_operator("newcomer")
    browser = signed_in(crew.admin)
    asked = {"role": "approver"}

    empty = browser.post(f"{PERSON}grant/", asked | {"on": ""})
    strange = browser.post(f"{PERSON}grant/", asked | {"on": "tenant:nobody"})
    assert said(empty) == ["Choose a role, and what it is granted on"]
    assert said(strange)[-1].startswith("there is no 'tenant:nobody', or you may not see it; say everything, prompt:")
    assert not RoleGrant.objects.filter(operator__username="newcomer").exists()
    browser.post(f"{PERSON}grant/", asked | {"on": "everything"})

    assert RoleGrant.objects.get(operator__username="newcomer").target_name == "everything"
