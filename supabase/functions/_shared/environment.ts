/** The only reader of the environment. */

/** Returns a variable that has to be set. */
export function required(name: string): string {
  const value = Deno.env.get(name)?.trim();
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

/** Returns a variable, or `fallback` if it is not set. */
export function optional(name: string, fallback: string): string {
  return Deno.env.get(name)?.trim() || fallback;
}

/** Returns the project's keys of one kind by name: of the new kind from a JSON object, the legacy key as `legacy`. */
function keys(name: string, legacyName: string): Record<string, string> {
  const legacy = Deno.env.get(legacyName)?.trim();
  const named: Record<string, string> = JSON.parse(optional(name, "{}"));
  return legacy ? { ...named, legacy } : named;
}

/** The keys that a server may use, by name. */
export const secretKeys = (): Record<string, string> => keys("SUPABASE_SECRET_KEYS", "SUPABASE_SERVICE_ROLE_KEY");

/** Returns the key for calls as a server. */
export const secretKey = (): string => firstOf(secretKeys(), "SUPABASE_SECRET_KEYS");

/** Returns the key for calls as a client. */
export const publishableKey = (): string => firstOf(keys("SUPABASE_PUBLISHABLE_KEYS", "SUPABASE_ANON_KEY"), "SUPABASE_PUBLISHABLE_KEYS");

function firstOf(named: Record<string, string>, name: string): string {
  const key = named.default ?? named.legacy ?? Object.values(named)[0];
  if (!key) throw new Error(`${name} has no key`);
  return key;
}
