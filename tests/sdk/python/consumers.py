"""What the SDK makes of a gateway that limits who calls: `consumers.py SCENARIO`."""

import sys
import time

import openai
from clients import CHAT_MODEL, MESSAGES, chat_stream_text, chat_text, done, from_backend, raises, run


def named(client, kind):
    """The client as a consumer of its own."""
    name = "%s-%s" % (kind, type(client).__name__)
    return client.with_options(default_headers={"x-consumer": name})


def call(client, **options):
    return lambda: client.chat.completions.create(model=CHAT_MODEL, messages=MESSAGES, **options)


async def limited(client):
    """Its tokens of this minute are used up after the first answer."""
    client = named(client, "minute")
    answer = await done(client.chat.completions.with_raw_response.create(model=CHAT_MODEL, messages=MESSAGES))
    used = (await done(answer.parse())).usage.total_tokens
    assert int(answer.headers["consumed-tokens"]) == used, answer.headers
    left = int(answer.headers["remaining-tokens"])
    for options in [{}, {"stream": True}]:
        started = time.monotonic()
        error = await raises(openai.RateLimitError, call(client, **options))
        assert time.monotonic() - started < 5
        assert (error.status_code, error.type, error.code) == (429, "tokens", "rate_limit_exceeded"), error.body
        # An SDK that may try again waits for as long as this says; older ones for a minute at most.
        delay = float(error.response.headers["retry-after-ms"])
        assert 1 <= delay <= 60_000, delay
        assert int(error.response.headers["retry-after"]) == -(-delay // 1_000)
        assert int(error.response.headers["remaining-tokens"]) == left


async def out_of_quota(client):
    """Its tokens of this month are used up after the first answer. Trying again is no use, and is not tried."""
    client = named(client, "month").with_options(max_retries=2)
    from_backend("ptu", await chat_stream_text(client))
    for options in [{}, {"stream": True}]:
        error = await raises(openai.PermissionDeniedError, call(client, **options))
        assert (error.status_code, error.type, error.code) == (403, "insufficient_quota", "quota_exceeded"), error.body
    # Others are not concerned.
    from_backend("ptu", await chat_text(named(client, "free")))


SCENARIOS = [limited, out_of_quota]
run({scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]], max_retries=0)
