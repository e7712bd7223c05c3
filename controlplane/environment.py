"""The environment as the settings read it: strictly, and every complaint is one line that opens with a variable's name.

A blank variable counts as unset, as in `.env.example`. Values are never repeated where they may be secret.
"""

import ipaddress
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from dataplane.environment import BadVariable, tracing_settings
from dataplane.environment import Environment as DataPlaneEnvironment
from dataplane.settings import TracingSettings

TRUE_WORDS = frozenset({"true", "on", "ok", "y", "yes", "1"})
FALSE_WORDS = frozenset({"false", "off", "n", "no", "0"})
POSTGRESQL_SCHEMES = frozenset({"postgres", "postgresql", "psql", "pgsql"})
# With their usual ports; the parser's `smtps`, which begins in the clear, and backends that lose mail are left out.
MAIL_PORTS = {"smtp": 25, "smtp+tls": 587, "smtp+ssl": 465}


@dataclass(frozen=True, slots=True)
class Environment:
    """Typed access to variables. For what is unusable every method raises ImproperlyConfigured, naming the variable."""

    variables: Mapping[str, str]

    def text(self, name: str, default: str | None = None, *, min_chars: int = 0) -> str:
        """The variable's text; without a default it must be set. `min_chars` is asked of what was set."""
        value = self.variables.get(name, "").strip()
        if not value:
            if default is None:
                raise ImproperlyConfigured(f"{name} is not set; .env.example says what it is for")
            return default
        if len(value) < min_chars:
            raise ImproperlyConfigured(f"{name} has {len(value)} characters; it needs {min_chars} or more")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false. A misspelt word is refused: taken for false, it would switch a protection off unnoticed."""
        word = self.text(name, "").lower()
        if not word:
            return default
        if word not in TRUE_WORDS | FALSE_WORDS:
            raise ImproperlyConfigured(f"{name} is {word!r}; it must be true or false")
        return word in TRUE_WORDS

    def port(self, name: str, default: int) -> int:
        """A TCP port, 1..65535."""
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
            raise ImproperlyConfigured(f"{name} is {text!r}; it must be a port, 1 to 65535")
        return int(text)

    def whole(self, name: str, default: int, *, most: int) -> int:
        """A whole number, 0..most."""
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= most):
            raise ImproperlyConfigured(f"{name} is {text!r}; it must be a whole number, 0 to {most}")
        return int(text)

    def names(self, name: str, default: Collection[str]) -> list[str]:
        """A list with commas between."""
        listed = [part.strip() for part in self.text(name, "").split(",")]
        return [part for part in listed if part] or list(default)

    def word(self, name: str, default: str, *, among: Collection[str]) -> str:
        """One of a few words."""
        word = self.text(name, default)
        if word not in among:
            raise ImproperlyConfigured(f"{name} is {word!r}; it must be one of {', '.join(sorted(among))}")
        return word

    def url(self, name: str, default: str | None = None, *, schemes: Collection[str]) -> str:
        """A URL with a host; "" only when that is the default."""
        value = self.text(name, default)
        if not value:
            return value
        parts = _split(value)
        if parts is None or parts.scheme not in schemes or not parts.hostname:
            shapes = " or ".join(f"{scheme}://host" for scheme in sorted(schemes))
            raise ImproperlyConfigured(f"{name} is no usable address; it must look like {shapes}")
        return value

    def store(self, name: str, default: str) -> str:
        """An object store: a directory, or a bucket of S3's kind and what names in it begin with; "" only when that is
        the default.
        """
        value = self.text(name, default)
        if not value:
            return value
        parts = _split(value)
        is_directory = parts is not None and parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
        if parts is None or not (is_directory or (parts.scheme == "s3" and parts.hostname)):
            raise ImproperlyConfigured(
                f"{name} is {value!r}; it must look like file:///directory or s3://bucket/prefix"
            )
        return value

    def postgresql(self, name: str) -> dict[str, Any]:
        """A PostgreSQL database as Django's DATABASES wants it."""
        value = self.text(name)
        parts = _split(value)
        # Only a scheme that it knows goes to the parser: it would print the whole of another, password and all.
        if parts is None or parts.scheme not in POSTGRESQL_SCHEMES or not parts.path.strip("/"):
            raise ImproperlyConfigured(
                f"{name} must name a PostgreSQL database: postgresql://user:password@host:5432/name"
            )
        database: dict[str, Any] = environ.Env.db_url_config(value)
        return database

    def tracing(self, machine: str) -> TracingSettings | None:
        """Whether and where processes trace, by the same variables as those of the data plane; None: nothing. Its
        `service` is empty unless a variable says one; `machine` is this one's name.
        """
        try:
            host = self.text("BALLAST_HOST_NAME", machine)
            return tracing_settings(DataPlaneEnvironment(self.variables), service="", worker=host)
        except BadVariable as exc:
            raise ImproperlyConfigured(str(exc)) from exc

    def mail(self, name: str, default: str) -> dict[str, Any]:
        """How e-mail is sent, as Django's settings whose names begin with EMAIL_; empty where it is not."""
        value = self.text(name, default)
        if not value:
            return {}
        parts = _split(value)
        # As with databases: the parser would print the whole of one that it does not know.
        is_file = parts is not None and parts.scheme == "filemail" and parts.path.startswith("//")
        if parts is None or not (is_file or (parts.scheme in MAIL_PORTS and parts.hostname)):
            raise ImproperlyConfigured(
                f"{name} must look like smtp+tls://user:password@host:587, smtp+ssl://…:465, smtp://host:25"
                " or filemail:////directory"
            )
        found: dict[str, Any] = environ.Env.email_url_config(value)
        if parts.scheme in MAIL_PORTS:
            found["EMAIL_PORT"] = found["EMAIL_PORT"] or MAIL_PORTS[parts.scheme]
        named = {"EMAIL_BACKEND", "EMAIL_HOST", "EMAIL_PORT", "EMAIL_USE_TLS", "EMAIL_USE_SSL", "EMAIL_FILE_PATH"}
        given = {key: found[key] for key in sorted(named) if found.get(key)}
        return given | {key: found[key] or "" for key in ("EMAIL_HOST_USER", "EMAIL_HOST_PASSWORD")}


def forget_blank(variables: MutableMapping[str, str], *, prefix: str) -> None:
    """Unset the blank variables of a prefix, for a library that reads them by itself and takes a blank one for said."""
    for name in [name for name, value in variables.items() if name.startswith(prefix) and not value.strip()]:
        del variables[name]


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
