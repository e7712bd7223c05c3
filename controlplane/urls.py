"""Where the console, its API and the sign-in pages live."""

from django.urls import include, path

urlpatterns = [
    path("accounts/", include("controlplane.accounts.urls")),
    path("", include("controlplane.api.urls")),
    path("", include("controlplane.console.urls")),
]

handler400 = "controlplane.api.unrouted.bad_request"
handler404 = "controlplane.api.unrouted.not_found"
handler500 = "controlplane.api.unrouted.server_error"
