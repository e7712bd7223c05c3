"""Lists newest first go on by the key of the last row: as many queries for every page, and every row once."""

from datetime import timedelta

import pytest
from django.db.models import Case, Value, When

from controlplane.approvals.models import ChangeRequest
from controlplane.console.lists import newest_page
from controlplane.console.views.releases import PAGE_SIZE
from controlplane.releases.models import Release
from controlplane.releases.operations import current_release
from tests.factories import NOW, crew

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def make_releases(count):
    """So many more releases that carry what the current one does."""
    current = current_release()
    made = [
        Release(
            revision=current.revision + place,
            document=current.document,
            digest=current.digest,
            key_id=current.key_id,
            signature=current.signature,
            reason=f"again {place}",
            actor="owner",
            clicked_at=NOW + timedelta(seconds=place),
        )
        for place in range(1, count + 1)
    ]
    Release.objects.bulk_create(made)


def walked(rf, rows, *, size, url="/", **options):
    """The keys on each page, from the first on."""
    pages, query = [], ""
    while True:
        page = newest_page(rf.get(url + query), rows, size=size, **options)
        pages.append([row.pk for row in page.rows])
        if not page.next_url:
            return pages
        query = page.next_url


def test_pages_are_all_rows_once(rf, django_assert_num_queries):
    """Newest first; each of one query, and the rest of the address is kept."""
    make_releases(9)
    keys = list(Release.objects.values_list("pk", flat=True))
    rows = Release.objects.defer("document")

    pages = walked(rf, rows, size=4)

    assert pages == [keys[:4], keys[4:8], keys[8:]]
    with django_assert_num_queries(1):
        late = newest_page(rf.get(f"/?q=x&before={keys[3]}"), rows, size=4)
    assert (late.first_url, late.next_url) == ("?q=x", f"?q=x&before={keys[7]}")
    beyond = newest_page(rf.get("/?before=0"), rows, size=4)
    assert ([row.pk for row in beyond.rows], beyond.first_url) == (keys[:4], "")
    made_up = newest_page(rf.get("/?before=²"), rows, size=4)
    assert ([row.pk for row in made_up.rows], made_up.first_url) == (keys[:4], "")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_those_that_come_first_are_all_rows_once_too(rf, size):
    """Wherever the border lies that a page meets."""
    make_releases(9)
    keys = list(Release.objects.values_list("pk", flat=True))
    first = [key for key in keys if key % 3 == 0]
    rows = Release.objects.annotate(odd=Case(When(pk__in=first, then=Value(True)), default=Value(False)))

    pages = walked(rf, rows, size=size, first="odd")

    assert [key for page in pages for key in page] == first + [key for key in keys if key not in first]
    assert all(len(page) == size for page in pages[:-1])


def test_releases_are_listed_page_after_page(signed_in, queries):
    """A late page takes as many queries as the first, and leads back to it."""
    make_releases(2 * PAGE_SIZE + 3)
    browser = signed_in(crew.oncall)

    first = browser.get("/releases/")
    second = browser.get(f"/releases/{first.context['page'].next_url}")

    shown = [row["release"].revision for page in (first, second) for row in page.context["rows"]]
    assert shown == list(Release.objects.values_list("revision", flat=True)[: 2 * PAGE_SIZE])
    assert queries(lambda: browser.get("/releases/")) == queries(
        lambda: browser.get(f"/releases/{first.context['page'].next_url}")
    )
    html = second.content.decode()
    assert 'rel="first" href="?"' in html
    assert f'rel="next" href="?before={shown[-1]}"' in html


def test_closed_changes_are_listed_page_after_page(signed_in):
    """Behind their tab, which the next page keeps."""
    browser = signed_in(crew.owner)
    closed = list(ChangeRequest.objects.exclude(state="open"))
    assert closed

    page = browser.get(f"/reviews/?show=closed&before={closed[0].pk + 1}")

    assert [row["change"].pk for row in page.context["rows"]] == [change.pk for change in closed]
    assert 'rel="first" href="?show=closed"' in page.content.decode()
