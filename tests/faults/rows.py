"""What a scenario reports: one row of the fault table."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One fault, what was run, and what was seen. A scenario raises instead when a promise was broken."""

    fault: str
    ran: str
    seen: str
