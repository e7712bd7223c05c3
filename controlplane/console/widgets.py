"""The controls that forms are mostly made of, put together here: a template for each is what a form would cost.

They are what Django's templates give, and the project's where it has one of its own; other controls have theirs.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from django.forms.renderers import TemplatesSetting
from django.utils.html import conditional_escape
from django.utils.safestring import SafeString

Widget = Mapping[str, Any]


def _text(value: object) -> str:
    """A value as `stringformat` gives it, escaped unless it is markup already."""
    return conditional_escape(value if isinstance(value, SafeString) else str(value))


def _attributes(attrs: Mapping[str, Any]) -> str:
    return "".join(
        f" {_text(name)}" if value is True else f' {_text(name)}="{_text(value)}"'
        for name, value in attrs.items()
        if value is not False
    )


def _input(widget: Widget) -> str:
    value = "" if widget["value"] is None else f' value="{_text(widget["value"])}"'
    return f'<input type="{widget["type"]}" name="{_text(widget["name"])}"{value}{_attributes(widget["attrs"])}>'


def _textarea(widget: Widget) -> str:
    value = _text(widget["value"]) if widget["value"] else ""
    return f'<textarea name="{_text(widget["name"])}"{_attributes(widget["attrs"])}>\n{value}</textarea>'


def _option(option: Widget) -> str:
    return f'<option value="{_text(option["value"])}"{_attributes(option["attrs"])}>{_text(option["label"])}</option>'


def _select(widget: Widget) -> str:
    parts = [f'<select name="{_text(widget["name"])}"{_attributes(widget["attrs"])}>']
    for group, options, _ in widget["optgroups"]:
        if group:
            parts.append(f'\n  <optgroup label="{_text(group)}">')
        parts.extend("\n  " + _option(option) for option in options)
        if group:
            parts.append("\n  </optgroup>")
    return "".join([*parts, "\n</select>"])


def _names(widget: Widget) -> str:
    offered = "".join(f'<option value="{_text(name)}"></option>' for name in widget["names"])
    return f'{_input(widget)}\n<datalist id="{_text(widget["attrs"]["list"])}">{offered}</datalist>'


_INPUTS: Final = ("text", "number", "email", "url", "password", "hidden", "checkbox")
DRAWN: Final[Mapping[str, Callable[[Widget], str]]] = {
    **{f"django/forms/widgets/{kind}.html": _input for kind in _INPUTS},
    "django/forms/widgets/textarea.html": _textarea,
    "django/forms/widgets/select.html": _select,
    "django/forms/widgets/names.html": _names,
}


class DrawnWidgets(TemplatesSetting):
    """Django's renderer, for which a control of `DRAWN` needs no template."""

    def render(self, template_name: str, context: dict[str, Any], request: Any = None) -> SafeString:
        """The markup of a control, or of whatever else of a form has this template."""
        draw = DRAWN.get(template_name)
        if draw is None:
            return SafeString(super().render(template_name, context, request))
        return SafeString(draw(context["widget"]))
