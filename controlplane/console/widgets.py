"""The controls that forms are mostly made of, and fields with all that belongs to them, put together here: a template
for each is what a form would cost.

Controls are what Django's templates give; others than these have theirs.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from django import forms
from django.forms import BoundField
from django.forms.renderers import TemplatesSetting
from django.utils.html import conditional_escape
from django.utils.safestring import SafeString

from controlplane.console.icons import icon

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


# --- a field ---------------------------------------------------------------------------------------------------------
def drawn_field(
    field: BoundField, optional: object = "", code: object = "", json: object = "", count: object = ""
) -> SafeString:
    """A form field: label, control, help and error, tied together.

    Args:
        optional: False hides that word on fields that are not required.
        code: Whether it is text in a mono face.
        json: The same, with a button that formats it and a line that says what is wrong while it is typed.
        count: How many characters it may have, counted while they are typed.
    """
    if field.is_hidden:
        return SafeString(f"{field}\n")
    widget = field.field.widget
    is_check = isinstance(widget, forms.CheckboxInput)
    at, label = field.id_for_label, _text(field.label)
    if isinstance(widget, forms.RadioSelect | forms.CheckboxSelectMultiple):
        control = f"<fieldset{_described(field)}><legend>{label}</legend>{field}</fieldset>"
    elif is_check:
        control = f'<div class="check">{field}<label for="{at}">{label}</label></div>'
    else:
        is_optional = not field.field.required and optional is not False
        word = ' <span class="optional">optional</span>' if is_optional else ""
        control = f'<label for="{at}">{label}{word}</label>{field}'
    classes = f"field{' field-check' if is_check else ''}{' code-input' if code or json else ''}"
    help_id, error_id = f"{field.auto_id}_helptext", f"{field.auto_id}_error"
    wrong = "".join(
        f'<p class="error">{icon("exclamation-triangle-fill")}<span>{_text(error)}</span></p>' for error in field.errors
    )
    parts = (
        f'<div class="{classes}"{" data-json" if json else ""}>',
        control,
        _json_bar() if json else "",
        f'<p class="help counted js-only" data-count-of="{at}" data-most="{_text(count)}"></p>' if count else "",
        f'<p class="help" id="{help_id}">{_text(field.help_text)}</p>' if field.help_text else "",
        f'<div id="{error_id}">{wrong}</div>' if field.errors else "",
    )
    # Line breaks and all as in a template, so that what stands side by side keeps its distance.
    return SafeString("\n  ".join(parts) + "\n</div>\n")


def _described(field: BoundField) -> str:
    """What a group of inputs is described by; Django says that of single inputs itself."""
    if not (field.help_text or field.errors):
        return ""
    said_by = f"{field.auto_id}_helptext" if field.help_text else ""
    said_by += f" {field.auto_id}_error" if field.errors else ""
    return f' aria-describedby="{said_by}"'


def _json_bar() -> str:
    return (
        '<div class="field-bar js-only"><span class="json-state muted small" data-json-state aria-live="polite"></span>'
        f'<button type="button" class="btn btn-sm" data-json-format>{icon("braces")}Format</button></div>'
    )
