"""The variables of one copy: read once, checked one by one, handed to every process under the same names."""

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from honcho.environ import parse

from launcher.errors import LauncherError

TRUE_WORDS = frozenset({"true", "on", "ok", "y", "yes", "1"})  # django-environ's, so that both planes agree
FALSE_WORDS = frozenset({"false", "off", "n", "no", "0"})
DATABASE_SCHEMES = frozenset({"postgres", "postgresql", "psql", "pgsql"})
REDIS_SCHEMES = frozenset({"redis", "rediss"})
BROKER_SCHEMES = REDIS_SCHEMES | {"amqp", "amqps"}
MIN_SECRET_KEY_CHARS = 32
MIN_AGENT_TOKEN_CHARS = 16
MAX_GATEWAY_PROCESSES = 64
MAX_DRAIN_GRACE = 300
MAX_PORT = 65535
DEFAULT_DATA_DIR = "var"

Check = Callable[[str], str | None]  # the complaint about a value, or None


@dataclass(frozen=True, slots=True)
class Settings:
    """What one copy is told. None means: make it yourself (a server, a key, a secret)."""

    demo: bool
    bind: str
    console_port: int
    gateway_port: int
    simulator_port: int
    embedder_port: int
    demo_engine: bool
    engine_port: int
    engine_probe_port: int
    data_dir: Path
    database_url: str | None
    redis_url: str | None
    broker_url: str | None
    secret_key: str | None
    agent_token: str | None
    signing_key_file: Path | None
    trusted_keys_file: Path | None
    payload_keys_file: Path | None
    console_url: str
    region: str
    gateway_processes: int
    host_name: str
    release_file: Path
    spool_dir: Path

    @property
    def local_console(self) -> str:
        """Where the console answers on this machine."""
        return f"http://{reachable_host(self.bind)}:{self.console_port}"

    @property
    def local_gateway(self) -> str:
        """Where the gateway answers on this machine."""
        return f"http://{reachable_host(self.bind)}:{self.gateway_port}"


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the variables of a `.env` file, none when there is no file. `NAME=` with nothing behind it means unset.

    Raises:
        LauncherError: a line that is neither NAME=value, a comment nor empty; carries its number, not its text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise LauncherError(f"{path.name} cannot be read: {exc.__class__.__name__}") from exc
    variables: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#") or re.fullmatch(r"\s*\w+\s*=\s*(#.*)?", line):
            continue
        try:
            found = parse(line)
        except ValueError as exc:  # an unclosed quote
            raise LauncherError(f"{path.name} line {number}: {str(exc).lower()}") from exc
        if not found:
            raise LauncherError(f"{path.name} line {number}: expected NAME=value")
        variables.update(found)
    return variables


def read_variables(environ: Mapping[str, str], *, project: Path) -> dict[str, str]:
    """Return the environment on top of the checkout's `.env`; a blank variable counts as one that is not there.

    Raises:
        LauncherError: the `.env` has a line that cannot be read.
    """
    return {**read_dotenv(project / ".env"), **{name: value for name, value in environ.items() if value.strip()}}


