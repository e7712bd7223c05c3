"""Forms of the pages of evals."""

from collections.abc import Sequence
from typing import Any, Final

from django import forms
from django.core.files.uploadedfile import UploadedFile

from controlplane.accounts.models import Operator
from controlplane.console.forms.canaries import NamesField
from controlplane.console.forms.fields import NameField, ReasonForm, YAMLField
from controlplane.console.names import offered, prompt_named, version_named
from controlplane.evals.importing import MAX_BYTES, MAX_ROWS
from controlplane.evals.judges.kinds import SCORES, JudgeKind
from controlplane.evals.models import Purpose
from controlplane.evals.standards import DEFAULT_COST_MICROS, MAX_COST_MICROS
from dataplane.routing import CAPABILITIES

MICROS: Final = 1_000_000
# What is pasted travels in the form itself, which takes less than a file.
MAX_PASTED: Final = 1_000_000
_TEXT: Final = {"class": "form-control"}


def _area(rows: int) -> forms.Textarea:
    return forms.Textarea(attrs={"rows": rows, "class": "form-control"})


class SetForm(forms.Form):
    """A set without rows."""

    slug = forms.SlugField(
        label="Name in addresses",
        max_length=50,
        widget=forms.TextInput(attrs={**_TEXT, "autocomplete": "off"}),
        help_text="Lower case, such as help-centre-golden. It stays.",
    )
    name = forms.CharField(label="Name", max_length=120, widget=forms.TextInput(attrs=_TEXT))
    purpose = forms.ChoiceField(
        label="What it is for",
        choices=[
            (Purpose.GOLDEN.value, "Golden: what must work; prompts may quote it"),
            (Purpose.HELD_OUT.value, "Held out: what no prompt may have seen; its words are for few"),
            (Purpose.SAFETY.value, "Safety: what must never happen"),
        ],
        widget=forms.RadioSelect,
        initial=Purpose.GOLDEN.value,
    )
    capability = forms.ChoiceField(
        label="Capability",
        choices=[(name, name) for name in sorted(CAPABILITIES)],
        initial="chat",
        widget=forms.Select(attrs={"class": "form-select"}),
        help_text="Lanes that cannot do this are never asked its rows.",
    )
    residency = NamesField(
        label="Stays in",
        required=False,
        widget=forms.TextInput(attrs={**_TEXT, "placeholder": "anywhere"}),
        help_text="Regions between commas, such as eu. Its rows go nowhere else.",
    )
    tenant = forms.ChoiceField(
        label="Made of data of",
        required=False,
        widget=forms.Select(attrs={"class": "form-select"}),
        help_text="Then it is pinned where the tenant is.",
    )
    description = forms.CharField(label="Description", required=False, max_length=5000, widget=_area(3))

    def __init__(self, data: Any = None, *, tenants: Sequence[str]) -> None:
        super().__init__(data)
        self.fields["tenant"].choices = [("", "nobody, our own"), *((name, name) for name in tenants)]  # type: ignore[attr-defined]


