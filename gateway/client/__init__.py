"""The former home of the Python client, which now is `vector_memory`. It goes with the next release."""

import warnings

from vector_memory import *  # noqa: F403 - every public name, as before

warnings.warn("gateway.client has moved: write `from vector_memory import Client`.", DeprecationWarning, stacklevel=2)
