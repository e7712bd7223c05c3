"""Sessions as Django keeps them in PostgreSQL; every request reads one."""

from datetime import datetime

from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.db.models import CharField, DateTimeField, QuerySet
from django.utils import timezone

from controlplane.compiled import compiled


@compiled(key=CharField(), now=DateTimeField())
def _session(*, key: str, now: datetime) -> QuerySet[Session]:
    return Session.objects.filter(session_key=key, expire_date__gt=now)


class SessionStore(db.SessionStore):
    """Django's, which compiles the query for a session only once."""

    def _get_session_from_db(self) -> Session | None:
        key = self.session_key
        session = None if key is None else _session.first(key=key, now=timezone.now())
        if session is None:
            self._session_key = None
        return session
