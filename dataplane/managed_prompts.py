"""Puts a managed prompt before the caller's messages: the version that the caller names, else its cohort's. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from dataplane.access import Tenant
from dataplane.cohorts import Arm, Assignment, CanaryPlan, assign
from dataplane.errors.requests import UnknownPromptVersion
from dataplane.evidence import part_of
from dataplane.journey import Journey
from dataplane.messages import ChatRequest, PromptReference
from dataplane.prompts import merge_parameters, render
from dataplane.release import Release


def fill_prompt(
    journey: Journey,
    request: ChatRequest,
    reference: PromptReference,
    *,
    release: Release,
    tenant: Tenant,
    region: str,
    now: float,
) -> ChatRequest:
    """Return `request` with the prompt that it refers to, and note in `journey` which version serves it, and why.

    The prompt's own route serves it, whatever `model` says: where a prompt runs was approved with it. An explicit
    version is served outside any comparison; otherwise the canary, if one runs, decides.

    Args:
        region: Stands in for a tenant without one.
        now: Epoch seconds.
    Raises:
        UnknownPrompt, UnknownPromptVersion, InvalidVariables.
    """
    prompt = release.prompt(reference.slug)
    number = reference.version
    # An eval is in no comparison of customers', and may ask what none of them can.
    known = prompt.versions if journey.is_eval else prompt.pinnable
    if number is not None and number not in known:
        raise UnknownPromptVersion(prompt.slug, number, known=tuple(sorted(known)))
    plan = None if journey.is_eval else release.canary_for(prompt.slug)
    if plan is not None:
        assignment = _assign(journey, plan, tenant, region=tenant.region or region, now=now)
        journey.part = part_of(plan, assignment, pinned=number)
        if number is None:
            number = _join(journey, plan, assignment)
    version = prompt.versions[number or prompt.live]
    journey.prompt_version = version
    journey.route = prompt.route
    return ChatRequest(
        route=prompt.route,
        messages=render(version, reference.variables) + request.messages,
        parameters=merge_parameters(version, request.parameters),
        stream=request.stream,
        include_usage=request.include_usage,
        stream_options=request.stream_options,
        prompt=reference,
        user=request.user,
        tool_effects=request.tool_effects,
        sources=request.sources,
        corpus=request.corpus,
    )


def _assign(journey: Journey, plan: CanaryPlan, tenant: Tenant, *, region: str, now: float) -> Assignment:
    return assign(
        plan,
        unit_values={"user": journey.user, "tenant": tenant.slug, "region": region},
        tenant=tenant.slug,
        internal=tenant.internal,
        region=region,
        now=datetime.fromtimestamp(now, UTC),
    )


def _join(journey: Journey, plan: CanaryPlan, assignment: Assignment) -> int | None:
    """Count the request under its cohort, and return the version that this is served; None: the live one."""
    journey.cohort = assignment.cohort
    journey.unkeyed = assignment.unkeyed
    if assignment.arm is not Arm.NONE:
        journey.canary = plan.slug
    return assignment.version
