// The first backend fails in every way, and the application does not notice.

import { setTimeout } from "node:timers/promises";
import { CHAT_MODEL, chatStreamText, chatText, fromBackend, openai, order, responsesStreamText, run } from "./clients.mjs";

const WHOLE = [
  { fault: "status", status: 503 },
  { fault: "status", status: 500 },
  { fault: "status", status: 408 },
  { fault: "reset_before_headers" },
  { fault: "close_before_headers" },
  { fault: "garbage_bytes" },
  { fault: "throttle", retry_after_ms: 1 },
];
const CHAT_STREAM = [
  { fault: "error_first_event", shape: "chat", code: "server_error" },
  { fault: "error_first_event", shape: "chat", code: "rate_limit_exceeded" },
  { fault: "in_band_throttle", retry_after_ms: 1 },
];
const RESPONSES_STREAM = [
  { fault: "error_first_event", shape: "responses_nested", code: "server_error" },
  { fault: "error_first_event", shape: "responses_flat", code: "server_error" },
  { fault: "error_first_event", shape: "response_failed", code: "server_error" },
  { fault: "in_band_throttle", retry_after_ms: 1 },
];

async function responseText(client) {
  return (await client.responses.create({ model: CHAT_MODEL, input: "Say hello." })).output_text;
}

async function heardText(client) {
  const sound = Buffer.from("RIFF\0\xff\r\n--not-a-boundary\r\n".repeat(4000), "latin1");
  const file = await openai.toFile(sound, "sound.wav");
  return (await client.audio.transcriptions.create({ model: CHAT_MODEL, file })).text;
}

async function scenario(client) {
  for (const [call, faults] of [
    [chatText, WHOLE],
    [chatStreamText, [...WHOLE, ...CHAT_STREAM]],
    [responseText, WHOLE],
    [responsesStreamText, [...WHOLE, ...RESPONSES_STREAM]],
    [heardText, WHOLE],
  ]) {
    for (const fault of faults) {
      await order("ptu", fault);
      const text = await call(client).catch((error) => {
        throw new Error(`${call.name} noticed ${JSON.stringify(fault)}`, { cause: error });
      });
      fromBackend("sweden", text);
      // Whether the throttle gate is closed cannot be asked without a request, which would go elsewhere.
      await setTimeout(5);
    }
  }
}

// Should the SDK itself try again, then this shows in a header that the mocks record.
await run(scenario, { maxRetries: 2 });
