// The SDK's clients as an application makes them, and what the scenarios need around them.

import assert from "node:assert/strict";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// Modules are looked for beside the file that imports them; the SDK is elsewhere.
export const openai = await import(pathToFileURL(join(process.env.SDK, "node_modules/openai/index.mjs")));

const GATEWAY = process.env.GATEWAY;
// The addresses of the mock backends by their names.
const MOCKS = JSON.parse(process.env.MOCKS);

export const CHAT_MODEL = "gpt-4o";
export const EMBEDDING_MODEL = "text-embedding-3-small";
export const MESSAGES = [{ role: "user", content: "Say hello." }];

// The two clients. Their keys must never reach a backend.
function clients(options) {
  const common = { timeout: 20_000, ...options };
  return [
    new openai.OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: "sk-client-plain", ...common }),
    new openai.AzureOpenAI({ endpoint: GATEWAY, apiKey: "sk-client-azure", apiVersion: "2024-10-21", ...common }),
  ];
}

// Runs a scenario with each of the clients.
export async function run(scenario, options) {
  for (const client of clients(options)) {
    try {
      await scenario(client);
    } catch (error) {
      console.error(`with ${client.constructor.name}:`, error);
      process.exit(1);
    }
  }
}

export async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

export async function chatText(client) {
  const answer = await client.chat.completions.create({ model: CHAT_MODEL, messages: MESSAGES });
  return answer.choices[0].message.content;
}

// The text of a streamed chat completion, which must come to its end.
export async function chatStreamText(client) {
  const stream = await client.chat.completions.create({ model: CHAT_MODEL, messages: MESSAGES, stream: true });
  const choices = (await all(stream)).flatMap((chunk) => chunk.choices);
  assert.equal(choices.at(-1).finish_reason, "stop");
  return choices.map((choice) => choice.delta.content ?? "").join("");
}

// The text of a streamed response, which must come to its end.
export async function responsesStreamText(client) {
  const events = await all(await client.responses.create({ model: CHAT_MODEL, input: "Say hello.", stream: true }));
  assert.equal(events[0].type, "response.created");
  assert.equal(events.at(-1).type, "response.completed");
  return events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
}

// Tells a mock how to fail.
export async function order(mock, fault) {
  const answer = await fetch(`${MOCKS[mock]}/_mock/fault`, { method: "POST", body: JSON.stringify(fault) });
  assert.equal(answer.status, 200);
  await answer.arrayBuffer();
}

// Checks who wrote a text.
export function fromBackend(name, text) {
  assert.ok(text.startsWith(name), `not from ${name}: ${text}`);
}

// The exception of this kind that the call ends with.
export async function raises(kind, call) {
  let answer;
  try {
    answer = await call();
  } catch (error) {
    assert.ok(error instanceof kind, `expected ${kind.name}: ${error.constructor.name} ${error}`);
    return error;
  }
  assert.fail(`expected ${kind.name}: ${JSON.stringify(answer)}`);
}
