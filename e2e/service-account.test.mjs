// Service accounts, and what a key carries: limits, metadata, prefix, expiry.
import assert from "node:assert/strict";
import { test } from "node:test";
import { admin, authorize, canSignIn, get, keyClient, keyOf, person, post, refused, sleep, unique } from "./world.mjs";

async function account(more = {}) {
  const answer = await post("/v1/service-accounts", { name: unique("robot"), ...more }, { key: admin.key });
  assert.equal(answer.status, 201, answer.text);
  return answer;
}

test("one call makes the account and its key", async () => {
  const answer = await account({ role: "admin", attributes: { team: "ops" }, key: { name: "deploy", permissions: { user: ["list"] } } });
  const { user, key } = answer.body;
  assert.match(key.key, /^ost_[A-Za-z0-9]{60,}$/);
  assert.deepEqual(key.permissions, { user: ["list"] });
  assert.equal(answer.headers.get("cache-control"), "no-store");

  const me = await get("/v1/me", { key: key.key });
  assert.equal(me.body.principal.type, "service_account");
  assert.equal(me.body.principal.id, user.id);
  assert.equal(me.body.principal.user.id, user.id);
  assert.deepEqual(me.body.principal.user.attributes, { team: "ops" });
  assert.equal(me.body.principal.key.id, key.id);
  assert.equal(me.body.principal.key.name, "deploy");
  assert.deepEqual(me.body.permissions, { user: ["list"] });
  assert.equal((await get("/api/auth/admin/list-users", { key: key.key })).status, 200);
});

test("a service account without a role does what self and grants permit, no more", async () => {
  const { body } = await account({ key: { permissions: { user: ["list"] } } });
  assert.equal((await get("/api/auth/admin/list-users", { key: body.key.key })).status, 403);
});

test("a service account has no password to sign in with", async () => {
  const { body } = await account();
  for (const password of ["", "password", "undefined", "null"]) assert.equal(await canSignIn(body.user.email, password), false);
});

test("what is refused leaves nothing behind", async () => {
  const name = unique("robot");
  const limited = await keyOf(await person("owner", { role: "admin" }), { user: ["create"], apiKey: ["create"] });
  const answer = await post("/v1/service-accounts", { name, key: { permissions: { user: ["delete"] } } }, { key: limited.key });
  assert.equal(answer.status, 403, answer.text);
  const users = await get(`/api/auth/admin/list-users?searchField=name&searchValue=${name}`, { key: admin.key });
  assert.equal(users.body.total, 0, "the account was made without its key");
});

/** A service account's key with limits; people cannot give their own keys limits. */
async function limited(limits) {
  const { body } = await account({ role: "admin", key: { permissions: { user: ["list"] }, ...limits } });
  return { owner: body.user, key: body.key };
}

test("a key is what it was created as", async () => {
  const { owner, key } = await limited({ prefix: "ci_", metadata: { for: "ci", n: [1, { a: null }] }, expiresIn: 86400, remaining: 5, refillAmount: 5, refillInterval: 60000, rateLimitEnabled: true, rateLimitMax: 3, rateLimitTimeWindow: 1000 });
  assert.ok(key.key.startsWith("ci_"));
  assert.equal(key.start, key.key.slice(0, 6));
  assert.equal(key.prefix, "ci_");
  assert.ok(Math.abs(new Date(key.expiresAt) - Date.now() - 86400_000) < 10_000);
  const read = await get(`/api/auth/api-key/get?id=${key.id}&userId=${owner.id}`, { key: admin.key });
  assert.equal(read.status, 200, read.text);
  const { key: secret, ...shown } = key;
  assert.deepEqual(read.body, shown);
  assert.ok(!read.text.includes(secret));
  const me = await get("/v1/me", { key: secret });
  assert.deepEqual(me.body.principal.key.metadata, { for: "ci", n: [1, { a: null }] });
});

/** How 64 requests at once with this key end: {status: count}. */
async function burst(key, n = 64) {
  const answers = await Promise.all(Array.from({ length: n }, () => get("/api/auth/admin/list-users?limit=1", { key })));
  const counts = {};
  for (const { status } of answers) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}

test("remaining: of 64 at once exactly as many succeed as are left", async () => {
  const { owner, key } = await limited({ remaining: 10 });
  assert.deepEqual(await burst(key.key), { 200: 10, 429: 54 });
  assert.deepEqual(await burst(key.key, 3), { 429: 3 });
  const read = await get(`/api/auth/api-key/get?id=${key.id}&userId=${owner.id}`, { key: admin.key });
  assert.equal(read.body.remaining, 0);
  const verified = await post("/v1/keys/verify", { key: key.key }, { key: admin.key });
  assert.deepEqual([verified.body.valid, verified.body.code], [false, "USAGE_EXCEEDED"]);
});

