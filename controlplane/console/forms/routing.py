"""The form that proposes another routing table: YAML or JSON in, one document out, every mistake with its place."""

from typing import Any, Final

import yaml
from django import forms

from controlplane.console.forms.fields import ReasonForm
from dataplane.documents import MalformedRelease
from dataplane.routing import RoutingTable

MAX_CHARACTERS: Final = 400_000


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


class DocumentField(forms.CharField):
    """A routing table, checked by the parser that every worker runs."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        if not text:
            return None
        try:
            document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
            RoutingTable.parse(document, path="$")
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark
            place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise forms.ValidationError(f"not YAML or JSON: {exc.problem}{place}") from exc
        except (yaml.YAMLError, RecursionError) as exc:
            raise forms.ValidationError(f"not YAML or JSON: {exc}") from exc
        except MalformedRelease as exc:
            raise forms.ValidationError(str(exc)) from exc
        return document


class TableForm(ReasonForm):
    """Another routing table, whole, and why."""

    document = DocumentField(
        label="Routing table",
        max_length=MAX_CHARACTERS,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 28, "class": "form-control code", "spellcheck": "false"}),
        help_text="YAML or JSON: providers, accounts, lanes, routes. Secrets by reference: env:NAME or file:/path.",
    )
    field_order = ("document", "reason")


def as_yaml(document: Any) -> str:
    """A document as the editor shows it: YAML, in the order in which it is stored."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
