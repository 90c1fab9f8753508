/** Requests and responses of all functions. */
import { isUnavailable } from "./database.ts";

/** An error that the caller is told. */
export class HttpError extends Error {
  constructor(readonly status: number, readonly code: string, message: string, readonly details: Record<string, unknown> = {}) {
    super(message);
  }
}

const CORS = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Allow-Headers": "authorization, x-client-info, apikey, content-type",
  "Access-Control-Allow-Methods": "POST, GET, OPTIONS",
};

export function respond(status: number, body: unknown): Response {
  return Response.json(body, { status, headers: CORS });
}

type Handler = (request: Request) => Promise<Response>;

/** Wraps a handler of POST requests: answers preflight requests, and turns errors into responses without internals. */
export function serve(handle: Handler): { fetch: Handler } {
  return {
    fetch: async (request) => {
      if (request.method === "OPTIONS") return respond(200, {});
      try {
        if (request.method !== "POST") throw new HttpError(405, "METHOD_NOT_ALLOWED", "Send a POST request.");
        return await handle(request);
      } catch (error) {
        return errorResponse(error);
      }
    },
  };
}

function errorResponse(error: unknown): Response {
  if (error instanceof HttpError) return respond(error.status, { error: { code: error.code, message: error.message, ...error.details } });
  console.error(error instanceof Error ? `${error.name}: ${error.message}` : "unknown error");
  if (isUnavailable(error)) return respond(503, { error: { code: "UNAVAILABLE", message: "The database is not available. Try again." } });
  return respond(500, { error: { code: "INTERNAL_ERROR", message: "Something went wrong." } });
}

/** Reads a body of at most `limit` bytes, whatever `Content-Length` says. */
export async function readBody(request: Request, limit: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength;
    if (size > limit) throw new HttpError(413, "BODY_TOO_LARGE", `The body must be at most ${limit} bytes.`);
    chunks.push(chunk);
  }
  const body = new Uint8Array(size);
  let offset = 0;
  for (const chunk of chunks) {
    body.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return body;
}

/** Parses JSON. What PostgreSQL cannot store in a text, NUL and lone surrogates, becomes the replacement character. */
export function parseStorable(text: string): unknown {
  return JSON.parse(text, (_, value) => typeof value === "string" ? value.toWellFormed().replaceAll("\0", "\ufffd") : value);
}

/** Parses a body as JSON in UTF-8. */
export function parseJson(body: Uint8Array): unknown {
  try {
    return parseStorable(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    throw new HttpError(400, "INVALID_JSON", "The body must be JSON.");
  }
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export function isUuid(value: unknown): value is string {
  return typeof value === "string" && UUID.test(value);
}

/** Reads a body that is an object with an id under `key`. */
export async function readId(request: Request, key: string): Promise<string> {
  const body = parseJson(await readBody(request, 10_000));
  const id = typeof body === "object" && body !== null ? (body as Record<string, unknown>)[key] : undefined;
  if (!isUuid(id)) throw new HttpError(400, "INVALID_REQUEST", `${key} must be a UUID.`);
  return id;
}
