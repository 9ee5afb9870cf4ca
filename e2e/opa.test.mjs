// OPA's own client, unmodified, against rules that their author declared.
import { OPAClient } from "@open-policy-agent/opa";
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { admin, base, call, keyOf, person, post, save } from "./world.mjs";

let asker; // a key that may evaluate
let client;

before(async () => {
  await save(
    "shop.rego",
    `package shop

# METADATA
# entrypoint: true
default allow := false

allow if input.user.team == "sales"

# METADATA
# entrypoint: true
limits := {"max": 10 * count(input.user.teams), "teams": input.user.teams}

# METADATA
# entrypoint: true
sometimes if input.user.lucky

# METADATA
# entrypoint: true
conflict := 1 if input.a

conflict := 2 if input.b

# METADATA
# entrypoint: true
who := input

# METADATA
# entrypoint: true
# compile:
#   unknowns: [input.orders]
visible if input.orders.region == input.user.region

secret := "not declared"
`,
  );
  await save("system.rego", `package system\n\n# METADATA\n# entrypoint: true\nmain := {"hello": input.name}\n`);
  asker = await keyOf(await person("asker", { role: "admin" }), { access: ["evaluate"] });
  client = new OPAClient(base, { sdk: { bearerAuth: asker.key } });
});

after(async () => {
  for (const file of ["shop.rego", "system.rego"]) await save(file, null);
});

test("evaluate answers booleans, objects and what is below them", async () => {
  assert.equal(await client.evaluate("shop/allow", { user: { team: "sales" } }), true);
  assert.equal(await client.evaluate("shop/allow", { user: { team: "it" } }), false);
  assert.equal(await client.evaluate("shop/allow"), false, "without an input");
  const teams = ["a", "b"];
  assert.deepEqual(await client.evaluate("shop/limits", { user: { teams } }), { max: 20, teams });
  assert.equal(await client.evaluate("shop/limits/teams/1", { user: { teams } }), "b");
  class Person {
    toInput() {
      return { user: { team: "sales" } };
    }
  }
  assert.equal(await client.evaluate("shop/allow", new Person(), { fromResult: (r) => (r ? "yes" : "no") }), "yes");
});

test("what is undefined has no result, and what is not declared is undefined", async () => {
  for (const path of ["shop/sometimes", "shop/secret", "shop", "nothing/here", "roles", "ostiary/permits", "ostiary/permissions"]) {
    assert.equal(await client.evaluate(path, { user: {}, principal: { id: admin.id, roles: ["admin"] } }), undefined, path);
  }
});

test("a null input is none", async () => {
  const answer = await post("/v1/data/shop/who", { input: null }, { bearer: asker.key });
  assert.equal(answer.status, 200);
  assert.ok(!("result" in answer.body), answer.text);
  assert.equal(answer.body.warning.code, "api_usage_warning");
  assert.equal(answer.body.decision_id, answer.headers.get("ostiary-decision"));
});

test("evaluateDefault asks for system/main", async () => {
  assert.deepEqual(await client.evaluateDefault({ name: "ann" }), { hello: "ann" });
});

test("evaluateBatch falls back to single queries", async () => {
  const inputs = { a: { user: { team: "sales" } }, b: { user: { team: "it" } } };
  assert.deepEqual(await client.evaluateBatch("shop/allow", inputs, { fallback: true }), { a: true, b: false });
  await assert.rejects(new OPAClient(base, { sdk: { bearerAuth: asker.key } }).evaluateBatch("shop/allow", inputs));
});

test("getFilters turns a rule into a condition", async () => {
  const input = { user: { region: "north" } };
  const sql = await client.getFilters("shop/visible", input, { target: "postgresql" });
  assert.equal(sql.query, "WHERE orders.region = E'north'");
  const ucast = await client.getFilters("shop/visible", input, { target: "ucastALL" });
  assert.deepEqual(JSON.parse(JSON.stringify(ucast.query)), { type: "field", operator: "eq", field: "orders.region", value: "north" });
  const several = await client.getMultipleFilters("shop/visible", input, { targets: ["postgresql", "ucastPrisma"] });
  assert.deepEqual(Object.keys(several).sort(), ["postgresql", "ucast"]);
  // Without a result the rule never holds.
  await assert.rejects(client.getFilters("shop/sometimes", input, { target: "postgresql" }), /No result/);
});

test("what fails in the policy is an error in OPA's words", async () => {
  const answer = await post("/v1/data/shop/conflict", { input: { a: 1, b: 1 } }, { bearer: asker.key });
  assert.equal(answer.status, 500);
  assert.equal(answer.body.code, "internal_error");
  assert.equal(answer.body.errors[0].code, "eval_conflict_error");
  await assert.rejects(client.evaluate("shop/conflict", { a: 1, b: 1 }), (error) => {
    assert.equal(error.data$?.errors?.[0]?.code ?? error.errors?.[0]?.code, "eval_conflict_error");
    return true;
  });
});

test("only who may ask is answered", async () => {
  const input = { user: { team: "sales" } };
  const status = (expected) => (error) => {
    assert.equal(error.httpMeta?.response.status ?? error.statusCode, expected, String(error));
    return true;
  };
  await assert.rejects(new OPAClient(base).evaluate("shop/allow", input), status(401));
  await assert.rejects(new OPAClient(base, { headers: { authorization: "Bearer nonsense" } }).evaluate("shop/allow", input), status(401));
  const other = await keyOf(await person("other", { role: "admin" }), { user: ["list"] });
  await assert.rejects(new OPAClient(base, { headers: { "x-api-key": other.key } }).evaluate("shop/allow", input), status(403));
  assert.equal(await new OPAClient(base, { headers: { "x-api-key": asker.key } }).evaluate("shop/allow", input), true);

  const denied = await post("/v1/data/shop/allow", { input }, { key: other.key });
  assert.equal(denied.body.code, "unauthorized");
  assert.equal(denied.body.errors[0].code, "grant_missing");
});

test("policies are read, and nothing is written", async () => {
  const list = await call("GET", "/v1/policies", { key: admin.key });
  assert.equal(list.status, 200);
  const ids = list.body.result.map((p) => p.id);
  assert.ok(ids.includes("shop.rego") && ids.includes("builtin/decision.rego"), ids.join());
  assert.equal((await call("GET", "/v1/policies/shop.rego", { key: admin.key })).body.result.ast.package.path[1].value, "shop");
  assert.equal((await call("GET", "/v1/policies", { key: asker.key })).status, 403);
  for (const [method, path] of [["PUT", "/v1/policies/shop.rego"], ["DELETE", "/v1/policies/shop.rego"], ["PUT", "/v1/data/roles"], ["PATCH", "/v1/data/roles"], ["DELETE", "/v1/data/roles"]]) {
    const answer = await call(method, path, { key: admin.key, body: {} });
    assert.deepEqual([answer.status, answer.body.code], [405, "invalid_operation"], `${method} ${path}`);
  }
  assert.equal((await post("/v1/query", { query: "data.roles" }, { key: admin.key })).status, 404, "switched off");
  assert.equal((await call("GET", "/health?bundles&plugins")).status, 200);
});
