/** Supabase Storage as a server. */
import { createClient } from "@supabase/supabase-js";
import { required, secretKey } from "./environment.ts";
import { parseStorable } from "./http.ts";

const client = createClient(required("SUPABASE_URL"), secretKey(), { auth: { persistSession: false, autoRefreshToken: false } });

export const WORKSPACE = "workspace-temp";
export const LIBRARY = "user-library";
const URL_SECONDS = 3600;

/** Returns temporary URLs of objects in the workspace by their names; without those that do not exist. */
export async function signedUrls(names: string[]): Promise<Map<string, string>> {
  if (names.length === 0) return new Map();
  const { data, error } = await client.storage.from(WORKSPACE).createSignedUrls(names, URL_SECONDS);
  if (error) throw error;
  return new Map(data.flatMap(({ path, signedUrl, error }) => (error || !path || !signedUrl ? [] : [[path, signedUrl] as const])));
}

/** Returns the JSON of an object in the workspace; undefined if there is none. */
export async function downloadJson(name: string): Promise<unknown> {
  const { data, error } = await client.storage.from(WORKSPACE).download(name);
  if (error) return undefined;
  return parseStorable(await data.text());
}

/** Removes objects of the workspace. */
export async function remove(names: string[]): Promise<void> {
  const { error } = await client.storage.from(WORKSPACE).remove(names);
  if (error) throw error;
}

/** Copies an object of the workspace to the library. An existing copy is left as it is. */
export async function copyToLibrary(name: string, copy: string): Promise<void> {
  const { error } = await client.storage.from(WORKSPACE).copy(name, copy, { destinationBucket: LIBRARY });
  if (error && !/exists|duplicate/i.test(error.message)) throw error;
}
