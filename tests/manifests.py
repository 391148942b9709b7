"""Manifests of snapshots that a test changes, with a checksum that fits again."""

import json

from memory_service.projection.snapshots import MANIFEST, checksum


def rewritten(snapshot, **changes):
    """Change fields of a snapshot's manifest."""
    fields = json.loads((snapshot / MANIFEST).read_text()) | changes
    del fields["checksum"]
    (snapshot / MANIFEST).write_text(json.dumps({**fields, "checksum": checksum(fields)}))
