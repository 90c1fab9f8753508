/** Applies payloads of workers to jobs. */
import { stop } from "./cancellation.ts";
import { sql } from "./database.ts";
import { submitDue } from "./submission.ts";

/** A payload as far as it decides what happens; see `contract/contract.ts` for the whole. */
export interface Payload {
  job_id: string;
  status: "processing" | "completed" | "failed";
  assets: unknown[];
  metadata: { runpod_id?: string | null; error_code?: string | null; retryable?: boolean | null; [key: string]: unknown };
  error_message: string | null;
}

export type Settled = "unknown" | "final" | "superseded" | "processing" | "queued" | "completed" | "failed" | "cancelled";

interface Settlement {
  result: Settled;
  ready: string[];
  superfluous: string | null;
  endpoint: string;
}

/** Settles a job by a payload in one transaction, then submits the jobs that waited for it. */
export async function settle(payload: Payload): Promise<Settled> {
  const [{ settlement }] = await sql<[{ settlement: Settlement }]>`select public.settle_job(${sql.json(payload as never)}) as settlement`;
  // What fails from here on is repeated by reconcile: the job itself is settled.
  if (settlement.superfluous) await stop({ endpoint: settlement.endpoint, runpod_id: settlement.superfluous });
  if (settlement.ready.length > 0) await submitDue(settlement.ready.length, settlement.ready);
  return settlement.result;
}
