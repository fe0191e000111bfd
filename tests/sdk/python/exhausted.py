"""What the SDK makes of a gateway that cannot serve: `exhausted.py SCENARIO`."""

import sys
import time

import openai
from clients import CHAT_MODEL, MESSAGES, chat_text, done, each, from_backend, order, raises, run


def call(client, **options):
    return lambda: client.chat.completions.create(**{"model": CHAT_MODEL, "messages": MESSAGES, **options})


async def throttled(client):
    """All gates are closed for half a minute."""
    for options in [{}, {"stream": True}]:
        started = time.monotonic()
        error = await raises(openai.RateLimitError, call(client, **options))
        assert time.monotonic() - started < 5
        assert error.status_code == 429
        assert error.type and error.code, error.body
        delay = float(error.response.headers["retry-after-ms"])
        assert 20_000 < delay <= 60_000, delay


async def failing(client):
    """Every backend answers 503."""
    for options in [{}, {"stream": True}]:
        error = await raises(openai.InternalServerError, call(client, **options))
        assert error.status_code == 503, error
        assert error.type and error.code, error.body


async def refused(client):
    """Nothing is wrong with the backends; the requests are."""
    error = await raises(openai.NotFoundError, call(client, model="no-such-model"))
    assert error.code == "model_not_found", error.body
    assert "no-such-model" in error.message, error.message

    error = await raises(openai.BadRequestError, call(client, messages="not a list"))
    assert error.param == "messages", error.body

    # Without a model there is no pool. An Azure client then has no deployment in its path either.
    nothing = lambda: client.post("/chat/completions", body={"messages": MESSAGES}, cast_to=object)
    error = await raises(openai.BadRequestError, nothing)
    assert error.param == "model", error.body

    order("ptu", {"fault": "content_filter400"})
    error = await raises(openai.BadRequestError, call(client))
    assert error.code == "content_filter", error.body


async def waiting(client):
    """All gates are closed for a second."""
    throttle = {"fault": "throttle", "retry_after_ms": 1000}
    order("ptu", throttle)
    order("sweden", throttle)
    await out_for_a_second(client, openai.RateLimitError)


async def tripped(client):
    """A breaker is open and a gate is closed, each for a second."""
    fault = {"fault": "status", "status": 503}
    order("ptu", fault)
    from_backend("sweden", await chat_text(client))
    # Now nobody else can serve, so the request probes the first backend early, which fails.
    order("sweden", {"fault": "throttle", "retry_after_ms": 1000})
    order("ptu", fault)
    await out_for_a_second(client, openai.InternalServerError)


async def out_for_a_second(client, kind):
    """Without retries it raises at once, with one it waits and is served."""
    started = time.monotonic()
    error = await raises(kind, call(client))
    assert time.monotonic() - started < 0.8, "it was to raise at once"
    assert 1_000 <= float(error.response.headers["retry-after-ms"]) < 2_000, error.response.headers

    started = time.monotonic()
    from_backend("ptu", await chat_text(client.with_options(max_retries=1)))
    # The SDK's own back-off would be half a second at most.
    assert 1.0 <= time.monotonic() - started < 4, time.monotonic() - started


async def broken(client):
    """A stream that breaks after its beginning is neither repeated nor taken for a whole one."""
    async def read():
        stream = await done(call(client, stream=True)())
        return [chunk async for chunk in each(stream)]

    order("ptu", {"fault": "mid_stream_error", "after_events": 4})
    error = await raises(openai.APIError, read)
    assert "told to fail" in error.message, error
    order("ptu", {"fault": "reset_after_headers", "after_events": 4})
    await raises(Exception, read)


SCENARIOS = [throttled, failing, refused, waiting, tripped, broken]
run({scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]], max_retries=0)
