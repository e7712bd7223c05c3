"""Tags and filters of the console's parts: `{% load ballast %}`.

The parts themselves are templates under `templates/components/`; each opens with a comment that states its parameters.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms, template
from django.forms import BoundField
from django.http import QueryDict
from django.middleware.csrf import get_token
from django.template.base import FilterExpression, NodeList, Parser, Token, token_kwargs
from django.template.context import Context
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

NO_VALUE = "–"
# What a phone's bar has room for, in its order, by the label in the rail and with its shorter word there; the rest is
# under "More".
PHONE_BAR = {"Overview": "Overview", "Reviews": "Inbox", "Ladder": "Ladder", "Canaries": "Canaries"}


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """Draw the symbol `name` of `static/img/icons.svg`; without a label it is hidden from assistive technology."""
    href = f"{static('img/icons.svg')}#{name}"
    if label:
        return format_html('<svg class="icon" role="img" aria-label="{}"><use href="{}"></use></svg>', label, href)
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}"></use></svg>', href)


@register.simple_tag(takes_context=True)
def csrf_field(context: Context) -> SafeString:
    """Like `csrf_token`, but also inside `{% include … only %}`, where the variable of that name is not passed on."""
    request = getattr(context, "request", None) or context.get("request")
    token = get_token(request) if request is not None else context.get("csrf_token")
    if not token:
        return SafeString("")
    return format_html('<input type="hidden" name="csrfmiddlewaretoken" value="{}">', token)


class PartNode(template.Node):
    """Renders `components/_<name>.html` with the given values alone, and what stood between the tags as `slot`."""

    def __init__(self, name: str, values: dict[str, FilterExpression], nodelist: NodeList) -> None:
        self.name, self.values, self.nodelist = name, values, nodelist

    def render(self, context: Context) -> SafeString:
        values = {key: expression.resolve(context) for key, expression in self.values.items()}
        values["slot"] = self.nodelist.render(context)
        engine = context.template.engine  # type: ignore[union-attr]  # set while rendering
        return engine.get_template(f"components/_{self.name}.html").render(context.new(values))


@register.tag
def part(parser: Parser, token: Token) -> PartNode:
    """`{% part "card" title="Versions" %}…{% endpart %}`: a component with content of the page's own inside."""
    _, name, *bits = token.split_contents()
    values = token_kwargs(bits, parser)
    if bits:
        raise template.TemplateSyntaxError(f"part takes name=value arguments only; remove {bits[0]!r}")
    nodelist = parser.parse(("endpart",))
    parser.delete_first_token()
    return PartNode(name.strip("\"'"), values, nodelist)


@register.simple_tag
def polyline(
    points: Sequence[float | None] | None,
    width: int = 120,
    height: int = 28,
    beside: Sequence[float | None] | None = None,
) -> list[str]:
    """Turn equally spaced values into the `points` of SVG polylines, zero-based; a None is a gap between two lines.

    Args:
        beside: The values of another line in the same picture; both then share one scale.
    Returns no line when fewer than two values are known.
    """
    known = [float(value) for value in points or [] if value is not None]
    if len(known) < 2 or not points:
        return []
    top = max(*known, *(float(value) for value in beside or [] if value is not None), 0.0) or 1.0
    step = width / (len(points) - 1)
    lines: list[list[str]] = [[]]
    for index, value in enumerate(points):
        if value is None:
            lines.append([])
        else:
            y = 1 + (height - 2) * (1 - max(float(value), 0.0) / top)
            lines[-1].append(f"{index * step:.1f},{y:.1f}")
    return [" ".join(line) for line in lines if len(line) > 1]


@register.filter
def short_digest(value: object) -> str:
    """The first eight characters of a hex digest, with or without its `sha256:` prefix."""
    return str(value or "").rpartition(":")[2][:8]


@register.filter
def short_id(value: object) -> str:
    """The last eight characters of an id that sorts by time: its first ones are those of every id of that minute."""
    return f"…{str(value or '')[-8:]}"


