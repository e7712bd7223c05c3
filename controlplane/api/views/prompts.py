"""Prompts and their versions over HTTP."""

from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.access import require
from controlplane.api.base import OperatorView, Reason, Strict, describe, read
from controlplane.api.differences import differences
from controlplane.api.views.changes import ChangeRow
from controlplane.prompts import operations
from controlplane.prompts.access import access_prompt, access_version, visible_prompts
from controlplane.prompts.models import ChangeClass, Prompt, PromptVersion
from dataplane.errors.requests import InvalidVariables
from dataplane.prompts import PromptVersion as Servable
from dataplane.prompts import render, validate_version

TAG = "prompts"


class Reference(serializers.Serializer[Any]):
    """A version, as changes and releases name it."""

    number = serializers.IntegerField()
    digest = serializers.CharField()


class PromptRow(serializers.ModelSerializer[Prompt]):
    live_version = serializers.SerializerMethodField(help_text="None until the first version went live")

    class Meta:
        model = Prompt
        fields: ClassVar = ["slug", "title", "description", "route", "live_version", "created_by", "created_at"]

    @extend_schema_field(Reference(allow_null=True))
    def get_live_version(self, prompt: Prompt) -> dict[str, Any] | None:
        return prompt.live_version.reference if prompt.live_version else None


class VersionRow(serializers.ModelSerializer[PromptVersion]):
    class Meta:
        model = PromptVersion
        fields: ClassVar = ["number", "digest", "change_class", "rationale", "author", "created_at"]


class Version(serializers.ModelSerializer[PromptVersion]):
    messages = serializers.ListField(child=serializers.DictField())
    variables_schema = serializers.DictField()
    parameters = serializers.DictField()
    sample_variables = serializers.DictField()

    class Meta:
        model = PromptVersion
        fields: ClassVar = [*VersionRow.Meta.fields, "messages", "variables_schema", "parameters", "sample_variables"]


class NewPrompt(Strict):
    slug = serializers.SlugField(max_length=50)
    title = serializers.CharField(max_length=120)
    description = serializers.CharField(required=False, allow_blank=True, default="")
    route = serializers.SlugField(help_text="The route its requests take when the caller names none")


class NewVersion(Strict):
    messages = serializers.JSONField(help_text="[{'role', 'content'}, …]; `{{name}}` is replaced by a variable")
    variables_schema = serializers.JSONField(default=dict, help_text="JSON Schema of the variables")
    parameters = serializers.JSONField(default=dict, help_text="Request fields that the version fixes: temperature, …")
    sample_variables = serializers.DictField(default=dict)
    change_class = serializers.ChoiceField(ChangeClass.choices)
    rationale = serializers.CharField(max_length=5000)


class Draft(Strict):
    messages = serializers.JSONField()
    variables_schema = serializers.JSONField(default=dict)
    parameters = serializers.JSONField(default=dict)
    variables = serializers.DictField(default=dict, help_text="Sample variables to fill it with")


class Variables(Strict):
    variables = serializers.DictField(required=False, help_text="Instead of the version's own sample variables")


class Message(serializers.Serializer[Any]):
    role = serializers.CharField()
    content = serializers.CharField()


class Rendered(serializers.Serializer[Any]):
    """Exactly what a worker would send, or why it would refuse the variables."""

    messages = Message(many=True, allow_null=True)
    error = serializers.CharField(allow_blank=True)


class ProblemRow(serializers.Serializer[Any]):
    path = serializers.CharField()
    message = serializers.CharField()
    is_error = serializers.BooleanField(help_text="False: a warning; it may be submitted all the same")


class Checked(Rendered):
    problems = ProblemRow(many=True)


class DifferenceRow(serializers.Serializer[Any]):
    path = serializers.CharField()
    op = serializers.ChoiceField(["added", "removed", "changed"])
    before = serializers.JSONField(allow_null=True)
    after = serializers.JSONField(allow_null=True)


class VersionDiff(serializers.Serializer[Any]):
    before = serializers.IntegerField()
    after = serializers.IntegerField()
    differences = DifferenceRow(many=True)


class Prompts(OperatorView):
    @describe("prompts_list", "Prompts that you may see", tag=TAG, pages_of=PromptRow, refuses=())
    def get(self, request: Request) -> Response:
        return self.page(visible_prompts(self.operator), PromptRow)

    @describe(
        "prompts_create",
        "Create a prompt; it serves nothing yet",
        tag=TAG,
        takes=NewPrompt,
        gives=PromptRow,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, "prompts.add_prompt")
        prompt = operations.create_prompt(**read(NewPrompt, request), actor=self.operator, now=now)
        return Response(PromptRow(prompt).data, status=201)


