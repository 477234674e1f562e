"""JSON Schemas and an AsyncAPI 3.0 document, generated from the messages and checked in.

    python -m ecom_contracts.schemas --write      write schemas/*.json and asyncapi.json
    python -m ecom_contracts.schemas --check      exit 1 if they drifted from the code, or if a
                                                  schema did anything but grow (evolution.py)
    python -m ecom_contracts.schemas --release    make the current schemas the baseline

The schemas describe what a consumer accepts, the whole value in Kafka: envelope and data.
They are written without `$ref` and with keywords that mean the same in draft 7 (which AsyncAPI
builds upon) and in 2020-12, so that any reader can use a single file alone.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ecom_contracts.envelope import CONTENT_TYPE, MAX_ATTRIBUTE_LENGTH, SPEC_VERSION
from ecom_contracts.evolution import Schema, breaking_changes
from ecom_contracts.messages import MAX_VERSION, MESSAGES, Message
from ecom_contracts.topics import ALL_TOPICS, Topic

# libs/contracts of the checkout: these are tools of the repository, not of an installation.
ROOT: Final = Path(__file__).resolve().parents[2]

# The version of the AsyncAPI document; raise the minor with every new message type.
DOCUMENT_VERSION: Final = "1.0.0"
DRAFT: Final = "http://json-schema.org/draft-07/schema#"
KEEP_FOR_EVER_MS: Final = -1
BINDING_VERSION: Final = "0.5.0"

Files = dict[str, str]
"""Path relative to the root → contents."""


def message_schema(model: type[Message]) -> Schema:
    """The JSON Schema of a whole Kafka value of this type."""
    data = _self_contained(model.model_json_schema())
    return {
        "$schema": DRAFT,
        "$id": f"urn:ecom:message:{model.TYPE}",
        "title": model.__name__,
        "description": data.pop("description"),
        # Not of JSON Schema, which ignores them; here so that moving a message is a change.
        "x-topic": model.TOPIC.name,
        "x-key": model.TOPIC.key,
        "type": "object",
        "required": [*_REQUIRED_ATTRIBUTES, "data"],
        "properties": {**_attributes(model), "data": data},
    }


_REQUIRED_ATTRIBUTES: Final = (
    "specversion", "id", "source", "type", "subject", "time", "sequence",
)  # fmt: skip


def _attributes(model: type[Message]) -> Schema:
    return {
        "specversion": {"const": SPEC_VERSION, "description": "CloudEvents version."},
        "id": {
            "type": "string",
            "format": "uuid",
            "description": "A uuid7, unique: a reader that saw it before may drop the message.",
        },
        "source": _attribute("The service that publishes."),
        "type": {"const": model.TYPE, "description": "What it is, with its major version."},
        "subject": _attribute(f"The Kafka key: {model.TOPIC.key} of the data."),
        "time": {"type": "string", "format": "date-time", "description": "When it happened."},
        "datacontenttype": _attribute(f"How the data is written: {CONTENT_TYPE}."),
        "sequence": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_VERSION,
            "description": "The publishing aggregate's version; drop what is older than known.",
        },
        "correlationid": _attribute("What set all of this off; the same along the chain."),
        "causationid": _attribute("The message or request that directly caused this one."),
        "traceparent": _attribute("W3C trace context."),
    }


def _attribute(description: str) -> Schema:
    return {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_ATTRIBUTE_LENGTH,
        "description": description,
    }


def _self_contained(schema: Schema) -> Schema:
    """The schema with every `$ref` replaced by what it names, and without generated titles."""
    definitions = schema.get("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            definition = definitions[node["$ref"].removeprefix("#/$defs/")]
            # What stands beside the reference is nearer to its use, so it wins.
            node = {**definition, **{k: v for k, v in node.items() if k != "$ref"}}
        return {
            keyword: {name: resolve(field) for name, field in value.items()}
            if keyword == "properties"
            else resolve(value)
            for keyword, value in node.items()
            if keyword not in ("title", "$defs")
        }

    resolved: Schema = resolve(schema)
    return resolved


def asyncapi_document() -> dict[str, Any]:
    """What flows where, for people and for generators, as AsyncAPI 3.0."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "ecom",
            "version": DOCUMENT_VERSION,
            "description": "The messages of the order, inventory and payment services. Delivery is"
            " at least once and in any order; readers ignore fields and types they do not know.",
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {topic.name: _channel(topic) for topic in ALL_TOPICS},
        "operations": {
            f"{service}.{verb}.{topic.name}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{topic.name}"},
                "summary": topic.summary,
            }
            for topic in ALL_TOPICS
            for verb, action, services in (
                ("sends", "send", topic.publishers),
                ("receives", "receive", topic.readers),
            )
            for service in services
        },
        "components": {
            "messages": {type_: _message(model) for type_, model in MESSAGES.items()},
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    return {
        "address": topic.name,
        "summary": topic.summary,
        # A dead-letter topic has none of its own: it holds whatever bytes could not be handled.
        "messages": {
            type_: {"$ref": f"#/components/messages/{type_}"}
            for type_, model in MESSAGES.items()
            if topic == model.TOPIC
        },
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": ["compact" if topic.compacted else "delete"],
                    "retention.ms": KEEP_FOR_EVER_MS
                    if topic.retention_ms is None
                    else topic.retention_ms,
                },
                "bindingVersion": BINDING_VERSION,
            }
        },
    }


