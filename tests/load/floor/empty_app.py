"""The app: POST /v1/orders validates an order and answers with what it was given on its standard input."""

from __future__ import annotations

import sys
from typing import Final

import uvicorn
from fastapi import FastAPI, Response
from order_service.schemas import PlaceOrderIn

ANSWER: Final = sys.stdin.buffer.read()
HEADERS: Final = {"Location": "/v1/orders/00000000-0000-7000-8000-000000000000"}

app = FastAPI()


@app.post("/v1/orders", status_code=201)
async def place_order(body: PlaceOrderIn) -> Response:
    assert body.lines
    return Response(ANSWER, 201, HEADERS, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
    )
