"""How the databases are reached that corpora are captured from."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from controlplane.corpora.errors import UnknownCorpus
from controlplane.corpora.policies import promised
from dataplane.credentials import SecretStore, SecretUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]

# What it says is compared as text, so every session renders times alike. A host that is gone without a word is noticed
# in seconds, and what we held there is let go by it.
_SESSION: Final = (
    "-c timezone=UTC -c datestyle=ISO,YMD -c idle_in_transaction_session_timeout=60000"
    " -c statement_timeout={statement_ms:d}"
)
_KEEPING: Final[Mapping[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# Comparing reads whole tables.
LONG_SECONDS: Final = 3600.0
SHORT_SECONDS: Final = 30.0


class SourceUnavailable(Exception):
    """A source cannot be read now. The message names the variable, never what is in it."""

    code = "source_unavailable"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a source is: see `policy.Source.dsn_variable`. A bare name is that of a variable, as is `env:NAME`;
    `file:/path` is a file with the address in it.
    """

    corpus: str
    name: str
    dsn_variable: str

    @property
    def reference(self) -> str:
        """As `SecretStore` resolves it."""
        return self.dsn_variable if ":" in self.dsn_variable else f"env:{self.dsn_variable}"

    def __str__(self) -> str:
        return f"{self.corpus}/{self.name}"


def address_of(corpus: str, source: str) -> Address:
    """Where the source of a corpus is, as the policy in force has it.

    Raises:
        UnknownCorpus: there is no such corpus, or no such source of it.
    """
    found = promised(corpus).sources.get(source)
    if found is None:
        raise UnknownCorpus(f"the corpus policy in force names no source {source!r} of corpus {corpus!r}")
    return Address(corpus, source, found.dsn_variable)


def connect(
    address: Address, *, seconds: float = SHORT_SECONDS, environment: Mapping[str, str] | None = None
) -> Connection:
    """A connection of its own to a source, each statement a transaction unless one is begun.

    Args:
        seconds: No statement may take longer.
        environment: Where variables are; None: this process'.
    Raises:
        SourceUnavailable: its address is not known here, or nobody answers there.
    """
    try:
        dsn = SecretStore(os.environ if environment is None else environment).resolve(
            address.reference, now=time.monotonic()
        )
    except SecretUnavailable as exc:
        raise SourceUnavailable(f"{address.reference!r} is not set here, cannot be read, or is empty") from exc
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        # From None: what the parser says repeats what it was given, which may be a secret.
        raise SourceUnavailable(f"{address.reference!r} holds no address of a PostgreSQL database") from None
    session = _SESSION.format(statement_ms=int(seconds * 1000))
    parts["options"] = f"{parts.get('options') or ''} {session}".strip()
    try:
        return psycopg.connect(**{"application_name": "ballast", **_KEEPING, **parts}, autocommit=True)
    except psycopg.Error as exc:
        raise SourceUnavailable(_told(exc)) from exc


def _told(error: Exception) -> str:
    """What the server or the driver says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def why(error: Exception) -> str:
    """Why a source cannot be read, as its row says it."""
    return str(error)[:300] if isinstance(error, SourceUnavailable) else _told(error)
