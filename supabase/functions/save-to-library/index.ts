/** Copies an asset of the user from the workspace, which expires, to the library: `{"asset_id"}`. */
import { authenticate } from "../_shared/auth.ts";
import { sql } from "../_shared/database.ts";
import { HttpError, readId, respond, serve } from "../_shared/http.ts";
import { copyToLibrary } from "../_shared/storage.ts";

interface Asset {
  temp_storage_path: string | null;
  thumbnail_path: string | null;
}

export async function handle(request: Request): Promise<Response> {
  const user = await authenticate(request);
  const id = await readId(request, "asset_id");
  const [asset] = await sql<Asset[]>`
    select temp_storage_path, thumbnail_path from public.workspace_assets where id = ${id} and user_id = ${user.id} and expires_at > now()`;
  if (!asset) throw new HttpError(404, "NOT_FOUND", "There is no such asset.");
  const path = asset.temp_storage_path && `${user.id}/${id}${asset.temp_storage_path.match(/\.[a-z0-9]+$/)?.[0] ?? ""}`;
  const thumbnail = asset.thumbnail_path && `${user.id}/${id}.thumb.webp`;
  if (asset.temp_storage_path && path) await copyToLibrary(asset.temp_storage_path, path);
  if (asset.thumbnail_path && thumbnail) await copyToLibrary(asset.thumbnail_path, thumbnail);
  const [row] = await sql`select * from public.save_to_library(${user.id}, ${id}, ${path}, ${thumbnail})`;
  return respond(200, row);
}

export default serve(handle);
