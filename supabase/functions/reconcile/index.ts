/** Called every minute: submits jobs that are due, settles those whose callback did not arrive, and repeats unconfirmed cancellations. */
import { authorizeOperator } from "../_shared/auth.ts";
import { repeatCancellations } from "../_shared/cancellation.ts";
import { sql } from "../_shared/database.ts";
import { respond, serve } from "../_shared/http.ts";
import type { Job } from "../_shared/job.ts";
import { check } from "../_shared/reconciliation.ts";
import { submitDue } from "../_shared/submission.ts";

const BATCH = 20;
/** The next run follows after a minute. */
const SECONDS = 25;

export async function handle(request: Request): Promise<Response> {
  await authorizeOperator(request);
  const end = Date.now() + SECONDS * 1000;
  const counts = { checked: 0, submitted: 0, cancelled: 0, errors: 0 };
  // A job that a check queues again is due after a delay, so one pass over each kind is enough.
  for (let found = BATCH; found === BATCH && Date.now() < end; counts.checked += found) {
    const jobs = await sql<Job[]>`select * from public.claim_unsettled_jobs(${BATCH})`;
    const checks = await Promise.allSettled(jobs.map(check));
    counts.errors += checks.filter(logged).length;
    found = jobs.length;
  }
  for (let found = BATCH; found === BATCH && Date.now() < end; counts.submitted += found) found = await submitDue(BATCH);
  for (let found = BATCH; found === BATCH && Date.now() < end; counts.cancelled += found) found = await repeatCancellations(BATCH);
  return respond(200, counts);
}

function logged(result: PromiseSettledResult<unknown>): boolean {
  if (result.status === "fulfilled") return false;
  console.error(`a job could not be checked: ${result.reason instanceof Error ? result.reason.message : "unknown error"}`);
  return true;
}

export default serve(handle);
