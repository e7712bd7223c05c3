"""`python -m launcher manage …`: a management command, told what the running copy's processes are told.

The addresses and secrets of a copy with servers of its own stand in its data directory and nowhere else.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.environment import Settings, child_variables, read_settings, read_variables
from launcher.keys import keep_secret
from launcher.places import Places
from launcher.ports import port_in_use
from launcher.postgres import EmbeddedPostgres
from launcher.redis import EmbeddedRedis

PAYLOAD_KEYS = "payload-keys"


def variables_of(settings: Settings, places: Places, *, database_url: str, redis_url: str) -> dict[str, str]:
    """What every process of a copy is told, with what it has made for itself."""
    return child_variables(
        settings,
        database_url=database_url,
        redis_url=redis_url,
        secret_key=settings.secret_key or keep_secret(places.secrets / "secret-key"),
        agent_token=settings.agent_token or keep_secret(places.secrets / "agent-token"),
        signing_key_file=settings.signing_key_file or places.keys / "release-signing.pem",
        trusted_keys_file=settings.trusted_keys_file or places.keys / "trusted-keys.json",
        payload_keys_file=settings.payload_keys_file or places.keys / PAYLOAD_KEYS,
    )


def manage(arguments: Sequence[str], *, project: Path, environ: Mapping[str, str]) -> int:
    """Run manage.py for the copy whose checkout is `project`; return its exit status.

    Raises:
        LauncherError: a variable is wrong, or a server of the copy's own does not run.
    """
    variables = read_variables(environ, project=project)
    settings = read_settings(variables, project=project)
    places = Places(settings.data_dir)
    database_url = settings.database_url
    if database_url is None:
        port = port_in_use(places.ports, "postgres")
        database_url = EmbeddedPostgres.at(places.postgres, secrets=places.secrets, port=port).url
    redis_url = settings.redis_url
    if redis_url is None:
        redis_url = EmbeddedRedis(places.redis, places.secrets, port_in_use(places.ports, "redis")).url()
    told = variables_of(settings, places, database_url=database_url, redis_url=redis_url)
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, str(project / "manage.py"), *arguments], cwd=project, env={**variables, **told}, check=False
    ).returncode
