"""Bodies of the API: JSON of a bounded size and depth."""

from typing import Any, Final

from django.conf import settings
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import JSONParser

# What is kept is written canonically, hashed and compared, each by a function that calls itself.
MAX_DEPTH: Final = 64


class TooLarge(APIException):
    """The body is over the limit of the API."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "request_too_large"


class BoundedJson(JSONParser):
    """As REST framework's, which reads whatever comes and fails over what is nested too deep."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        """Raises TooLarge, or ParseError where it is no JSON or nested too deep."""
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        stated = (parser_context or {}).get("request")
        length = stated.META.get("CONTENT_LENGTH") if stated is not None else None
        if length is not None and str(length).isdigit() and int(length) > most:
            raise TooLarge(f"a body of the API has at most {most:,} bytes")
        try:
            value = super().parse(stream, media_type, parser_context)
        except RecursionError as exc:
            raise ParseError(f"JSON is nested at most {MAX_DEPTH} deep here") from exc
        if is_deeper(value, MAX_DEPTH):
            raise ParseError(f"JSON is nested at most {MAX_DEPTH} deep here")
        return value


def is_deeper(value: Any, most: int) -> bool:
    """Whether a JSON value has more than `most` objects and lists in one another; level by level, without recursion."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)