def read_settings(variables: Mapping[str, str], *, project: Path, demo_default: bool = True) -> Settings:
    """Check every variable and return the settings of a copy whose checkout is `project`.

    Raises:
        LauncherError: the first bad value, by the name of its variable; secrets are never repeated.
    """
    given = {name: value.strip() for name, value in variables.items() if value.strip()}
    for name, check in CHECKS.items():
        if name in given and (complaint := check(given[name])):
            raise LauncherError(f"{name} {complaint}")
    demo = given["BALLAST_DEMO"].lower() in TRUE_WORDS if "BALLAST_DEMO" in given else demo_default
    bind = given.get("BALLAST_BIND", "127.0.0.1")
    if demo and not is_loopback(bind):
        raise LauncherError(
            f"BALLAST_BIND is {bind!r}, but demo mode, whose passwords are public, binds to loopback only; "
            f"set BALLAST_BIND=127.0.0.1 or BALLAST_DEMO=false"
        )
    ports = {
        "BALLAST_CONSOLE_PORT": int(given.get("BALLAST_CONSOLE_PORT", "8000")),
        "BALLAST_GATEWAY_PORT": int(given.get("BALLAST_GATEWAY_PORT", "8080")),
        "BALLAST_SIMULATOR_PORT": int(given.get("BALLAST_SIMULATOR_PORT", "8090")),
        "BALLAST_EMBEDDER_PORT": int(given.get("BALLAST_EMBEDDER_PORT", "8070")),
        "BALLAST_ENGINE_PORT": int(given.get("BALLAST_ENGINE_PORT", "8060")),
        "BALLAST_ENGINE_PROBE_PORT": int(given.get("BALLAST_ENGINE_PROBE_PORT", "8065")),
    }
    _require_distinct(ports)
    data_dir = _absolute(given.get("BALLAST_DATA_DIR", DEFAULT_DATA_DIR), project)

    def path_or(name: str, default: Path) -> Path:
        return _absolute(given[name], project) if name in given else default

    def path_if(name: str) -> Path | None:
        return _absolute(given[name], project) if name in given else None

    settings = Settings(
        demo=demo,
        bind=bind,
        console_port=ports["BALLAST_CONSOLE_PORT"],
        gateway_port=ports["BALLAST_GATEWAY_PORT"],
        simulator_port=ports["BALLAST_SIMULATOR_PORT"],
        embedder_port=ports["BALLAST_EMBEDDER_PORT"],
        demo_engine=demo and given.get("BALLAST_DEMO_ENGINE", "false").lower() in TRUE_WORDS,
        engine_port=ports["BALLAST_ENGINE_PORT"],
        engine_probe_port=ports["BALLAST_ENGINE_PROBE_PORT"],
        data_dir=data_dir,
        database_url=given.get("DATABASE_URL"),
        redis_url=given.get("REDIS_URL"),
        broker_url=given.get("CELERY_BROKER_URL"),
        secret_key=given.get("BALLAST_SECRET_KEY"),
        agent_token=given.get("BALLAST_AGENT_TOKEN"),
        signing_key_file=path_if("BALLAST_SIGNING_KEY_FILE"),
        trusted_keys_file=path_if("BALLAST_TRUSTED_KEYS_FILE"),
        payload_keys_file=path_if("BALLAST_PAYLOAD_KEYS_FILE"),
        console_url=given.get(
            "BALLAST_CONSOLE_URL", f"http://{reachable_host(bind)}:{ports['BALLAST_CONSOLE_PORT']}"
        ).rstrip("/"),
        region=given.get("BALLAST_REGION", "eu-west"),
        gateway_processes=int(given.get("BALLAST_GATEWAY_PROCESSES", "2")),
        host_name=given.get("BALLAST_HOST_NAME", socket.gethostname()),
        release_file=path_or("BALLAST_RELEASE_FILE", data_dir / "release.json"),
        spool_dir=path_or("BALLAST_SPOOL_DIR", data_dir / "spool"),
    )
    for name, path in (
        ("BALLAST_SIGNING_KEY_FILE", settings.signing_key_file),
        ("BALLAST_TRUSTED_KEYS_FILE", settings.trusted_keys_file),
        ("BALLAST_PAYLOAD_KEYS_FILE", settings.payload_keys_file),
    ):
        if path is not None and not path.is_file():
            raise LauncherError(f"{name} names {str(path)!r}, where there is no file; unset it to have one made")
    return settings


def read_data_dir(environ: Mapping[str, str], *, project: Path) -> Path:
    """Return where the copy's data lie, whatever else is wrong: stopping must work with a broken `.env` line."""
    try:
        variables = read_variables(environ, project=project)
    except LauncherError:
        variables = dict(environ)
    return _absolute(variables.get("BALLAST_DATA_DIR", "").strip() or DEFAULT_DATA_DIR, project)


def child_variables(
    settings: Settings,
    *,
    database_url: str,
    redis_url: str,
    secret_key: str,
    agent_token: str,
    signing_key_file: Path,
    trusted_keys_file: Path,
    payload_keys_file: Path,
) -> dict[str, str]:
    """Return what every process of the copy is told, on top of the launcher's own environment."""
    variables = {
        "DJANGO_SETTINGS_MODULE": "controlplane.settings",
        "PYTHONUNBUFFERED": "1",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "CELERY_BROKER_URL": settings.broker_url or redis_url,
        "BALLAST_DEMO": "true" if settings.demo else "false",
        "BALLAST_BIND": settings.bind,
        "BALLAST_CONSOLE_PORT": str(settings.console_port),
        "BALLAST_GATEWAY_PORT": str(settings.gateway_port),
        "BALLAST_SIMULATOR_PORT": str(settings.simulator_port),
        "BALLAST_EMBEDDER_PORT": str(settings.embedder_port),
        "BALLAST_DEMO_ENGINE": "true" if settings.demo_engine else "false",
        "BALLAST_ENGINE_PORT": str(settings.engine_port),
        "BALLAST_ENGINE_PROBE_PORT": str(settings.engine_probe_port),
        "BALLAST_DATA_DIR": str(settings.data_dir),
        "BALLAST_SECRET_KEY": secret_key,
        "BALLAST_AGENT_TOKEN": agent_token,
        "BALLAST_SIGNING_KEY_FILE": str(signing_key_file),
        "BALLAST_TRUSTED_KEYS_FILE": str(trusted_keys_file),
        "BALLAST_PAYLOAD_KEYS_FILE": str(payload_keys_file),
        "BALLAST_CONSOLE_URL": settings.console_url,
        "BALLAST_REGION": settings.region,
        "BALLAST_GATEWAY_PROCESSES": str(settings.gateway_processes),
        "BALLAST_HOST_NAME": settings.host_name,
        "BALLAST_RELEASE_FILE": str(settings.release_file),
        "BALLAST_SPOOL_DIR": str(settings.spool_dir),
    }
    if settings.demo:
        variables |= DEMO_PROVIDER_SECRETS | {"BALLAST_FAIRNESS_URL": f"{settings.console_url}/fairness/"}
    return variables


