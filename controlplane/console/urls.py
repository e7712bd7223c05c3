"""The console's pages."""

from django.urls import path

from controlplane.console.styleguide import styleguide
from controlplane.console.views import canaries, prompts, releases, reviews

urlpatterns = [
    path("prompts/", prompts.prompt_list, name="prompts"),
    path("prompts/new/", prompts.prompt_new, name="prompt-new"),
    path("prompts/<slug:slug>/", prompts.prompt_page, name="prompt"),
    path("prompts/<slug:slug>/submit/", prompts.version_new, name="version-new"),
    path("prompts/<slug:slug>/versions/<int:number>/", prompts.version_page, name="prompt-version"),
    path("prompts/<slug:slug>/versions/<int:number>/canary/", canaries.canary_plan, name="canary-plan"),
    path("prompts/<slug:slug>/versions/<int:number>/propose/", prompts.propose_live, name="propose-live"),
    path("prompts/<slug:slug>/versions/<int:number>/return/", prompts.return_to, name="return-to"),
    path("reviews/", reviews.inbox, name="reviews"),
    path("reviews/<int:pk>/", reviews.review, name="review"),
    path("reviews/<int:pk>/sign/", reviews.sign, name="review-sign"),
    path("reviews/<int:pk>/rebase/", reviews.rebase, name="review-rebase"),
    path("reviews/<int:pk>/apply/", reviews.apply, name="review-apply"),
    path("reviews/<int:pk>/reject/", reviews.reject, name="review-reject"),
    path("reviews/<int:pk>/withdraw/", reviews.withdraw, name="review-withdraw"),
    path("reviews/<int:pk>/break-glass/", reviews.break_glass, name="review-break-glass"),
    path("reviews/debts/<int:pk>/", reviews.review_debt, name="debt-review"),
    path("canaries/", canaries.canary_list, name="canaries"),
    path("canaries/<slug:slug>/", canaries.canary_page, name="canary"),
    path("canaries/<slug:slug>/edit/", canaries.canary_edit, name="canary-edit"),
    path("canaries/<slug:slug>/figures.json", canaries.canary_figures, name="canary-figures"),
    path("canaries/<slug:slug>/start/", canaries.canary_start, name="canary-start"),
    path("canaries/<slug:slug>/knob/", canaries.canary_knob, name="canary-knob"),
    path("canaries/<slug:slug>/promote/", canaries.canary_promote, name="canary-promote"),
    path("canaries/<slug:slug>/roll-back/", canaries.canary_roll_back, name="canary-roll-back"),
    path("canaries/<slug:slug>/withdraw/", canaries.canary_withdraw, name="canary-withdraw"),
    path("releases/", releases.release_list, name="releases"),
    path("releases/fleet.json", releases.fleet_figures, name="fleet-figures"),
    path("releases/diff/", releases.release_diff, name="release-diff"),
    path("releases/undo/", releases.release_undo, name="release-undo"),
    path("releases/<int:revision>/", releases.release_page, name="release"),
    path("releases/<int:revision>/document.json", releases.release_document, name="release-document"),
    path("releases/<int:revision>/roll-back/", releases.release_roll_back, name="release-roll-back"),
    path("styleguide/", styleguide, name="styleguide"),
]
