"""Controls that are put together without a template are what Django's templates give."""

from datetime import date

import pytest
from django import forms
from django.forms.renderers import TemplatesSetting
from django.template import Context, Template
from django.utils.safestring import SafeString

from controlplane.console.forms.fields import NameField
from controlplane.console.widgets import DRAWN, DrawnWidgets

ATTRS = {
    "id": "id_x",
    "required": True,
    "disabled": False,
    "title": 'a "b" <c>',
    "rows": 3,
    "data-x": SafeString("<i>"),
}
CHOICES = [("", "All"), ("a<b", "A & b"), (3, "three"), ("Group <g>", [("d", "D"), ("e", SafeString("<b>E</b>"))])]
CONTROLS = [
    *(kind() for kind in (forms.TextInput, forms.NumberInput, forms.EmailInput, forms.URLInput, forms.HiddenInput)),
    *(forms.PasswordInput(render_value=shown) for shown in (True, False)),
    forms.CheckboxInput(),
    forms.Textarea({"class": "form-control"}),
    forms.Select(choices=CHOICES),
    forms.SelectMultiple(choices=CHOICES),
    forms.Select(choices=()),
]
VALUES = [
    None,
    "",
    0,
    3,
    1.5,
    True,
    "a<b & 'c' \"d\"",
    "\n two\nlines ",
    SafeString("<u>"),
    ("d", "e"),
    date(2026, 3, 1),
]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: type(control).__name__)
@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("attrs", [{}, ATTRS], ids=["plain", "with attributes"])
def test_control_is_what_its_template_gives(control, value, attrs):
    """Whatever its value and attributes, character for character."""
    drawn = control.render("a<name>", value, attrs, renderer=DrawnWidgets())

    # Django's parts of a select end in a line break each.
    given = control.render("a<name>", value, attrs, renderer=TemplatesSetting())
    assert drawn == given.replace("</option>\n\n", "</option>\n")
    assert isinstance(drawn, SafeString)


def test_names_stand_in_a_list_beside_their_input():
    """What is offered is text, and the input says which list is its own."""

    class Form(forms.Form):
        prompt = NameField("prompts", placeholder="its name")

    form = Form({"prompt": "<b>"})
    form.fields["prompt"].ask(names=["support-answer", "a<b"], find=str)

    html = str(form["prompt"])

    assert html.startswith('<input type="text" name="prompt" value="&lt;b&gt;"')
    assert 'list="id_prompt_names" data-names="/names/prompts.json"' in html
    assert html.endswith(
        '<datalist id="id_prompt_names"><option value="support-answer"></option><option value="a&lt;b"></option>'
        "</datalist>"
    )


def test_other_controls_have_their_templates():
    """A control that is drawn by nobody here is Django's."""
    choice = forms.RadioSelect(choices=[("a", "A")])

    assert choice.template_name not in DRAWN
    assert choice.render("x", "a", renderer=DrawnWidgets()) == choice.render("x", "a", renderer=TemplatesSetting())


# --- a field ---------------------------------------------------------------------------------------------------------
FIELD = (
    """{% if field.is_hidden %}{{ field }}{% else %}<div class="field{% if check %} field-check{% endif %}"""
    """{% if code or json %} code-input{% endif %}"{% if json %} data-json{% endif %}>\n"""
    """  {% if group %}<fieldset{% if field.help_text or field.errors %} aria-describedby=\""""
    """{% if field.help_text %}{{ field.auto_id }}_helptext{% endif %}{% if field.errors %} """
    """{{ field.auto_id }}_error{% endif %}"{% endif %}><legend>{{ field.label }}</legend>{{ field }}"""
    """</fieldset>{% elif check %}<div class="check">{{ field }}<label for="{{ field.id_for_label }}">"""
    """{{ field.label }}</label></div>{% else %}<label for="{{ field.id_for_label }}">{{ field.label }}"""
    """{% if not field.field.required and optional is not False %} <span class="optional">optional</span>"""
    """{% endif %}</label>{{ field }}{% endif %}\n"""
    """  {% if json %}"""
    """<div class="field-bar js-only"><span class="json-state muted small" data-json-state aria-live="polite"></span>"""
    """<button type="button" class="btn btn-sm" data-json-format>"""
    """{% icon "braces" %}Format</button></div>{% endif %}\n"""
    """  {% if count %}<p class="help counted js-only" data-count-of="{{ field.id_for_label }}" data-most=\""""
    """{{ count }}"></p>{% endif %}\n"""
    """  {% if field.help_text %}<p class="help" id="{{ field.auto_id }}_helptext">{{ field.help_text }}"""
    """</p>{% endif %}\n"""
    """  {% if field.errors %}<div id="{{ field.auto_id }}_error">{% for error in field.errors %}"""
    """<p class="error">{% icon "exclamation-triangle-fill" %}<span>{{ error }}</span></p>{% endfor %}"""
    """</div>{% endif %}\n"""
    """</div>{% endif %}\n"""
)


class Every(forms.Form):
    """A field of each kind, with and without help."""

    slug = forms.SlugField(help_text="Lower <b> case", label="A & b")
    note = forms.CharField(required=False, widget=forms.Textarea)
    where = forms.ChoiceField(choices=[("a", "A"), ("b", "B")], required=False)
    one = forms.ChoiceField(choices=[("a", "A"), ("b", "B")], widget=forms.RadioSelect, help_text="Which")
    many = forms.MultipleChoiceField(choices=[("a", "A")], widget=forms.CheckboxSelectMultiple, required=False)
    sure = forms.BooleanField(help_text="Are you")
    hidden = forms.CharField(widget=forms.HiddenInput, required=False)


@pytest.mark.parametrize("name", Every.base_fields)
@pytest.mark.parametrize("data", [None, {}, {"slug": "a <b>", "one": "z", "many": ["z"], "where": "z"}], ids=repr)
@pytest.mark.parametrize(
    "said",
    [{}, {"optional": False}, {"code": True}, {"json": True, "count": 200}, {"optional": "", "count": ""}],
    ids=repr,
)
def test_field_is_what_its_template_was(name, data, said):
    """The tag, and the component that stands for it, tie the same together, character for character."""
    field = Every(data)[name]
    is_check = isinstance(field.field.widget, forms.CheckboxInput)
    is_group = isinstance(field.field.widget, forms.RadioSelect | forms.CheckboxSelectMultiple)
    values = {"field": field, **said}

    given = rendered(FIELD, check=is_check, group=is_group, **values)

    assert rendered("{% field field " + " ".join(f"{key}={key}" for key in said) + " %}", **values) == given
    assert rendered('{% include "components/_field.html" %}', **values) == given


def rendered(source, **values):
    return Template("{% load ballast %}" + source).render(Context(values))
