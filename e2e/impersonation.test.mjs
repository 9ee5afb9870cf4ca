// An administrator acts as somebody else: both are on record, and what only
// the person may do stays with the person.
import assert from "node:assert/strict";
import { test } from "node:test";
import { admin, canSignIn, eventually, get, keyClient, keyOf, person, post, refused, signedIn, succeeded } from "./world.mjs";

async function impersonating() {
  const boss = await person("boss", { role: "admin" });
  const user = await person("user");
  const key = await keyOf(user, {});
  const b = await signedIn(boss);
  succeeded(await b.client.admin.impersonateUser({ userId: user.id }));
  return { ...b, boss, user, key };
}

test("the administrator acts as the user, and comes back", async () => {
  const { client, boss, user } = await impersonating();
  const { data: as } = succeeded(await client.getSession());
  assert.equal(as.user.id, user.id);
  assert.equal(as.session.impersonatedBy, boss.id);
  refused(await client.admin.listUsers({ query: {} }), 403);

  const { data: back } = succeeded(await client.admin.stopImpersonating());
  assert.equal(back.user.id, boss.id);
  assert.equal(succeeded(await client.getSession()).data.user.id, boss.id);
  succeeded(await client.admin.listUsers({ query: {} }));
});

test("the impersonated session ends when it is stopped", async () => {
  const { client, cookie } = await impersonating();
  const kept = cookie();
  succeeded(await client.admin.stopImpersonating());
  assert.equal((await get("/v1/me", { cookie: kept })).status, 401);
});

test("both ids are in every decision record", async () => {
  const { client, boss, user } = await impersonating();
  succeeded(await client.updateUser({ name: "By the boss" }));
  await eventually(async () => {
    const { body } = await get(`/v1/decisions?principal=${user.id}&action=update`, { key: admin.key });
    const records = body.decisions;
    assert.ok(records.length > 0, "no record yet");
    for (const r of records) {
      const text = JSON.stringify(r);
      assert.ok(text.includes(user.id) && text.includes(boss.id), text);
    }
  });
});

test("what only the person may do is refused", async () => {
  const { client, cookie, user, key } = await impersonating();
  refused(await client.changePassword({ currentPassword: user.password, newPassword: "another password" }), 403);
  assert.equal(await canSignIn(user.email, user.password), true);
  for (const [path, body] of [
    ["/api/auth/change-email", { newEmail: `new.${user.email}` }],
    ["/api/auth/delete-user", { password: user.password }],
    ["/api/auth/api-key/create", { name: "backdoor" }],
    ["/api/auth/api-key/rotate", { keyId: key.id }],
  ]) {
    const answer = await post(path, body, { cookie: cookie() });
    assert.equal(answer.status, 403, `${path}: ${answer.status} ${answer.text}`);
  }
  const { body } = await post("/v1/authorize", { action: "change-password", resource: { type: "user", id: user.id } }, { cookie: cookie() });
  assert.deepEqual([body.allow, body.reasons[0].code], [false, "impersonating"]);
  succeeded(await client.updateUser({ name: "By the boss" }));
});

for (const [how, end] of [
  ["is demoted", (boss) => keyClient(admin.key).admin.setRole({ userId: boss.id, role: "user" })],
  ["is banned", (boss) => keyClient(admin.key).admin.banUser({ userId: boss.id })],
  ["is removed", (boss) => keyClient(admin.key).admin.removeUser({ userId: boss.id })],
]) {
  test(`it ends when the administrator ${how}`, async () => {
    const { client, cookie, boss } = await impersonating();
    succeeded(await client.getSession());
    assert.equal((await get("/v1/me", { cookie: cookie() })).status, 200);
    succeeded(await end(boss));
    assert.equal((await get("/v1/me", { cookie: cookie() })).status, 401);
    assert.equal((await get("/api/auth/get-session", { cookie: cookie() })).body, null);
  });
}

test("administrators and banned users are not impersonated", async () => {
  const { client } = await signedIn(await person("boss", { role: "admin" }));
  const other = await person("other", { role: "admin" });
  refused(await client.admin.impersonateUser({ userId: other.id }), 403, "YOU_CANNOT_IMPERSONATE_ADMINS");
  const banned = await person("banned", { banned: true });
  refused(await client.admin.impersonateUser({ userId: banned.id }), 403, "BANNED_USER");
});

test("a key that impersonates takes its grants along, and its end ends it", async () => {
  const boss = await person("boss", { role: "admin" });
  const user = await person("user");
  const key = await keyOf(boss, { user: ["impersonate"] });
  const answer = await post("/api/auth/admin/impersonate-user", { userId: user.id }, { key: key.key });
  assert.equal(answer.status, 200, answer.text);
  const cookie = answer.headers
    .getSetCookie()
    .map((line) => line.split(";")[0])
    .filter((pair) => !pair.endsWith("="))
    .join("; ");
  const me = await get("/v1/me", { cookie });
  assert.equal(me.status, 200, me.text);
  assert.equal(me.body.principal.id, user.id);
  // The user may change their own name; the key was not granted it.
  assert.equal((await post("/api/auth/update-user", { name: "By a key" }, { cookie })).status, 403);
  await post("/api/auth/api-key/delete", { keyId: key.id, userId: boss.id }, { key: admin.key });
  assert.equal((await get("/v1/me", { cookie })).status, 401);
});
