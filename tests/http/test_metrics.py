"""``/metrics``: what the server says, in the format that is asked for, for those who may ask."""

from __future__ import annotations

import logging

import httpx
import pytest

from infs.config import ServerConfig
from infs.http import create_app
from tests.http.fake_server import FakeServer


def test_metrics_are_passed_on(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "infs.http"):
        answer = http.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert answer.status_code == 200
    assert answer.text == "# application/openmetrics-text\n"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "/metrics" not in caplog.text, "nobody wants a line for each scrape"
    assert http.post("/metrics").status_code == 405


def test_they_are_described_as_text(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()["paths"]["/metrics"]["get"]["responses"]["200"]
    assert described["content"] == {"text/plain": {"schema": {"type": "string"}}}


async def test_they_are_guarded_by_the_keys() -> None:
    app = create_app(FakeServer(), ServerConfig(api_keys=["key"]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"authorization": "Bearer key"})).status_code == 200
