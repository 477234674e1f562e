"""The schemas and the AsyncAPI document that are checked in, against the code and each other."""

from typing import Any, Final

import orjson
import pytest
from ecom_contracts.messages import MESSAGES
from ecom_contracts.schemas import ROOT, check
from ecom_contracts.topics import ALL_TOPICS, DEAD_LETTER_TOPICS, Topic, dead_letter_topic

DOCUMENT: Final[dict[str, Any]] = orjson.loads((ROOT / "asyncapi.json").read_bytes())

every_topic = pytest.mark.parametrize("topic", ALL_TOPICS, ids=lambda topic: topic.name)


def at(pointer: str) -> Any:
    """What a local `$ref` of the document names; KeyError if nothing."""
    found: Any = DOCUMENT
    for step in pointer.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_what_is_checked_in_is_what_the_code_says_and_only_grew_since_the_baseline() -> None:
    assert check(ROOT) == []


def test_the_baseline_knows_only_types_that_still_exist() -> None:
    assert {file.stem for file in (ROOT / "baseline").iterdir()} <= MESSAGES.keys()


def test_topic_names_are_unique_and_each_has_a_channel() -> None:
    names = [topic.name for topic in ALL_TOPICS]
    assert len(set(names)) == len(names)
    assert list(DOCUMENT["channels"]) == names


@every_topic
def test_a_channel_says_of_its_topic_what_the_code_says(topic: Topic) -> None:
    kafka = DOCUMENT["channels"][topic.name]["bindings"]["kafka"]
    assert kafka["topic"] == topic.name
    assert kafka["partitions"] == topic.partitions
    configuration = kafka["topicConfiguration"]
    assert (configuration["cleanup.policy"] == ["compact"]) is topic.compacted
    assert configuration["retention.ms"] == (topic.retention_ms or -1)


@every_topic
def test_a_channel_lists_the_messages_of_its_topic(topic: Topic) -> None:
    listed = DOCUMENT["channels"][topic.name]["messages"]
    assert listed.keys() == {t for t, model in MESSAGES.items() if topic == model.TOPIC}
    for type_, reference in listed.items():
        assert at(reference["$ref"])["name"] == type_


@pytest.mark.parametrize("type_", MESSAGES)
def test_the_payload_of_a_message_is_its_checked_in_schema(type_: str) -> None:
    payload = DOCUMENT["components"]["messages"][type_]["payload"]["$ref"]
    schema = orjson.loads((ROOT / payload).read_bytes())
    assert schema["properties"]["type"] == {
        "const": type_,
        "description": "What it is, with its major version.",
    }


@pytest.mark.parametrize("type_", MESSAGES)
def test_the_key_of_its_topic_is_a_required_field_of_a_message(type_: str) -> None:
    model = MESSAGES[type_]
    assert model.model_fields[model.TOPIC.key].is_required()


def test_every_operation_is_on_a_channel_and_every_topic_has_a_publisher() -> None:
    sent = set()
    for operation in DOCUMENT["operations"].values():
        channel = at(operation["channel"]["$ref"])
        if operation["action"] == "send":
            sent.add(channel["address"])
    assert sent == {topic.name for topic in ALL_TOPICS}


@pytest.mark.parametrize("service", ["order_service", "inventory_service", "payment_service"])
def test_every_service_has_its_dead_letter_topic(service: str) -> None:
    assert dead_letter_topic(service).name == f"{service}.dead-letter"
    assert dead_letter_topic(service) in ALL_TOPICS


def test_there_is_no_dead_letter_topic_of_a_service_that_does_not_exist() -> None:
    assert len(DEAD_LETTER_TOPICS) == 3
    with pytest.raises(KeyError):
        dead_letter_topic("shipping_service")


def test_only_the_compacted_catalogue_is_kept_for_ever() -> None:
    assert [t.name for t in ALL_TOPICS if t.compacted] == ["catalog"]
    assert [t.name for t in ALL_TOPICS if t.retention_ms is None] == ["catalog"]