class OnePrompt(OperatorView):
    @describe("prompts_retrieve", "One prompt", tag=TAG, gives=PromptRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return Response(PromptRow(access_prompt(self.operator, slug)).data)


class CheckDraft(OperatorView):
    @describe("prompts_check", "Check and fill a draft without storing anything", tag=TAG, takes=Draft, gives=Checked)
    def post(self, request: Request, slug: str) -> Response:
        access_prompt(self.operator, slug, "submit_version")
        draft = read(Draft, request)
        content = {key: draft[key] for key in ("messages", "variables_schema", "parameters")}
        problems = validate_version(**content)
        if any(problem.is_error for problem in problems):
            filled = {"messages": None, "error": "the draft has errors"}
        else:
            servable = Servable.build(prompt=slug, number=0, digest="", **content)
            filled = _fill(servable, draft["variables"])
        return Response(Checked({**filled, "problems": problems}).data)


class Versions(OperatorView):
    @describe("versions_list", "Versions of a prompt, newest first", tag=TAG, pages_of=VersionRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        prompt = access_prompt(self.operator, slug)
        return self.page(prompt.versions.defer("messages", "variables_schema", "parameters"), VersionRow)

    @describe(
        "versions_submit",
        "Submit an immutable version; it serves nobody until a canary or a go-live carries it",
        tag=TAG,
        takes=NewVersion,
        gives=Version,
        status=201,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        prompt = access_prompt(self.operator, slug, "submit_version")
        version = operations.submit_version(prompt=prompt, **read(NewVersion, request), actor=self.operator, now=now)
        return Response(Version(version).data, status=201)


class OneVersion(OperatorView):
    @describe("versions_retrieve", "One version with its content", tag=TAG, gives=Version, refuses=(404,))
    def get(self, request: Request, slug: str, number: int) -> Response:
        return Response(Version(access_version(self.operator, slug, number)).data)


class CompareVersions(OperatorView):
    @describe("versions_diff", "What differs between two versions", tag=TAG, gives=VersionDiff, refuses=(404,))
    def get(self, request: Request, slug: str, number: int, other: int) -> Response:
        before, after = (access_version(self.operator, slug, which) for which in (number, other))
        found = differences(_compared(before), _compared(after))
        return Response(VersionDiff({"before": number, "after": other, "differences": found}).data)


class RenderVersion(OperatorView):
    @describe("versions_render", "Fill a version as a worker would", tag=TAG, takes=Variables, gives=Rendered)
    def post(self, request: Request, slug: str, number: int) -> Response:
        version = access_version(self.operator, slug, number)
        variables = read(Variables, request).get("variables", version.sample_variables)
        servable = Servable.build(prompt=slug, number=number, **version.served())
        return Response(Rendered(_fill(servable, variables)).data)


class ProposeLive(OperatorView):
    @describe(
        "versions_propose_live",
        "Open the change request that would make a version live at once, without a canary",
        tag=TAG,
        takes=Reason,
        gives=ChangeRow,
        status=201,
    )
    def post(self, request: Request, slug: str, number: int) -> Response:
        now = timezone.now()
        version = access_version(self.operator, slug, number, "submit_version")
        change = operations.propose_live(version=version, **read(Reason, request), actor=self.operator, now=now)
        return Response(ChangeRow(change).data, status=201)


class ReturnToVersion(OperatorView):
    @describe(
        "versions_return_to",
        "Make a version live again that was live before; needs no sign-off",
        tag=TAG,
        takes=Reason,
        gives=PromptRow,
    )
    def post(self, request: Request, slug: str, number: int) -> Response:
        now = timezone.now()
        version = access_version(self.operator, slug, number, "roll_back")
        operations.return_to(version=version, **read(Reason, request), actor=self.operator, now=now)
        return Response(PromptRow(access_prompt(self.operator, slug)).data)


def _compared(version: PromptVersion) -> dict[str, Any]:
    return {**version.served(), "change_class": version.change_class}


def _fill(version: Servable, variables: Any) -> dict[str, Any]:
    try:
        return {"messages": render(version, variables), "error": ""}
    except InvalidVariables as exc:
        return {"messages": None, "error": str(exc)}
