// A back end that asks Ostiary over HTTP before it answers. It is plain Node; a
// route handler of Next.js or a procedure of tRPC calls ask in the same way.
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

/**
 * Asks the service whether whoever sent the request may do action on resource.
 * Returns 200 if they may, otherwise the status to answer with: 401 if they have to
 * sign in, 403 with the reasons if they may not. What is no clear yes is a no: 503.
 */
export async function ask(service, request, action, resource) {
  const credential = presented(request.headers);
  if (credential.cookie && !safe(request)) return { status: 403, reasons: [{ code: "cross_origin", message: "another site sent this" }] };
  try {
    const answer = await fetch(new URL("/v1/authorize", service), {
      method: "POST",
      headers: { ...credential, "content-type": "application/json" },
      body: JSON.stringify({ action, resource }),
      redirect: "error", // it would carry the credential elsewhere
      signal: AbortSignal.timeout(5000),
    });
    if (answer.status === 401 || answer.status === 429) return { status: answer.status };
    if (answer.status !== 200) return { status: 503 };
    const { allow, principal, reasons } = await answer.json();
    if (allow === true && principal) return { status: 200, principal };
    if (allow !== false) return { status: 503 };
    return { status: principal?.credential === "none" ? 401 : 403, reasons };
  } catch {
    return { status: 503 }; // away, late, or no JSON
  }
}

/** What the request presents, to pass on: a header, or else the session cookie and no other. */
function presented(headers) {
  const found = {};
  for (const name of ["authorization", "x-api-key"]) if (headers[name]) found[name] = headers[name];
  if (Object.keys(found).length > 0) return found;
  const cookies = (headers.cookie ?? "").split(/; */).filter((c) => /^(__Secure-)?better-auth\.session_token=/.test(c));
  return cookies.length > 0 ? { cookie: cookies.join("; ") } : {};
}

/** A browser sends cookies along with what other sites make it send. The service cannot see that; the back end can. */
function safe({ method, headers }) {
  return method === "GET" || method === "HEAD" || headers["sec-fetch-site"] === "same-origin";
}

/** The back end: documents is {id: {owner, text}}. */
export function backend(service, documents) {
  return createServer(async (request, response) => {
    const send = (status, body) => response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" }).end(JSON.stringify(body));
    const action = { GET: "read", DELETE: "delete" }[request.method];
    const id = /^\/documents\/([a-z0-9]+)$/.exec(request.url)?.[1];
    if (!action || !id) return send(404, {});
    const document = Object.hasOwn(documents, id) ? documents[id] : undefined;
    const { status, principal, reasons } = await ask(service, request, action, { type: "document", id, properties: { owner: document?.owner ?? null } });
    if (status !== 200) {
      if (status === 401) response.setHeader("www-authenticate", "Bearer");
      return send(status, { reasons });
    }
    if (action === "delete") delete documents[id];
    send(200, { reader: principal.id, text: document?.text });
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const documents = { welcome: { owner: process.env.OWNER, text: "hello" } };
  backend(process.env.OSTIARY_URL ?? "http://127.0.0.1:8080", documents).listen(8081, "127.0.0.1");
}
