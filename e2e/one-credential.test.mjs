// Exactly one credential counts, and nothing else says who is calling.
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { admin, browser, get, keyOf, person, post, sessionOf, signedIn } from "./world.mjs";

let alice, aliceKey, root;
before(async () => {
  alice = await person("alice");
  aliceKey = await keyOf(alice, { user: ["list", "update"], session: ["create"] });
  root = await signedIn(admin);
});

const who = async (options) => (await get("/v1/me", options)).body.principal;

test("a key and another person's cookie: only the key counts", async () => {
  const both = { key: aliceKey.key, cookie: root.cookie() };
  assert.equal((await who(both)).id, alice.id);
  assert.equal((await get("/api/auth/get-session", both)).body.user.id, alice.id);
  assert.equal((await get("/api/auth/admin/list-users", both)).status, 403, "the cookie's rights were merged in");
  assert.equal((await post("/api/auth/admin/ban-user", { userId: alice.id }, both)).status, 403);
});

test("an administrator's narrow key and their own cookie: only the key counts", async () => {
  const owner = await person("owner", { role: "admin" });
  const key = await keyOf(owner, { user: ["list"] });
  const there = await signedIn(owner);
  const answer = await post("/api/auth/admin/set-user-password", { userId: alice.id, newPassword: "another password" }, { key: key.key, cookie: there.cookie() });
  assert.equal(answer.status, 403, answer.text);
});

test("a key and a made-up cookie: only the key counts", async () => {
  for (const cookie of ["better-auth.session_token=made.up", "better-auth.session_token=", "x=y"]) {
    const answer = await get("/v1/me", { key: aliceKey.key, cookie });
    assert.equal(answer.status, 200, `${cookie}: ${answer.text}`);
    assert.equal(answer.body.principal.id, alice.id);
  }
});

test("a bad key and a good cookie: refused, not quietly the cookie", async () => {
  const answer = await get("/v1/me", { key: "ost_nonsense", cookie: root.cookie() });
  assert.equal(answer.status, 401, answer.text);
  assert.match(answer.headers.get("www-authenticate") ?? "", /./);
  for (const key of ["ost_nonsense", `ost_${"A".repeat(60)}`, "A".repeat(64)]) {
    const { status } = await get("/api/auth/admin/list-users", { key, cookie: root.cookie() });
    assert.ok([401, 403].includes(status), `${key}: ${status}`);
  }
});

test("a bad bearer token and a good cookie: refused", async () => {
  assert.equal((await get("/v1/me", { bearer: "nonsense", cookie: root.cookie() })).status, 401);
});

test("two different credentials in headers: ambiguous", async () => {
  const answer = await get("/v1/me", { key: aliceKey.key, bearer: root.token });
  assert.equal(answer.status, 400, answer.text);
  assert.equal(answer.body.code, "AMBIGUOUS_CREDENTIALS");
  const same = await get("/v1/me", { key: aliceKey.key, bearer: aliceKey.key });
  assert.equal(same.status, 200, same.text);
});

test("a session token works as a bearer token and as a cookie", async () => {
  const session = await sessionOf(aliceKey.key);
  assert.equal((await who({ bearer: session.token })).id, alice.id);
  assert.equal((await who({ cookie: session.cookie })).id, alice.id);
});

test("a cookie with a foreign signature is nobody's", async () => {
  const [name, value] = root.cookie().split("=", 2);
  const forged = `${name}=${value.replace(/^[^.]+/, "A".repeat(32))}`;
  assert.equal((await get("/api/auth/get-session", { cookie: forged })).body, null);
  assert.notEqual((await get("/api/auth/admin/list-users", { cookie: forged })).status, 200);
});

test("without a credential one is anonymous", async () => {
  const answer = await get("/v1/me");
  assert.equal(answer.status, 200, answer.text);
  assert.deepEqual([answer.body.principal.type, answer.body.principal.credential], ["anonymous", "none"]);
});

test("nothing in a body, a query or another header says who is calling", async () => {
  const forged = { "x-user-id": admin.id, "x-forwarded-user": admin.id, "x-remote-user": admin.id, "x-principal": admin.id };
  assert.equal((await get(`/v1/me?userId=${admin.id}&user=${admin.id}`, { key: aliceKey.key, headers: forged })).body.principal.id, alice.id);
  const answer = await post(
    "/v1/authorize",
    { action: "list", resource: { type: "user" }, principal: { type: "user", id: admin.id, roles: ["admin"] }, subject: { id: admin.id }, context: { principal: { roles: ["admin"] } } },
    { key: aliceKey.key },
  );
  assert.ok(answer.status === 400 || answer.body.allow === false, answer.text);
});

test("a key on a public route does not fail it, however bad", async () => {
  assert.equal((await get("/api/auth/ok", { key: "nonsense" })).status, 200);
  const there = browser({ "x-api-key": "nonsense" });
  const { error } = await there.client.signIn.email({ email: alice.email, password: alice.password });
  assert.equal(error, null);
});
