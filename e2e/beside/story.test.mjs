// An application with Better Auth and Ostiary serve the same people from one
// database, and neither knows of the other.
import assert from "node:assert/strict";
import { test } from "node:test";
import { admin, base, call, eventually, get, keyClient, keyOf, person, post, signedIn, succeeded, unique } from "../world.mjs";

const application = process.env.APPLICATION_URL;
const lease = Number(process.env.LEASE_MS);

/** One request to the application. */
async function there(method, path, { cookie, key, body } = {}) {
  const headers = { origin: application };
  if (cookie) headers.cookie = cookie;
  if (key) headers["x-api-key"] = key;
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(application + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, text, body: text ? JSON.parse(text) : undefined };
}
const cookiesOf = (answer) => answer.headers.getSetCookie().map((line) => line.split(";")[0]).join("; ");

async function signUpThere(name, more = {}) {
  const email = `${unique(name)}@example.test`;
  const password = `password of ${name}`;
  const answer = await there("POST", "/api/auth/sign-up/email", { body: { email, password, name, ...more } });
  assert.equal(answer.status, 200, answer.text);
  return { id: answer.body.user.id, email, password, cookie: cookiesOf(answer), token: answer.body.token };
}
async function signInThere({ email, password }) {
  const answer = await there("POST", "/api/auth/sign-in/email", { body: { email, password } });
  return { ...answer, cookie: cookiesOf(answer) };
}
const sessionThere = async (cookie) => (await there("GET", "/api/auth/get-session", { cookie })).body;
const sessionHere = async (cookie) => (await get("/api/auth/get-session", { cookie })).body;
/** What the application wrote counts here within the lease. */
const soon = (check) => eventually(check, lease);

test("a session made there is honoured here, by cookie and by token", async () => {
  const ann = await signUpThere("ann");
  assert.equal((await sessionHere(ann.cookie)).user.id, ann.id);
  for (const credential of [{ cookie: ann.cookie }, { bearer: ann.token }]) {
    const { status, body } = await get("/v1/me", credential);
    assert.deepEqual([status, body.principal.id, body.principal.credential], [200, ann.id, "session"]);
  }
});

test("a session made here is honoured there", async () => {
  const ann = await signedIn(await person("ann"));
  const answer = await sessionThere(ann.cookie());
  assert.equal(answer.session.token, ann.token);
});

test("a session ends for both, whoever ends it", async () => {
  const ann = await signUpThere("ann");
  assert.notEqual(await sessionHere(ann.cookie), null);
  assert.equal((await there("POST", "/api/auth/sign-out", { cookie: ann.cookie, body: {} })).status, 200);
  await soon(async () => assert.equal(await sessionHere(ann.cookie), null));

  const again = await signInThere(ann);
  assert.notEqual(await sessionThere(again.cookie), null);
  assert.equal((await post("/api/auth/revoke-sessions", {}, { cookie: again.cookie })).status, 200);
  assert.equal(await sessionThere(again.cookie), null);
});

test("a key made there works here, as far as it was granted", async () => {
  const ann = await signUpThere("ann");
  succeeded(await keyClient(admin.key).admin.setRole({ userId: ann.id, role: "admin" }));
  const { body: key, status, text } = await there("POST", "/api/auth/api-key/create", { cookie: ann.cookie, body: { name: "ci", metadata: { team: "blue" } } });
  assert.equal(status, 200, text);
  const me = await get("/v1/me", { key: key.key });
  assert.equal(me.status, 200, me.text);
  assert.deepEqual([me.body.principal.id, me.body.principal.key.id, me.body.principal.key.metadata], [ann.id, key.id, { team: "blue" }]);
  assert.equal((await get("/api/auth/admin/list-users", { key: key.key })).status, 200);
  assert.equal((await post("/api/auth/admin/ban-user", { userId: admin.id }, { key: key.key })).status, 403);

  assert.equal((await there("POST", "/api/auth/api-key/update", { cookie: ann.cookie, body: { keyId: key.id, enabled: false } })).status, 200);
  await soon(async () => assert.equal((await get("/v1/me", { key: key.key })).body.code, "KEY_DISABLED"));
  assert.equal((await there("POST", "/api/auth/api-key/delete", { cookie: ann.cookie, body: { keyId: key.id } })).status, 200);
  await soon(async () => assert.equal((await get("/v1/me", { key: key.key })).body.code, "BAD_CREDENTIAL"));
});

test("a key made here works there, until it is deleted here", async () => {
  const ann = await signUpThere("ann");
  const key = await keyOf(ann, { user: ["list"] }, { metadata: { team: "blue" } });
  const used = await there("GET", "/api/auth/get-session", { key: key.key });
  assert.equal(used.body?.user.id, ann.id, used.text);
  const { body } = await there("GET", "/api/auth/api-key/list", { cookie: ann.cookie });
  const [listed] = body.apiKeys;
  assert.deepEqual([listed.id, listed.permissions, listed.metadata], [key.id, { user: ["list"] }, { team: "blue" }]);
  assert.equal((await post("/api/auth/api-key/delete", { keyId: key.id, userId: ann.id }, { key: admin.key })).status, 200);
  assert.equal((await there("GET", "/api/auth/get-session", { key: key.key })).status, 401);
});

