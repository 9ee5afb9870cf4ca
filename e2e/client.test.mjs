// Every method of the unmodified client, with adminClient, apiKeyClient and
// usernameClient, in a browser: what it is given, and what it is told when it
// is refused. The last test counts that no route was forgotten.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { admin, base, browser, get, keyClient, person, refused, signedIn, succeeded, unique } from "./world.mjs";

const called = new Set();
const plain = globalThis.fetch;
globalThis.fetch = async (url, init) => {
  called.add(`${(init?.method ?? "GET").toLowerCase()} ${new URL(url).pathname}`);
  return plain(url, init);
};
after(() => (globalThis.fetch = plain));

const root = keyClient(admin.key);
const aDate = (value) => assert.ok(value instanceof Date && !Number.isNaN(value.getTime()), `not a date: ${value}`);
const members = (object, names) => assert.deepEqual(Object.keys(object).sort(), names.split(" ").sort());
const userMembers = "id name email emailVerified image createdAt updatedAt username displayUsername role banned banReason banExpires";
const sessionMembers = "id token userId createdAt updatedAt expiresAt ipAddress userAgent impersonatedBy";
const keyMembers =
  "configId name start referenceId prefix refillInterval refillAmount lastRefillAt enabled rateLimitEnabled rateLimitTimeWindow " +
  "rateLimitMax requestCount remaining lastRequest expiresAt createdAt updatedAt permissions metadata id";

describe("signing up, in and out", () => {
  test("signUp.email, getSession, signOut, signIn.email", async () => {
    const email = `${unique("ann")}@example.test`;
    const { client, jar } = browser();
    const { data: up } = succeeded(await client.signUp.email({ email, name: "Ann", password: "Ann's password", image: "https://example.test/a.png" }));
    members(up.user, userMembers);
    assert.match(up.token, /^[A-Za-z0-9]{32}$/);
    assert.deepEqual([...jar.keys()], ["better-auth.session_token"]);

    const { data: there } = succeeded(await client.getSession());
    members(there.user, userMembers);
    members(there.session, sessionMembers);
    for (const date of [there.user.createdAt, there.user.updatedAt, there.session.createdAt, there.session.updatedAt, there.session.expiresAt]) aDate(date);
    assert.ok(there.session.expiresAt > new Date());
    assert.equal(there.session.token, up.token);
    assert.equal(there.user.image, "https://example.test/a.png");

    assert.deepEqual(succeeded(await client.signOut()).data, { success: true });
    assert.equal(jar.size, 0);
    assert.equal((await client.getSession()).data, null);

    const { data: signed } = succeeded(await client.signIn.email({ email, password: "Ann's password", callbackURL: "/home" }));
    assert.deepEqual([signed.redirect, signed.url], [true, "/home"]);
  });

  test("a session that is not to be remembered ends with the browser", async () => {
    const ann = await person("ann");
    const { client, jar } = browser();
    succeeded(await client.signIn.email({ email: ann.email, password: ann.password, rememberMe: false }));
    assert.deepEqual([...jar.keys()], ["better-auth.session_token", "better-auth.dont_remember"]);
    const { data } = succeeded(await client.getSession());
    assert.ok(data.session.expiresAt - Date.now() <= 24 * 3600 * 1000);
    succeeded(await client.signOut());
    assert.equal(jar.size, 0);
  });

  test("signIn.username and isUsernameAvailable", async () => {
    const username = unique("bob").replace("-", "_");
    const { client } = browser();
    assert.deepEqual(succeeded(await client.isUsernameAvailable({ username })).data, { available: true });
    succeeded(await client.signUp.email({ email: `${username}@example.test`, name: "Bob", password: "Bob's password", username, displayUsername: "Bob B." }));
    assert.deepEqual(succeeded(await client.isUsernameAvailable({ username })).data, { available: false });
    const { data } = succeeded(await browser().client.signIn.username({ username, password: "Bob's password" }));
    assert.equal(data.user.displayUsername, "Bob B.");
    refused(await client.signIn.username({ username: "no", password: "Bob's password" }), 422, "USERNAME_TOO_SHORT");
  });

  test("what is refused is an error object: message, code, status", async () => {
    const { client } = browser();
    const email = `${unique("eve")}@example.test`;
    for (const [what, status, code, message] of [
      [client.signIn.email({ email, password: "x" }), 401, "INVALID_EMAIL_OR_PASSWORD", "Invalid email or password"],
      [client.signIn.email({ email: "nonsense", password: "x" }), 400, "INVALID_EMAIL", "Invalid email"],
      [client.signUp.email({ email, name: "Eve", password: "short" }), 400, "PASSWORD_TOO_SHORT", "Password too short"],
      [client.signUp.email({ email: admin.email, name: "Eve", password: "long enough" }), 422, "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL", "User already exists. Use another email."],
      [client.listSessions(), 401, "UNAUTHORIZED", "Unauthorized"],
      [client.signIn.social({ provider: "github" }), 404, "PROVIDER_NOT_FOUND", "Provider not found"],
    ]) {
      const { data, error } = await what;
      assert.equal(data, null);
      assert.deepEqual({ code: error.code, message: error.message, status: error.status }, { code, message, status });
      assert.equal(typeof error.statusText, "string");
    }
    // Some have no body: the status alone tells.
    assert.equal(refused(await client.admin.listUsers({ query: {} }), 401).code, undefined);
  });
});

