"""Every answer of the chassis' HTTP side, the unhappy ones above all, from the real server."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ecom_common.errors import PROBLEM_KINDS, DependencyDown, Problem
from ecom_common.http import MAX_BODY_BYTES, if_match_version
from ecom_common.logs import JsonFormatter
from ecom_common.problems import MEDIA_TYPE, problem_responses

from tests.support.serving import served
from tests.support.small_app import an_app, app_settings
from tests.support.tokens import Issuer, an_issuer

CARD = "4111111111111111"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
TEA = {"name": "Assam", "leaves": 3}
KEY = {"Idempotency-Key": "6f1c6f0e-5a55-4f0a-9d0c-1d2f3e4a5b6c"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return an_issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def api(issuer: Issuer) -> Iterator[httpx.Client]:
    settings = app_settings(jwks=str(issuer.jwks))
    with served(an_app(settings), settings) as client:
        yield client


def test_a_good_request_is_answered(api: httpx.Client) -> None:
    answer = api.post("/v1/teas", json=TEA, headers=KEY)
    assert answer.status_code == 201
    assert answer.headers["ETag"] == '"1"'
    assert "server" not in answer.headers


def test_an_unknown_path_is_a_404_problem(api: httpx.Client) -> None:
    assert_problem(api.get("/v1/nothing"), "not_found")


def test_a_method_that_is_not_there_is_a_405_problem_that_names_the_others(
    api: httpx.Client,
) -> None:
    answer = api.delete("/v1/bug")
    assert_problem(answer, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""]
)
def test_a_body_that_is_not_json_is_a_415_problem(api: httpx.Client, content_type: str) -> None:
    answer = api.post("/v1/teas", content=b"{}", headers={"Content-Type": content_type} | KEY)
    assert_problem(answer, "unsupported_media_type")


def test_a_content_type_may_have_parameters_and_any_case(api: httpx.Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"} | KEY
    answer = api.post("/v1/teas", content=json.dumps(TEA), headers=headers)
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b'{"name": "\xff"}',
        b"[" * 50_000,
        b'{"name": "Assam", "leaves": NaN}',
        b'{"name": "\\ud800", "leaves": 1}',
        b"{}{}",
    ],
    ids=["cut", "bytes", "latin", "deep", "nan", "half a surrogate pair", "two"],
)
def test_a_body_that_is_broken_json_is_a_400_problem(api: httpx.Client, body: bytes) -> None:
    answer = api.post("/v1/teas", content=body, headers=JSON | KEY)
    assert_problem(answer, "malformed_body")


def test_a_body_that_is_missing_is_a_422_problem(api: httpx.Client) -> None:
    assert_problem(api.post("/v1/teas", headers=JSON | KEY), "validation_failed")


def test_a_number_that_no_computer_counts_to_is_a_problem(api: httpx.Client) -> None:
    answer = api.post(
        "/v1/teas", content=b'{"name": "a", "leaves": %s}' % (b"9" * 5_000), headers=JSON | KEY
    )
    assert answer.status_code in (400, 422)


def test_text_that_postgres_cannot_hold_is_refused_wherever_it_stands(api: httpx.Client) -> None:
    body = api.post("/v1/teas", json=TEA | {"name": "a\0b"}, headers=KEY)
    assert_problem(body, "validation_failed")
    escaped = api.post("/v1/teas", json=TEA | {"name": "a\\\0b"}, headers=KEY)
    assert_problem(escaped, "validation_failed")
    looks_alike = api.post("/v1/teas", json=TEA | {"name": "a\\u0000b"}, headers=KEY)
    assert looks_alike.status_code == 201
    assert_problem(api.get("/v1/teas?cursor=%00"), "validation_failed")
    assert_problem(api.get("/v1/teas/%00"), "not_found")


def test_a_wrong_field_is_a_422_problem_that_says_where(api: httpx.Client) -> None:
    answer = api.post("/v1/teas", json={"name": "Assam", "leaves": 0, "x": 1}, headers=KEY)
    problem = assert_problem(answer, "validation_failed")
    assert [error["at"] for error in problem["errors"]] == ["body.leaves", "body.x"]


def test_a_body_whose_length_is_too_large_is_refused_by_its_head(api: httpx.Client) -> None:
    body = b'{"name": "' + b"a" * MAX_BODY_BYTES + b'"}'
    assert_problem(api.post("/v1/teas", content=body, headers=JSON | KEY), "body_too_large")


def test_a_chunked_body_is_cut_off_at_the_limit(api: httpx.Client) -> None:
    chunks = (b" " * 16_384 for _ in range(MAX_BODY_BYTES // 16_384 + 1))
    assert_problem(api.post("/v1/teas", content=chunks, headers=JSON | KEY), "body_too_large")


def test_a_chunked_body_within_the_limit_is_read(api: httpx.Client) -> None:
    text = json.dumps(TEA).encode()
    answer = api.post("/v1/teas", content=iter([text[:5], text[5:]]), headers=JSON | KEY)
    assert answer.status_code == 201


def test_a_body_where_none_belongs_is_limited_too(api: httpx.Client) -> None:
    answer = api.request("GET", "/v1/teas", content=b"x" * (MAX_BODY_BYTES + 1))
    assert answer.status_code in (200, 413)


def test_a_bug_is_a_500_problem_that_tells_nothing(
    api: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = api.post("/v1/bug", json=f"secret {CARD}", headers={"traceparent": TRACEPARENT})
    problem = assert_problem(answer, "internal_error")
    assert problem["trace_id"] == TRACE
    assert problem["retryable"] is True
    assert "ValueError" not in answer.text
    logged = as_json_lines(caplog)
    assert "ValueError" in logged
    assert "small_app.py" in logged


def test_a_refusal_of_ours_keeps_its_status_its_members_and_its_retry_after(
    api: httpx.Client,
) -> None:
    answer = api.get("/v1/overload")
    problem = assert_problem(answer, "overloaded")
    assert answer.headers["Retry-After"] == "7"
    assert problem["open_orders"] == 3


def test_the_callers_trace_is_continued_and_a_malformed_one_replaced(api: httpx.Client) -> None:
    mine = assert_problem(api.get("/v1/nothing", headers={"traceparent": TRACEPARENT}), "not_found")
    assert mine["trace_id"] == TRACE
    other = assert_problem(api.get("/v1/nothing", headers={"traceparent": "00-x"}), "not_found")
    assert len(other["trace_id"]) == 32
    assert other["trace_id"] != TRACE


@pytest.mark.parametrize("key", ["", None])
def test_an_operation_that_needs_a_key_says_so(api: httpx.Client, key: str | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    assert_problem(api.post("/v1/teas", json=TEA, headers=headers), "idempotency_key_missing")


@pytest.mark.parametrize("key", ["x" * 256, "tab\there", "größe".encode()])
def test_a_key_is_short_printable_ascii(api: httpx.Client, key: str | bytes) -> None:
    answer = api.post("/v1/teas", json=TEA, headers=[(b"Idempotency-Key", _bytes(key))])
    assert_problem(answer, "validation_failed")


def test_a_key_of_the_greatest_length_is_taken(api: httpx.Client) -> None:
    answer = api.post("/v1/teas", json=TEA, headers={"Idempotency-Key": "x" * 255})
    assert answer.json()["key_length"] == 255


def test_a_card_number_is_no_key(api: httpx.Client) -> None:
    answer = api.post("/v1/teas", json=TEA, headers={"Idempotency-Key": f"pay-{CARD}"})
    assert_problem(answer, "card_number_refused")


def test_a_key_that_is_not_needed_is_optional_and_checked_all_the_same(api: httpx.Client) -> None:
    assert api.put("/v1/teas/1", json=TEA).json()["has_key"] is False
    assert api.put("/v1/teas/1", json=TEA, headers=KEY).json()["has_key"] is True
    answer = api.put("/v1/teas/1", json=TEA, headers={"Idempotency-Key": "x" * 256})
    assert_problem(answer, "validation_failed")


@pytest.mark.parametrize(("header", "version"), [(None, None), ("*", None), ('"12"', 12)])
def test_if_match_asks_for_a_version(header: str | None, version: int | None) -> None:
    assert if_match_version(header) == version


@pytest.mark.parametrize("header", ["12", '"x"', 'W/"1"', '"1", "2"', '""', '"-1"', '"' * 3, ""])
def test_an_if_match_that_we_never_gave_does_not_match(header: str) -> None:
    with pytest.raises(Problem, match="precondition_failed"):
        if_match_version(header)


def test_without_a_token_the_answer_says_how_to_come_back(api: httpx.Client) -> None:
    answer = api.get("/v1/me")
    assert_problem(answer, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert_problem(api.get("/v1/me", headers={"Authorization": "Basic YTpi"}), "unauthenticated")
    assert_problem(api.get("/v1/me", headers={"Authorization": "Bearer x.y.z"}), "unauthenticated")


def test_a_token_lets_its_bearer_in_as_far_as_its_scopes_go(
    api: httpx.Client, issuer: Issuer
) -> None:
    plain = {"Authorization": f"Bearer {issuer.token()}"}
    admin = {"Authorization": f"Bearer {issuer.token(scope='x b:admin')}"}
    assert api.get("/v1/me", headers=plain).json() == "alice"
    assert_problem(api.get("/v1/admin", headers=plain), "forbidden")
    assert api.get("/v1/admin", headers=admin).status_code == 200


def test_a_made_up_cursor_is_refused(api: httpx.Client) -> None:
    for cursor in ("dHJ1ZQ", "bnVsbA", "é", "x" * 600):
        assert_problem(api.get("/v1/teas", params={"cursor": cursor}), "validation_failed")


def test_nothing_that_a_client_sends_is_echoed_or_logged(
    api: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = {"name": CARD, "leaves": 1}
    bearer = {"Authorization": f"Bearer {CARD}.{CARD}.{CARD}"}
    answers = [
        api.get(f"/v1/{CARD}"),
        api.get(f"/v1/teas/{CARD}/x?card={CARD}"),
        api.get("/v1/teas", params={"limit": CARD, "cursor": CARD, CARD: CARD}),
        api.put(f"/v1/teas/x{CARD}", json=TEA, headers=KEY),
        api.post("/v1/teas", json=secret, headers=KEY),
        api.post("/v1/teas", json=TEA | {CARD: 1}, headers=KEY),
        api.post("/v1/teas", json=TEA | {f"card_{CARD}": 1}, headers=KEY),
        api.post("/v1/teas", json=TEA | {"leaves": CARD}, headers=KEY),
        api.post("/v1/teas", json={"name": [CARD], "leaves": {CARD: CARD}}, headers=KEY),
        api.post("/v1/teas", json=CARD, headers=KEY),
        api.post("/v1/baskets", json={"things": [{"kind": CARD}]}),
        api.post("/v1/teas", content=f'{{"name": "{CARD}"', headers=JSON | KEY),
        api.post("/v1/teas", content=CARD, headers={"Content-Type": f"text/{CARD}"}),
        api.post("/v1/teas", json=TEA, headers={"Idempotency-Key": CARD}),
        api.post("/v1/bug", content=f'"{CARD}"', headers=JSON),
        api.put("/v1/teas/1", json=TEA, headers={"If-Match": CARD}),
        api.get("/v1/nothing", headers={f"X-{CARD}": CARD, "Cookie": f"a={CARD}"}),
        api.get("/v1/nothing", headers={"traceparent": f"00-{CARD}{CARD}-{CARD}-0x"}),
        api.get("/v1/nothing", headers={"User-Agent": CARD, "Referer": CARD, "Host": CARD}),
        api.get("/v1/me", headers=bearer),
        api.get("/v1/me", headers={"Authorization": CARD}),
    ]
    for answer in answers:
        assert answer.is_error, answer.request
        assert CARD not in answer.text, answer.request
        assert CARD not in str(answer.headers), answer.request
    assert CARD not in as_json_lines(caplog)
    assert CARD not in api.get("/metrics").text


def test_a_process_is_live_and_says_whether_it_is_ready(issuer: Issuer) -> None:
    down = {"database": False}

    def database() -> None:
        if down["database"]:
            raise DependencyDown("no answer")

    settings = app_settings(jwks=str(issuer.jwks))
    app = an_app(settings, {"database": database, "always": lambda: None})
    with served(app, settings) as client:
        assert client.get("/health/ready").json() == {
            "status": "ok",
            "checks": {"database": "ok", "always": "ok"},
        }
        down["database"] = True
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["checks"] == {"database": "DependencyDown: no answer", "always": "ok"}
        assert client.get("/health/live").status_code == 200


def test_metrics_name_routes_by_their_template_and_never_by_the_clients_path(
    api: httpx.Client,
) -> None:
    api.put("/v1/teas/123456", json=TEA)
    api.get("/v1/some/unknown/path")
    text = api.get("/metrics").text
    assert 'route="/v1/teas/{tea_id}"' in text
    assert 'route="unmatched"' in text
    assert "123456" not in text
    assert "unknown/path" not in text


def test_the_declared_problems_have_the_media_type_and_the_statuses_they_come_with() -> None:
    declared = problem_responses("not_found", "price_changed", "checkout_reused")
    assert sorted(declared, key=str) == [404, 409, 500, 503]
    assert declared[409]["description"] == "Problem: `price_changed`, `checkout_reused`"
    assert MEDIA_TYPE in declared[503]["content"]


def test_the_openapi_document_describes_problems(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    answers = document["paths"]["/v1/teas"]["post"]["responses"]
    assert set(answers) >= {"201", "422", "500", "503"}
    assert "ProblemOut" in document["components"]["schemas"]


def assert_problem(answer: httpx.Response, code: str) -> dict[str, Any]:
    """The answer is the problem document of `code`, whole."""
    problem = answer.json()
    kind = PROBLEM_KINDS[code]
    assert problem["code"] == code, answer.text
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    assert answer.status_code == problem["status"] == kind.status
    assert problem["title"] == kind.title
    assert problem["retryable"] is kind.retryable
    assert problem["type"] == "about:blank"
    assert problem["detail"]
    assert len(problem["trace_id"]) == 32
    assert isinstance(problem, dict)
    return problem


def as_json_lines(caplog: pytest.LogCaptureFixture) -> str:
    """The log as the service would write it; httpx, our own client, logs what it sends."""
    formatter = JsonFormatter(service="teas", process="api")
    return "\n".join(
        formatter.format(record)
        for record in caplog.records
        if not record.name.startswith(("httpx", "httpcore"))
    )


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
