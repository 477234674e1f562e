"""The fingerprint of a body, and what a reused key is told."""

from ecom_common.idempotency import Key, Stored, fingerprint, reused
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def test_the_order_of_members_does_not_matter_and_the_order_of_items_does() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert fingerprint([1, 2]) != fingerprint([2, 1])


@given(JSON.filter(lambda body: body is not None))
def test_a_fingerprint_has_32_bytes_and_depends_on_nothing_but_the_body(body: object) -> None:
    assert len(fingerprint(body)) == 32
    assert fingerprint(body) == fingerprint(body)
    assert fingerprint(body) != fingerprint([body])


def test_values_of_different_types_are_different_bodies() -> None:
    bodies = [1, "1", True, None, [], {}, [1], {"1": 1}, 1.5]
    assert len({fingerprint(body) for body in bodies}) == len(bodies)


def test_a_key_used_with_the_same_body_is_fine_and_with_another_refused() -> None:
    stored = Stored(fingerprint({"sku": "tea"}), "an id")
    assert reused(stored, fingerprint({"sku": "tea"})) is None
    refusal = reused(stored, fingerprint({"sku": "mug"}))
    assert refusal is not None
    assert refusal.code == "idempotency_key_reused"
    assert not refusal.kind.retryable


def test_keys_sort_so_that_every_batch_locks_them_in_the_same_order() -> None:
    keys = [Key("b", "place", "1"), Key("a", "place", "2"), Key("a", "cancel", "3")]
    assert sorted(keys) == [keys[2], keys[1], keys[0]]