describe("one's own account", () => {
  test("updateUser, and null clears", async () => {
    const { client } = await signedIn(await person("ann"));
    const username = unique("ann").replace("-", "_");
    assert.deepEqual(succeeded(await client.updateUser({ name: "Anne", image: "https://example.test/b.png", username })).data, { status: true });
    succeeded(await client.updateUser({ image: null }));
    const { data } = succeeded(await client.getSession());
    assert.deepEqual([data.user.name, data.user.image, data.user.username], ["Anne", null, username]);
    refused(await client.updateUser({ email: "other@example.test" }), 400, "EMAIL_CAN_NOT_BE_UPDATED");
    refused(await client.updateSession({ anything: 1 }), 400);
  });

  test("verifyPassword and changePassword", async () => {
    const ann = await person("ann");
    const { client, cookie } = await signedIn(ann);
    assert.deepEqual(succeeded(await client.verifyPassword({ password: ann.password })).data, { status: true });
    refused(await client.verifyPassword({ password: "wrong password" }), 400, "INVALID_PASSWORD");
    const before = cookie();
    const { data } = succeeded(await client.changePassword({ currentPassword: ann.password, newPassword: "another password", revokeOtherSessions: true }));
    assert.match(data.token, /^[A-Za-z0-9]{32}$/);
    assert.notEqual(cookie(), before);
    assert.equal(succeeded(await client.getSession()).data.session.token, data.token);
  });

  test("changeEmail", async () => {
    const ann = await person("ann");
    const { client } = await signedIn(ann);
    const newEmail = `${unique("anne")}@example.test`;
    assert.deepEqual(succeeded(await client.changeEmail({ newEmail })).data, { status: true });
    assert.equal(succeeded(await client.getSession()).data.user.email, newEmail);
    refused(await client.changeEmail({ newEmail }), 400);
  });

  test("listAccounts", async () => {
    const ann = await person("ann");
    const { client } = await signedIn(ann);
    const { data } = succeeded(await client.listAccounts());
    assert.equal(data.length, 1);
    assert.deepEqual([data[0].providerId, data[0].accountId, data[0].userId, data[0].scopes], ["credential", ann.id, ann.id, []]);
    aDate(data[0].createdAt);
  });

  test("listSessions, revokeSession, revokeOtherSessions, revokeSessions", async () => {
    const ann = await person("ann");
    const [here, second, third] = [await signedIn(ann), await signedIn(ann), await signedIn(ann)];
    const { data } = succeeded(await here.client.listSessions());
    assert.equal(data.length, 3);
    data.forEach((s) => (members(s, sessionMembers), aDate(s.expiresAt)));
    assert.deepEqual(succeeded(await here.client.revokeSession({ token: second.token })).data, { status: true });
    assert.equal((await second.client.getSession()).data, null);
    assert.deepEqual(succeeded(await here.client.revokeOtherSessions()).data, { status: true });
    assert.equal((await third.client.getSession()).data, null);
    assert.deepEqual(succeeded(await here.client.revokeSessions()).data, { status: true });
    assert.equal(here.jar.size, 0, "cookies were left");
  });

  test("deleteUser", async () => {
    const ann = await person("ann");
    const { client, jar } = await signedIn(ann);
    refused(await client.deleteUser({ password: "wrong password" }), 400, "INVALID_PASSWORD");
    assert.deepEqual(succeeded(await client.deleteUser({ password: ann.password })).data, { success: true, message: "User deleted" });
    assert.equal(jar.size, 0);
    refused(await client.signIn.email({ email: ann.email, password: ann.password }), 401, "INVALID_EMAIL_OR_PASSWORD");
  });

  test("what needs mail says that there is none", async () => {
    const { client } = browser();
    refused(await client.requestPasswordReset({ email: admin.email }), 400, "RESET_PASSWORD_DISABLED");
    refused(await client.sendVerificationEmail({ email: admin.email }), 400, "VERIFICATION_EMAIL_NOT_ENABLED");
  });

  test("what is not here is 404, not an exception", async () => {
    const { client } = await signedIn(await person("ann"));
    for (const answer of [
      client.resetPassword({ newPassword: "another password", token: "x" }),
      client.verifyEmail({ query: { token: "x" } }),
      client.linkSocial({ provider: "github" }),
      client.unlinkAccount({ providerId: "github" }),
      client.getAccessToken({ providerId: "github" }),
      client.refreshToken({ providerId: "github" }),
      client.accountInfo({ query: { accountId: "x" } }),
      client.apiKey.verify({ key: "x" }),
      client.apiKey.deleteAllExpiredApiKeys(),
    ]) {
      refused(await answer, 404);
    }
  });
});

