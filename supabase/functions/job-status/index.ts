/** Describes a job of the user with its assets: `{"job_id"}`. Asks RunPod about its progress. */
import { authenticate } from "../_shared/auth.ts";
import { sql } from "../_shared/database.ts";
import { HttpError, readId, respond, serve } from "../_shared/http.ts";
import type { Job } from "../_shared/job.ts";
import { check } from "../_shared/reconciliation.ts";
import { signedUrls } from "../_shared/storage.ts";

/** RunPod is asked about a job at most once in this many seconds, the first time so long after its submission. */
const CHECK_SECONDS = 10;

interface Asset {
  asset_index: number;
  asset_type: "image" | "video" | "text";
  temp_storage_path: string | null;
  thumbnail_path: string | null;
  content: string | null;
  [column: string]: unknown;
}

async function find(owner: string, id: string): Promise<Job> {
  const [job] = await sql<Job[]>`select * from public.jobs where id = ${id} and user_id = ${owner}`;
  if (!job) throw new HttpError(404, "NOT_FOUND", "There is no such job.");
  return job;
}

/** Claims a look at the job, so that many clients that poll do not ask RunPod many times. */
async function claimCheck(job: Job): Promise<boolean> {
  const claimed = await sql`
    update public.jobs set checked_at = now()
    where id = ${job.id} and status in ('queued', 'processing') and (runpod_id is not null or deadline <= now())
      and coalesce(checked_at, submitted_at) <= now() - ${CHECK_SECONDS} * interval '1 second'
    returning 1`;
  return claimed.length > 0;
}

export async function handle(request: Request): Promise<Response> {
  const user = await authenticate(request);
  const id = await readId(request, "job_id");
  let job = await find(user.id, id);
  let progress: unknown;
  if (await claimCheck(job)) {
    ({ progress } = await check(job));
    job = await find(user.id, id);
  }
  return respond(200, { ...describe(job), ...(progress === undefined ? {} : { progress }), assets: await assetsOf(job) });
}

function describe(job: Job) {
  const { id, job_type, format, status, original_prompt, enhanced_prompt, error_code, error_message, retryable, attempts, parent_id } = job;
  const { created_at, started_at, completed_at, deadline } = job;
  const expected_seconds = job.expected_seconds === null ? null : Number(job.expected_seconds);
  return {
    ...{
      job_id: id,
      job_type,
      format,
      status,
      original_prompt,
      enhanced_prompt,
      error_code,
      error_message,
      retryable,
      attempts,
      parent_id,
    },
    ...{ expected_seconds, created_at, started_at, completed_at, deadline },
  };
}

async function assetsOf(job: Job) {
  const assets = await sql<Asset[]>`
    select asset_index, asset_type, temp_storage_path, thumbnail_path, content, mime_type, file_size_bytes::float8 as file_size_bytes,
      duration_seconds::float8 as duration_seconds, generation_seed::float8 as generation_seed, width, height, id as asset_id, expires_at
    from public.workspace_assets where job_id = ${job.id} and user_id = ${job.user_id} order by asset_index`;
  const urls = await signedUrls(assets.flatMap((asset) => [asset.temp_storage_path, asset.thumbnail_path]).filter((path) => path !== null));
  return assets.map((asset) => ({
    ...asset,
    url: urls.get(asset.temp_storage_path ?? "") ?? null,
    thumbnail_url: urls.get(asset.thumbnail_path ?? "") ?? null,
  }));
}

export default serve(handle);
