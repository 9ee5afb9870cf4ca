// People sign up, in and out with the real client.
import assert from "node:assert/strict";
import { test } from "node:test";
import { base, browser, call, get, person, post, refused, signedIn, succeeded, unique } from "./world.mjs";

test("sign up, sign out, sign in", async () => {
  const email = `${unique("ann")}@example.test`;
  const { client, jar } = browser();
  const { data: up } = succeeded(await client.signUp.email({ email, name: "Ann", password: "Ann's password" }));
  assert.equal(up.user.email, email);
  assert.equal((await client.getSession()).data.user.id, up.user.id);
  succeeded(await client.signOut());
  assert.equal(jar.size, 0, "cookies were left");
  assert.equal((await client.getSession()).data, null);
  refused(await client.signIn.email({ email, password: "wrong password" }), 401, "INVALID_EMAIL_OR_PASSWORD");
  succeeded(await client.signIn.email({ email, password: "Ann's password" }));
});

test("usernames", async () => {
  const name = unique("Bob").replace("-", "_");
  const { client } = browser();
  succeeded(await client.signUp.email({ email: `${name}@example.test`, name: "Bob", password: "Bob's password", username: name }));
  const { data } = succeeded(await client.isUsernameAvailable({ username: name }));
  assert.equal(data.available, false);
  const there = browser();
  const { data: signed } = succeeded(await there.client.signIn.username({ username: name.toUpperCase(), password: "Bob's password" }));
  assert.equal(signed.user.username, name.toLowerCase());
  refused(await there.client.signIn.username({ username: name, password: "wrong password" }), 401, "INVALID_USERNAME_OR_PASSWORD");
});

test("change the password, keeping only this session", async () => {
  const ann = await person("ann");
  const [here, elsewhere] = [await signedIn(ann), await signedIn(ann)];
  refused(await here.client.changePassword({ currentPassword: "wrong password", newPassword: "another password" }), 400, "INVALID_PASSWORD");
  succeeded(await here.client.changePassword({ currentPassword: ann.password, newPassword: "another password", revokeOtherSessions: true }));
  assert.equal((await here.client.getSession()).data.user.id, ann.id);
  assert.equal((await elsewhere.client.getSession()).data, null);
});

test("sessions are listed and revoked", async () => {
  const ann = await person("ann");
  const [here, elsewhere, third] = [await signedIn(ann), await signedIn(ann), await signedIn(ann)];
  const { data } = succeeded(await here.client.listSessions());
  assert.equal(data.length, 3);
  assert.ok(data.every((s) => s.expiresAt instanceof Date));
  succeeded(await here.client.revokeSession({ token: elsewhere.token }));
  assert.equal((await elsewhere.client.getSession()).data, null);
  succeeded(await here.client.revokeOtherSessions());
  assert.equal((await third.client.getSession()).data, null);
  assert.equal((await here.client.getSession()).data.user.id, ann.id);
  succeeded(await here.client.revokeSessions());
  assert.equal((await here.client.getSession()).data, null);
});

test("nobody revokes another person's session", async () => {
  const [ann, bob] = [await signedIn(await person("ann")), await signedIn(await person("bob"))];
  await ann.client.revokeSession({ token: bob.token });
  assert.notEqual((await bob.client.getSession()).data, null);
});

test("update one's own account, and nothing that is not one's own", async () => {
  const ann = await person("ann");
  const { client } = await signedIn(ann);
  succeeded(await client.updateUser({ name: "Ann the Second", image: "https://example.test/ann.png" }));
  assert.equal((await client.getSession()).data.user.name, "Ann the Second");
  refused(await client.updateUser({ role: "admin" }), 400, "FIELD_NOT_ALLOWED");
  refused(await client.admin.listUsers({ query: {} }), 403, "YOU_ARE_NOT_ALLOWED_TO_LIST_USERS");
});

test("a write with a cookie from another origin is refused", async () => {
  const { cookie, client } = await signedIn(await person("ann"));
  for (const origin of ["https://evil.example", "null", base.replace("http:", "https:")]) {
    const answer = await call("POST", "/api/auth/update-user", { cookie: cookie(), body: { name: "Evil" }, headers: { origin } });
    assert.equal(answer.status, 403, `${origin}: ${answer.text}`);
  }
  assert.notEqual((await client.getSession()).data.user.name, "Evil");
  const native = await call("POST", "/v1/service-accounts", { cookie: cookie(), body: { name: "x" }, headers: { origin: "https://evil.example", "sec-fetch-site": "cross-site" } });
  assert.equal(native.status, 403, native.text);
});

test("sign-in and every answer with a credential are not stored", async () => {
  const ann = await person("ann");
  const answer = await post("/api/auth/sign-in/email", { email: ann.email, password: ann.password }, { headers: { origin: base } });
  assert.equal(answer.status, 200, answer.text);
  assert.equal(answer.headers.get("cache-control"), "no-store");
});

test("operations answer without a credential", async () => {
  for (const path of ["/healthz", "/readyz", "/openapi.json", "/api/auth/ok"]) {
    const answer = await get(path);
    assert.equal(answer.status, 200, `${path}: ${answer.text}`);
  }
});
