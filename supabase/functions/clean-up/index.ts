/** Called every hour: removes the objects and rows of expired assets. Storage refuses deletion by SQL, so this is no SQL job. */
import { authorizeOperator } from "../_shared/auth.ts";
import { sql } from "../_shared/database.ts";
import { respond, serve } from "../_shared/http.ts";
import { remove } from "../_shared/storage.ts";

const BATCH = 500;
const MAX_BATCHES = 20;

export async function handle(request: Request): Promise<Response> {
  await authorizeOperator(request);
  let objects = 0;
  for (let batch = 0; batch < MAX_BATCHES; batch++) {
    const names = (await sql<{ name: string }[]>`select name from public.expired_objects(${BATCH}) as name`).map(({ name }) => name);
    if (names.length > 0) await remove(names);
    objects += names.length;
    if (names.length < BATCH) break;
  }
  // Last: while a row exists, an object that could not be removed is found again.
  const [row] = await sql<[{ count: string }]>`select public.delete_expired_assets() as count`;
  return respond(200, { objects, assets: Number(row.count) });
}

export default serve(handle);
