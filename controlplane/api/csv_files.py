"""Answers as CSV, beside JSON."""

import csv
import io
from collections.abc import Mapping
from typing import Any, ClassVar

from rest_framework.renderers import BaseRenderer, JSONRenderer


class CsvRenderer(BaseRenderer):
    """A table, given as a list of rows, under the subclass's `filename`; an error is JSON here too."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"
    filename: ClassVar[str]

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        response = (renderer_context or {})["response"]
        if not isinstance(data, list):
            response["Content-Type"] = "application/json"
            answer: bytes = JSONRenderer().render(data)
            return answer
        response["Content-Disposition"] = f'attachment; filename="{self.filename}"'
        lines = io.StringIO()
        csv.writer(lines).writerows(data)
        return lines.getvalue().encode()
