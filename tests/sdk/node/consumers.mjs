// What the SDK makes of a gateway that limits who calls: `consumers.mjs SCENARIO`.

import assert from "node:assert/strict";
import { CHAT_MODEL, chatStreamText, chatText, fromBackend, MESSAGES, openai, raises, run } from "./clients.mjs";

// The client as a consumer of its own.
const named = (client, kind, options) =>
  client.withOptions({ defaultHeaders: { "x-consumer": `${kind}-${client.constructor.name}` }, ...options });

const call = (client, options) => () =>
  client.chat.completions.create({ model: CHAT_MODEL, messages: MESSAGES, ...options });

const scenarios = {
  // Its tokens of this minute are used up after the first response.
  async limited(original) {
    const client = named(original, "minute");
    const { data, response } = await call(client)().withResponse();
    assert.equal(Number(response.headers.get("consumed-tokens")), data.usage.total_tokens);
    const left = response.headers.get("remaining-tokens");
    for (const options of [{}, { stream: true }]) {
      const started = performance.now();
      const error = await raises(openai.RateLimitError, call(client, options));
      assert.ok(performance.now() - started < 5_000);
      assert.deepEqual([error.status, error.type, error.code], [429, "tokens", "rate_limit_exceeded"]);
      // An SDK that may try again waits for as long as this says; older ones for a minute at most.
      const delay = Number(error.headers.get("retry-after-ms"));
      assert.ok(delay >= 1 && delay <= 60_000, `${delay}`);
      assert.equal(Number(error.headers.get("retry-after")), Math.ceil(delay / 1_000));
      assert.equal(error.headers.get("remaining-tokens"), left);
    }
  },

  // Its tokens of this month are used up after the first response. Trying again is no use, and is not tried.
  async out_of_quota(original) {
    const client = named(original, "month", { maxRetries: 2 });
    fromBackend("ptu", await chatStreamText(client));
    for (const options of [{}, { stream: true }]) {
      const error = await raises(openai.PermissionDeniedError, call(client, options));
      assert.deepEqual([error.status, error.type, error.code], [403, "insufficient_quota", "quota_exceeded"]);
    }
    // Others are not concerned.
    fromBackend("ptu", await chatText(named(original, "free")));
  },
};

await run(scenarios[process.argv[2]], { maxRetries: 0 });
