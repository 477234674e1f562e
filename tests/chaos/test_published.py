"""What stands in the topics is compared with what relays promise."""

from tests.chaos.published import Publication, disorder, stale


def published(*messages: tuple[str, int]) -> list[Publication]:
    """Messages of one key, by id and sequence."""
    return [Publication("orders.events", "order-1", name, sequence) for name, sequence in messages]


def test_messages_in_order_are_in_order() -> None:
    assert list(disorder(published(("a", 1), ("b", 1), ("c", 2)), once=True)) == []


def test_a_message_that_overtakes_another_is_found() -> None:
    [found] = disorder(published(("b", 2), ("a", 1)), once=False)
    assert "went back from 2 to 1" in found


def test_after_a_crash_what_comes_again_is_no_disorder() -> None:
    batch = published(("a", 1), ("b", 2))
    assert list(disorder(batch + batch, once=False)) == []


def test_what_comes_again_without_a_crash_is_found() -> None:
    batch = published(("a", 1), ("b", 2))
    assert len(list(disorder(batch + batch, once=True))) == 2


def test_keys_and_topics_have_their_own_order() -> None:
    other_key = [Publication("orders.events", "order-2", "c", 1)]
    other_topic = [Publication("catalog", "order-1", "d", 1)]
    assert list(disorder(published(("a", 5)) + other_key + other_topic, once=True)) == []


def test_a_compacted_topic_has_to_end_with_the_newest_of_each_key() -> None:
    item = [
        Publication("catalog", "MUG", name, sequence) for name, sequence in (("a", 1), ("b", 2))
    ]
    assert list(stale(item + item)) == []
    [found] = stale([*item, item[0]])
    assert "MUG ends with 1" in found
    assert list(stale([*published(("a", 2), ("b", 1))])) == []