test("refill: what is left comes back after the interval, and no more", async () => {
  const { owner, key } = await limited({ remaining: 2, refillAmount: 5, refillInterval: 3000 });
  const born = Date.parse(key.createdAt);
  assert.deepEqual(await burst(key.key), { 200: 2, 429: 62 });
  assert.ok(Date.now() - born < 3000, "this machine is too slow for this test");
  await sleep(born + 3100 - Date.now());
  assert.deepEqual(await burst(key.key), { 200: 5, 429: 59 });
});

test("rate limit: of 64 at once exactly as many succeed as the window allows", async () => {
  const { owner, key } = await limited({ rateLimitEnabled: true, rateLimitMax: 7, rateLimitTimeWindow: 60_000 });
  assert.deepEqual(await burst(key.key), { 200: 7, 429: 57 });
  const refusal = await get("/api/auth/admin/list-users", { key: key.key });
  assert.equal(refusal.body.code, "RATE_LIMITED");
  assert.ok(refusal.body.details.tryAgainIn > 0 && refusal.body.details.tryAgainIn <= 60_000);
});

test("rate limit: the window ends, and does not slide with traffic", async () => {
  const { owner, key } = await limited({ rateLimitEnabled: true, rateLimitMax: 3, rateLimitTimeWindow: 1500 });
  const use = async () => (await get("/api/auth/admin/list-users?limit=1", { key: key.key })).status;
  const begun = Date.now();
  assert.deepEqual([await use(), await use(), await use(), await use()], [200, 200, 200, 429]);
  while (Date.now() < begun + 1400) await use().then(() => sleep(100)); // refused uses do not extend it
  await sleep(begun + 1700 - Date.now());
  assert.equal(await use(), 200);
});

test("what is refused consumes nothing", async () => {
  const { owner, key } = await limited({ remaining: 10, rateLimitEnabled: true, rateLimitMax: 2, rateLimitTimeWindow: 60_000 });
  assert.deepEqual(await burst(key.key, 20), { 200: 2, 429: 18 });
  const read = await get(`/api/auth/api-key/get?id=${key.id}&userId=${owner.id}`, { key: admin.key });
  assert.equal(read.body.remaining, 8, "the rate limit's refusals used up the quota");
});

test("a key without limits of its own has none", async () => {
  const owner = await person("owner", { role: "admin" });
  const key = await keyOf(owner, { user: ["list"] });
  assert.deepEqual(await burst(key.key), { 200: 64 });
});

test("verify says what a key is worth, and whose it is", async () => {
  const owner = await person("owner", { role: "admin" });
  const key = await keyOf(owner, { user: ["list"] });
  const verify = async (body) => (await post("/v1/keys/verify", body, { key: admin.key })).body;
  const good = await verify({ key: key.key });
  assert.deepEqual([good.valid, good.code, good.key.id, good.user.id], [true, "VALID", key.id, owner.id]);
  assert.equal((await verify({ key: key.key, permissions: { user: ["list"] } })).code, "VALID");
  assert.equal((await verify({ key: key.key, permissions: { user: ["delete"] } })).code, "INSUFFICIENT_PERMISSIONS");
  assert.equal((await verify({ key: "nonsense" })).code, "NOT_FOUND");
  await keyClient(admin.key).admin.banUser({ userId: owner.id });
  assert.equal((await verify({ key: key.key })).code, "OWNER_BANNED");
  const denied = await post("/v1/keys/verify", { key: key.key }, { key: (await keyOf(await person("nobody"), { apiKey: ["verify"] })).key });
  assert.equal(denied.status, 403, denied.text);
});

test("the client's own key management, for a person", async () => {
  const { signedIn, succeeded } = await import("./world.mjs");
  const { client } = await signedIn(await person("ann"));
  const { data: made } = succeeded(await client.apiKey.create({ name: "laptop", prefix: "ann_" }));
  assert.ok(made.key.startsWith("ann_"));
  const { data: listed } = succeeded(await client.apiKey.list());
  assert.deepEqual(listed.apiKeys.map((k) => k.id), [made.id]);
  assert.equal(succeeded(await client.apiKey.get({ query: { id: made.id } })).data.name, "laptop");
  assert.equal(succeeded(await client.apiKey.update({ keyId: made.id, name: "desk" })).data.name, "desk");
  assert.deepEqual(succeeded(await client.apiKey.delete({ keyId: made.id })).data, { success: true });
  refused(await client.apiKey.get({ query: { id: made.id } }), 404, "KEY_NOT_FOUND");
});

test("a decision about a service account names its key", async () => {
  const { body } = await account({ role: "admin", key: { permissions: { user: ["list"] } } });
  const decision = await authorize({ action: "list", resource: { type: "user" } }, { key: body.key.key });
  assert.deepEqual([decision.allow, decision.principal.type, decision.principal.keyId], [true, "service_account", body.key.id]);
});
