// A key never has more than its grants, nor more than its owner.
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { admin, authorize, canSignIn, codes, get, keyClient, keyOf, person, post, refused, signedIn, succeeded } from "./world.mjs";

describe("an administrator's key that may only list users", () => {
  let owner, key, client, victim;
  before(async () => {
    owner = await person("owner", { role: "admin" });
    key = await keyOf(owner, { user: ["list"] });
    client = keyClient(key.key);
    victim = await person("victim");
  });

  test("lists users", async () => {
    succeeded(await client.admin.listUsers({ query: {} }));
  });

  test("cannot set a password: 403, the missing grant is named, the old password works", async () => {
    refused(await client.admin.setUserPassword({ userId: victim.id, newPassword: "another password" }), 403, "GRANT_MISSING");
    const decision = await authorize({ action: "set-password", resource: { type: "user", id: victim.id } }, { key: key.key });
    assert.equal(decision.allow, false);
    const reason = decision.reasons.find((r) => r.code === "grant_missing");
    assert.ok(reason, JSON.stringify(decision.reasons));
    assert.equal(reason.permission, "user:set-password");
    assert.equal(decision.principal.keyId, key.id);
    assert.equal(await canSignIn(victim.email, victim.password), true);
    assert.equal(await canSignIn(victim.email, "another password"), false);
  });

  test("cannot create, widen or rotate a key", async () => {
    for (const [path, body] of [
      ["create", { name: "mine" }],
      ["create", { name: "mine", permissions: { user: ["list"] } }],
      ["update", { keyId: key.id, permissions: { user: ["list", "delete"] } }],
      ["update", { keyId: key.id, permissions: { "*": ["*"] } }],
      ["rotate", { keyId: key.id }],
      ["delete", { keyId: key.id }],
    ]) {
      const answer = await post(`/api/auth/api-key/${path}`, body, { key: key.key });
      assert.equal(answer.status, 403, `${path} ${JSON.stringify(body)}: ${answer.text}`);
    }
    const me = await get("/v1/me", { key: key.key });
    assert.deepEqual(me.body.principal.key.permissions, { user: ["list"] });
  });

  test("cannot change its owner's password", async () => {
    refused(await client.changePassword({ currentPassword: owner.password, newPassword: "another password" }), 403);
    assert.equal(await canSignIn(owner.email, owner.password), true);
  });

  test("sees no session token", async () => {
    const there = await signedIn(owner);
    for (const path of ["/api/auth/get-session", "/api/auth/list-sessions", "/v1/me"]) {
      const answer = await get(path, { key: key.key });
      assert.ok(!answer.text.includes(there.token), `${path} shows a session token`);
      assert.ok(!answer.text.includes(key.key), `${path} shows the key`);
    }
  });

  test("does no more through a session than by itself", async () => {
    const wide = await keyOf(owner, { user: ["list"], session: ["create"] });
    const answer = await post("/api/auth/sign-in/api-key", { key: wide.key });
    assert.equal(answer.status, 200, answer.text);
    const decision = await authorize({ action: "set-password", resource: { type: "user", id: victim.id } }, { bearer: answer.body.token });
    assert.deepEqual([decision.allow, codes(decision)[0]], [false, "grant_missing"]);
  });
});

// A key that may do what would make a stronger one still cannot.
test("no key mints a stronger one", async () => {
  const owner = await person("owner", { role: "admin" });
  const other = await person("other", { role: "admin" });
  const minter = await keyOf(owner, { apiKey: ["create", "update", "rotate", "read"], user: ["set-password", "impersonate", "create", "list"] });
  const strong = await keyOf(owner, { user: ["delete"] });
  const victim = await person("victim");

  const cases = [
    ["create a wider key", "/api/auth/api-key/create", { name: "wide", permissions: { user: ["delete"] } }],
    ["create a key with everything", "/api/auth/api-key/create", { name: "wide", permissions: { "*": ["*"] } }],
    ["widen itself", "/api/auth/api-key/update", { keyId: minter.id, permissions: { user: ["delete"] } }],
    ["rotate a stronger key", "/api/auth/api-key/rotate", { keyId: strong.id }],
    ["set an administrator's password", "/api/auth/admin/set-user-password", { userId: other.id, newPassword: "another password" }],
    ["create an administrator", "/api/auth/admin/create-user", { email: `made.${victim.email}`, name: "Made", password: "made password", role: "admin" }],
  ];
  for (const [what, path, body] of cases) {
    const answer = await post(path, body, { key: minter.key });
    assert.equal(answer.status, 403, `${what}: ${answer.text}`);
  }
  const equal = await post("/api/auth/api-key/create", { name: "equal", permissions: { user: ["list"] } }, { key: minter.key });
  assert.equal(equal.status, 200, equal.text);
});

