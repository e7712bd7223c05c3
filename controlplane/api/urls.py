"""Where the console API, its documents and the health checks live. `/api/v1/…` has no trailing slashes."""

from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from controlplane.api import health
from controlplane.api.views import (
    access,
    agents,
    audit,
    canaries,
    changes,
    copy,
    drills,
    lanes,
    policies,
    prompts,
    releases,
    routing,
    thresholds,
    usage,
)

v1 = [
    path("me", access.MeView.as_view(), name="me"),
    # prompts
    path("prompts", prompts.Prompts.as_view(), name="prompts"),
    path("prompts/<slug:slug>", prompts.OnePrompt.as_view(), name="prompt"),
    path("prompts/<slug:slug>/check", prompts.CheckDraft.as_view(), name="prompt-check"),
    path("prompts/<slug:slug>/versions", prompts.Versions.as_view(), name="versions"),
    path("prompts/<slug:slug>/versions/<int:number>", prompts.OneVersion.as_view(), name="version"),
    path(
        "prompts/<slug:slug>/versions/<int:number>/diff/<int:other>",
        prompts.CompareVersions.as_view(),
        name="version-diff",
    ),
    path("prompts/<slug:slug>/versions/<int:number>/render", prompts.RenderVersion.as_view(), name="version-render"),
    path(
        "prompts/<slug:slug>/versions/<int:number>/propose-live",
        prompts.ProposeLive.as_view(),
        name="version-propose-live",
    ),
    path(
        "prompts/<slug:slug>/versions/<int:number>/return-to",
        prompts.ReturnToVersion.as_view(),
        name="version-return-to",
    ),
    path("prompts/<slug:slug>/versions/<int:number>/canaries", canaries.PlanCanary.as_view(), name="canary-plan"),
    # canaries
    path("canaries", canaries.Canaries.as_view(), name="canaries"),
    path("canaries/<slug:slug>", canaries.OneCanary.as_view(), name="canary"),
    path("canaries/<slug:slug>/change-plan", canaries.ChangePlan.as_view(), name="canary-change-plan"),
    path("canaries/<slug:slug>/start", canaries.StartCanary.as_view(), name="canary-start"),
    path("canaries/<slug:slug>/knob", canaries.TurnKnob.as_view(), name="canary-knob"),
    path("canaries/<slug:slug>/promote", canaries.PromoteCanary.as_view(), name="canary-promote"),
    path("canaries/<slug:slug>/roll-back", canaries.RollBackCanary.as_view(), name="canary-roll-back"),
    path("canaries/<slug:slug>/withdraw", canaries.WithdrawCanary.as_view(), name="canary-withdraw"),
    # changes and broken glass
    path("changes", changes.Changes.as_view(), name="changes"),
    path("changes/<int:pk>", changes.OneChange.as_view(), name="change"),
    path("changes/<int:pk>/sign-off", changes.SignOffChange.as_view(), name="change-sign-off"),
    path("changes/<int:pk>/reject", changes.RejectChange.as_view(), name="change-reject"),
    path("changes/<int:pk>/withdraw", changes.WithdrawChange.as_view(), name="change-withdraw"),
    path("changes/<int:pk>/rebase", changes.RebaseChange.as_view(), name="change-rebase"),
    path("changes/<int:pk>/apply", changes.ApplyChange.as_view(), name="change-apply"),
    path("changes/<int:pk>/break-glass", changes.BreakGlassOnChange.as_view(), name="change-break-glass"),
    path("break-glass", changes.Debts.as_view(), name="debts"),
    path("break-glass/<int:pk>", changes.OneDebt.as_view(), name="debt"),
    path("break-glass/<int:pk>/review", changes.ReviewDebt.as_view(), name="debt-review"),
    # signed copy
    path("copy", copy.Pieces.as_view(), name="pieces"),
    path("copy/<slug:slug>", copy.OnePiece.as_view(), name="piece"),
    path("copy/<slug:slug>/versions", copy.PieceVersions.as_view(), name="copy-versions"),
    path("copy/<slug:slug>/versions/<int:number>", copy.OnePieceVersion.as_view(), name="copy-version"),
    path("copy/<slug:slug>/versions/<int:number>/propose", copy.ProposeCopy.as_view(), name="copy-propose"),
    path("copy/<slug:slug>/versions/<int:number>/return-to", copy.ReturnToCopy.as_view(), name="copy-return-to"),
    # routing and policy
    path("routing-tables", routing.Tables.as_view(), name="routing-tables"),
    path("routing-tables/<int:number>", routing.OneTable.as_view(), name="routing-table"),
    path("routing-tables/<int:number>/propose", routing.ProposeTable.as_view(), name="routing-table-propose"),
    path("routing-tables/<int:number>/return-to", routing.ReturnToTable.as_view(), name="routing-table-return-to"),
    path("breakers/<str:slug>", thresholds.OneBreaker.as_view(), name="breaker"),
    path("routes/<str:slug>", thresholds.OneRoute.as_view(), name="route"),
    path("lanes", lanes.Lanes.as_view(), name="lanes"),
    path("lanes/hold", lanes.HoldLane.as_view(), name="lane-hold"),
    path("lanes/let-go", lanes.LetLaneGo.as_view(), name="lane-let-go"),
    path("drills", drills.Drills.as_view(), name="drills"),
    path("drills/<int:pk>", drills.OneDrill.as_view(), name="drill"),
    path("drills/<int:pk>/end", drills.EndDrill.as_view(), name="drill-end"),
    path("drills/<int:pk>/propose-values", drills.ProposeLessons.as_view(), name="drill-propose-values"),
    path("drills/<int:pk>/propose-leaving", drills.ProposeLeaving.as_view(), name="drill-propose-leaving"),
    path("policies", policies.Policies.as_view(), name="policies"),
    path("policies/<int:number>", policies.OnePolicy.as_view(), name="policy"),
    path("policies/<int:number>/propose", policies.ProposePolicy.as_view(), name="policy-propose"),
    # releases and the fleet
    path("releases", releases.Releases.as_view(), name="releases"),
    path("releases/current", agents.CurrentRelease.as_view(), name="release-current"),
    path("releases/<int:revision>", releases.OneRelease.as_view(), name="release"),
    path("releases/<int:revision>/document", releases.ReleaseDocument.as_view(), name="release-document"),
    path("releases/<int:revision>/diff/<int:other>", releases.CompareReleases.as_view(), name="release-diff"),
    path("releases/<int:revision>/roll-back", releases.RollBackRelease.as_view(), name="release-roll-back"),
    path("fleet", releases.FleetView.as_view(), name="fleet"),
    # the record
    path("audit/events", audit.Events.as_view(), name="audit-events"),
    path("audit/events/<int:seq>", audit.OneEvent.as_view(), name="audit-event"),
    path("usage", usage.Usage.as_view(), name="usage"),
    path("usage/days", usage.UsageDays.as_view(), name="usage-days"),
    # people, tenants, credentials
    path("roles", access.Roles.as_view(), name="roles"),
    path("operators", access.Operators.as_view(), name="operators"),
    path("operators/<str:username>", access.OneOperator.as_view(), name="operator"),
    path("operators/<str:username>/activate", access.ActivateOperator.as_view(), name="operator-activate"),
    path("operators/<str:username>/deactivate", access.DeactivateOperator.as_view(), name="operator-deactivate"),
    path("operators/<str:username>/grants", access.Grants.as_view(), name="operator-grants"),
    path("role-grants/<int:pk>/revoke", access.RevokeGrant.as_view(), name="grant-revoke"),
    path("tenants", access.Tenants.as_view(), name="tenants"),
    path("tenants/<slug:slug>", access.OneTenant.as_view(), name="tenant"),
    path("tenants/<slug:slug>/keys", access.Keys.as_view(), name="tenant-keys"),
    path("keys/<int:pk>/revoke", access.RevokeKey.as_view(), name="key-revoke"),
    path("tokens", access.Tokens.as_view(), name="tokens"),
    path("tokens/<int:pk>/revoke", access.RevokeToken.as_view(), name="token-revoke"),
]
documents = [
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path(
        "docs/",
        SpectacularSwaggerSplitView.as_view(url_name="api:schema", template_name="api/docs.html"),
        name="docs",
    ),
]
urlpatterns = [
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("api/", include(([*documents, path("v1/", include(v1))], "api"))),
]