# The bundled simulator accepts any key, embedder and engine ask for none; a release names these by `env:NAME`.
DEMO_PROVIDER_SECRETS = {
    "DEMO_OPENAI_KEY": "demo-openai",
    "DEMO_ANTHROPIC_KEY": "demo-anthropic",
    "DEMO_AZURE_KEY": "demo-azure",
    # A shadow needs an account of its own.
    "DEMO_SHADOW_KEY": "demo-shadow",
    "DEMO_EMBEDDER_KEY": "demo-embedder",
    "DEMO_ENGINE_KEY": "demo-engine",
}


def is_loopback(host: str) -> bool:
    """Say whether nobody outside this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reachable_host(bind: str) -> str:
    """Return the host part of a URL that reaches, from this machine, a server bound to `bind`."""
    if bind == "0.0.0.0":  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    if bind == "::":
        return "[::1]"
    return f"[{bind}]" if ":" in bind else bind


def _absolute(value: str, project: Path) -> Path:
    return (project / Path(value).expanduser()).resolve()


def _require_distinct(ports: Mapping[str, int]) -> None:
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port in seen:
            raise LauncherError(f"{name} is {port}, which {seen[port]} has already; give each its own port")
        seen[port] = name


def _check_bool(value: str) -> str | None:
    if value.lower() in TRUE_WORDS | FALSE_WORDS:
        return None
    return f"is {value!r}; expected true or false"


def _check_bind(value: str) -> str | None:
    if value == "localhost":
        return None
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return f"is {value!r}; expected an IP address to listen on, such as 127.0.0.1"
    return None


def _check_port(value: str) -> str | None:
    return _check_number(value, low=1, high=MAX_PORT)


def _check_grace(value: str) -> str | None:
    return _check_number(value, low=0, high=MAX_DRAIN_GRACE)


def _check_processes(value: str) -> str | None:
    return _check_number(value, low=1, high=MAX_GATEWAY_PROCESSES)


def _check_number(value: str, *, low: int, high: int) -> str | None:
    if value.isascii() and value.isdigit() and low <= int(value) <= high:
        return None
    return f"is {value!r}; expected a whole number from {low} to {high}"


def _check_name(value: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value):
        return None
    return f"is {value!r}; expected letters, digits, '.', '_' or '-', 63 at most"


def _check_http_url(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host and parts.scheme in {"http", "https"} and not parts.path.strip("/"):
        return None
    return f"is {value!r}; expected http(s)://host:port without a path"


def _check_server_url(value: str, *, schemes: frozenset[str], example: str, path_needed: bool) -> str | None:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if usable and (parts.path.strip("/") or not path_needed):
        return None
    return f"is not a usable URL; expected {example}"  # the value may hold a password


def _check_database_url(value: str) -> str | None:
    return _check_server_url(
        value, schemes=DATABASE_SCHEMES, example="postgresql://user:password@host:5432/name", path_needed=True
    )


def _check_redis_url(value: str) -> str | None:
    return _check_server_url(value, schemes=REDIS_SCHEMES, example="redis://:password@host:6379/0", path_needed=False)


def _check_broker_url(value: str) -> str | None:
    return _check_server_url(
        value,
        schemes=BROKER_SCHEMES,
        example="redis://host:6379/0 or amqp://user:password@host:5672//",
        path_needed=False,
    )


def _check_secret_key(value: str) -> str | None:
    return _check_length(value, MIN_SECRET_KEY_CHARS)


def _check_agent_token(value: str) -> str | None:
    return _check_length(value, MIN_AGENT_TOKEN_CHARS)


def _check_length(value: str, minimum: int) -> str | None:
    if len(value) >= minimum:
        return None
    return f"has {len(value)} characters; expected at least {minimum}, chosen at random"


CHECKS: Mapping[str, Check] = {
    "BALLAST_DEMO": _check_bool,
    "BALLAST_BIND": _check_bind,
    "BALLAST_CONSOLE_PORT": _check_port,
    "BALLAST_GATEWAY_PORT": _check_port,
    "BALLAST_SIMULATOR_PORT": _check_port,
    "BALLAST_EMBEDDER_PORT": _check_port,
    "BALLAST_DEMO_ENGINE": _check_bool,
    "BALLAST_ENGINE_PORT": _check_port,
    "BALLAST_ENGINE_PROBE_PORT": _check_port,
    "BALLAST_HEALTH_PORT": _check_port,
    "BALLAST_DRAIN_GRACE": _check_grace,
    "DATABASE_URL": _check_database_url,
    "REDIS_URL": _check_redis_url,
    "CELERY_BROKER_URL": _check_broker_url,
    "BALLAST_SECRET_KEY": _check_secret_key,
    "BALLAST_AGENT_TOKEN": _check_agent_token,
    "BALLAST_CONSOLE_URL": _check_http_url,
    "BALLAST_REGION": _check_name,
    "BALLAST_GATEWAY_PROCESSES": _check_processes,
    "BALLAST_HOST_NAME": _check_name,
    "BALLAST_SSL_REDIRECT": _check_bool,
    "BALLAST_BEHIND_PROXY": _check_bool,
    "BALLAST_REQUIRE_MFA": _check_bool,
}