def _message(model: type[Message]) -> dict[str, Any]:
    description = message_schema(model)["description"]
    return {
        "name": model.TYPE,
        "title": model.__name__,
        "summary": description.partition("\n")[0],
        "description": description,
        "contentType": "application/cloudevents+json",
        "correlationId": {"location": "$message.payload#/correlationid"},
        "payload": {"$ref": f"./schemas/{model.TYPE}.json"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": f"The {model.TOPIC.key} of the data."},
                "bindingVersion": BINDING_VERSION,
            }
        },
    }


def schema_files() -> Files:
    """File name → contents, one schema a message type and major version."""
    return {f"{type_}.json": _json(message_schema(model)) for type_, model in MESSAGES.items()}


def generated_files() -> Files:
    """Everything that is generated, by path relative to the root."""
    schemas = {f"schemas/{name}": text for name, text in schema_files().items()}
    return {**schemas, "asyncapi.json": _json(asyncapi_document())}


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def drift(root: Path) -> list[str]:
    """How the checked-in files differ from what the code would generate now."""
    wanted = generated_files()
    present = {f"schemas/{file.name}" for file in (root / "schemas").glob("*.json")}
    problems = [f"{name}: no message has it any more" for name in sorted(present - wanted.keys())]
    for name, text in wanted.items():
        file = root / name
        if not file.exists():
            problems.append(f"{name}: missing")
        elif file.read_text(encoding="utf-8") != text:
            problems.append(f"{name}: differs from the code")
    return problems


def regressions(root: Path) -> list[str]:
    """What in the code breaks the released baseline; a type that is new breaks nothing."""
    problems = []
    for file in sorted((root / "baseline").glob("*.json")):
        model = MESSAGES.get(file.stem)
        if model is None:
            problems.append(f"{file.stem}: the type was removed; it may still be in the topics")
            continue
        released = json.loads(file.read_text(encoding="utf-8"))
        changes = breaking_changes(released, message_schema(model))
        problems += [f"{file.stem} {change}" for change in changes]
    return problems


def write(root: Path) -> None:
    """Bring the generated files up to date, and remove those of types that are gone."""
    _replace(root / "schemas", schema_files())
    (root / "asyncapi.json").write_text(generated_files()["asyncapi.json"], encoding="utf-8")


def check(root: Path) -> list[str]:
    """Every problem, each with what to do about it; none is good."""
    drifted = [
        f"{problem} (run: python -m ecom_contracts.schemas --write)" for problem in drift(root)
    ]
    broken = [
        f"{problem} (leave this version as it was and add a new major version)"
        for problem in regressions(root)
    ]
    return drifted + broken


def release(root: Path) -> list[str]:
    """Make the current schemas the baseline, unless `check` finds something; then say it."""
    problems = check(root)
    if not problems:
        _replace(root / "baseline", schema_files())
    return problems


def _replace(folder: Path, files: Files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.json"):
        if file.name not in files:
            file.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ecom_contracts.schemas")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder libs/contracts")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="generate the files")
    action.add_argument("--check", action="store_true", help="fail on drift or a breaking change")
    action.add_argument("--release", action="store_true", help="make the schemas the baseline")
    options = parser.parse_args(arguments)
    problems: list[str] = []
    if options.write:
        write(options.root)
    elif options.check:
        problems = check(options.root)
    else:
        problems = release(options.root)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
