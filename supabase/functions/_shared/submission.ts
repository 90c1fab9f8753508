/** Submits claimed jobs to RunPod and records the outcome. */
import { stop } from "./cancellation.ts";
import { refuse, type Subject } from "./content_policy.ts";
import type { SdxlRequest, WanRequest } from "./contract/contract.ts";
import { sql } from "./database.ts";
import { EXECUTION_SECONDS, type Job, type Status } from "./job.ts";
import { permissionsOf } from "./permissions.ts";
import { type Policy, run, type RunOutcome } from "./runpod.ts";
import { LIBRARY } from "./storage.ts";

const MESSAGES = {
  QUEUE_FULL: "The queue is full. Try again later.",
  QUEUE_UNAVAILABLE: "The queue is not available. Try again later.",
  QUEUE_REFUSED: "The queue refused the job.",
};
const MIN_TTL_MS = 10_000;

/** Returns RunPod's limits for a job: it forgets the job when reconcile gives up. */
export function policyOf(job: Job, now: number = Date.now()): Policy {
  return {
    executionTimeout: EXECUTION_SECONDS[job.model_type] * 1000,
    ttl: Math.max(MIN_TTL_MS, new Date(job.deadline).getTime() - now),
  };
}

/**
 * Submits a job that this caller has claimed. Its `input.id` is the same in every attempt, so that a second copy makes the same files.
 *
 * @param again Whether a refusal may be followed by another attempt. Not at first: the user is waiting for the answer.
 * @returns The job's status afterwards.
 */
export async function submit(job: Job, again: boolean): Promise<Status> {
  const refusal = job.enhanced_prompt && await refuse(enhancedSubject(job, job.enhanced_prompt), await permissionsOf(job.tier));
  if (refusal) return await recordRefusal(job, "CONTENT_POLICY", refusal.message, false, again);
  return await record(job, await run(job.endpoint, job.request, policyOf(job)), again);
}

/** The fields of a generation's request that the content policy is told of. */
interface Generation {
  negative_prompt?: string | null;
  config?: Pick<NonNullable<WanRequest["config"]>, "image" | "first_frame" | "last_frame"> | null;
  metadata?: Pick<NonNullable<SdxlRequest["metadata"]>, "reference_image_url" | "reference_type"> | null;
}

/** Describes a generation with its enhanced prompt for the content policy. */
function enhancedSubject(job: Job, prompt: string): Subject {
  const { negative_prompt, config, metadata } = job.request as Generation;
  const paths = [metadata?.reference_image_url, config?.image, config?.first_frame, config?.last_frame];
  const character = metadata?.reference_type === "character";
  const references = paths.filter((path) => typeof path === "string").map((path) => ({
    uploaded: path.startsWith(`${LIBRARY}/`),
    character,
  }));
  return { texts: [prompt], references, ...(negative_prompt ? { negativePrompt: negative_prompt } : {}) };
}

async function record(job: Job, outcome: RunOutcome, again: boolean): Promise<Status> {
  switch (outcome.kind) {
    case "accepted": {
      const [{ recorded }] = await sql<[{ recorded: { status: Status; superfluous: boolean } }]>`
        select public.record_submission(${job.id}, ${job.endpoint}, ${outcome.id}) as recorded`;
      // Cancelled, given up, completed by an earlier attempt, or deleted with its user meanwhile: its result is not needed any more.
      if (recorded.superfluous) await stop({ endpoint: job.endpoint, runpod_id: outcome.id });
      return recorded.status;
    }
    case "refused":
      return await recordRefusal(job, outcome.code, MESSAGES[outcome.code], outcome.retryable, again);
    case "unknown":
      // RunPod may have it. Its callback settles the job, or the claim expires and reconcile submits it again.
      return "queued";
  }
}

async function recordRefusal(job: Job, code: string, message: string, retryable: boolean, again: boolean): Promise<Status> {
  const [row] = await sql<[{ status: Status }]>`
    select public.record_refusal(${job.id}, ${code}, ${message}, ${retryable}, ${again}) as status`;
  return row.status;
}

/** Claims and submits jobs that are due, those of `ids` only if given. Returns their number. */
export async function submitDue(most: number, ids: string[] | null = null): Promise<number> {
  const jobs = await sql<Job[]>`select * from public.claim_due_jobs(${most}, ${ids})`;
  await Promise.all(jobs.map((job) => submit(job, true)));
  return jobs.length;
}