describe("admin", () => {
  test("createUser, getUser, updateUser, removeUser", async () => {
    const email = `${unique("ann")}@example.test`;
    const { data: made } = succeeded(await root.admin.createUser({ email, name: "Ann", password: "Ann's password", role: ["user", "admin"] }));
    members(made.user, userMembers);
    assert.equal(made.user.role, "user,admin");
    const { data: got } = succeeded(await root.admin.getUser({ query: { id: made.user.id } }));
    assert.deepEqual(got, made.user);
    aDate(got.createdAt);
    const { data: changed } = succeeded(await root.admin.updateUser({ userId: made.user.id, data: { name: "Anne", emailVerified: true } }));
    assert.deepEqual([changed.name, changed.emailVerified], ["Anne", true]);
    assert.deepEqual(succeeded(await root.admin.removeUser({ userId: made.user.id })).data, { success: true });
    refused(await root.admin.getUser({ query: { id: made.user.id } }), 404, "USER_NOT_FOUND");
  });

  test("listUsers: search, sort, pages, filters, and lists in the query", async () => {
    const tag = unique("list").replace("-", "");
    const made = [];
    for (const name of ["cora", "anna", "bert"]) made.push(await person(`${tag} ${name}`.replace(" ", "-")));
    const list = async (query) => succeeded(await root.admin.listUsers({ query })).data;
    const names = (data) => data.users.map((u) => u.name);

    const sorted = await list({ searchField: "name", searchOperator: "starts_with", searchValue: tag, sortBy: "name", sortDirection: "desc" });
    assert.deepEqual(names(sorted), ["cora", "bert", "anna"].map((n) => `${tag}-${n}`));
    sorted.users.forEach((u) => (members(u, userMembers), aDate(u.createdAt)));
    const page = await list({ searchField: "name", searchValue: tag, sortBy: "name", limit: 1, offset: 1 });
    assert.deepEqual([names(page), page.total, page.limit, page.offset], [[`${tag}-bert`], 3, 1, 1]);

    const two = [made[0].id, made[2].id];
    const among = await list({ filterField: "id", filterOperator: "in", filterValue: two, sortBy: "name" });
    assert.deepEqual(among.users.map((u) => u.id).sort(), two.toSorted());
    const others = await list({ searchField: "name", searchValue: tag, filterField: "id", filterOperator: "not_in", filterValue: two });
    assert.deepEqual(others.users.map((u) => u.id), [made[1].id]);
    const none = await list({ filterField: "createdAt", filterOperator: "lt", filterValue: "2000-01-01T00:00:00.000Z" });
    assert.deepEqual([none.users, none.total], [[], 0]);
    refused(await root.admin.listUsers({ query: { searchOperator: "like" } }), 400, "VALIDATION_ERROR");
  });

  test("setRole, hasPermission, and checkRolePermission without a request", async () => {
    const ann = await person("ann");
    const { client } = await signedIn(ann);
    const may = async () => succeeded(await client.admin.hasPermission({ permissions: { user: ["list"] } })).data;
    assert.deepEqual(await may(), { error: null, success: false });
    assert.equal(succeeded(await root.admin.setRole({ userId: ann.id, role: "admin" })).data.user.role, "admin");
    assert.deepEqual(await may(), { error: null, success: true });
    assert.deepEqual(succeeded(await client.admin.hasPermission({ permission: { user: ["list"] } })).data, { error: null, success: true });
    assert.equal(client.admin.checkRolePermission({ role: "admin", permissions: { user: ["list"] } }), true);
    assert.equal(client.admin.checkRolePermission({ role: "user", permissions: { user: ["list"] } }), false);
  });

  test("banUser and unbanUser", async () => {
    const ann = await person("ann");
    const there = await signedIn(ann);
    const { data } = succeeded(await root.admin.banUser({ userId: ann.id, banReason: "spam", banExpiresIn: 3600 }));
    assert.deepEqual([data.user.banned, data.user.banReason], [true, "spam"]);
    aDate(data.user.banExpires);
    assert.equal((await there.client.getSession()).data, null);
    const error = refused(await browser().client.signIn.email({ email: ann.email, password: ann.password }), 403, "BANNED_USER");
    assert.match(error.message, /banned/);
    const { data: freed } = succeeded(await root.admin.unbanUser({ userId: ann.id }));
    assert.deepEqual([freed.user.banned, freed.user.banReason, freed.user.banExpires], [false, null, null]);
    await signedIn(ann);
    refused(await root.admin.banUser({ userId: admin.id }), 400, "YOU_CANNOT_BAN_YOURSELF");
  });

  test("setUserPassword, listUserSessions, revokeUserSession, revokeUserSessions", async () => {
    const ann = await person("ann");
    assert.deepEqual(succeeded(await root.admin.setUserPassword({ userId: ann.id, newPassword: "another password" })).data, { status: true });
    ann.password = "another password";
    const [one, two, three] = [await signedIn(ann), await signedIn(ann), await signedIn(ann)];
    const boss = await signedIn(admin);
    const { data } = succeeded(await boss.client.admin.listUserSessions({ userId: ann.id }));
    assert.equal(data.sessions.length, 3);
    data.sessions.forEach((s) => (members(s, sessionMembers), aDate(s.createdAt)));
    assert.deepEqual(succeeded(await boss.client.admin.revokeUserSession({ sessionToken: one.token })).data, { success: true });
    assert.equal((await one.client.getSession()).data, null);
    assert.notEqual((await two.client.getSession()).data, null);
    assert.deepEqual(succeeded(await boss.client.admin.revokeUserSessions({ userId: ann.id })).data, { success: true });
    for (const b of [two, three]) assert.equal((await b.client.getSession()).data, null);
  });

  test("impersonateUser and stopImpersonating", async () => {
    const ann = await person("ann");
    const { client, jar } = await signedIn(admin);
    const { data } = succeeded(await client.admin.impersonateUser({ userId: ann.id }));
    assert.deepEqual([data.user.id, data.session.impersonatedBy], [ann.id, admin.id]);
    aDate(data.session.expiresAt);
    assert.deepEqual([...jar.keys()].sort(), ["better-auth.admin_session", "better-auth.dont_remember", "better-auth.session_token"]);
    assert.equal(succeeded(await client.getSession()).data.user.id, ann.id);
    const { data: back } = succeeded(await client.admin.stopImpersonating());
    assert.equal(back.user.id, admin.id);
    assert.deepEqual([...jar.keys()], ["better-auth.session_token"]);
    refused(await client.admin.stopImpersonating(), 400);
  });

  test("whoever is no administrator is told what they may not", async () => {
    const { client } = await signedIn(await person("ann"));
    const userId = admin.id;
    for (const [answer, code] of [
      [client.admin.createUser({ email: "x@example.test", name: "X", password: "long enough" }), "YOU_ARE_NOT_ALLOWED_TO_CREATE_USERS"],
      [client.admin.listUsers({ query: {} }), "YOU_ARE_NOT_ALLOWED_TO_LIST_USERS"],
      [client.admin.getUser({ query: { id: userId } }), "YOU_ARE_NOT_ALLOWED_TO_GET_USER"],
      [client.admin.setRole({ userId, role: "user" }), "YOU_ARE_NOT_ALLOWED_TO_CHANGE_USERS_ROLE"],
      [client.admin.setUserPassword({ userId, newPassword: "long enough" }), "YOU_ARE_NOT_ALLOWED_TO_SET_USERS_PASSWORD"],
      [client.admin.updateUser({ userId, data: { name: "X" } }), "YOU_ARE_NOT_ALLOWED_TO_UPDATE_USERS"],
      [client.admin.banUser({ userId }), "YOU_ARE_NOT_ALLOWED_TO_BAN_USERS"],
      [client.admin.unbanUser({ userId }), "YOU_ARE_NOT_ALLOWED_TO_BAN_USERS"],
      [client.admin.listUserSessions({ userId }), "YOU_ARE_NOT_ALLOWED_TO_LIST_USERS_SESSIONS"],
      [client.admin.revokeUserSession({ sessionToken: "x" }), "YOU_ARE_NOT_ALLOWED_TO_REVOKE_USERS_SESSIONS"],
      [client.admin.revokeUserSessions({ userId }), "YOU_ARE_NOT_ALLOWED_TO_REVOKE_USERS_SESSIONS"],
      [client.admin.impersonateUser({ userId }), "YOU_ARE_NOT_ALLOWED_TO_IMPERSONATE_USERS"],
      [client.admin.removeUser({ userId }), "YOU_ARE_NOT_ALLOWED_TO_DELETE_USERS"],
    ]) {
      refused(await answer, 403, code);
    }
  });
});

