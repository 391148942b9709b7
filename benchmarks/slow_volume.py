"""Runs the service's own command in a process whose every fdatasync takes longer and leaves a line in the log.

python -P slow_volume.py DELAY_MS COMMAND ARGUMENTS...
"""

import json
import os
import runpy
import sys
import time
from typing import Any

SYNCED = "volume.synced"


def main() -> None:
    """Slow down fdatasync in this process, then run the command in it."""
    delay_s, sys.argv = float(sys.argv[1]) / 1000, sys.argv[2:]
    sync = os.fdatasync

    def slow_sync(descriptor: Any) -> None:
        time.sleep(delay_s)
        sync(descriptor)
        os.write(sys.stderr.fileno(), f"{json.dumps({'event': SYNCED})}\n".encode())

    os.fdatasync = slow_sync  # type: ignore[assignment]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
