// A system user with role admin manages users with nothing but an API key.
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { admin, canSignIn, keyClient, keyOf, person, refused, signedIn, succeeded, get, post, unique } from "./world.mjs";

let system, key, client;
before(async () => {
  system = await person("system", { role: "admin" });
  key = await keyOf(system, {
    user: ["create", "list", "set-role", "ban", "impersonate", "delete", "set-password"],
    session: ["list", "revoke", "delete"],
  });
  client = keyClient(key.key);
});

test("listUsers", async () => {
  const { data } = succeeded(await client.admin.listUsers({ query: { limit: 100 } }));
  assert.ok(data.users.some((u) => u.id === system.id));
  assert.ok(data.users.every((u) => u.createdAt instanceof Date));
});

test("listUsers with search, filter and sort", async () => {
  const one = await person("needle");
  const { data } = succeeded(
    await client.admin.listUsers({
      query: { searchField: "email", searchOperator: "starts_with", searchValue: "needle-", filterField: "role", filterValue: "user", sortBy: "createdAt", sortDirection: "desc" },
    }),
  );
  assert.deepEqual(data.users.map((u) => u.id), [one.id]);
  assert.equal(data.total, 1);
});

test("setUserPassword", async () => {
  const one = await person("one");
  const { data } = succeeded(await client.admin.setUserPassword({ userId: one.id, newPassword: "another password" }));
  assert.deepEqual(data, { status: true });
  assert.equal(await canSignIn(one.email, one.password), false, "the old password still works");
  assert.equal(await canSignIn(one.email, "another password"), true, "the new password does not work");
});

test("setUserPassword ends the user's sessions", async () => {
  const one = await person("one");
  const there = await signedIn(one);
  succeeded(await there.client.getSession());
  succeeded(await client.admin.setUserPassword({ userId: one.id, newPassword: "another password" }));
  assert.equal((await there.client.getSession()).data, null);
});

test("createUser", async () => {
  const email = `${unique("made")}@example.test`;
  const { data } = succeeded(await client.admin.createUser({ email, name: "Made", password: "made password" }));
  assert.equal(data.user.email, email);
  assert.equal(data.user.role, "user");
  assert.equal(await canSignIn(email, "made password"), true);
});

test("setRole", async () => {
  const one = await person("one");
  const { data } = succeeded(await client.admin.setRole({ userId: one.id, role: "admin" }));
  assert.equal(data.user.role, "admin");
});

test("banUser and unbanUser", async () => {
  const one = await person("one");
  const there = await signedIn(one);
  const { data } = succeeded(await client.admin.banUser({ userId: one.id, banReason: "because" }));
  assert.equal(data.user.banned, true);
  assert.equal(data.user.banReason, "because");
  assert.equal((await there.client.getSession()).data, null, "a session outlived the ban");
  assert.equal(await canSignIn(one.email, one.password), false);
  succeeded(await client.admin.unbanUser({ userId: one.id }));
  assert.equal(await canSignIn(one.email, one.password), true);
});

test("listUserSessions and revokeUserSessions, without showing a token", async () => {
  const one = await person("one");
  const there = await signedIn(one);
  const listed = succeeded(await client.admin.listUserSessions({ userId: one.id }));
  assert.equal(listed.data.sessions.length, 1);
  assert.equal(listed.data.sessions[0].userId, one.id);
  assert.ok(!JSON.stringify(listed.data).includes(there.token), "a key was shown a session token");

  const revoked = succeeded(await client.admin.revokeUserSessions({ userId: one.id }));
  assert.deepEqual(revoked.data, { success: true });
  assert.equal((await there.client.getSession()).data, null, "the session outlived its revocation");
});

test("removeUser", async () => {
  const one = await person("one");
  const theirs = await keyOf(one, {});
  succeeded(await client.admin.removeUser({ userId: one.id }));
  assert.equal(await canSignIn(one.email, one.password), false);
  assert.equal((await get("/v1/me", { key: theirs.key })).status, 401, "a key outlived its owner");
});

test("hasPermission, singular and plural", async () => {
  const yes = { user: ["list", "set-password"] };
  const no = { user: ["list", "set-email"] }; // the role has it, the key does not
  for (const member of ["permission", "permissions"]) {
    assert.deepEqual(succeeded(await client.admin.hasPermission({ [member]: yes })).data, { error: null, success: true }, member);
    assert.deepEqual(succeeded(await client.admin.hasPermission({ [member]: no })).data, { error: null, success: false }, member);
  }
});

test("getSession", async () => {
  const { data } = succeeded(await client.getSession());
  assert.equal(data.user.id, system.id);
  assert.equal(data.session.userId, system.id);
});

test("a bearer key is as good as the header", async () => {
  const answer = await get("/api/auth/admin/list-users", { bearer: key.key });
  assert.equal(answer.status, 200, answer.text);
});

test("what was not granted is refused, although the role has it", async () => {
  const one = await person("one");
  refused(await client.admin.updateUser({ userId: one.id, data: { name: "Other" } }), 403, "GRANT_MISSING");
});

test("what was granted is refused where the role does not have it", async () => {
  // The administrator's key is granted everything; the role lacks this.
  const answer = await post("/api/auth/admin/impersonate-user", { userId: system.id }, { key: admin.key });
  assert.equal(answer.status, 403, answer.text);
  assert.equal(answer.body.code, "YOU_CANNOT_IMPERSONATE_ADMINS");
});

test("every answer that rests on a decision names it, and a write its revision", async () => {
  const one = await person("one");
  const read = await get("/api/auth/admin/list-users", { key: key.key });
  assert.match(read.headers.get("ostiary-decision") ?? "", /./);
  const write = await post("/api/auth/admin/ban-user", { userId: one.id }, { key: key.key });
  assert.match(write.headers.get("ostiary-decision") ?? "", /./);
  assert.match(write.headers.get("ostiary-revision") ?? "", /./);
});
