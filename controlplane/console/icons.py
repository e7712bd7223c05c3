"""Icons, from the sprite that every page has loaded."""

from functools import lru_cache

from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString


def icon(name: str, label: str = "") -> SafeString:
    """Draw the symbol `name` of `static/img/icons.svg`; without a label it is hidden from assistive technology."""
    return drawn(f"{static('img/icons.svg')}#{name}", label)


@lru_cache(maxsize=512)
def drawn(href: str, label: str) -> SafeString:
    """The icon at an address within the sprite; a page has hundreds of few."""
    if label:
        return format_html('<svg class="icon" role="img" aria-label="{}"><use href="{}"></use></svg>', label, href)
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}"></use></svg>', href)