test("a ban there stops sessions and keys here", async () => {
  const [ann, boss] = [await signUpThere("ann"), await signUpThere("boss")];
  succeeded(await keyClient(admin.key).admin.setRole({ userId: boss.id, role: "admin" }));
  const key = await keyOf(ann, { user: ["get"] });
  for (const credential of [{ cookie: ann.cookie }, { key: key.key }]) assert.equal((await get("/v1/me", credential)).status, 200);
  const banned = await there("POST", "/api/auth/admin/ban-user", { cookie: boss.cookie, body: { userId: ann.id } });
  assert.equal(banned.status, 200, banned.text);
  const begin = performance.now();
  await soon(async () => {
    assert.equal((await get("/v1/me", { key: key.key })).body.code, "OWNER_BANNED");
    assert.equal((await get("/v1/me", { cookie: ann.cookie })).status, 401);
  });
  console.log(`the ban counted after ${Math.round(performance.now() - begin)} ms`);
  const refused = await post("/api/auth/sign-in/email", { email: ann.email, password: ann.password }, { headers: { origin: base } });
  assert.deepEqual([refused.status, refused.body.code], [403, "BANNED_USER"]);
});

test("a ban here keeps the person out there", async () => {
  const ann = await signUpThere("ann");
  succeeded(await keyClient(admin.key).admin.banUser({ userId: ann.id, banReason: "spam" }));
  assert.equal(await sessionThere(ann.cookie), null);
  const refused = await signInThere(ann);
  assert.deepEqual([refused.status, refused.body.code], [403, "BANNED_USER"]);
  succeeded(await keyClient(admin.key).admin.unbanUser({ userId: ann.id }));
  assert.equal((await signInThere(ann)).status, 200);
});

test("the password that either sets works on both", async () => {
  const ann = await signUpThere("ann");
  await signedIn(ann);
  const changed = await there("POST", "/api/auth/change-password", { cookie: ann.cookie, body: { currentPassword: ann.password, newPassword: "set there, ﬁnally" } });
  assert.equal(changed.status, 200, changed.text);
  await signedIn({ ...ann, password: "set there, finally" }); // NFKC makes them one
  succeeded(await keyClient(admin.key).admin.setUserPassword({ userId: ann.id, newPassword: "set here, ①" }));
  assert.equal((await signInThere({ ...ann, password: "set here, 1" })).status, 200);

  const bob = await person("bob");
  assert.equal((await signInThere(bob)).status, 200);
});

test("usernames are taken for both", async () => {
  const username = unique("bob").replace("-", "_");
  const bob = await signUpThere("bob", { username });
  const here = await post("/api/auth/sign-in/username", { username, password: bob.password }, { headers: { origin: base } });
  assert.equal(here.body.user.id, bob.id);
  assert.deepEqual((await post("/api/auth/is-username-available", { username })).body, { available: false });
});

test("a role given there counts here", async () => {
  const [ann, boss] = [await signUpThere("ann"), await signUpThere("boss")];
  succeeded(await keyClient(admin.key).admin.setRole({ userId: boss.id, role: "admin" }));
  const status = async () => (await get("/api/auth/admin/list-users", { cookie: ann.cookie })).status;
  assert.equal(await status(), 403);
  const set = await there("POST", "/api/auth/admin/set-role", { cookie: boss.cookie, body: { userId: ann.id, role: "admin" } });
  assert.equal(set.status, 200, set.text);
  await soon(async () => assert.equal(await status(), 200));
});

test("the application's additional fields are attributes", async () => {
  const ann = await signUpThere("ann", { plan: "gold" });
  const { body } = await get("/v1/me", { cookie: ann.cookie });
  assert.deepEqual(body.principal.user.attributes, { plan: "gold" });
});

for (const [what, name] of [
  ["of any name", 'Ann <ann & co> "\\" é ﬁ 😀 \u2028 \u007f \t \u0001 </script>'],
  ["in parts", "Ann ".repeat(2000)],
]) {
  test(`an application that reads the cookie cache can read ours, ${what}`, async () => {
    const ann = await person("ann");
    succeeded(await keyClient(admin.key).admin.updateUser({ userId: ann.id, data: { name } }));
    const answer = await call("POST", "/api/auth/sign-in/email", { body: { email: ann.email, password: ann.password }, headers: { origin: base } });
    const cookie = cookiesOf(answer);
    assert.match(cookie, what === "in parts" ? /session_data\.0=.*session_data\.1=/ : /session_data=/);
    // Only the cache can answer once the session is gone.
    assert.equal((await post("/api/auth/sign-out", {}, { cookie })).status, 200);
    assert.equal((await there("GET", "/cached/get-session", { cookie })).body?.user.name, name);
    assert.equal(await sessionThere(cookie), null);
  });
}

test("a cookie cache written there is not believed here", async () => {
  const ann = await signUpThere("ann");
  const answer = await there("GET", "/cached/get-session", { cookie: ann.cookie });
  const cookie = `${ann.cookie}; ${cookiesOf(answer)}`;
  assert.match(cookie, /session_data=/);
  assert.equal((await sessionHere(cookie)).user.id, ann.id);
  assert.equal((await post("/api/auth/revoke-sessions", {}, { cookie })).status, 200);
  assert.equal(await sessionHere(cookie), null);
});

test("the application's own migration finds nothing to do", async () => {
  assert.deepEqual((await there("GET", "/migrations")).body, [[], []]);
});
