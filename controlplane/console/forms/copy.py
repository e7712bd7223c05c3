"""Forms of the pages on signed copy: they parse what was typed; whether it may be shown is the operations' to say.

Of a rung's words the forms ask the workers' parser themselves, so that what it refuses stands beside its field.
"""

from collections.abc import Mapping
from typing import Any, Final

import yaml
from django import forms
from django.http import QueryDict

from controlplane.console.forms.fields import JSONTextField, ReasonForm, YAMLField
from controlplane.console.requests import whole_number
from controlplane.ladder.models import CopyKind
from dataplane.documents import MalformedRelease, Node, child_path
from dataplane.rung_words import MAX_BANNER_CHARACTERS, TAGS
from dataplane.signed_copy import parse_copy

MAX_LOCALES: Final = 20
MAX_CHARACTERS: Final = 400_000
_ANSWER_KEYS: Final = ("questions", "text", "json")


class CopyForm(forms.Form):
    """A new piece of copy, before it has words."""

    slug = forms.SlugField(
        label="Slug", max_length=50, help_text="How routing tables and ladders name it; it cannot be changed later."
    )
    title = forms.CharField(label="Title", max_length=120)
    kind = forms.ChoiceField(
        label="Kind",
        choices=CopyKind.choices,
        widget=forms.RadioSelect,
        initial=CopyKind.OUTAGE,
        help_text="Where users read it: from a fallback stack, in the place of a withheld answer, or while a rung of a "
        "ladder is engaged; it cannot be changed later.",
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


class _Lines(forms.CharField):
    """Text of several lines, which browsers end in two characters each and e-mails and diffs know with one."""

    def to_python(self, value: Any) -> str:
        return str(super().to_python(value)).replace("\r\n", "\n")


class WordsForm(forms.Form):
    """The words of one locale."""

    locale = _Locale(label="Language", help_text="Such as en or pt-BR.")
    text = forms.CharField(
        label="Text",
        strip=False,
        widget=forms.Textarea(attrs={"rows": 5, "class": "form-control", "spellcheck": "true"}),
        help_text="What users read.",
    )
    json = _OptionalJSON(
        label="The same as JSON",
        rows=5,
        required=False,
        help_text="For applications that asked for an answer in JSON of some schema; they get the text without it.",
    )

    def words(self) -> dict[str, Any]:
        """Shape: {"text": str, "json": object or null}."""
        return {"text": self.cleaned_data["text"], "json": self.cleaned_data["json"]}

    @staticmethod
    def initial_of(words: Mapping[str, Any]) -> dict[str, Any]:
        """What the fields start with."""
        return dict(words)


class RungWordsForm(forms.Form):
    """The words of one rung in one locale. All that the workers' parser refuses is told, each beside its field."""

    locale = _Locale(label="Language", help_text="Such as en or pt-BR.")
    banner = forms.CharField(
        label="Banner",
        widget=forms.TextInput(attrs={"class": "form-control", "spellcheck": "true", "autocomplete": "off"}),
        help_text=f"One line above everything while the rung is engaged, {MAX_BANNER_CHARACTERS} characters at most.",
    )
    detail = _Lines(
        label="Detail",
        widget=forms.Textarea(attrs={"rows": 5, "class": "form-control", "spellcheck": "true"}),
        help_text="What stands behind the banner, or in the place of an answer; for apps that show no HTML.",
    )
    html = _Lines(
        label="The same as HTML",
        widget=forms.Textarea(attrs={"rows": 5, "class": "form-control", "spellcheck": "true"}),
        help_text=f"Tags that may stand in it: {', '.join(TAGS)}; no attributes but lang and a link’s href.",
    )
    mail_subject = forms.CharField(
        label="Subject of the e-mail",
        required=False,
        widget=forms.TextInput(attrs={"class": "form-control", "spellcheck": "true", "autocomplete": "off"}),
        help_text="For an answer that comes later by e-mail. Leave subject and text empty where none is sent.",
    )
    mail_text = _Lines(
        label="Text of the e-mail",
        required=False,
        widget=forms.Textarea(attrs={"rows": 4, "class": "form-control", "spellcheck": "true"}),
        help_text="Stands above the answer.",
    )

    def clean(self) -> dict[str, Any]:
        for name, fact in self._refused().items():
            if name not in self.errors:
                self.add_error(name, fact)
        return self.cleaned_data

    def words(self) -> dict[str, Any]:
        """Shape: that which `dataplane.rung_words.parse_rung_words` reads."""
        return _rung_words(self.cleaned_data)

    @staticmethod
    def initial_of(words: Mapping[str, Any]) -> dict[str, Any]:
        """What the fields start with."""
        mail = words["mail"] or {"subject": "", "text": ""}
        return {
            **{name: words[name] for name in ("banner", "detail", "html")},
            "mail_subject": mail["subject"],
            "mail_text": mail["text"],
        }

    def _refused(self) -> dict[str, str]:
        """What the workers' parser has against it, by field; each fault is taken out so that the next one shows."""
        given: dict[str, Any] = {name: self.cleaned_data.get(name) or _NOTHING_WRONG for name in _RUNG_FIELDS}
        given |= {name: self.cleaned_data.get(name, "") for name in ("mail_subject", "mail_text")}
        locale = self.cleaned_data.get("locale") or "en"
        refused: dict[str, str] = {}
        if bool(given["mail_subject"]) != bool(given["mail_text"]):
            empty = "mail_text" if given["mail_subject"] else "mail_subject"
            refused[empty] = "an e-mail has a subject and a text, or is left out with both"
            given[empty] = _NOTHING_WRONG
        while (found := _first_refused(locale, _rung_words(given))) is not None:
            name, fact = found
            refused.setdefault(name, fact)
            if name == "locale":
                break
            given[name] = _NOTHING_WRONG
        return refused


_NOTHING_WRONG: Final = "-"
_RUNG_FIELDS: Final = ("banner", "detail", "html")
_FIELD_OF: Final[Mapping[str, str]] = {
    **{f".{name}": name for name in _RUNG_FIELDS},
    ".mail.subject": "mail_subject",
    ".mail.text": "mail_text",
}


def _rung_words(given: Mapping[str, Any]) -> dict[str, Any]:
    mail = None
    if given["mail_subject"] or given["mail_text"]:
        mail = {"subject": given["mail_subject"], "text": given["mail_text"]}
    return {**{name: given[name] for name in _RUNG_FIELDS}, "mail": mail}


def _first_refused(locale: str, words: Mapping[str, Any]) -> tuple[str, str] | None:
    """The field that the workers' parser would refuse first, and why; None where it takes the words."""
    document = {"kind": CopyKind.RUNG.value, "default_locale": locale, "locales": {locale: words}}
    try:
        parse_copy("draft", Node(document, "$"), version=1, digest="")
    except MalformedRelease as exc:
        return _FIELD_OF.get(exc.path.removeprefix(child_path("$.locales", locale)), "locale"), exc.fact
    return None


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
        """Shape: {locale: what the form of the kind calls its words}."""
        return {form.cleaned_data["locale"]: form.words() for form in self._kept()}

    def _kept(self) -> list[Any]:
        return [form for form in self.forms if form.cleaned_data and not form.cleaned_data.get("DELETE")]

    @staticmethod
    def initial_from(document: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Start from other words, so that a change is an edit and not a copy."""
        if document is None:
            return [{"locale": "en"}]
        form = words_form(document["kind"])
        return [{"locale": locale, **form.initial_of(document["locales"][locale])} for locale in _in_order(document)]

    @classmethod
    def typed_in(cls, data: QueryDict, kind: str) -> list[dict[str, Any]]:
        """Start from what was typed so far, whatever it is; languages that are to be left out are."""
        typed = []
        for index in range(min(whole_number(data.get("words-TOTAL_FORMS", "")) or 0, MAX_LOCALES)):
            prefix = f"words-{index}-"
            if data.get(f"{prefix}DELETE"):
                continue
            fields = {name: data.get(f"{prefix}{name}", "") for name in words_form(kind).base_fields}
            if "json" in fields:
                fields["json"] = forms.fields.InvalidJSONInput(fields["json"])  # shown as it is, and judged later
            typed.append(fields)
        return typed


def words_form(kind: str) -> type[WordsForm] | type[RungWordsForm]:
    """The form of one language of this kind of copy; that of answers is `AnswersForm`, for all languages at once."""
    return RungWordsForm if kind == CopyKind.RUNG else WordsForm


def words_form_set(kind: str, data: QueryDict | None = None, *, initial: Any = None) -> Any:
    """The forms of every language, with the prefix `words`."""
    made = forms.formset_factory(
        words_form(kind),
        formset=BaseWords,
        extra=0,
        min_num=1,
        validate_min=True,
        max_num=MAX_LOCALES,
        can_delete=True,
        absolute_max=MAX_LOCALES,
    )
    return made(data, prefix="words", initial=initial)


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
