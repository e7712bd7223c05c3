import pytest
from tests.browser.conftest import WIDE, PHONE
from tests.browser.pages import PAGES
@pytest.mark.parametrize("page", [p for p in PAGES if p.name.startswith("eval")], ids=lambda p: p.name)
def test_photo(house, page):
    for size, name in ((WIDE, "wide"), (PHONE, "phone")):
        for theme in ("light", "dark"):
            if theme == "dark" and not (size == WIDE): continue
            person = house.let_in(page.who, size=size, theme=theme)
            person.go(page.path(house.stack))
            person.page.wait_for_timeout(200)
            person.page.screenshot(path=f"/tmp/h-evalpages/{page.name.replace(', ','-').replace(' ','-')}-{name}-{theme}.png", full_page=True)
            person.leave()
