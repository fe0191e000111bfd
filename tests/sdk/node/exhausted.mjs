// What the SDK makes of a gateway that cannot serve: `exhausted.mjs SCENARIO`.

import assert from "node:assert/strict";
import { all, CHAT_MODEL, chatText, fromBackend, MESSAGES, openai, order, raises, run } from "./clients.mjs";

const call = (client, options) => () =>
  client.chat.completions.create({ model: CHAT_MODEL, messages: MESSAGES, ...options });

const secondsSince = (start) => (performance.now() - start) / 1000;

const scenarios = {
  // All gates are closed for half a minute.
  async throttled(client) {
    for (const options of [{}, { stream: true }]) {
      const started = performance.now();
      const error = await raises(openai.RateLimitError, call(client, options));
      assert.ok(secondsSince(started) < 5);
      assert.equal(error.status, 429);
      assert.ok(error.type && error.code, JSON.stringify(error.error));
      const delay = Number(error.headers.get("retry-after-ms"));
      assert.ok(delay > 20_000 && delay <= 60_000, `${delay}`);
    }
  },

  // Every backend answers 503.
  async failing(client) {
    for (const options of [{}, { stream: true }]) {
      const error = await raises(openai.InternalServerError, call(client, options));
      assert.equal(error.status, 503);
      assert.ok(error.type && error.code, JSON.stringify(error.error));
    }
  },

  // Nothing is wrong with the backends; the requests are.
  async refused(client) {
    let error = await raises(openai.NotFoundError, call(client, { model: "no-such-model" }));
    assert.equal(error.code, "model_not_found");
    assert.ok(error.message.includes("no-such-model"), error.message);

    error = await raises(openai.BadRequestError, call(client, { messages: "not a list" }));
    assert.equal(error.param, "messages");

    // Without a model there is no pool. An Azure client then has no deployment in its path either.
    const nothing = () => client.post("/chat/completions", { body: { messages: MESSAGES } });
    error = await raises(openai.BadRequestError, nothing);
    assert.equal(error.param, "model");

    await order("ptu", { fault: "content_filter400" });
    error = await raises(openai.BadRequestError, call(client));
    assert.equal(error.code, "content_filter");
  },

  async waiting(client) {
    const throttle = { fault: "throttle", retry_after_ms: 1000 };
    await order("ptu", throttle);
    await order("sweden", throttle);
    await wait(client, openai.RateLimitError);
  },

  async tripped(client) {
    const fault = { fault: "status", status: 503 };
    await order("ptu", fault);
    fromBackend("sweden", await chatText(client));
    // Now nobody else can serve, so the request probes the first backend early, which fails.
    await order("sweden", { fault: "throttle", retry_after_ms: 1000 });
    await order("ptu", fault);
    await wait(client, openai.InternalServerError);
  },

  // A stream that breaks after its beginning is neither repeated nor taken for a whole one.
  async broken(client) {
    const read = async () => all(await call(client, { stream: true })());
    await order("ptu", { fault: "mid_stream_error", after_events: 4 });
    const error = await raises(openai.APIError, read);
    assert.ok(error.message.includes("told to fail"), error.message);
    await order("ptu", { fault: "reset_after_headers", after_events: 4 });
    await raises(Error, read);
  },
};

// All backends are out for a second: without retries it raises at once, with one it waits and is served.
async function wait(client, kind) {
  let started = performance.now();
  const error = await raises(kind, call(client));
  assert.ok(secondsSince(started) < 0.8, "it was to raise at once");
  const delay = Number(error.headers.get("retry-after-ms"));
  assert.ok(delay >= 1_000 && delay < 2_000, `${delay}`);

  started = performance.now();
  fromBackend("ptu", await chatText(client.withOptions({ maxRetries: 1 })));
  // The SDK's own back-off would be half a second at most.
  const waited = secondsSince(started);
  assert.ok(waited >= 1 && waited < 4, `${waited}`);
}

await run(scenarios[process.argv[2]], { maxRetries: 0 });
