"""Changes: what a run of records changes in the vector indexes, gathered while the catalog's transaction is open."""

import json
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from memory_service.clock import Stamp
from memory_service.journal.records import Put
from memory_service.namespaces.conversation import Text
from memory_service.namespaces.index import Entry, NamespaceIndex


class IndexChanges:
    """Memories to add to indexes and to remove from them, by namespace."""

    def __init__(self) -> None:
        self.added: dict[str, dict[int, Entry]] = defaultdict(dict)
        self.removed: dict[str, list[int]] = defaultdict(list)

    def add(self, id: int, put: Put, stamp: Stamp) -> None:
        """Add a memory under an id that is larger than all before."""
        text = Text(put.content, json.loads(put.metadata), put.created_at_ms, stamp)
        self.added[put.namespace][id] = Entry(text, put.vectors)

    def remove(self, namespace: str, id: int) -> None:
        """Remove a memory. One that the same run added is never added to the index."""
        if self.added[namespace].pop(id, None) is None:
            self.removed[namespace].append(id)

    def namespaces(self) -> set[str]:
        """Return the namespaces whose index changes."""
        return {
            namespace for changed in (self.added, self.removed) for namespace, entries in changed.items() if entries
        }

    def apply(self, indexes: Mapping[str, NamespaceIndex]) -> None:
        """Change the indexes of these namespaces."""
        # Add first: a reader in between then gets too many ids, which it notices, and never too few, which it could
        # not notice.
        for namespace, index in indexes.items():
            if added := self.added.get(namespace):
                index.add(list(added.items()))
        for namespace, index in indexes.items():
            if ids := self.removed.get(namespace):
                index.remove(np.array(ids, dtype=np.int64))
