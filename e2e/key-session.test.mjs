// An API key can be exchanged for a real session, which is worth as much as
// the key is at the time.
import assert from "node:assert/strict";
import { test } from "node:test";
import { admin, authorize, browser, changeKey, get, keyClient, keyOf, person, post, save, sessionOf, signedIn } from "./world.mjs";

async function exchanged(permissions = {}) {
  const owner = await person("owner", { role: "admin" });
  const key = await keyOf(owner, { session: ["create"], ...permissions });
  return { owner, key, session: await sessionOf(key.key) };
}

test("the answer is that of a sign-in: user, token and cookie", async () => {
  const { owner, session } = await exchanged();
  const { body, headers } = session.answer;
  assert.equal(body.user.id, owner.id);
  assert.equal(body.redirect, false);
  assert.match(body.token, /^[A-Za-z0-9]{32}$/);
  assert.match(headers.getSetCookie()[0], /^better-auth\.session_token=[^;]+; .*Path=\/; HttpOnly; SameSite=Lax$/);
  assert.equal(headers.get("cache-control"), "no-store");
});

test("the key may stand in the body or in its header", async () => {
  const { key } = await exchanged();
  const answer = await post("/api/auth/sign-in/api-key", {}, { key: key.key });
  assert.equal(answer.status, 200, answer.text);
});

test("it is a row like any other: administrators see it and can revoke it", async () => {
  const { owner, session } = await exchanged({ user: ["list"] });
  const root = keyClient(admin.key);
  const { data } = await root.admin.listUserSessions({ userId: owner.id });
  assert.equal(data.sessions.length, 1);
  assert.equal(data.sessions[0].userId, owner.id);
  assert.equal((await get("/api/auth/admin/list-users", { cookie: session.cookie })).status, 200);
  await root.admin.revokeUserSessions({ userId: owner.id });
  assert.equal((await get("/api/auth/admin/list-users", { cookie: session.cookie })).status, 401);
});

test("getSession and listSessions with it, by the real client, show no token to it", async () => {
  const { owner, session } = await exchanged({ session: ["create", "list"] });
  const there = await signedIn(owner);
  const b = browser();
  const [name, value] = session.cookie.split(/=(.*)/s);
  b.jar.set(name, value);

  const { data: mine } = await b.client.getSession();
  assert.equal(mine.user.id, owner.id);
  assert.equal(mine.session.userId, owner.id);

  const { data: all, error } = await b.client.listSessions();
  assert.equal(error, null, JSON.stringify(error));
  assert.equal(all.length, 2);
  assert.ok(all.some((s) => s.id === mine.session.id));
  assert.ok(!JSON.stringify(all).includes(there.token), "a key's session was shown the person's own token");
});

test("it shows in the person's own list", async () => {
  const { owner, session } = await exchanged();
  const there = await signedIn(owner);
  const { data } = await there.client.listSessions();
  assert.ok(data.some((s) => s.token === session.token));
});

test("it carries the key's grants as they are now", async () => {
  const { owner, key, session } = await exchanged({ user: ["list"] });
  const may = async (action) => (await authorize({ action, resource: { type: "user" } }, { bearer: session.token })).allow;
  assert.deepEqual([await may("list"), await may("ban")], [true, false]);
  await changeKey(key, owner, { permissions: { user: ["ban"] } });
  assert.deepEqual([await may("list"), await may("ban")], [false, true]);
});

test("it says that a key is behind it, and is never fresh", async () => {
  const { key, session } = await exchanged();
  const { body } = await get("/v1/me", { bearer: session.token });
  assert.equal(body.principal.credential, "session");
  assert.equal(body.principal.session.fresh, false);
  assert.equal(body.principal.key.id, key.id);
});

test("it does not outlive the key's own expiry", async () => {
  const owner = await person("owner", { role: "admin" });
  const key = await keyOf(owner, { session: ["create"] }, { expiresIn: 3600 });
  const session = await sessionOf(key.key);
  const { body } = await get("/api/auth/get-session", { cookie: session.cookie });
  assert.ok(new Date(body.session.expiresAt) <= new Date(key.expiresAt), `${body.session.expiresAt} is after ${key.expiresAt}`);
});

test("a key that was not granted session:create gets none", async () => {
  const owner = await person("owner", { role: "admin" });
  const key = await keyOf(owner, { user: ["list"] });
  const answer = await post("/api/auth/sign-in/api-key", { key: key.key });
  assert.equal(answer.status, 403, answer.text);
  assert.deepEqual(answer.headers.getSetCookie(), []);
});

test("bad keys get none", async () => {
  for (const key of ["", "nonsense", `ost_${"A".repeat(60)}`]) {
    const answer = await post("/api/auth/sign-in/api-key", { key });
    assert.ok([400, 401, 403].includes(answer.status), `${key}: ${answer.status} ${answer.text}`);
    assert.deepEqual(answer.headers.getSetCookie(), []);
  }
});

test("a session of a key is not exchanged for another", async () => {
  const { session } = await exchanged();
  const answer = await post("/api/auth/sign-in/api-key", {}, { bearer: session.token });
  assert.ok(answer.status >= 400, answer.text);
});

test("a rule in an author's bundle can forbid it", async () => {
  const { owner, key } = await exchanged();
  await save(
    "session.rego",
    `package app.session

deny contains {"code": "no_key_sign_in", "message": "people sign in here, keys do not"} if {
	input.action.name == "create"
	input.principal.credential == "api_key"
}
`,
  );
  try {
    const answer = await post("/api/auth/sign-in/api-key", { key: key.key });
    assert.equal(answer.status, 403, answer.text);
    assert.deepEqual(answer.headers.getSetCookie(), []);
    const there = await signedIn(owner); // people still do
    assert.ok(there.token);
  } finally {
    await save("session.rego", null);
  }
  await sessionOf(key.key);
});
