"""Pages by key: a late page costs no more than the first, and what arrives meanwhile shifts nothing."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from typing import Any
from urllib.parse import urlencode

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
CURSOR_PARAMETERS = [
    OpenApiParameter("limit", int, description="Rows per page, up to 200; 50 unless told"),
    OpenApiParameter("cursor", description="Where to go on, out of `next`; opaque"),
]


class CursorField(serializers.Field[Any, Any, Any, Any]):
    """The key of the last row that was seen, as text that no caller takes apart."""

    def to_internal_value(self, data: Any) -> list[Any]:
        try:
            key = json.loads(urlsafe_b64decode(str(data).encode()))
        except (NotBase64, ValueError):
            key = None
        if not isinstance(key, list) or len(key) != 2:
            raise serializers.ValidationError("this is no cursor that we gave; begin without one")
        return key

    def to_representation(self, value: Any) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).decode()


def next_url(request: Request, asked: dict[str, str], key: list[Any]) -> str:
    """The address of the page after the row with `key`; `asked` is what the caller asked for, made explicit."""
    query = urlencode({**asked, "cursor": CursorField().to_representation(key)})
    return request.build_absolute_uri(f"{request.path}?{query}")
