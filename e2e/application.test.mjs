// An application asks on behalf of those who ask it, with what docs/better-auth.md
// shows: a function, a route of Next.js, a procedure of tRPC.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { admin, base, person, save, sessionOf, signedIn, succeeded, upstream } from "./world.mjs";

// The snippets as modules, with a folder of invoices in place of the application's.
const page = await readFile(new URL("../docs/better-auth.md", import.meta.url), "utf8");
const folder = await mkdtemp(new URL("./node_modules/.shown-", import.meta.url).pathname);
after(() => rm(folder, { recursive: true }));
const snippets = {};
for (const [, text] of page.matchAll(/```js\n([\s\S]*?)```/g)) snippets[text.match(/\w+(?=\.js)/)[0]] = text;

async function shown(name, url) {
  const dir = await mkdtemp(join(folder, "app-"));
  await writeFile(join(dir, "authorize.mjs"), `const OSTIARY_URL = ${JSON.stringify(url)};\n${snippets.authorize}`);
  await writeFile(join(dir, "lib.mjs"), "export const invoices = { find: (id) => ({ id, total: 7 }), update: (id, change) => ({ id, ...change }) };");
  const text = snippets[name].replace("@/lib/authorize", "./authorize.mjs").replace("@/lib/invoices", "./lib.mjs");
  if (name !== "authorize") await writeFile(join(dir, `${name}.mjs`), text);
  return import(join(dir, `${name}.mjs`));
}

// The application: GET /invoices/i1 needs invoice:read, POST needs invoice:export.
let application;
async function serve(url) {
  const { authorize } = await shown("authorize", url);
  const server = createServer(async (request, response) => {
    const action = request.method === "POST" ? "export" : "read";
    try {
      const decision = await authorize(new Headers(request.headers), action, { type: "invoice", id: "i1" });
      response.writeHead(decision.allow ? 200 : 403).end(JSON.stringify(decision));
    } catch (error) {
      response.writeHead(error.status ?? 500).end("{}");
    }
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return server;
}
const ask = async (headers, method = "GET", server = application) => {
  const answer = await fetch(`http://127.0.0.1:${server.address().port}/invoices/i1`, { method, headers });
  return { status: answer.status, body: await answer.json() };
};

before(async () => {
  for (const file of ["data.yaml", "invoice.rego"]) {
    await save(file, await readFile(new URL(`../examples/policies/features/${file}`, import.meta.url), "utf8"));
  }
  application = await serve(base);
});
after(() => application.close());

test("who comes with a cookie is answered by their roles, and pages are told of them", async () => {
  const ann = await signedIn(await person("ann", { role: ["billing:viewer", "reports:viewer"] }));
  const { status, body } = await ask({ cookie: ann.cookie() });
  assert.equal(status, 200);
  assert.deepEqual(body.context, { features: { billing: ["viewer"], reports: ["viewer"] }, gold: false });
  const refused = await ask({ cookie: ann.cookie() }, "POST");
  assert.equal(refused.status, 403);
  assert.deepEqual(refused.body.reasons.map((r) => r.code).sort(), ["plan", "role_missing"]);
});

test("so is who comes with a key, or a session obtained with it", async () => {
  const ann = await person("ann", { role: ["billing:viewer", "user"] });
  const { client } = await signedIn(ann);
  // People grant their keys what they may do themselves.
  const grant = async (permissions) => succeeded(await client.apiKey.create({ name: "mine", permissions })).data;
  const key = await grant({ invoice: ["read"], session: ["create"] });
  const session = await sessionOf(key.key);
  for (const headers of [{ "x-api-key": key.key }, { authorization: `Bearer ${key.key}` }, { cookie: session.cookie }, { authorization: `Bearer ${session.token}` }]) {
    const { status, body } = await ask(headers);
    assert.equal(status, 200, JSON.stringify(body));
    assert.equal(body.principal.id, ann.id);
  }
  const narrow = await grant({ session: ["create"] });
  const { status, body } = await ask({ "x-api-key": narrow.key });
  assert.equal(status, 403);
  assert.deepEqual(body.reasons.map((r) => r.code), ["grant_missing"]);
});

test("nobody is nobody, and a bad credential is an error", async () => {
  assert.equal((await ask({})).status, 403);
  assert.equal((await ask({ "x-api-key": "x".repeat(64) })).status, 401);
  assert.equal((await ask({ "x-api-key": admin.key, authorization: "Bearer other" })).status, 400);
});

test("a route of Next.js", async () => {
  const { GET } = await shown("route", base);
  const ann = await signedIn(await person("ann", { role: "billing:viewer" }));
  const bob = await signedIn(await person("bob", { role: "reports:viewer" }));
  const route = (headers) => GET(new Request("http://app.example/invoices/i1", { headers }), { params: Promise.resolve({ id: "i1" }) });
  const answer = await route({ cookie: ann.cookie() });
  assert.deepEqual([answer.status, await answer.json()], [200, { id: "i1", total: 7 }]);
  const refused = await route({ cookie: bob.cookie() });
  assert.deepEqual([refused.status, (await refused.json()).reasons[0].code], [403, "role_missing"]);
  await assert.rejects(route({ cookie: "better-auth.session_token=forged.x" }), { status: 401 });
});

test("a procedure of tRPC", async () => {
  const { router } = await shown("invoices", base);
  const people = {};
  for (const role of ["billing:editor", "billing:viewer"]) people[role] = await signedIn(await person("ann", { role }));
  const caller = (headers) => router.createCaller({ headers: new Headers(headers) });
  const editor = caller({ cookie: people["billing:editor"].cookie() });
  const { by, ...rest } = await editor.update({ id: "i1", total: 9 });
  assert.deepEqual(rest, { id: "i1", total: 9 });
  assert.match(by, /^[A-Za-z0-9]{32}$/);
  await assert.rejects(editor.update({ id: 1 }), { code: "BAD_REQUEST" });
  await assert.rejects(caller({ cookie: people["billing:viewer"].cookie() }).update({ id: "i1", total: 9 }), { code: "FORBIDDEN" });
  await assert.rejects(caller({}).update({ id: "i1", total: 9 }), { code: "FORBIDDEN" });
});

test("a role of a feature that is not in the table is refused", async () => {
  await assert.rejects(person("ann", { role: "billing:owner" }));
});

test("the service's internal address does as well as its base URL", async () => {
  const inside = await serve(upstream);
  try {
    const ann = await signedIn(await person("ann", { role: "billing:viewer" }));
    assert.equal((await ask({ cookie: ann.cookie() }, "GET", inside)).status, 200);
  } finally {
    inside.close();
  }
});

test("without an answer nothing is done", async () => {
  const away = await serve("http://127.0.0.1:1");
  try {
    assert.equal((await ask({}, "GET", away)).status, 500);
  } finally {
    away.close();
  }
});