describe("API keys", () => {
  test("create, get, list, update, delete", async () => {
    const ann = await person("ann");
    const { client } = await signedIn(ann);
    const { data: made } = succeeded(await client.apiKey.create({ name: "ci", expiresIn: 3600, prefix: "ci_", metadata: { team: "blue", since: "2024-01-01T00:00:00.000Z" } }));
    members(made, `${keyMembers} key`);
    assert.ok(made.key.startsWith("ci_") && made.key.length >= 64);
    assert.deepEqual([made.name, made.prefix, made.start, made.referenceId, made.enabled], ["ci", "ci_", made.key.slice(0, 6), ann.id, true]);
    for (const date of [made.createdAt, made.updatedAt, made.expiresAt]) aDate(date);

    const { data: got } = succeeded(await client.apiKey.get({ query: { id: made.id } }));
    members(got, keyMembers);
    assert.equal(got.metadata.team, "blue");

    succeeded(await client.apiKey.create({ name: "zz" }));
    const { data: all } = succeeded(await client.apiKey.list({ query: { sortBy: "name", sortDirection: "desc", limit: 1 } }));
    assert.deepEqual([all.apiKeys.map((k) => k.name), all.total, all.limit], [["zz"], 2, 1]);
    assert.equal(succeeded(await client.apiKey.list()).data.apiKeys.length, 2);

    const { data: changed } = succeeded(await client.apiKey.update({ keyId: made.id, name: "ci2", enabled: false, expiresIn: null }));
    assert.deepEqual([changed.name, changed.enabled, changed.expiresAt], ["ci2", false, null]);
    assert.equal((await get("/v1/me", { key: made.key })).body.code, "KEY_DISABLED");
    assert.deepEqual(succeeded(await client.apiKey.delete({ keyId: made.id })).data, { success: true });
    refused(await client.apiKey.get({ query: { id: made.id } }), 404, "KEY_NOT_FOUND");
  });

  test("what is refused says so", async () => {
    const { client } = await signedIn(await person("ann"));
    refused(await client.apiKey.create({ expiresIn: 0.5 }), 400, "VALIDATION_ERROR");
    refused(await client.apiKey.create({ expiresIn: 3600 * 24 * 400 }), 400, "EXPIRES_IN_IS_TOO_LARGE");
    refused(await client.apiKey.create({ name: "x".repeat(33) }), 400, "INVALID_NAME_LENGTH");
    refused(await client.apiKey.create({ remaining: 5 }), 400, "SERVER_ONLY_PROPERTY");
    refused(await client.apiKey.create({ permissions: { user: ["list"] } }), 403, "ESCALATION");
    const { data } = succeeded(await client.apiKey.create({ name: "ci" }));
    refused(await client.apiKey.update({ keyId: data.id }), 400, "NO_VALUES_TO_UPDATE");
    refused(await browser().client.apiKey.create({ name: "ci" }), 401, "UNAUTHORIZED_SESSION");
    refused(await browser().client.apiKey.list(), 401, "UNAUTHORIZED");
  });

  test("a client with a key is its owner, and getSession says so", async () => {
    const { client } = await signedIn(admin);
    const { data: made } = succeeded(await client.apiKey.create({ name: "program", permissions: { user: ["list"] } }));
    assert.deepEqual(made.permissions, { user: ["list"] });
    const program = keyClient(made.key);
    const { data } = succeeded(await program.getSession());
    assert.deepEqual([data.user.id, data.session.id, data.session.token], [admin.id, made.id, made.id]);
    aDate(data.session.expiresAt);
    succeeded(await program.admin.listUsers({ query: { limit: 1 } }));
    const error = refused(await program.admin.setRole({ userId: admin.id, role: "user" }), 403, "GRANT_MISSING");
    assert.match(error.message, /user:set-role/);
  });

  test("what is new is reached as what is old: signIn.apiKey, apiKey.rotate", async () => {
    const { client } = await signedIn(admin);
    const { data: made } = succeeded(await client.apiKey.create({ name: "program", permissions: { session: ["create"] } }));
    const there = browser();
    const { data } = succeeded(await there.client.signIn.apiKey({ key: made.key }));
    assert.equal(data.user.id, admin.id);
    assert.equal(succeeded(await there.client.getSession()).data.session.token, data.token);
    const { data: rotated } = succeeded(await client.apiKey.rotate({ keyId: made.id, overlap: 0 }));
    assert.notEqual(rotated.key, made.key);
    assert.equal((await there.client.getSession()).data, null, "a session outlived the secret it was obtained with");
  });
});

test("ok, error and POST get-session", async () => {
  const { client } = browser();
  assert.deepEqual(succeeded(await client.ok()).data, { ok: true });
  const answer = await fetch(`${base}/api/auth/error?error=state_mismatch`, { redirect: "manual" });
  assert.equal(answer.status, 302);
  assert.equal(answer.headers.get("location"), "/?error=state_mismatch");
  refused(await client.$fetch("/get-session", { method: "POST" }), 405, "METHOD_NOT_ALLOWED_DEFER_SESSION_REQUIRED");
});

test("every route of /api/auth was called", async () => {
  const { paths } = (await get("/openapi.json")).body;
  const routes = Object.entries(paths).flatMap(([path, methods]) => Object.keys(methods).map((method) => `${method} ${path}`));
  const missed = routes.filter((route) => route.includes(" /api/auth/") && !called.has(route));
  assert.deepEqual(missed, []);
});
