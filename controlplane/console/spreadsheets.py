"""CSV that a spreadsheet may open."""

import csv
import io
from collections.abc import Iterable, Iterator

from django.http import StreamingHttpResponse


def csv_line(values: Iterable[object]) -> str:
    """One line, with its end."""
    line = io.StringIO()
    csv.writer(line).writerow([value if isinstance(value, int | float) else _harmless(str(value)) for value in values])
    return line.getvalue()


def csv_file(lines: Iterator[str], name: str) -> StreamingHttpResponse:
    """An answer that browsers store under that name, sent as its lines are made."""
    response = StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _harmless(text: str) -> str:
    """A cell that a spreadsheet takes for text: what people typed must not become a formula on an auditor's desk.
    A number below zero is none.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
