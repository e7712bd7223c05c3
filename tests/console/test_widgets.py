"""Controls that are put together without a template are what Django's templates give."""

from datetime import date

import pytest
from django import forms
from django.forms.renderers import TemplatesSetting
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