describe("a key without grants", () => {
  let owner, key;
  before(async () => {
    owner = await person("owner", { role: "admin" });
    key = await keyOf(owner, undefined);
  });

  test("can say who it is", async () => {
    const { data } = succeeded(await keyClient(key.key).getSession());
    assert.equal(data.user.id, owner.id);
    const me = await get("/v1/me", { key: key.key });
    assert.equal(me.status, 200);
    assert.equal(me.body.principal.user.id, owner.id);
    assert.equal(me.body.principal.key.id, key.id);
    assert.deepEqual(me.body.permissions, {});
  });

  test("can do nothing else", async () => {
    const victim = await person("victim");
    for (const [method, path, body] of [
      ["GET", "/api/auth/admin/list-users"],
      ["GET", `/api/auth/admin/get-user?id=${victim.id}`],
      ["POST", "/api/auth/admin/create-user", { email: `new.${victim.email}`, name: "New", password: "new password" }],
      ["POST", "/api/auth/admin/set-role", { userId: victim.id, role: "admin" }],
      ["POST", "/api/auth/admin/set-user-password", { userId: victim.id, newPassword: "another password" }],
      ["POST", "/api/auth/admin/update-user", { userId: victim.id, data: { name: "Other" } }],
      ["POST", "/api/auth/admin/ban-user", { userId: victim.id }],
      ["POST", "/api/auth/admin/unban-user", { userId: victim.id }],
      ["POST", "/api/auth/admin/impersonate-user", { userId: victim.id }],
      ["POST", "/api/auth/admin/list-user-sessions", { userId: victim.id }],
      ["POST", "/api/auth/admin/revoke-user-sessions", { userId: victim.id }],
      ["POST", "/api/auth/admin/revoke-user-session", { sessionToken: "whatever" }],
      ["POST", "/api/auth/admin/remove-user", { userId: victim.id }],
      ["GET", "/api/auth/list-sessions"],
      ["POST", "/api/auth/revoke-sessions", {}],
      ["POST", "/api/auth/revoke-other-sessions", {}],
      ["POST", "/api/auth/update-user", { name: "Other" }],
      ["POST", "/api/auth/change-password", { currentPassword: owner.password, newPassword: "another password" }],
      ["POST", "/api/auth/api-key/create", { name: "new" }],
      ["GET", "/api/auth/api-key/list"],
      ["POST", "/api/auth/api-key/update", { keyId: key.id, name: "new" }],
      ["POST", "/api/auth/api-key/rotate", { keyId: key.id }],
      ["POST", "/api/auth/api-key/delete", { keyId: key.id }],
      ["POST", "/api/auth/sign-in/api-key", {}],
      ["POST", "/v1/keys/verify", { key: key.key }],
      ["POST", "/v1/service-accounts", { name: "new" }],
      ["GET", "/v1/decisions"],
    ]) {
      const answer = await (method === "GET" ? get(path, { key: key.key }) : post(path, body, { key: key.key }));
      assert.equal(answer.status, 403, `${path}: ${answer.status} ${answer.text}`);
    }
    assert.equal(await canSignIn(owner.email, owner.password), true);
    assert.equal(await canSignIn(victim.email, victim.password), true);
  });
});

test("a user without a role can do no more with a generous key", async () => {
  const owner = await person("owner");
  const victim = await person("victim");
  const key = await keyOf(owner, { user: ["list", "delete", "set-password", "update"], session: ["list", "create"] });
  const client = keyClient(key.key);
  refused(await client.admin.listUsers({ query: {} }), 403, "YOU_ARE_NOT_ALLOWED_TO_LIST_USERS");
  refused(await client.admin.removeUser({ userId: victim.id }), 403, "YOU_ARE_NOT_ALLOWED_TO_DELETE_USERS");
  const decision = await authorize({ action: "list", resource: { type: "user" } }, { key: key.key });
  assert.deepEqual([decision.allow, codes(decision)], [false, ["role_missing"]]);
  // What they may do with their own account, the key may do as far as granted.
  succeeded(await client.updateUser({ name: "Renamed" }));
});

test("granting oneself what one does not have is refused", async () => {
  const one = await person("one");
  const there = await signedIn(one);
  const answer = await post("/api/auth/api-key/create", { name: "mine", permissions: { user: ["list"] } }, { cookie: there.cookie() });
  assert.equal(answer.status, 403, answer.text);
  const own = await post("/api/auth/api-key/create", { name: "mine", permissions: { user: ["update"] } }, { cookie: there.cookie() });
  assert.equal(own.status, 200, own.text);
});

test("the administrator's key says so itself", async () => {
  const me = await get("/v1/me", { key: admin.key });
  assert.ok(me.body.permissions.user.includes("set-password"));
});
