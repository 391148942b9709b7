"""Receipts: which files still hold bytes of what a delete removed.

No call returns a memory once its delete is answered, but its bytes stay in journals and snapshots until a compaction
replaces them. A receipt is the stamp of the delete's record and nothing else. The data folder tells which files are
older, so receipts are stored nowhere and any worker can redeem them.
"""

import re

from memory_service.clock import Stamp
from memory_service.journal.data_folder import JOURNAL_FOLDER, SNAPSHOT_FOLDER, DataFolder
from memory_service.journal.files import SUFFIX, begun_ms, journal_paths
from memory_service.projection import snapshots
from vector_memory.errors import InvalidInput, NotFound
from vector_memory.memories import Receipt

_ID = re.compile(r"(\d{1,15})\.(\d{1,9})\.(\d{13}-[0-9a-f]{12})")


def receipt_id(stamp: Stamp) -> str:
    """Return the receipt of a delete, made of the stamp of its last record."""
    return f"{stamp.ms}.{stamp.counter}.{stamp.writer}"


def redeem(id: str, folder: DataFolder) -> Receipt:
    """Return the files that hold the bytes now.

    Raises:
        InvalidInput: the text is not a receipt.
        NotFound: the receipt belongs to another data folder.
        OSError: the folder cannot be read.
    """
    match = _ID.fullmatch(id)
    if match is None:
        raise InvalidInput("receipt is not valid; send the receipt that a delete returned.", field="receipt")
    deleted_at_ms, writer = int(match[1]), match[3]
    journals = {path.stem: path for path in journal_paths(folder.journal)}
    covered = {path: snapshots.coverage(path) or {} for path in snapshots.folders(folder.snapshots)}
    if writer in journals:
        end = journals[writer].stat().st_size
    else:
        # The journal was compacted, when both kept snapshots covered all of it.
        end = max((ends.get(writer, 0) for ends in covered.values()), default=0)
    if end == 0:
        raise NotFound("This receipt belongs to another data folder.")
    # A journal begun after the delete cannot hold the text, and a snapshot that covers the delete does not.
    held = [f"{JOURNAL_FOLDER}/{name}{SUFFIX}" for name in sorted(journals) if begun_ms(name) <= deleted_at_ms]
    held += [f"{SNAPSHOT_FOLDER}/{path.name}" for path, ends in covered.items() if ends.get(writer, 0) < end]
    return Receipt.of(id=id, deleted_at_ms=deleted_at_ms, files=tuple(held))
