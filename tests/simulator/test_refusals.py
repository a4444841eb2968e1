"""Requests the API refuses, and what they leave in the ledger."""

import asyncio
import json

import aiohttp
import pytest
from msgspec.structs import replace
from simulator.running import chat, quick, running

from proxy.simulator.scenario import Balance


def test_retired_and_unknown_models_are_named_with_those_there_are():
    """400, as bytes, in the words of the real API since the old names were retired."""

    async def talk():
        async with running() as client:
            return [await client.post(chat(name)) for name in ("deepseek-chat", 'no "such"')]

    for (status, headers, body), name in zip(asyncio.run(talk()), ("deepseek-chat", 'no "such"'), strict=True):
        assert (status, headers["Content-Type"]) == (400, "application/octet-stream")
        message = json.loads(body)["error"]["message"]
        assert message == f"The supported API model names are deepseek-flash or odd-price, but you passed {name}."


@pytest.mark.parametrize("value", [None, "", "Bearer ", "Basic abc"])
def test_without_a_bearer_it_is_a_401(value):
    """No bearer, no answer, on every endpoint."""

    async def talk():
        async with running() as client, aiohttp.ClientSession() as session:
            headers = {} if value is None else {"Authorization": value}
            async with session.post(client.url + "/chat/completions", json=chat(), headers=headers) as first:
                body = await first.json()
            async with session.get(client.url + "/user/balance", headers=headers) as second:
                return first.status, body, second.status

    status, body, other = asyncio.run(talk())
    assert (status, other) == (401, 401)
    assert body["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{not json", 400, b"Failed to parse the request body as JSON"),
        (b'{"model":"deepseek-flash"}', 422, b"missing field `messages` at line 1 column 26"),
        (b'{"messages":[]}', 422, b"missing field `model`"),
        (b'{"model":"deepseek-flash","messages":[],"max_tokens":0}', 422, b"Failed to deserialize"),
    ],
)
def test_bodies_that_cannot_be_read(body, status, words):
    """What is no JSON is a 400, what has wrong fields a 422; both are plain text."""

    async def talk():
        async with (
            running() as client,
            client.session.post(client.url + "/chat/completions", data=body) as response,
        ):
            return response.status, response.headers["Content-Type"], await response.read()

    got, kind, text = asyncio.run(talk())
    assert (got, kind) == (status, "text/plain; charset=utf-8")
    assert words in text


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X_Simulator_Behaviour", "explode"),
        ("X_Simulator_Behaviour", "error-418"),
        ("X_Simulator_Tokens", "1,2,3"),
        ("X_Simulator_Tokens", "1,2,3,-4"),
        ("X_Simulator_After", "soon"),
    ],
)
def test_a_header_that_forces_nothing_known_is_said(header, value):
    """A misspelt simulator header is a 400 that names it, never a silent default."""

    async def talk():
        async with running() as client:
            return await client.post(chat(), **{header: value})

    status, _, body = asyncio.run(talk())
    assert status == 400
    assert header.replace("_", "-") in json.loads(body)["error"]["message"]


def test_unknown_paths_and_methods_get_the_gateways_404():
    """It has a shape of its own, with an event id."""

    async def talk():
        async with running() as client:
            return await client.get("/nowhere"), await client.get("/chat/completions")

    for status, _, body in asyncio.run(talk()):
        assert (status, list(json.loads(body))) == (404, ["event_id", "error_msg"])


def test_errors_are_counted_by_status_and_cost_nothing():
    """The ledger counts refusals apart, lists them with their trace id, and bills nothing for them."""

    async def talk():
        async with running() as client:
            _, headers, _ = await client.post(chat(), X_Simulator_Behaviour="error-503", X_Simulator_Tag="t1")
            await client.post(chat("deepseek-chat"))
            return headers["x-ds-trace-id"], await client.ledger()

    trace_id, ledger = asyncio.run(talk())
    assert ledger["exchanges"]["errors"] == 2
    assert ledger["errors"] == {"400": 1, "503": 1}
    assert ledger["completed"] == ledger["aborted"] == ledger["broken"] == []
    assert ledger["balance"] == "100.500000000"
    first = ledger["list"][0]
    assert (first["id"], first["trace_id"], first["tag"], first["outcome"]) == ("", trace_id, "t1", "error")


def test_drawn_mishaps_come_as_often_as_the_scenario_says():
    """Half of the exchanges fail where the scenario says so, and the same ones again after a reset."""
    scenario = quick("[mishaps]\nerrors = { 503 = 0.3, 429 = 0.2 }\n")

    async def talk():
        async with running(scenario) as client:
            first = [(await client.post(chat()))[0] for _ in range(200)]
            await client.post({}, path="/_simulator/reset")
            return first, [(await client.post(chat()))[0] for _ in range(200)]

    first, second = asyncio.run(talk())
    assert first == second
    assert 70 < first.count(200) < 130
    assert {200, 429, 503} == set(first)


def test_an_empty_account_is_refused():
    """Once the balance is spent, 402 and `is_available: false`."""
    scenario = replace(quick(), balance=Balance(topped_up="0.0001"))

    async def talk():
        async with running(scenario) as client:
            statuses = [(await client.post(chat(), X_Simulator_Tokens="0,0,0,200"))[0] for _ in range(2)]
            return statuses, json.loads((await client.get("/user/balance"))[2])

    statuses, balance = asyncio.run(talk())
    assert statuses == [200, 402]
    assert not balance["is_available"]
