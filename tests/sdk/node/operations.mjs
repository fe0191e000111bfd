// Every operation of the SDK that the gateway knows, answered by the right backend.

import assert from "node:assert/strict";
import {
  all, CHAT_MODEL, chatStreamText, chatText, EMBEDDING_MODEL, fromBackend, MESSAGES, openai, responsesStreamText, run,
} from "./clients.mjs";

async function chat(client) {
  fromBackend("ptu", await chatText(client));
  fromBackend("ptu", await chatStreamText(client));

  const request = { model: CHAT_MODEL, messages: MESSAGES };
  const { data, response } = await client.chat.completions.create(request).withResponse();
  assert.equal(response.headers.get("x-served-by"), "ptu");
  assert.equal(response.headers.get("x-spillway-attempts"), "1");
  assert.ok(data.usage.total_tokens > 0);

  const helper = client.chat.completions.stream(request);
  let deltas = "";
  helper.on("content", (delta) => (deltas += delta));
  const content = await helper.finalContent();
  fromBackend("ptu", content);
  assert.equal(deltas, content);

  const options = { stream: true, stream_options: { include_usage: true } };
  const counted = await client.chat.completions.create({ ...request, ...options });
  assert.ok((await all(counted)).at(-1).usage.completion_tokens > 0);
}

async function responses(client) {
  const made = await client.responses.create({ model: CHAT_MODEL, input: "Say hello." });
  fromBackend("ptu", made.output_text);
  const found = await client.responses.retrieve(made.id);
  assert.equal(found.id, made.id);
  const further = await client.responses.create({ model: CHAT_MODEL, input: "Again.", previous_response_id: made.id });
  assert.equal(further.previous_response_id, made.id);
  await client.responses.delete(made.id);

  fromBackend("ptu", await responsesStreamText(client));
  const helper = client.responses.stream({ model: CHAT_MODEL, input: "Say hello." });
  const events = await all(helper);
  assert.equal(events.at(-1).type, "response.completed");
  fromBackend("ptu", (await helper.finalResponse()).output_text);
}

async function other(client) {
  const vectors = await client.embeddings.create({ model: EMBEDDING_MODEL, input: ["one", "two", "one"] });
  // The SDK asks for base64 by itself and decodes it.
  const [first, second, third] = vectors.data.map((entry) => entry.embedding);
  assert.equal(typeof first[0], "number");
  assert.deepEqual(first, third);
  assert.notDeepEqual(first, second);

  const text = await client.completions.create({ model: CHAT_MODEL, prompt: "Say hello." });
  fromBackend("ptu", text.choices[0].text);
  const stream = await client.completions.create({ model: CHAT_MODEL, prompt: "Say hello.", stream: true });
  const choices = (await all(stream)).flatMap((chunk) => chunk.choices);
  fromBackend("ptu", choices.map((choice) => choice.text).join(""));

  const models = await all(client.models.list());
  assert.ok(models.length > 0 && models.every((model) => model.object === "model"));

  const image = await client.images.generate({ model: CHAT_MODEL, prompt: "A dam." });
  assert.equal(image.data[0].revised_prompt, "ptu paints");

  const sound = Buffer.from("RIFF\0\xff\r\n--not-a-boundary\r\n".repeat(4000), "latin1");
  const file = await openai.toFile(sound, "sound.wav");
  const heard = await client.audio.transcriptions.create({ model: CHAT_MODEL, file });
  assert.equal(heard.text, "ptu heard it as gpt-4o-ptu");
  const spoken = await client.audio.speech.create({ model: CHAT_MODEL, voice: "alloy", input: "Hello." });
  assert.ok(Buffer.from(await spoken.arrayBuffer()).includes("ptu"));
}

await run(
  async (client) => {
    await chat(client);
    await responses(client);
    await other(client);
  },
  { maxRetries: 0 },
);
