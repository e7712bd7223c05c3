"""Where the console, its API and the sign-in pages live."""

from django.urls import include, path

urlpatterns = [
    path("accounts/", include("controlplane.accounts.urls")),
    path("", include("controlplane.api.urls")),
    path("", include("controlplane.console.urls")),
]
