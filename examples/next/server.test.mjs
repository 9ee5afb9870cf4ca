// Run by next_test.go, against an instance of Ostiary.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, test } from "node:test";
import { backend } from "./server.mjs";

const { OSTIARY_URL, ANN, ANN_KEY, BARE_KEY, BOB_KEY } = process.env;
const open = [];
after(() => open.forEach((s) => s.close()));

async function listening(server) {
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  open.push(server);
  return `http://127.0.0.1:${server.address().port}`;
}

/** A function that asks a back end of this service for documents; the answer's status. */
async function before(service, owner = ANN) {
  const url = await listening(backend(service, { d1: { owner, text: "hello" } }));
  return async (headers = {}, method = "GET", id = "d1") => {
    const answer = await fetch(`${url}/documents/${id}`, { method, headers });
    return { status: answer.status, headers: answer.headers, ...(await answer.json()) };
  };
}

test("the owner reads, by what the request presents", async () => {
  const get = await before(OSTIARY_URL);
  for (const headers of [{ "x-api-key": ANN_KEY }, { authorization: `Bearer ${ANN_KEY}` }]) {
    const { status, reader, text } = await get(headers);
    assert.deepEqual([status, reader, text], [200, ANN, "hello"]);
  }
});

test("others do not, and hear why", async () => {
  const get = await before(OSTIARY_URL);
  for (const [headers, status, code] of [
    [{ "x-api-key": BOB_KEY }, 403, "role_missing"],
    [{ "x-api-key": BARE_KEY }, 403, "grant_missing"],
    [{ "x-api-key": ANN_KEY, authorization: `Bearer ${BOB_KEY}` }, 503], // two credentials are no question
    [{}, 401, "unauthenticated"],
    [{ cookie: "other=1" }, 401, "unauthenticated"],
    [{ "x-api-key": "ost_nonsense" }, 401],
  ]) {
    const answer = await get(headers);
    assert.equal(answer.status, status, JSON.stringify([headers, answer]));
    if (code) assert.equal(answer.reasons[0].code, code);
    if (status === 401) assert.ok(answer.headers.get("www-authenticate"));
  }
  assert.equal((await get({ "x-api-key": ANN_KEY }, "GET", "none")).status, 403);
  assert.equal((await get({ "x-api-key": ANN_KEY }, "GET", "constructor")).status, 403);
});

test("a session cookie counts, and not from other sites when it writes", async () => {
  const answer = await fetch(new URL("/api/auth/sign-up/email", OSTIARY_URL), {
    method: "POST",
    headers: { "content-type": "application/json", origin: OSTIARY_URL },
    body: JSON.stringify({ name: "Eve", email: "eve@example.com", password: "correct horse battery" }),
  });
  assert.equal(answer.status, 200, await answer.clone().text());
  const cookie = `theme=dark; ${answer.headers.getSetCookie()[0].split(";")[0]}`;
  const go = await before(OSTIARY_URL, (await answer.json()).user.id);
  assert.equal((await go({ cookie })).status, 200);
  for (const site of ["cross-site", "same-site", ""]) {
    const { status, reasons } = await go({ cookie, "sec-fetch-site": site }, "DELETE");
    assert.deepEqual([status, reasons[0].code], [403, "cross_origin"]);
  }
  assert.equal((await go({ cookie, "sec-fetch-site": "same-origin" }, "DELETE")).status, 200);
});

test("what is no clear yes is a no", async () => {
  const away = await listening(createServer());
  open.pop().close();
  const odd = (status, body) => listening(createServer((_, response) => response.writeHead(status, { location: OSTIARY_URL }).end(body)));
  const services = [away];
  for (const body of ["", "{}", '{"allow":"yes","principal":{}}', '{"allow":true}', "[true]", "null"]) services.push(await odd(200, body));
  for (const status of [302, 307, 403, 500, 503]) services.push(await odd(status, '{"allow":true,"principal":{}}'));
  for (const service of services) {
    const get = await before(service);
    assert.equal((await get({ "x-api-key": ANN_KEY })).status, 503, service);
  }
});
