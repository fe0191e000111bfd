"""The first backend fails in every way, and the application does not notice."""

import time

from clients import CHAT_MODEL, chat_stream_text, chat_text, done, from_backend, order, responses_stream_text, run

WHOLE = [
    {"fault": "status", "status": 503},
    {"fault": "status", "status": 500},
    {"fault": "status", "status": 408},
    {"fault": "reset_before_headers"},
    {"fault": "close_before_headers"},
    {"fault": "garbage_bytes"},
    {"fault": "throttle", "retry_after_ms": 1},
]
CHAT_STREAM = [
    {"fault": "error_first_event", "shape": "chat", "code": "server_error"},
    {"fault": "error_first_event", "shape": "chat", "code": "rate_limit_exceeded"},
    {"fault": "in_band_throttle", "retry_after_ms": 1},
]
RESPONSES_STREAM = [
    {"fault": "error_first_event", "shape": "responses_nested", "code": "server_error"},
    {"fault": "error_first_event", "shape": "responses_flat", "code": "server_error"},
    {"fault": "error_first_event", "shape": "response_failed", "code": "server_error"},
    {"fault": "in_band_throttle", "retry_after_ms": 1},
]


async def response_text(client):
    return (await done(client.responses.create(model=CHAT_MODEL, input="Say hello."))).output_text


async def heard_text(client):
    sound = ("sound.wav", b"RIFF\x00\xff\r\n--not-a-boundary\r\n" * 4000)
    return (await done(client.audio.transcriptions.create(model=CHAT_MODEL, file=sound))).text


async def scenario(client):
    for call, faults in [
        (chat_text, WHOLE),
        (chat_stream_text, WHOLE + CHAT_STREAM),
        (response_text, WHOLE),
        (responses_stream_text, WHOLE + RESPONSES_STREAM),
        (heard_text, WHOLE),
    ]:
        for fault in faults:
            order("ptu", fault)
            try:
                text = await call(client)
            except Exception as error:
                raise AssertionError("%s noticed %r" % (call.__name__, fault)) from error
            from_backend("sweden", text)
            wait_for_gate()


def wait_for_gate():
    # Whether the throttle gate is closed cannot be asked without a request, which would go elsewhere.
    time.sleep(0.005)


# Should the SDK itself try again, then this shows in a header that the mocks record.
run(scenario, max_retries=2)
