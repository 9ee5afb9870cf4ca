// A policy that fails or takes too long denies, says so, and changes nothing.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { admin, authorize, canSignIn, codes, get, keyClient, person, refused, save, signedIn } from "./world.mjs";

afterEach(() => save("user.rego", null));

const conflict = `package app.user

# Two values for one rule: OPA refuses to choose.
who := "first" if input.action.name != "create"

who := "second" if input.action.name != "create"

deny contains {"code": "never", "message": "never"} if who == "nobody"
`;

const slow = `package app.user

deny contains {"code": "never", "message": "never"} if {
	input.action.name != "create"
	count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i == j * 2]) < 0
}
`;

for (const [name, rego, code] of [
  ["fails", conflict, "policy_error"],
  ["is too slow", slow, "deadline"],
]) {
  test(`a policy that ${name} denies with its reason, and nothing changes`, async () => {
    const victim = await person("victim");
    const there = await signedIn(victim);
    const root = keyClient(admin.key);
    await save("user.rego", rego);

    const begun = Date.now();
    const decision = await authorize({ action: "set-password", resource: { type: "user", id: victim.id } }, { key: admin.key });
    assert.deepEqual([decision.allow, codes(decision)], [false, [code]]);
    assert.ok(Date.now() - begun < 5000, "the deadline did not hold");

    const changes = [
      ["setUserPassword", { userId: victim.id, newPassword: "another password" }],
      ["banUser", { userId: victim.id }],
      ["removeUser", { userId: victim.id }],
      ["setRole", { userId: victim.id, role: "admin" }],
    ];
    for (const [call, body] of changes) refused(await root.admin[call](body), 403);
    refused(await there.client.changePassword({ currentPassword: victim.password, newPassword: "another password" }), 403);

    await save("user.rego", null);
    assert.equal(await canSignIn(victim.email, victim.password), true, "the password changed");
    const { body } = await get(`/api/auth/admin/get-user?id=${victim.id}`, { key: admin.key });
    assert.deepEqual([body.role, Boolean(body.banned)], ["user", false]);
  });
}
