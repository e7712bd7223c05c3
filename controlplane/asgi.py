"""The console's ASGI application: pages over HTTP, live updates over WebSocket."""

import os
import sys

from channels.auth import AuthMiddlewareStack  # type: ignore[import-untyped]  # channels ships no types
from channels.routing import ProtocolTypeRouter, URLRouter  # type: ignore[import-untyped]  # as above
from channels.security.websocket import AllowedHostsOriginValidator  # type: ignore[import-untyped]  # as above
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
try:
    pages = get_asgi_application()
except ImproperlyConfigured as exc:
    sys.exit(f"ballast: {exc}")

# Only now: a consumer imports models, which need the applications that the line above has loaded.
from controlplane.console.consumers import LiveConsumer
from controlplane.incoming import BoundedBodies

# The origin check is what keeps another site's page from opening a line with our visitor's cookie.
application = ProtocolTypeRouter(
    {
        "http": BoundedBodies(pages),
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter([path("ws/live/", LiveConsumer.as_asgi())]))
        ),
    }
)
