"""Every endpoint of the three APIs, driven by schemathesis from their own OpenAPI documents."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.shop import Shop

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# The same requests in each run: a failure here must not come and go.
DRIVEN = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# Streams end when their order is final: tests/e2e/test_streams.py reads them.
STREAMS = "/events"


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("service", ["order", "inventory", "payment"])
def test_every_operation_answers_whatever_is_sent_as_its_document_says(
    shop: Shop, service: str, mode: GenerationMode
) -> None:
    document = schemathesis.openapi.from_url(shop.url(service, "/openapi.json"))
    # Its own result type: an operation, or why the document does not describe one.
    operations = [result.ok() for result in document.get_all_operations()]  # type: ignore[union-attr]
    assert operations
    for operation in operations:
        if not operation.path.endswith(STREAMS) and _can_be(mode, operation):
            _drive(operation, shop, mode)


def _can_be(
    mode: GenerationMode, operation: "schemathesis.APIOperation[Any, Any, Any, Any]"
) -> bool:
    """What takes nothing cannot be sent anything wrong."""
    takes_something = bool(operation.body) or any(operation.iter_parameters())
    return mode is GenerationMode.POSITIVE or takes_something


def _drive(
    operation: "schemathesis.APIOperation[Any, Any, Any, Any]", shop: Shop, mode: GenerationMode
) -> None:
    @DRIVEN
    @given(case=operation.as_strategy(generation_mode=mode))
    def drive(case: "schemathesis.Case[Any]") -> None:
        case.call_and_validate(headers=shop.staff, checks=CHECKS)

    drive()
