"""Every operation of the SDK that the gateway knows, answered by the right backend."""

import io

from clients import (
    CHAT_MODEL, EMBEDDING_MODEL, MESSAGES, chat_stream_text, chat_text, done, each, from_backend, opened,
    responses_stream_text, run,
)


async def scenario(client):
    await chat(client)
    await responses(client)
    await other(client)


async def chat(client):
    from_backend("ptu", await chat_text(client))
    from_backend("ptu", await chat_stream_text(client))

    raw = await done(client.chat.completions.with_raw_response.create(model=CHAT_MODEL, messages=MESSAGES))
    assert raw.headers["x-served-by"] == "ptu", raw.headers
    assert raw.headers["x-spillway-attempts"] == "1", raw.headers
    assert raw.parse().usage.total_tokens > 0

    async with opened(client.chat.completions.stream(model=CHAT_MODEL, messages=MESSAGES)) as stream:
        kinds = [event.type async for event in each(stream)]
        final = await done(stream.get_final_completion())
    assert "content.delta" in kinds and kinds[-1] == "content.done", kinds
    from_backend("ptu", final.choices[0].message.content)

    stream = await done(client.chat.completions.create(
        model=CHAT_MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True},
    ))
    chunks = [chunk async for chunk in each(stream)]
    assert chunks[-1].usage.completion_tokens > 0, chunks[-1]

    streaming = client.chat.completions.with_streaming_response
    async with opened(streaming.create(model=CHAT_MODEL, messages=MESSAGES)) as answer:
        assert (await done(answer.parse())).object == "chat.completion"


async def responses(client):
    made = await done(client.responses.create(model=CHAT_MODEL, input="Say hello."))
    from_backend("ptu", made.output_text)
    found = await done(client.responses.retrieve(made.id))
    assert found.id == made.id and found.output_text == made.output_text
    further = await done(client.responses.create(model=CHAT_MODEL, input="Again.", previous_response_id=made.id))
    assert further.previous_response_id == made.id
    await done(client.responses.delete(made.id))

    from_backend("ptu", await responses_stream_text(client))
    async with opened(client.responses.stream(model=CHAT_MODEL, input="Say hello.")) as stream:
        kinds = [event.type async for event in each(stream)]
        final = await done(stream.get_final_response())
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
    from_backend("ptu", final.output_text)


async def other(client):
    vectors = await done(client.embeddings.create(model=EMBEDDING_MODEL, input=["one", "two", "one"]))
    assert [entry.index for entry in vectors.data] == [0, 1, 2], vectors
    # The SDK asks for base64 by itself and decodes it.
    first, second, third = [entry.embedding for entry in vectors.data]
    assert first == third != second and isinstance(first[0], float)

    text = await done(client.completions.create(model=CHAT_MODEL, prompt="Say hello."))
    from_backend("ptu", text.choices[0].text)
    stream = await done(client.completions.create(model=CHAT_MODEL, prompt="Say hello.", stream=True))
    from_backend("ptu", "".join([choice.text async for chunk in each(stream) for choice in chunk.choices]))

    models = [model async for model in each(await done(client.models.list()))]
    assert models and all(model.object == "model" for model in models), models

    image = await done(client.images.generate(model=CHAT_MODEL, prompt="A dam."))
    assert image.data[0].revised_prompt == "ptu paints", image

    sound = io.BytesIO(b"RIFF\x00\xff\r\n--not-a-boundary\r\n" * 4000)
    sound.name = "sound.wav"
    heard = await done(client.audio.transcriptions.create(model=CHAT_MODEL, file=sound))
    assert heard.text == "ptu heard it as gpt-4o-ptu", heard
    spoken = await done(client.audio.speech.create(model=CHAT_MODEL, voice="alloy", input="Hello."))
    assert b"ptu" in spoken.content and len(spoken.content) > 1000


run(scenario, max_retries=0)