@register.filter
def share(value: object) -> str:
    """A weight of 10000 as a percentage without needless digits: 100 → '1 %', 2550 → '25.5 %'."""
    return f"{int(str(value)) / 100:g} %"


@register.filter
def micros(value: object) -> str:
    """Millionths of a US dollar as dollars, below a cent with all that tell amounts apart: 1234 → '$0.001234'."""
    if value is None or value == "":
        return NO_VALUE
    dollars = float(str(value)) / 1_000_000
    if dollars and abs(dollars) < 0.01:
        return f"${dollars:.6f}"
    return f"${dollars:,.2f}"


@register.filter
def milliseconds(value: object) -> str:
    """Milliseconds for reading: '840 ms' below ten seconds, '12.4 s' from there on."""
    if value is None or value == "":
        return NO_VALUE
    number = float(str(value))
    return f"{number:,.0f} ms" if number < 10_000 else f"{number / 1000:,.1f} s"


@register.filter
def compact(value: object) -> str:
    """A count for reading: 940 → '940', 12400 → '12.4 k', 3100000 → '3.1 M'."""
    if value is None or value == "":
        return NO_VALUE
    number = float(str(value))
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            return f"{number / (1e3 if suffix == 'k' else limit):.1f} {suffix}".replace(".0 ", " ")
    return f"{number:,.0f}" if number == int(number) else f"{number:,.2f}"


@register.filter
def pretty_json(value: object) -> str:
    """JSON text, indented, keys in their stored order."""
    return json.dumps(value, indent=2, ensure_ascii=False)


@register.filter
def lookup(mapping: Mapping[Any, object] | None, key: object) -> object:
    """`mapping[key]`, or an empty string; for keys that are not identifiers."""
    return (mapping or {}).get(key, "")


@register.filter
def relative(value: datetime | None) -> str:
    """'12 min ago' or 'in 3 h', in the words that `times.js` keeps current. Empty for no time."""
    return in_words(value - timezone.now()) if value else ""


def in_words(distance: timedelta) -> str:
    """The distance from now (negative = past), rounded down to one unit."""
    seconds = int(abs(distance.total_seconds()))
    if seconds < 5:
        return "just now"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            words = f"{seconds // size} {unit}"
            break
    return f"{words} ago" if distance.total_seconds() < 0 else f"in {words}"


@register.filter
def utc_iso(value: datetime) -> str:
    """ISO-8601 in UTC with a Z, seconds precision."""
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@register.filter
def split(value: str, separator: str = ",") -> list[str]:
    """The pieces of a string, trimmed; lets a template write a short list."""
    return [piece.strip() for piece in value.split(separator)]


@register.simple_tag(takes_context=True)
def page_link(context: Context, number: int, name: str = "page") -> str:
    """The present address's query with its page number replaced."""
    request = getattr(context, "request", None) or context.get("request")
    query = request.GET.copy() if request is not None else QueryDict(mutable=True)
    query[name or "page"] = str(number)
    return f"?{query.urlencode()}"


@register.simple_tag
def aligned(row: Sequence[object], columns: Sequence[Mapping[str, object]]) -> list[tuple[object, bool]]:
    """Each cell of a row with whether its column holds numbers."""
    return [(cell, bool(column.get("numeric"))) for cell, column in zip(row, columns, strict=True)]


@register.simple_tag
def is_check(field: BoundField) -> bool:
    """Whether the field is one checkbox, whose label follows it."""
    return isinstance(field.field.widget, forms.CheckboxInput)


@register.simple_tag
def is_group(field: BoundField) -> bool:
    """Whether the field is several inputs under one legend."""
    return isinstance(field.field.widget, forms.RadioSelect | forms.CheckboxSelectMultiple)


@register.simple_tag
def phone_bar(rail: Sequence[Mapping[str, object]] | None) -> list[dict[str, object]]:
    """The entries of the rail that a phone shows at the bottom, in its own order and under their short words."""
    known = {str(item.get("label")): item for item in rail or []}
    return [{**known[label], "label": word} for label, word in PHONE_BAR.items() if label in known]
