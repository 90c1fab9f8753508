/** What a tier permits. */
import type { Permissions } from "./content_policy.ts";
import { sql } from "./database.ts";

const CACHE_MS = 60_000;
let cached: { at: number; byTier: Map<string, Permissions> } | undefined;

/** Returns the permissions of a tier, at most a minute old. A tier that does not exist permits what `free` does. */
export async function permissionsOf(tier: string): Promise<Permissions> {
  if (!cached || Date.now() - cached.at > CACHE_MS) {
    const rows = await sql<{ name: string; adultContent: boolean; realPeople: boolean }[]>`
      select name, allows_adult_content as "adultContent", allows_real_people as "realPeople" from public.tiers`;
    cached = { at: Date.now(), byTier: new Map(rows.map(({ name, ...permissions }) => [name, permissions])) };
  }
  return cached.byTier.get(tier) ?? cached.byTier.get("free") ?? { adultContent: false, realPeople: false };
}
