"""How the data plane's stores hold on to PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

# One statement is one transaction; and a host that is gone without a word is noticed in seconds, not hours.
KEEPING: Final[dict[str, Any]] = {
    "autocommit": True,
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
