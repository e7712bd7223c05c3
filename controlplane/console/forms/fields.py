"""Form fields that several pages share."""

import json
from typing import Any

from django import forms


class JSONTextField(forms.JSONField):
    """JSON in a text area: indented when shown, kept as typed when it does not parse, with the place of the error."""

    def __init__(self, *, rows: int = 6, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": rows, "class": "form-control code", "spellcheck": "false"})
        super().__init__(widget=widget, **kwargs)

    def bound_data(self, data: Any, initial: Any) -> Any:
        try:
            self.to_python(data)
        except forms.ValidationError:
            return forms.fields.InvalidJSONInput(data)
        return super().bound_data(data, initial)

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, forms.fields.InvalidJSONInput):
            return value
        return json.dumps(value, indent=2, ensure_ascii=False)

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and value.strip():
            try:
                json.dumps(json.loads(value), indent=2, ensure_ascii=False).encode()
            except json.JSONDecodeError as exc:
                message = f"not JSON: {exc.msg} in line {exc.lineno}, column {exc.colno}"
                raise forms.ValidationError(message, code="invalid") from exc
            except (ValueError, RecursionError) as exc:
                message = "JSON that cannot be kept: a number too long, half a character, or nested too deep"
                raise forms.ValidationError(message, code="invalid") from exc
        return super().to_python(value)


class ReasonForm(forms.Form):
    """What every act with consequences asks for: why, in the operator's own words."""

    reason = forms.CharField(
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3, "class": "form-control"}),
        help_text="Kept in the audit record, word for word.",
    )
