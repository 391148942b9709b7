"""A bounded cache is compared with a plain list of its entries, after every call."""

from hypothesis import given
from hypothesis import strategies as st

from memory_service.bounded_cache import BoundedCache

SIZE_MAX = 10
KEYS = st.sampled_from("abcd")
CALLS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.text("x", max_size=SIZE_MAX + 1)),
    st.tuples(st.just("get"), KEYS, st.none()),
    st.tuples(st.just("remove"), KEYS, st.none()),
)


@given(st.lists(CALLS, max_size=50))
def test_the_least_recently_used_values_go_first_and_the_bound_always_holds(calls):
    cache = BoundedCache[str, str](SIZE_MAX, len)
    entries = []  # (key, value), the most recently used last
    for call, key, value in calls:
        [found] = [entry for entry in entries if entry[0] == key] or [None]
        entries = [entry for entry in entries if entry[0] != key]
        match call:
            case "put":
                cache.put(key, value)
                if len(value) <= SIZE_MAX:
                    entries.append((key, value))
                while sum(len(value) for _, value in entries) > SIZE_MAX:
                    entries.pop(0)
            case "get":
                assert cache.get(key) == (found and found[1])
                entries += [found] if found else []
            case "remove":
                cache.remove(key)
        assert list(cache) == [key for key, _ in entries]
