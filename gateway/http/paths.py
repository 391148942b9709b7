"""How the paths of the routes are read: as patterns of percent-encoded text."""

import re
from functools import cache

WITH_SLASHES = ("key", "id", "library")
"""Fields of paths that may hold slashes, which a caller need not encode."""


@cache
def path_pattern(path: str) -> re.Pattern[str]:
    """Return what matches a path such as `/v1/memories/{key}`: a segment for each field, or several segments."""
    return re.compile(
        re.sub(r"{(\w+)}", lambda field: f"(?P<{field[1]}>{'.+' if field[1] in WITH_SLASHES else '[^/]+'})", path)
    )
