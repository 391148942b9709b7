"""Receipts: in which files the bytes of what a delete removed still are.

No call returns a memory once its delete is answered; its bytes stay in journals and snapshots until compactions have
replaced them. A receipt is nothing but the stamp of the delete's record: which files are older than that, the data
folder itself tells, so receipts are kept nowhere and any worker can redeem them.
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
    """The name of the receipt for a delete, by the stamp of its last record."""
    return f"{stamp.ms}.{stamp.counter}.{stamp.writer}"


def redeem(id: str, folder: DataFolder) -> Receipt:
    """Look where the bytes are now.

    Raises:
        InvalidInput: that is no receipt.
        NotFound: it is not of this data folder.
        OSError: the folder cannot be read.
    """
    match = _ID.fullmatch(id)
    if match is None:
        raise InvalidInput("receipt is not one that a delete returned.", field="receipt")
    deleted_at_ms, writer = int(match[1]), match[3]
    journals = {path.stem: path for path in journal_paths(folder.journal)}
    covered = {path: snapshots.coverage(path) or {} for path in snapshots.folders(folder.snapshots)}
    if writer in journals:
        end = journals[writer].stat().st_size
    else:  # it was removed when both kept snapshots covered it whole
        end = max((ends.get(writer, 0) for ends in covered.values()), default=0)
    if end == 0:
        raise NotFound("This receipt is of another data folder.")
    held = [f"{JOURNAL_FOLDER}/{name}{SUFFIX}" for name in sorted(journals) if begun_ms(name) <= deleted_at_ms]
    held += [f"{SNAPSHOT_FOLDER}/{path.name}" for path, ends in covered.items() if ends.get(writer, 0) < end]
    return Receipt.of(id=id, deleted_at_ms=deleted_at_ms, files=tuple(held))
