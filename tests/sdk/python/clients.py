"""The SDK's clients as an application makes them, and what the scenarios need around them.

Every scenario is written once for all four. What is awaited with the asynchronous clients is used as it is
with the others: `done`, `each` and `opened` hide that difference, and nothing else is hidden.
"""

import asyncio
import contextlib
import inspect
import json
import os
import urllib.request

import openai

GATEWAY = os.environ["GATEWAY"]
# The addresses of the mock backends by their names.
MOCKS = json.loads(os.environ["MOCKS"])

CHAT_MODEL = "gpt-4o"
EMBEDDING_MODEL = "text-embedding-3-small"
MESSAGES = [{"role": "user", "content": "Say hello."}]


def clients(**options):
    """The four clients. Their keys must never reach a backend."""
    plain = dict(base_url=GATEWAY + "/v1", api_key="sk-client-plain", timeout=20, **options)
    azure = dict(azure_endpoint=GATEWAY, api_key="sk-client-azure", api_version="2024-10-21", timeout=20, **options)
    return [
        openai.OpenAI(**plain),
        openai.AzureOpenAI(**azure),
        openai.AsyncOpenAI(**plain),
        openai.AsyncAzureOpenAI(**azure),
    ]


async def done(answer):
    """The answer of either kind of client."""
    return await answer if inspect.isawaitable(answer) else answer


async def each(stream):
    """The events of either kind of stream, iterated as its kind wants it."""
    if hasattr(stream, "__aiter__"):
        async for event in stream:
            yield event
    else:
        for event in stream:
            yield event


@contextlib.asynccontextmanager
async def opened(manager):
    """What either kind of context manager opens."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def raises(kind, call):
    """The exception of this kind that the call ends with."""
    try:
        answer = await done(call())
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError("expected %s: %r" % (kind.__name__, error)) from error
    raise AssertionError("expected %s: %r" % (kind.__name__, answer))


async def chat_text(client, **options):
    """The text of a chat completion."""
    answer = await done(client.chat.completions.create(model=CHAT_MODEL, messages=MESSAGES, **options))
    return answer.choices[0].message.content


async def chat_stream_text(client):
    """The text of a streamed chat completion, which must come to its end."""
    stream = await done(client.chat.completions.create(model=CHAT_MODEL, messages=MESSAGES, stream=True))
    text, finish_reason = "", None
    async for chunk in each(stream):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish_reason = choice.finish_reason or finish_reason
    assert finish_reason == "stop", finish_reason
    return text


async def responses_stream_text(client):
    """The text of a streamed response, which must come to its end."""
    stream = await done(client.responses.create(model=CHAT_MODEL, input="Say hello.", stream=True))
    events = [event async for event in each(stream)]
    assert events[0].type == "response.created", events[0]
    assert events[-1].type == "response.completed", events[-1]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text, text
    return text


def order(mock, fault):
    """Tells a mock how to fail."""
    body = json.dumps(fault).encode()
    request = urllib.request.Request(MOCKS[mock] + "/_mock/fault", body, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def from_backend(name, text):
    """Checks who wrote a text."""
    assert text.startswith(name), "not from %s: %r" % (name, text)


async def with_each(scenario, **options):
    for client in clients(**options):
        try:
            await scenario(client)
        except BaseException:
            print("with %s:" % type(client).__name__, flush=True)
            raise
        await done(client.close())


def run(scenario, **options):
    """Runs a scenario with each of the clients."""
    asyncio.run(with_each(scenario, **options))
