"""Describes the machine that a run was made on, in words."""

import os
import platform
from datetime import UTC, datetime


def described() -> dict[str, str]:
    """Return the day and a description of the machine."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }


def load() -> str:
    """Return the machine's load over the last minute. A load above the run's own comes from neighbours."""
    return f"{os.getloadavg()[0]:.1f}"
