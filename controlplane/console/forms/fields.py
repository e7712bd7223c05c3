"""Form fields that several pages share."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import yaml
from django import forms
from django.urls import reverse

from controlplane.console.names import MAX_CHARACTERS, UnknownName
from controlplane.versioned.operations import Versions
from dataplane.documents import MalformedRelease


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


class _StrictLoader(yaml.SafeLoader):
    """YAML without what makes two readers see two documents: a key given twice, and aliases, which can also explode."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs forgot its type
            raise yaml.MarkedYAMLError(
                problem="aliases are not taken here; write it out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class YAMLField(forms.CharField):
    """A document in YAML or JSON, in a text area; every mistake with its place."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        if not text:
            return None
        try:
            document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
            self.check(document)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark
            place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise forms.ValidationError(f"not YAML or JSON: {exc.problem}{place}") from exc
        except (yaml.YAMLError, RecursionError) as exc:
            raise forms.ValidationError(f"not YAML or JSON: {exc}") from exc
        except MalformedRelease as exc:
            raise forms.ValidationError(str(exc)) from exc
        return document

    def check(self, document: Any) -> None:
        """Return if the document may be taken; a subclass that knows what it should say raises MalformedRelease."""


class _NamesInput(forms.TextInput):
    """A text input with the names that are offered before anything is typed; the browser asks for others by itself."""

    template_name = "django/forms/widgets/names.html"

    def __init__(self, kind: str, placeholder: str) -> None:
        super().__init__({"class": "form-control", "autocomplete": "off", "spellcheck": "false"})
        self.kind = kind
        self.names: Sequence[str] = ()
        if placeholder:
            self.attrs["placeholder"] = placeholder

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        context = super().get_context(name, value, attrs)
        own = context["widget"]
        offering = {"list": f"{own['attrs'].get('id', name)}_names", "data-names": reverse("names", args=[self.kind])}
        return context | {"widget": own | {"attrs": own["attrs"] | offering, "names": self.names}}


class NameField(forms.CharField):
    """The name of one thing among thousands: typed, with a few names offered, and looked up when it is sent.

    Args:
        kind: One of `names.KINDS`.
    """

    def __init__(self, kind: str, *, placeholder: str = "", **options: Any) -> None:
        super().__init__(max_length=MAX_CHARACTERS, widget=_NamesInput(kind, placeholder), **options)
        self._find: Callable[[str], Any] = str

    def ask(self, *, names: Sequence[str], find: Callable[[str], Any]) -> None:
        """Offer these, a bounded few, and clean to what `find` gives for a name, which may raise UnknownName."""
        self.widget.names = names
        self._find = find

    def clean(self, value: Any) -> Any:
        name = super().clean(value)
        try:
            return self._find(name) if name else name
        except UnknownName as exc:
            raise forms.ValidationError(str(exc), code="unknown") from exc


class ReasonForm(forms.Form):
    """What every act with consequences asks for: why, in the operator's own words."""

    reason = forms.CharField(
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3, "class": "form-control"}),
        help_text="Kept in the audit record, word for word.",
    )


class DocumentField(YAMLField):
    """Another version of a document, whole, in an editor; refused as its submission would be."""

    def __init__(self, versions: Versions[Any, Any], **options: Any) -> None:
        attributes = {"rows": 28, "class": "form-control code", "spellcheck": "false"}
        super().__init__(strip=False, widget=forms.Textarea(attrs=attributes), **options)
        self._versions = versions

    def check(self, document: Any) -> None:
        try:
            self._versions.check(document)
        except self._versions.refusals.invalid as exc:
            raise forms.ValidationError(str(exc)) from exc


class VersionForm(ReasonForm):
    """Another version of a document, and why; a subclass adds the field `document`."""

    field_order = ("document", "reason")


# libyaml's, which takes a fifth of the time; absent where yaml was built without it.
_Dumper: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def as_yaml(document: Any) -> str:
    """A document as the editor shows it: YAML, in the order in which it is stored."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
