/** Reconciliation: settles jobs whose callback did not arrive, from what RunPod or the stored payload says. */
import { stop } from "./cancellation.ts";
import { isInvalidData, sql } from "./database.ts";
import type { Job, Status } from "./job.ts";
import { type RunStatus, status } from "./runpod.ts";
import { type Payload, settle } from "./settlement.ts";
import { downloadJson } from "./storage.ts";

/** The result of a look at a job: its status, and the latest progress update of its worker, if it runs. */
export interface Checked {
  status: Status;
  progress?: unknown;
}

/** Looks at an open job, settles it if it has ended, and gives it up if it is past its deadline. */
export async function check(job: Job): Promise<Checked> {
  const found = job.runpod_id ? await status(job.endpoint, job.runpod_id) : "unavailable";
  const payload = found === "unavailable" ? undefined : found === "forgotten" ? await forgottenPayload(job) : payloadOf(job, found);
  if (payload) await settleOrFail(job, payload);
  const isRunning = typeof found === "object" && found.status === "IN_PROGRESS";
  return { status: await expire(job), ...(isRunning && !payload?.assets.length ? { progress: found.output ?? null } : {}) };
}

/** Settles the job. A payload that does not fit its rows can never do so: then the attempt has failed. */
async function settleOrFail(job: Job, payload: Payload): Promise<void> {
  try {
    await settle(payload);
  } catch (error) {
    if (!isInvalidData(error)) throw error;
    await settle(failure(job, "INVALID_PAYLOAD", "The worker's result does not fit the job."));
  }
}

/** Fails the job if it is open and past its deadline, and returns its status. */
async function expire(job: Job): Promise<Status> {
  const [row] = await sql<[{ status: Status }]>`select public.expire_job(${job.id}) as status`;
  const isExpired = row.status === "failed" && new Date(job.deadline).getTime() <= Date.now();
  if (isExpired && job.runpod_id) await stop({ endpoint: job.endpoint, runpod_id: job.runpod_id });
  return row.status;
}

/** Returns the payload that a state of RunPod stands for; undefined if the job waits. */
function payloadOf(job: Job, found: RunStatus): Payload | undefined {
  // A streamed result is the list of its chunks, of which the payload is the last.
  const output = Array.isArray(found.output) ? found.output.at(-1) : found.output;
  if (isPayload(output, job)) return output;
  switch (found.status) {
    case "IN_PROGRESS":
      return job.status === "queued" ? { ...failure(job, "", ""), status: "processing", error_message: null } : undefined;
    case "COMPLETED":
      return failure(job, "RESULT_LOST", "The worker's result is not readable.");
    case "FAILED":
      return failure(job, "INTERNAL_ERROR", "The worker stopped before the job ended.");
    case "TIMED_OUT":
      return failure(job, "JOB_TIMEOUT", "The job took too long.");
    case "CANCELLED":
      return failure(job, "CANCELLED", "The job was cancelled.");
    default:
      return undefined;
  }
}

/** RunPod forgets results after 30 minutes; the worker has stored its payload beside the assets, if it could not deliver it. */
async function forgottenPayload(job: Job): Promise<Payload> {
  const stored = await downloadJson(`${job.user_id}/${job.id}/callback.json`).catch(() => undefined);
  const usable = isPayload(stored, job) && (stored.status === "completed" || stored.metadata.runpod_id === job.runpod_id);
  return usable ? stored : failure(job, "RESULT_LOST", "The job's result was lost.");
}

function failure(job: Job, code: string, message: string): Payload {
  const metadata = { runpod_id: job.runpod_id, error_code: code, retryable: code !== "CANCELLED" };
  return { job_id: job.id, status: "failed", assets: [], metadata, error_message: message };
}

function isPayload(value: unknown, job: Job): value is Payload {
  if (typeof value !== "object" || value === null) return false;
  const { job_id, status, assets, metadata } = value as Partial<Payload>;
  return job_id === job.id && (status === "completed" || status === "failed") && Array.isArray(assets) && typeof metadata === "object";
}