class ImportForm(ReasonForm):
    """Rows as JSON lines, in a file or pasted."""

    file = forms.FileField(
        label="File",
        required=False,
        widget=forms.FileInput(attrs={"class": "form-control", "accept": ".jsonl,.ndjson,.json,.txt"}),
        help_text=f"JSON lines, up to {MAX_ROWS:,} rows and {MAX_BYTES // 1024 // 1024} MiB.",
    )
    pasted = forms.CharField(
        label="Or paste them",
        required=False,
        strip=False,
        max_length=MAX_PASTED,
        widget=forms.Textarea(attrs={"rows": 8, "class": "form-control code", "spellcheck": "false"}),
        help_text="One JSON object a line.",
    )
    field_order = ("file", "pasted", "reason")

    def __init__(self, data: Any = None, files: Any = None) -> None:
        super().__init__(data, files)
        self.fields["reason"].label = "Where they come from, or what was changed"

    def clean(self) -> dict[str, Any]:
        """Rows from one place."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        given = [name for name in ("file", "pasted") if cleaned.get(name)]
        if not given and not self.errors:
            self.add_error("file", "Choose a file, or paste the rows")
        elif len(given) > 1:
            self.add_error("pasted", "Rows come from a file or are pasted, not both")
        return cleaned

    @property
    def rows(self) -> "bytes | UploadedFile[Any]":
        """What `import_rows` reads."""
        file: UploadedFile[Any] | None = self.cleaned_data["file"]
        return file if file is not None else self.cleaned_data["pasted"].encode("utf-8", "surrogatepass")


class _Dollars(forms.DecimalField):
    """Dollars at the page, microdollars in the operation."""

    def __init__(self, **options: Any) -> None:
        widget = forms.NumberInput(attrs={"class": "form-control narrow", "step": "any"})
        super().__init__(min_value=0, max_value=MAX_COST_MICROS // MICROS, decimal_places=6, widget=widget, **options)


class StandardForm(ReasonForm):
    """Which judges look at answers to a set, and what they have to find."""

    judges = forms.MultipleChoiceField(
        label="Judges", widget=forms.CheckboxSelectMultiple, help_text="These versions, until another standard is set."
    )
    routes = NamesField(
        label="Lanes of routes",
        required=False,
        widget=forms.TextInput(attrs={**_TEXT, "placeholder": "every route"}),
        help_text="Names between commas: a lane has to pass before it enters one of these.",
    )
    prompt = NameField(
        "prompts",
        label="Prompt",
        required=False,
        placeholder="none",
        help_text="By whose live version lanes are asked rows that give variables.",
    )
    max_cost = _Dollars(
        label="Most that one run may cost, in dollars",
        initial=f"{DEFAULT_COST_MICROS / MICROS:g}",
        help_text="A run that reaches it stops and passes nothing.",
    )

    def __init__(
        self,
        data: Any = None,
        *,
        judges: Sequence[tuple[str, str]],
        scores: Sequence[str],
        operator: Operator,
        **options: Any,
    ) -> None:
        super().__init__(data, **options)
        self.scores = tuple(scores)
        self.fields["judges"].choices = judges  # type: ignore[attr-defined]
        prompt = self.fields["prompt"]
        assert isinstance(prompt, NameField)  # noqa: S101 - narrows the type
        prompt.ask(names=offered("prompts", operator), find=lambda slug: prompt_named(operator, slug).slug)
        self.fields["reason"].label = "Why this"
        for score in self.scores:
            self.fields[_threshold(score)] = forms.DecimalField(
                label=score.capitalize(),
                required=False,
                min_value=0,
                max_value=100,
                decimal_places=2,
                widget=forms.NumberInput(attrs={"class": "form-control narrow", "step": "any"}),
            )

    @property
    def threshold_fields(self) -> list[forms.BoundField]:
        """A field for each score; left empty, nothing hangs on it."""
        return [self[_threshold(score)] for score in self.scores]

    @staticmethod
    def initial_from(standard: Any) -> dict[str, Any]:
        """A standard as the form shows it."""
        return {
            "judges": standard.judges,
            "routes": standard.routes,
            "prompt": standard.prompt,
            "max_cost": f"{standard.max_cost_micros / MICROS:g}",
            **{_threshold(score): f"{100 * share:.6g}" for score, share in standard.thresholds.items()},
        }

    def to_operation(self) -> dict[str, Any]:
        """As `set_standard` takes it."""
        data = self.cleaned_data
        given = {score: data.get(_threshold(score)) for score in self.scores}
        return {
            "judges": data["judges"],
            "thresholds": {score: float(percent) / 100 for score, percent in given.items() if percent is not None},
            "routes": data["routes"],
            "prompt": data["prompt"],
            "max_cost_micros": int(data["max_cost"] * MICROS),
            "reason": data["reason"],
        }


def _threshold(score: str) -> str:
    return f"threshold_{score}"


class RunForm(forms.Form):
    """What to ask the rows of a set, and who looks at the answers."""

    subject = NameField(
        "subjects",
        label="Ask",
        help_text="A version of a prompt, such as support-answer@3, or a lane by its name. Typing finds them.",
    )
    number = forms.TypedChoiceField(label="Rows of", coerce=int, widget=forms.Select(attrs={"class": "form-select"}))
    judges = forms.MultipleChoiceField(
        label="Only look, with these judges",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Nothing hangs on such a run. Choose none to hold the answers to the standard.",
    )
    max_cost = _Dollars(
        label="Most that it may cost, in dollars", required=False, help_text="Empty: what the standard says."
    )

    def __init__(
        self,
        data: Any = None,
        *,
        operator: Operator,
        numbers: Sequence[int],
        judges: Sequence[tuple[str, str]],
        **options: Any,
    ) -> None:
        super().__init__(data, **options)
        subject = self.fields["subject"]
        assert isinstance(subject, NameField)  # noqa: S101 - narrows the type
        subject.ask(names=offered("subjects", operator), find=lambda name: version_named(operator, name) or name)
        self.fields["number"].choices = [(number, f"version {number}") for number in numbers]  # type: ignore[attr-defined]
        self.fields["judges"].choices = judges  # type: ignore[attr-defined]

    @property
    def asked(self) -> tuple[str, int] | str:
        """A version of a prompt, by slug and number, or a lane."""
        chosen: tuple[str, int] | str = self.cleaned_data["subject"]
        return chosen

    @property
    def max_cost_micros(self) -> int | None:
        """What was said of it."""
        given = self.cleaned_data["max_cost"]
        return None if given is None else int(given * MICROS)


class JudgeForm(forms.Form):
    """A judge without a version."""

    slug = forms.SlugField(
        label="Name in labels",
        max_length=50,
        widget=forms.TextInput(attrs={**_TEXT, "autocomplete": "off"}),
        help_text="Lower case; rows are labelled for it by this name. It stays.",
    )
    name = forms.CharField(label="Name", max_length=120, widget=forms.TextInput(attrs=_TEXT))
    score = forms.SlugField(
        label="What it scores",
        max_length=50,
        widget=forms.TextInput(attrs={**_TEXT, "list": "scores"}),
        help_text=f"One of {', '.join(SCORES)}, or a name of your own.",
    )
    description = forms.CharField(label="Description", required=False, max_length=5000, widget=_area(3))


class JudgeVersionForm(ReasonForm):
    """How a judge decides."""

    kind = forms.ChoiceField(
        label="Decides by",
        choices=[
            (JudgeKind.DETERMINISTIC.value, "rules, and what the row expects"),
            (JudgeKind.EMBEDDING.value, "likeness to the expected text"),
            (JudgeKind.MODEL.value, "a question to a model"),
        ],
        widget=forms.RadioSelect,
    )
    params = YAMLField(
        label="Parameters",
        widget=forms.Textarea(attrs={"rows": 16, "class": "form-control code", "spellcheck": "false"}),
        help_text="YAML or JSON. By rules: rules, expected, prose_at. By likeness: route, threshold. "
        "By a model: route, question.",
    )
    field_order = ("kind", "params", "reason")


class CalibrateForm(forms.Form):
    """On which labelled answers a judge is held against people."""

    labels = forms.ChoiceField(label="Labelled answers of", widget=forms.Select(attrs={"class": "form-select"}))

    def __init__(self, data: Any = None, *, labels: Sequence[tuple[str, str]]) -> None:
        super().__init__(data)
        self.fields["labels"].choices = labels  # type: ignore[attr-defined]
