// An author's bundle: rules of their own, in force after a file save.
import assert from "node:assert/strict";
import { rm, writeFile } from "node:fs/promises";
import { after, test } from "node:test";
import { admin, authorize, codes, eventually, get, keyClient, keyOf, ostiary, person, post, refused, save, signedIn, succeeded } from "./world.mjs";

after(async () => {
  for (const file of ["user.rego", "document.rego", "data.json"]) await save(file, null);
});

test("package app.user: administrators may not delete administrators", async () => {
  const root = keyClient(admin.key);
  const [first, second] = [await person("first", { role: "admin" }), await person("second", { role: "admin" })];
  succeeded(await root.admin.removeUser({ userId: first.id })); // until now they may
  await save(
    "user.rego",
    `package app.user

deny contains {"code": "admins_stay", "message": "administrators are not deleted here"} if {
	input.action.name == "delete"
	"admin" in input.resource.properties.roles
}
`,
  );
  refused(await root.admin.removeUser({ userId: second.id }), 403, "ADMINS_STAY");
  const decision = await authorize({ action: "delete", resource: { type: "user", id: second.id } }, { key: admin.key });
  assert.deepEqual([decision.allow, codes(decision)], [false, ["admins_stay"]]);
  const plain = await person("plain");
  succeeded(await root.admin.removeUser({ userId: plain.id })); // others as before
});

test("package app.document: owners read and write their documents", async () => {
  const ann = await person("ann");
  const bob = await person("bob");
  const annThere = await signedIn(ann);
  const question = { action: "read", resource: { type: "document", id: "d1", properties: { owner: ann.id } } };
  const ask = (cookie, q = question) => authorize(q, { cookie });
  assert.equal((await ask(annThere.cookie())).allow, false, "before there is a rule");

  await save(
    "document.rego",
    `package app.document

allow if {
	input.action.name in {"read", "write"}
	input.resource.properties.owner == input.principal.id
}
`,
  );
  const yes = await ask(annThere.cookie());
  assert.deepEqual([yes.allow, codes(yes)], [true, ["app"]]);
  assert.equal((await ask((await signedIn(bob)).cookie())).allow, false);
  assert.equal((await ask(annThere.cookie(), { ...question, action: "delete" })).allow, false);

  // A key of the owner does it only if it was granted. The administrator, whose
  // document it is not, may not hand that out; the owner may.
  const own = async (permissions) => succeeded(await annThere.client.apiKey.create({ name: "own", permissions })).data;
  const narrow = await own({ document: ["write"] });
  const denied = await authorize(question, { key: narrow.key });
  assert.deepEqual([denied.allow, denied.reasons[0].code, denied.reasons[0].permission], [false, "grant_missing", "document:read"]);
  const granted = await own({ document: ["read"] });
  assert.equal((await authorize(question, { key: granted.key })).allow, true);
});

test("no rule of an author's makes a key wider than its grants", async () => {
  await save("document.rego", `package app.document\n\nallow := true\n`);
  const ann = await person("ann");
  const key = await keyOf(ann, { user: ["list"] });
  const decision = await authorize({ action: "read", resource: { type: "document", id: "d1" } }, { key: key.key });
  assert.deepEqual([decision.allow, codes(decision)], [false, ["grant_missing"]]);
});

test("two roles that each give half allow it together; an unknown role gives nothing", async () => {
  await save("document.rego", null);
  await save(
    "data.json",
    JSON.stringify({ roles: { reader: { document: ["read"] }, lister: { user: ["list"] } } }),
  );
  const root = keyClient(admin.key);
  const both = { document: ["read"], user: ["list"] };
  const check = async (role) => {
    const one = await person("one");
    // The command line gives any role; the API only those that exist.
    await ostiary(["user", "set-role", one.id, role]).catch(() => {});
    await root.admin.setRole({ userId: one.id, role: role.split(",") });
    const there = await signedIn(one);
    const has = succeeded(await there.client.admin.hasPermission({ permissions: both })).data.success;
    const { body } = await post("/v1/authorize", { permissions: both }, { cookie: there.cookie() });
    assert.equal(has, body.allow, "hasPermission and /v1/authorize disagree");
    return body;
  };
  assert.equal((await check("reader,lister")).allow, true);
  const half = await check("reader");
  assert.equal(half.allow, false);
  assert.deepEqual(half.missing, { user: ["list"] });
  assert.equal((await check("lister")).allow, false);
  assert.equal((await check("nonsense")).allow, false);
  await save("data.json", null);
});

test("a file that does not compile leaves the rules before in force, and says so", async () => {
  const ann = await person("ann");
  const there = await signedIn(ann);
  const question = { action: "read", resource: { type: "document", id: "d1", properties: { owner: ann.id } } };
  await save("document.rego", `package app.document\n\nallow if input.resource.properties.owner == input.principal.id\n`);
  assert.equal((await authorize(question, { cookie: there.cookie() })).allow, true);

  const before = (await get("/readyz")).body;
  await writeFile(`${process.env.POLICIES}/document.rego`, "package app.document\n\nallow if {\n");
  await eventually(async () => {
    const answer = await get("/readyz");
    assert.equal(answer.status, 200);
    assert.equal(answer.body.policy.current, false);
  });
  assert.equal((await authorize(question, { cookie: there.cookie() })).allow, true);
  assert.equal((await authorize(question, { cookie: there.cookie() })).policyRevision, before.policy.revision);
  await save("document.rego", null);
});

test("nothing under data.ostiary can be defined by an author", async () => {
  for (const name of ["ostiary", "ostiary.evil"]) {
    const file = `${process.env.POLICIES}/evil.rego`;
    await writeFile(file, `package ${name}\n\ndecision := {"allow": true, "reasons": []}\n`);
    await eventually(async () => assert.equal((await get("/readyz")).body.policy.current, false));
    assert.equal((await authorize({ action: "delete", resource: { type: "user" } })).allow, false);
    await rm(file);
    await eventually(async () => assert.equal((await get("/readyz")).body.policy.current, true));
  }
});
