"""The URI of a memory is memory://NAMESPACE/KEY. Namespace and key are percent-encoded."""

from urllib.parse import quote, unquote_to_bytes

from vector_memory.errors import InvalidInput

SCHEME = "memory://"
TEMPLATE = SCHEME + "{namespace}/{key}"


def memory_uri(namespace: str, key: str) -> str:
    """Return the URI of a memory."""
    return f"{SCHEME}{quote(namespace, safe='')}/{quote(key, safe='')}"


def parsed(uri: str) -> tuple[str, str]:
    """Return the namespace and the key that a memory's URI names. Slashes in the key need not be encoded.

    Raises:
        InvalidInput: the text is not the URI of a memory.
    """
    namespace, slash, key = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or not (namespace and slash and key):
        raise InvalidInput(f"uri must be {TEMPLATE}, both percent-encoded, such as memory://default/dana.", field="uri")
    try:
        return unquote_to_bytes(namespace).decode(), unquote_to_bytes(key).decode()
    except UnicodeError as error:
        raise InvalidInput("uri is not UTF-8; percent-encode the bytes of namespace and key.", field="uri") from error
