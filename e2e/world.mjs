// What the stories share: the service under test, people, keys, and clients.
//
// The client is Better Auth's own, unmodified. Node's fetch says that it is a
// browser (Sec-Fetch-Mode) but keeps no cookies and sends no Origin, so a
// "browser" here is a fetch with both.
import { createAuthClient } from "better-auth/client";
import { adminClient, usernameClient } from "better-auth/client/plugins";
import { apiKeyClient } from "@better-auth/api-key/client";
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

function env(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run these tests with make e2e`);
  return value;
}

/** The service, through the proxy that checks every answer against /openapi.json. */
export const base = env("BASE_URL");
/** The service itself, for what the proxy would not pass on unchanged. */
export const upstream = env("UPSTREAM_URL");
/** An administrator, with a key that is granted everything. */
export const admin = {
  id: env("ADMIN_ID"),
  email: env("ADMIN_EMAIL"),
  password: env("ADMIN_PASSWORD"),
  key: env("ADMIN_KEY"),
};

/** Runs the command line on the database of the running service. */
export async function ostiary(args, stdin = "") {
  const running = promisify(execFile)(env("OSTIARY"), args);
  running.child.stdin.end(stdin);
  return running;
}

// ---- Plain HTTP ----

/** One request; the answer with its body parsed, if there is one. */
export async function call(method, path, { key, bearer, cookie, body, headers = {} } = {}) {
  const sent = { ...headers };
  if (key !== undefined) sent["x-api-key"] = key;
  if (bearer !== undefined) sent.authorization = `Bearer ${bearer}`;
  if (cookie !== undefined) Object.assign(sent, { cookie, origin: sent.origin ?? base });
  if (body !== undefined) sent["content-type"] = "application/json";
  const answer = await fetch(base + path, {
    method,
    headers: sent,
    body: body === undefined ? undefined : JSON.stringify(body),
    redirect: "manual",
  });
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, text, body: text ? JSON.parse(text) : undefined };
}

export const get = (path, options) => call("GET", path, options);
export const post = (path, body, options) => call("POST", path, { ...options, body });

/** Asks /v1/authorize one question. */
export async function authorize(question, credential) {
  const answer = await post("/v1/authorize", question, credential);
  assert.equal(answer.status, 200, answer.text);
  return answer.body;
}

export const codes = (decision) => decision.reasons.map((r) => r.code);

// ---- Clients ----

const plugins = () => [adminClient(), usernameClient(), apiKeyClient()];

/** A client whose only credential is an API key. */
export const keyClient = (key) =>
  createAuthClient({ baseURL: base, plugins: plugins(), fetchOptions: { headers: { "x-api-key": key } } });

/** A browser: a cookie jar, and a client that uses it. */
export function browser(headers = {}) {
  const jar = new Map();
  const cookie = () => [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
  const client = createAuthClient({
    baseURL: base,
    plugins: plugins(),
    fetchOptions: {
      customFetchImpl: async (url, init) => {
        const sent = new Headers(init?.headers);
        sent.set("origin", base);
        if (jar.size) sent.set("cookie", cookie());
        for (const [name, value] of Object.entries(headers)) sent.set(name, value);
        const answer = await fetch(url, { ...init, headers: sent });
        for (const line of answer.headers.getSetCookie()) {
          const [pair, ...attributes] = line.split("; ");
          const at = pair.indexOf("=");
          if (attributes.some((a) => a.toLowerCase() === "max-age=0")) jar.delete(pair.slice(0, at));
          else jar.set(pair.slice(0, at), pair.slice(at + 1));
        }
        return answer;
      },
    },
  });
  return { jar, cookie, client };
}

/** A browser in which this person is signed in. */
export async function signedIn(person) {
  const b = browser();
  const { data } = succeeded(await b.client.signIn.email({ email: person.email, password: person.password }));
  return { ...b, token: data.token };
}

export async function canSignIn(email, password) {
  const { error } = await browser().client.signIn.email({ email, password });
  return error === null;
}

/** The result of a client call that has to succeed. */
export function succeeded(result) {
  assert.equal(result.error, null, `refused: ${JSON.stringify(result.error)}`);
  return result;
}

/** The error of a client call that has to be refused so. */
export function refused(result, status, code) {
  assert.notEqual(result.error, null, `accepted: ${JSON.stringify(result.data)}`);
  assert.equal(result.error.status, status, JSON.stringify(result.error));
  if (code) assert.equal(result.error.code, code);
  return result.error;
}

// ---- People and keys ----

export const unique = (name) => `${name}-${randomBytes(6).toString("hex")}`;

/** A new user, made by the administrator. */
export async function person(name, { role, ...data } = {}) {
  const email = `${unique(name)}@example.test`;
  const password = `password of ${name}`;
  const { data: made } = succeeded(await keyClient(admin.key).admin.createUser({ email, name, password, role, data }));
  return { id: made.user.id, name, email, password };
}

/** A new key of this user, made by the administrator: {id, key, …}. */
export async function keyOf(owner, permissions, more = {}) {
  const answer = await post("/api/auth/api-key/create", { name: unique("key").slice(0, 30), userId: owner.id, permissions, ...more }, { key: admin.key });
  assert.equal(answer.status, 200, answer.text);
  return answer.body;
}

/** Changes a key, as the administrator. */
export async function changeKey(key, owner, change) {
  const answer = await post("/api/auth/api-key/update", { keyId: key.id, userId: owner.id, ...change }, { key: admin.key });
  assert.equal(answer.status, 200, answer.text);
  return answer.body;
}

/** The session that a key is exchanged for: {cookie, token, answer}. */
export async function sessionOf(key) {
  const answer = await post("/api/auth/sign-in/api-key", { key });
  assert.equal(answer.status, 200, answer.text);
  const cookie = answer.headers.getSetCookie().map((line) => line.split(";")[0]).join("; ");
  return { cookie, token: answer.body.token, answer };
}

// ---- The author's bundle ----

const folder = env("POLICIES");

/** Saves a file of the author's bundle (null removes it), and waits until the rules in force are others. */
export async function save(name, content) {
  const file = join(folder, name);
  if (content === (await readFile(file, "utf8").catch(() => null))) return;
  const before = (await get("/readyz")).body.policy.revision;
  if (content === null) await rm(file);
  else await writeFile(file, content);
  await eventually(async () => {
    const { policy } = (await get("/readyz")).body;
    assert.ok(policy.current && policy.revision !== before, `${name} did not come into force`);
  });
}

export async function eventually(check, ms = 10_000) {
  for (const end = Date.now() + ms; ; ) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
