"""Queries that are asked all the time, made into SQL once per process.

To build a query and compile it costs Django about ten times what it costs to run it and read a few rows: most of the
time that a small page took went there. The SQL of such a query is the same each time, but for values such as the hour
or a key, which are put in as it runs.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, update_wrapper
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import Expression, Field, QuerySet
from django.db.models.sql.compiler import SQLCompiler

P = ParamSpec("P")
Row = TypeVar("Row")
# Of one query, for so many different fixed arguments.
_REMEMBERED: Final = 64


class Given(Expression):
    """Stands in a query for a value that is known when it runs. It can be compared with, and a timedelta be added to it
    or taken away; whatever else is tried with it fails as the query is built.
    """

    def __init__(self, name: str, field: "Field[Any, Any]") -> None:
        super().__init__(output_field=field)
        self.name = name

    def as_sql(self, compiler: SQLCompiler, connection: Any) -> tuple[str, tuple[Any, ...]]:
        """The place of the value, and itself as what is found there."""
        return "%s", (self,)


@dataclass(frozen=True, slots=True)
class _Known:
    """A query as it was built and compiled; `sql` None: it can find nothing, and is not asked."""

    queryset: QuerySet[Any, Any]
    compiler: SQLCompiler
    sql: str | None
    params: tuple[Any, ...]

    def filled(self, given: Mapping[str, object]) -> tuple[Any, ...]:
        return tuple(given[param.name] if isinstance(param, Given) else param for param in self.params)


class Compiled(Generic[P, Row]):
    """A function that builds a query, of which every call gives the rows; see `compiled`."""

    def __init__(self, build: Callable[P, QuerySet[Any, Row]], given: "Mapping[str, Field[Any, Any]]") -> None:
        self._build, self._given = cast("Callable[..., QuerySet[Any, Row]]", build), given
        self._known = lru_cache(maxsize=_REMEMBERED)(self._compile)
        update_wrapper(self, build)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> list[Row]:
        """The rows that the query finds now; one query."""
        known = self._known(*cast("tuple[Hashable, ...]", args))
        if known.sql is None:
            return []
        queryset = known.queryset._chain()  # type: ignore[attr-defined]  # Django's copy of a query
        queryset.query.get_compiler = _Ready(known, kwargs)
        return list(cast("Iterable[Row]", queryset._iterable_class(queryset)))

    def first(self, *args: P.args, **kwargs: P.kwargs) -> Row | None:
        """The first of the rows, for a query that finds one at most; None without."""
        return next(iter(self(*args, **kwargs)), None)

    def count(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """How many rows there are; one query, which gives a number."""
        known = self._known(*cast("tuple[Hashable, ...]", args))
        if known.sql is None:
            return 0
        with connections[known.queryset.db].cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM ({known.sql}) found", known.filled(kwargs))  # noqa: S608 - Django's SQL
            (count,) = cursor.fetchone()
        return int(count)

    def _compile(self, *shape: Hashable) -> _Known:
        queryset = self._build(*shape, **{name: Given(name, field) for name, field in self._given.items()})
        compiler = queryset.query.get_compiler(queryset.db)
        try:
            sql, params = compiler.as_sql()
        except EmptyResultSet:
            return _Known(queryset, compiler, None, ())
        compiler.connection = None  # it belongs to this thread; each call takes that of its own
        return _Known(queryset, compiler, sql, tuple(params))


class _Ready:
    """Gives the compiler of a known query, with its values, where Django would make one."""

    def __init__(self, known: _Known, given: Mapping[str, object]) -> None:
        self._known, self._given = known, given

    def __call__(self, using: str, connection: object = None, elide_empty: bool = True) -> SQLCompiler:
        compiler = copy.copy(self._known.compiler)
        compiler.connection = connections[using]
        compiled_once = (self._known.sql, self._known.filled(self._given))
        vars(compiler)["as_sql"] = lambda *_, **__: compiled_once
        return compiler


def compiled(
    **given: "Field[Any, Any]",
) -> Callable[[Callable[P, QuerySet[Any, Row]]], Compiled[P, Row]]:
    """Make a function that builds a query into one that gives its rows, and builds and compiles it only once.

        @compiled(now=DateTimeField())
        def _shut(*, now: datetime) -> QuerySet[LaneState, str]:
            return LaneState.objects.fresh(now).filter(state__in=SHUT).values_list("lane", flat=True)

    Args:
        given: The arguments that are put in as it runs, by name, each with the field that says its type. They are given
            by keyword, and the function finds a `Given` in their place. All others are given by position, are part
            of what is remembered, and must be few: one query is compiled for each.
    """

    def wrap(build: Callable[P, QuerySet[Any, Row]]) -> Compiled[P, Row]:
        return Compiled(build, given)

    return wrap
