"""Forms of the pages on signed copy: they parse what was typed; whether it may be shown is the operations' to say."""

from collections.abc import Mapping
from typing import Any, Final

import yaml
from django import forms

from controlplane.console.forms.fields import JSONTextField, ReasonForm, YAMLField
from controlplane.ladder.models import CopyKind
from dataplane.signed_copy import ESCALATION_PLACEHOLDERS, PLACEHOLDERS

MAX_LOCALES: Final = 20
MAX_CHARACTERS: Final = 400_000
_ANSWER_KEYS: Final = ("questions", "text", "json")


class CopyForm(forms.Form):
    """A new piece of copy, before it has words."""

    slug = forms.SlugField(
        label="Slug", max_length=50, help_text="How routing tables name it; it cannot be changed later."
    )
    title = forms.CharField(label="Title", max_length=120)
    kind = forms.ChoiceField(
        label="Kind",
        choices=CopyKind.choices,
        widget=forms.RadioSelect,
        initial=CopyKind.OUTAGE,
        help_text="The rung of a fallback stack that it is for, or a withheld answer; it cannot be changed later.",
    )
    regulated = forms.BooleanField(
        label="Regulated users read it",
        required=False,
        help_text="Then legal signs every version too, beside exec; it cannot be changed later.",
    )
    description = forms.CharField(label="What it is for", required=False, widget=forms.Textarea(attrs={"rows": 3}))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("slug", "title", "description"):
            self.fields[name].widget.attrs.setdefault("class", "form-control")


class _Locale(forms.CharField):
    """A locale such as `en` or `pt-BR`; the operations check its spelling."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.TextInput(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"})
        super().__init__(max_length=35, widget=widget, **kwargs)


class _OptionalJSON(JSONTextField):
    """JSON that may be left out: nothing is shown for nothing."""

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)


class WordsForm(forms.Form):
    """The words of one locale."""

    locale = _Locale(label="Language", help_text="Such as en or pt-BR.")
    text = forms.CharField(
        label="Text",
        strip=False,
        widget=forms.Textarea(attrs={"rows": 5, "class": "form-control", "spellcheck": "true"}),
    )
    json = _OptionalJSON(
        label="The same as JSON",
        rows=5,
        required=False,
        help_text="For applications that asked for an answer in JSON of some schema; they get the text without it.",
    )

    def __init__(self, *args: Any, kind: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = ESCALATION_PLACEHOLDERS if kind == CopyKind.ESCALATION else PLACEHOLDERS
        shown = ", ".join(f"{{{{{name}}}}}" for name in sorted(names))
        self.fields["text"].help_text = f"What users read. May hold {shown}."


class BaseWords(forms.BaseFormSet):  # type: ignore[type-arg]  # generic in the stubs only
    """The locales in order; those that are to be left out are."""

    default_error_messages = {
        **forms.BaseFormSet.default_error_messages,
        "too_few_forms": "write it in one language at least",
    }

    def clean(self) -> None:
        seen = set()
        for form in self._kept():
            locale = form.cleaned_data.get("locale")
            if locale and locale in seen:
                raise forms.ValidationError(f"language {locale!r} is given twice")
            seen.add(locale)

    def locales(self) -> dict[str, Any]:
        """Shape: {locale: {"text": str, "json": object or null}}."""
        return {
            form.cleaned_data["locale"]: {"text": form.cleaned_data["text"], "json": form.cleaned_data["json"]}
            for form in self._kept()
        }

    def _kept(self) -> list[forms.Form]:
        return [form for form in self.forms if form.cleaned_data and not form.cleaned_data.get("DELETE")]

    @staticmethod
    def initial_from(document: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Start from other words, so that a change is an edit and not a copy."""
        if document is None:
            return [{"locale": "en"}]
        return [{"locale": locale, **document["locales"][locale]} for locale in _in_order(document)]


WordsFormSet = forms.formset_factory(
    WordsForm,
    formset=BaseWords,
    extra=0,
    min_num=1,
    validate_min=True,
    max_num=MAX_LOCALES,
    can_delete=True,
    absolute_max=MAX_LOCALES,
)


class VersionForm(ReasonForm):
    """Everything of a version but its words."""

    default_locale = _Locale(
        label="Language of last resort",
        initial="en",
        help_text="Shown to users whose own language is not written.",
    )
    field_order: tuple[str, ...] = ("default_locale", "reason")


class AnswersForm(VersionForm):
    """Answers to known questions, as one document for every language."""

    locales = YAMLField(
        label="Answers",
        max_length=MAX_CHARACTERS,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 28, "class": "form-control code", "spellcheck": "true"}),
        help_text="YAML or JSON: per language a list of answers, each with questions, text and json (or null).",
    )
    field_order = ("locales", "default_locale", "reason")

    @staticmethod
    def initial_from(document: Mapping[str, Any] | None) -> str:
        """The answers of a document as the editor shows them; a first one to fill in where there is none."""
        if document is None:
            return "en:\n- questions:\n  - Where is my parcel?\n  text: \n  json: null\n"
        shown = {
            locale: [{key: answer[key] for key in _ANSWER_KEYS} for answer in document["locales"][locale]]
            for locale in _in_order(document)
        }
        return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=MAX_CHARACTERS)


def _in_order(document: Mapping[str, Any]) -> list[str]:
    """The languages of a document, that of last resort first: the database keeps no order of its own."""
    return sorted(document["locales"], key=lambda locale: (locale != document["default_locale"], locale))
