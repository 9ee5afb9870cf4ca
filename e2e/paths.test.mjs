// A path has one spelling. Others never reach a handler that the plain path
// would refuse.
import assert from "node:assert/strict";
import { request } from "node:http";
import { before, test } from "node:test";
import { admin, get, keyOf, person, upstream } from "./world.mjs";

/** One request with the path exactly as written: fetch would tidy it up. */
function raw(path, headers = {}, method = "GET") {
  const { hostname, port } = new URL(upstream);
  return new Promise((resolve, reject) => {
    const sent = request({ hostname, port, path, method, headers }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part) => (text += part)).on("end", () => resolve({ status: answer.statusCode, text }));
    });
    sent.on("error", reject).end();
  });
}

const variants = (path) => [
  path.replace("/api", "//api"),
  path.replace("/auth/", "/auth//"),
  path.replace("/admin/", "/admin//"),
  path.replace("/admin/", "//admin/"),
  path.replace("/admin/", "/./admin/"),
  path.replace("/admin/", "/x/../admin/"),
  path.replace("/admin/", "/%2e/admin/"),
  path.replace("/admin/", "/x/%2e%2e/admin/"),
  path.replace("/admin/", "/x%2f..%2fadmin/"),
  path.replace("/admin/", "%2fadmin%2f"),
  path.replace("/admin/", "\\admin\\"),
  path.replace("/admin/", "/%61dmin/"),
  path.replace("/admin/", "/Admin/"),
  path.replace("/admin/", "/admin;a=b/"),
  path.replace("/api", "/ok/../api"),
  path.replace("/api", "/healthz/../api"),
  path.replace("/api/auth", "/api/auth/ok/.."),
  path + "/",
  path + "//",
  path + "/.",
  path + "%2f",
  path + "%00",
  path + "%3f",
  path + ".json",
];

let nobody;
before(async () => {
  nobody = await keyOf(await person("nobody"), { "*": [] }).catch(async () => keyOf(await person("nobody"), {}));
});

for (const path of ["/api/auth/admin/list-users", `/api/auth/admin/get-user?id=${admin.id}`]) {
  test(`${path.split("?")[0]}`, async () => {
    const [bare, query] = path.split("?");
    const tail = query ? `?${query}` : "";
    assert.equal((await raw(path)).status, 401);
    assert.equal((await raw(path, { "x-api-key": nobody.key })).status, 403);
    for (const variant of variants(bare)) {
      for (const headers of [{}, { "x-api-key": nobody.key }]) {
        const { status, text } = await raw(variant + tail, headers);
        assert.ok(status >= 400 && status < 500, `${variant}: ${status}`);
        assert.ok(!text.includes(admin.email), `${variant}: told about a user`);
      }
      // Not even for those who may: a proxy in front might have let it pass.
      const { status } = await raw(variant + tail, { "x-api-key": admin.key });
      assert.ok(status >= 400 && status < 500, `${variant} with the administrator's key: ${status}`);
    }
  });
}

test("an absolute URL as the target is no way around", async () => {
  const { status } = await raw(`${upstream}/api/auth//admin/list-users`, { "x-api-key": nobody.key });
  assert.ok(status >= 400 && status < 500, `${status}`);
});

test("the plain path works", async () => {
  assert.equal((await get("/api/auth/admin/list-users", { key: admin.key })).status, 200);
});
