/** Stops runs that are not needed any more, until RunPod confirms it. */
import { sql } from "./database.ts";
import { cancel } from "./runpod.ts";

/** A run at RunPod. */
export interface Run {
  endpoint: string;
  runpod_id: string;
}

/** Asks RunPod to stop a run whose cancellation is requested. Returns whether it confirmed; if not, reconcile repeats it. */
export async function stop({ endpoint, runpod_id }: Run): Promise<boolean> {
  if (!(await cancel(endpoint, runpod_id))) return false;
  await sql`select public.confirm_cancellation(${runpod_id})`;
  return true;
}

/** Repeats cancellations that RunPod has not confirmed, at most `most`. Returns their number. */
export async function repeatCancellations(most: number): Promise<number> {
  const runs = await sql<Run[]>`select * from public.claim_cancellations(${most})`;
  await Promise.all(runs.map(stop));
  return runs.length;
}
