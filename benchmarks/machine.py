"""The machine that a run was made on, in words."""

import os
import platform
from datetime import UTC, datetime


def described() -> dict[str, str]:
    """The day and what the machine is."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }


def load() -> str:
    """Of the machine, over the last minute: above the run's own it tells of neighbours."""
    return f"{os.getloadavg()[0]:.1f}"
