// The native questions: one, many, permissions, why.
import assert from "node:assert/strict";
import { test } from "node:test";
import { admin, authorize, codes, eventually, get, keyOf, person, post, signedIn } from "./world.mjs";

test("without a credential the anonymous principal is asked about", async () => {
  const decision = await authorize({ action: "get", resource: { type: "user", id: admin.id } });
  assert.deepEqual([decision.allow, decision.principal.type, codes(decision)], [false, "anonymous", ["unauthenticated"]]);
});

test("a denial is 200; a bad credential is 401; nonsense is 400", async () => {
  assert.equal((await post("/v1/authorize", { action: "x", resource: { type: "y" } })).status, 200);
  assert.equal((await post("/v1/authorize", { action: "x", resource: { type: "y" } }, { key: "nonsense" })).status, 401);
  for (const body of [{}, { action: "x" }, { resource: { type: "y" } }, { action: 1, resource: { type: "y" } }, { action: "x", resource: "y" }, [], "x", { checks: "x" }]) {
    const answer = await post("/v1/authorize", body);
    assert.equal(answer.status, 400, JSON.stringify(body));
    assert.match(answer.headers.get("content-type"), /^application\/problem\+json/);
    assert.ok(answer.body.code);
  }
});

test("many questions are answered in order, at most 100", async () => {
  const check = (action) => ({ action, resource: { type: "user", id: admin.id } });
  const answer = await post("/v1/authorize", { checks: ["get", "impersonate-admins", "list"].map(check) }, { key: admin.key });
  assert.deepEqual(answer.body.results.map((r) => r.allow), [true, false, true]);
  assert.equal(new Set(answer.body.results.map((r) => r.policyRevision)).size, 1);
  const many = (n) => post("/v1/authorize", { checks: Array.from({ length: n }, () => check("get")) }, { key: admin.key });
  assert.equal((await many(100)).body.results.length, 100);
  assert.equal((await many(101)).status, 400);
});

test("permissions: all or what is missing", async () => {
  const key = await keyOf(await person("owner", { role: "admin" }), { user: ["list"], session: ["list"] });
  const ask = async (permissions) => (await post("/v1/authorize", { permissions }, { key: key.key })).body;
  assert.equal((await ask({ user: ["list"], session: ["list"] })).allow, true);
  const no = await ask({ user: ["list", "set-password"], session: ["list"] });
  assert.deepEqual([no.allow, no.missing], [false, { user: ["set-password"] }]);
});

test("explain names the rules, with file and line", async () => {
  const answer = await authorize({ action: "impersonate-admins", resource: { type: "user", id: admin.id }, explain: true }, { key: admin.key });
  assert.equal(answer.allow, false);
  assert.match(JSON.stringify(answer.explain ?? answer.explanation), /\.rego/);
  assert.match(JSON.stringify(answer.explain ?? answer.explanation), /"line":\d+/);
});

test("what the store knows of a user wins over what the asker says", async () => {
  const ann = await person("ann");
  const there = await signedIn(ann);
  const own = await authorize({ action: "update", resource: { type: "user", id: ann.id } }, { cookie: there.cookie() });
  assert.equal(own.allow, true);
  const lied = await authorize({ action: "update", resource: { type: "user", id: admin.id, properties: { owner: ann.id } } }, { cookie: there.cookie() });
  assert.equal(lied.allow, false);
});

test("every decision is on record, with what it saw and no secret", async () => {
  const key = await keyOf(await person("owner", { role: "admin" }), { user: ["list"] });
  const decision = await authorize({ action: "ban", resource: { type: "user", id: admin.id } }, { key: key.key });
  await eventually(async () => {
    const { status, body, text } = await get(`/v1/decisions/${decision.decisionId}`, { key: admin.key });
    assert.equal(status, 200, text);
    assert.equal(body.allow, false);
    assert.ok(!text.includes(key.key));
    assert.ok(text.includes(key.id));
  });
  assert.equal((await get(`/v1/decisions/${decision.decisionId}`, { key: key.key })).status, 403);
});

test("the header names the decision", async () => {
  const answer = await post("/v1/authorize", { action: "list", resource: { type: "user" } }, { key: admin.key });
  assert.equal(answer.headers.get("ostiary-decision"), answer.body.decisionId);
});
