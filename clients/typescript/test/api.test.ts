/** Against the service that HEADWATER_URL names, with the key HEADWATER_KEY. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";

import { createHeadwater, type Event, ProblemError } from "../src/index.js";

const url = process.env["HEADWATER_URL"] ?? "";
const key = process.env["HEADWATER_KEY"] ?? "";
const slowKey = process.env["HEADWATER_SLOW_KEY"] ?? "";
const api = createHeadwater({ url, key });

function click(item_id: string, fields: Partial<Event> = {}): Event {
  return { type: "click", item_id, event_id: randomUUID(), ...fields } as Event;
}

test("an answer knows the events of its request", async () => {
  const person = randomUUID();
  const first = await api.POST("/v1/recommendations", { body: { person, limit: 5 } });
  const best = first.data?.items[0]?.item_id;
  assert.ok(best);
  assert.equal(first.data?.items.length, 5);
  const events = [click(best)];
  const then = await api.POST("/v1/recommendations", { body: { person, events, record: true } });
  assert.equal(then.data?.recorded, true);
  assert.ok(!then.data?.items.some((item) => item.item_id === best));
});

test("events are sent, and a list is put in order", async () => {
  const sent = await api.POST("/v1/events", { body: [click("i1", { user_id: "ts" }), click("i2", { user_id: "ts" })] });
  assert.equal(sent.data?.accepted, 2);
  const ranked = await api.POST("/v1/rank", { body: { person: "ts", items: ["i3", "i4"] } });
  assert.deepEqual(ranked.data?.items.map((item) => item.item_id).sort(), ["i3", "i4"]);
  const popular = await api.GET("/v1/popular", { params: { query: { limit: 3 } } });
  assert.ok((popular.data?.items.length ?? 9) <= 3);
});

test("pages repeat nothing, and scores say what they are the sum of", async () => {
  const person = randomUUID();
  const first = await api.POST("/v1/recommendations", { body: { person, limit: 5, explain: true } });
  const cursor = first.data?.cursor;
  assert.ok(cursor);
  for (const item of first.data?.items ?? []) {
    const sum = Object.values(item.parts ?? {}).reduce((one, other) => one + other, 0);
    assert.ok(Math.abs(sum - item.score) < 1e-3);
  }
  const second = await api.POST("/v1/recommendations", { body: { person, limit: 5, cursor } });
  const unseen = await api.POST("/v1/recommendations", { body: { person, exclude_shown: true } });
  const names = [first, second, unseen].flatMap((page) => page.data?.items.map((item) => item.item_id) ?? []);
  assert.equal(new Set(names).size, names.length);
  assert.equal(unseen.data?.shown, 10);
});

test("what goes with a cart, at a place that was made, for who is known", async () => {
  const person = randomUUID();
  await api.PUT("/v1/placements/{name}", { params: { path: { name: "ts" } }, body: { limit: 3 } });
  const body = { items: ["i8", "i9"], person, placement: "ts" };
  const found = await api.POST("/v1/items/together", { body });
  assert.deepEqual(found.data?.items.map((item) => item.known_by), ["together", "together", "together"]);
  const put = { params: { path: { person } }, body: { attributes: { city: "Ghent" } } };
  const told = await api.PUT("/v1/people/{person}/attributes", put);
  assert.ok(Object.keys(told.data?.place ?? {}).length);
});

test("a problem is thrown, with its field", async () => {
  const asked = api.POST("/v1/recommendations", { body: { person: "ann", limit: 0 } });
  await assert.rejects(asked, (error) => {
    assert.ok(error instanceof ProblemError);
    assert.equal(error.problem.status, 400);
    assert.equal(error.problem.field, "limit");
    return true;
  });
});

test("a person's id may have any characters", async () => {
  const person = `a/b ?${randomUUID()}`;
  const described = api.GET("/v1/people/{person}", { params: { path: { person } } });
  await assert.rejects(described, (error) => error instanceof ProblemError && error.problem.status === 404);
});

test("what comes too often is asked again when the API says", async () => {
  const slow = createHeadwater({ url, key: slowKey });
  for (let asked = 0; asked < 3; asked += 1) {
    const answered = await slow.GET("/version");
    assert.ok(answered.data?.release);
  }
  const once = createHeadwater({ url, key: slowKey, tries: 1 });
  const asked = Promise.all([once.GET("/version"), once.GET("/version")]);
  await assert.rejects(asked, (error) => error instanceof ProblemError && error.problem.status === 429);
});
