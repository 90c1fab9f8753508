/** Cancels a job of the user: `{"job_id"}`. An enhancement and the generation that waits for it are cancelled together. */
import { authenticate } from "../_shared/auth.ts";
import { type Run, stop } from "../_shared/cancellation.ts";
import { sql } from "../_shared/database.ts";
import { HttpError, readId, respond, serve } from "../_shared/http.ts";
import type { Status } from "../_shared/job.ts";

interface Cancelled {
  status: Status;
  running: Run[];
}

export async function handle(request: Request): Promise<Response> {
  const user = await authenticate(request);
  const id = await readId(request, "job_id");
  const [{ cancelled }] = await sql<[{ cancelled: Cancelled | null }]>`select public.cancel_job(${user.id}, ${id}) as cancelled`;
  if (!cancelled) throw new HttpError(404, "NOT_FOUND", "There is no such job.");
  const stopped = await Promise.all(cancelled.running.map(stop));
  // The row is final either way. If RunPod did not answer, reconcile repeats the request.
  return respond(200, { job_id: id, status: cancelled.status, worker_stopped: stopped.every(Boolean) });
}

export default serve(handle);
