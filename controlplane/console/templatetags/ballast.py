"""Tags and filters of the console's parts: `{% load ballast %}`.

The parts themselves are templates under `templates/components/`; each opens with a comment that states its parameters.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from django import template
from django.http import QueryDict
from django.middleware.csrf import get_token
from django.template.base import FilterExpression, NodeList, Parser, Token, token_kwargs
from django.template.context import Context
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString

from controlplane.console.icons import drawn, icon
from controlplane.console.widgets import drawn_field

register = template.Library()

NO_VALUE = "–"
# The icon of a tone; canary and control have a dot of their colour, and whatever is off or unknown is crossed out.
TONE_ICONS: Final = {
    "good": "check-circle-fill",
    "watch": "exclamation-triangle-fill",
    "bad": "x-circle-fill",
    "info": "info-circle-fill",
}
DOTTED: Final = frozenset({"canary", "control"})
# What a phone's bar has room for, in its order, by the label in the rail and with its shorter word there; the rest is
# under "More".
PHONE_BAR = {"Overview": "Overview", "Reviews": "Inbox", "Ladder": "Ladder", "Canaries": "Canaries"}


register.simple_tag(icon)
register.simple_tag(drawn_field, name="field")


# --- parts that stand in every row of a table: put together here, since a template for each takes longer ---
@register.simple_tag
def pill(tone: str = "", text: Any = "", icon: str = "", live_key: str = "") -> SafeString:
    """A status pill: colour, icon and word together.

    Args:
        tone: good, watch, bad, off, info, canary or control.
        text: The word or words.
        icon: Another symbol than the tone's own.
        live_key: The key under which live messages replace the text.
    """
    begin = _pill_until_text(static("img/icons.svg"), tone or "off", icon or "", live_key or "")
    # A line break behind it, as behind every part: it parts the pill from words that follow.
    return SafeString(f"{begin}{conditional_escape(text)}</span></span>\n")


@lru_cache(maxsize=512)
def _pill_until_text(sprite: str, tone: str, icon: str, live_key: str) -> SafeString:
    symbol = icon or ("" if tone in DOTTED else TONE_ICONS.get(tone, "slash-circle"))
    mark = drawn(f"{sprite}#{symbol}", "") if symbol else SafeString('<span class="dot" aria-hidden="true"></span>')
    live = format_html(' data-live-key="{}"', live_key) if live_key else ""
    return format_html('<span class="pill pill-{}">{}<span{}>', tone, mark, live)


@register.simple_tag(name="time")
def time_of(at: datetime | None = None, empty: str = "") -> SafeString:
    """A relative time, "12 min ago", exact on hover; `empty` or a dash for none."""
    if not at:
        return SafeString(f'<span class="muted">{conditional_escape(empty or NO_VALUE)}</span>')
    exact = utc_iso(at)
    return SafeString(f'<time datetime="{exact}" title="{exact}" data-relative>{relative(at)}</time>')


@register.simple_tag
def digest(digest: str | None = "", label: str = "") -> SafeString:
    """A digest chip: the first eight characters, of which a click copies the whole; `label` says what it is of."""
    if not digest:
        return SafeString(f'<span class="muted">{NO_VALUE}</span>')
    whole, short = conditional_escape(digest), conditional_escape(short_digest(digest))
    return SafeString(
        f'<button type="button" class="digest" data-copy="{whole}" title="{whole}" '
        f'aria-label="Copy {conditional_escape(label or "digest")} {short}">{short}{icon("copy")}</button>'
    )


@register.simple_tag
def figures(bars: Sequence[Any], in_order: bool) -> SafeString:
    """The figures of a stream, or of many, as one bar and their numbers.

    Args:
        bars: See `console.stream_content.bars`.
        in_order: Whether each is at most the one before it; where not, that is said in red.
    """
    rects = "".join(
        f'<rect class="figure-{place}" x="0" y="0" width="{bar.width:.1f}" height="8"></rect>'
        for place, bar in enumerate(bars, 1)
    )
    numbers = '<span class="muted" aria-hidden="true">/</span>'.join(
        f'<span title="{conditional_escape(bar.name)}">{compact(bar.tokens)}</span>' for bar in bars
    )
    return SafeString(
        f'<div class="figures{"" if in_order else " tone-bad"}"><svg class="figures-bar" viewBox="0 0 100 8" '
        f'preserveAspectRatio="none" aria-hidden="true" focusable="false">{rects}</svg>\n'
        f'<div class="figures-numbers">{numbers}</div>{"" if in_order else pill("bad", "out of order")}</div>\n'
    )


_MARKS: Final = {"insert": "ins", "delete": "del"}


@register.simple_tag
def diff_parts(parts: Iterable[Any]) -> SafeString:
    """One line of a diff: pieces with `op` (equal, insert or delete) and `text`."""
    marked = ((_MARKS.get(piece.op, "span"), conditional_escape(piece.text)) for piece in parts)
    return SafeString("".join(f"<{mark}>{text}</{mark}>" for mark, text in marked) + "\n")


@register.simple_tag
def diff_row(row: Any) -> SafeString:
    """A line of a diff with its numbers before and after, once for each side; see `console.diffs.Row`."""
    before, after = ("" if number is None else number for number in (row.before, row.after))
    parts = diff_parts(row.parts)
    return SafeString(
        f'<div class="diff-row is-{row.kind}"><span class="diff-no" aria-hidden="true">{before}</span>'
        f'<div class="diff-cell">{parts}</div><span class="diff-no" aria-hidden="true">{after}</span>'
        f'<div class="diff-cell diff-after" aria-hidden="true">{parts}</div></div>'
    )


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
def phone_bar(rail: Sequence[Mapping[str, object]] | None) -> list[dict[str, object]]:
    """The entries of the rail that a phone shows at the bottom, in its own order and under their short words."""
    known = {str(item.get("label")): item for item in rail or []}
    return [{**known[label], "label": word} for label, word in PHONE_BAR.items() if label in known]
