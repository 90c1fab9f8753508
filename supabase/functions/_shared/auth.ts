/** Who is calling: a signed-in user, or the operator. */
import { createClient } from "@supabase/supabase-js";
import { publishableKey, required, secretKeys } from "./environment.ts";
import { HttpError, isUuid } from "./http.ts";

/** A signed-in user, and the tier in the user's app_metadata, which only the operator can write. */
export interface User {
  id: string;
  tier: string;
}

// It keeps the project's public keys, with which tokens are verified here. Legacy tokens (HS256) are verified by the Auth service.
const auth = createClient(required("SUPABASE_URL"), publishableKey(), { auth: { persistSession: false, autoRefreshToken: false } }).auth;

function bearer(request: Request): string | undefined {
  return request.headers.get("authorization")?.match(/^Bearer (\S+)$/i)?.[1];
}

/** Returns the user whose token the request carries. */
export async function authenticate(request: Request): Promise<User> {
  const token = bearer(request);
  if (!token) throw new HttpError(401, "UNAUTHORIZED", "Sign in.");
  const { data, error } = await auth.getClaims(token).catch((error) => ({ data: null, error }));
  if (error?.name === "AuthRetryableFetchError") throw new HttpError(503, "UNAVAILABLE", "The Auth service is not available. Try again.");
  const claims = data?.claims;
  if (!claims || claims.role !== "authenticated" || !isUuid(claims.sub)) throw new HttpError(401, "UNAUTHORIZED", "Sign in again.");
  const tier = claims.app_metadata?.tier;
  return { id: claims.sub, tier: typeof tier === "string" ? tier : "free" };
}

/** Throws unless the request carries one of the project's secret keys: in `apikey`, or, of the legacy kind, as a bearer. */
export async function authorizeOperator(request: Request): Promise<void> {
  const given = await digest(request.headers.get("apikey") ?? bearer(request) ?? "");
  const known = await Promise.all(Object.values(secretKeys()).map(digest));
  // Digests have one length and no relation to the keys' prefixes, so comparing them leaks nothing about the keys.
  if (!known.includes(given)) throw new HttpError(401, "UNAUTHORIZED", "A secret key is required.");
}

async function digest(text: string): Promise<string> {
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
