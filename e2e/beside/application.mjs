// A Better Auth application on a database that Ostiary shares. It makes the
// tables, prints its URL, and serves until its input ends.
import { apiKey } from "@better-auth/api-key";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import { admin, username } from "better-auth/plugins";
import { createServer } from "node:http";
import pg from "pg";

const url = new URL(process.env.OSTIARY_DATABASE);
const pool = new pg.Pool({
  user: url.username,
  password: url.password || undefined,
  host: url.searchParams.get("host") ?? url.hostname,
  port: url.port ? Number(url.port) : undefined,
  database: url.pathname.slice(1),
  options: `-c search_path=${url.searchParams.get("search_path")}`,
});

const generateId = process.env.GENERATE_ID;

const options = (baseURL, more) => ({
  baseURL,
  secret: process.env.OSTIARY_SECRET,
  database: pool,
  emailAndPassword: { enabled: true },
  user: { additionalFields: { plan: { type: "string", required: false } } },
  plugins: [
    username(),
    admin(),
    apiKey({ enableSessionForAPIKeys: true, enableMetadata: true, rateLimit: { enabled: false }, permissions: { defaultPermissions: { user: ["list"] } } }),
  ],
  telemetry: { enabled: false },
  rateLimit: { enabled: false },
  advanced: generateId === "default" ? {} : { database: { generateId } },
  ...more,
});

let handle;
const server = createServer((request, response) => handle(request, response));
server.listen(0, "127.0.0.1", async () => {
  const baseURL = `http://127.0.0.1:${server.address().port}`;
  const plain = options(baseURL);
  await (await getMigrations(plain)).runMigrations();
  const api = toNodeHandler(betterAuth(plain));
  // The same application, were it to believe the cookie cache.
  const cached = toNodeHandler(betterAuth(options(baseURL, { basePath: "/cached", session: { cookieCache: { enabled: true } } })));
  handle = async (request, response) => {
    if (request.url === "/migrations") {
      const { toBeCreated, toBeAdded } = await getMigrations(plain);
      return response.end(JSON.stringify([toBeCreated, toBeAdded]));
    }
    return request.url.startsWith("/cached/") ? cached(request, response) : api(request, response);
  };
  console.log(baseURL);
});
process.stdin.resume().on("end", () => process.exit());
