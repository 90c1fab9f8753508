/**
 * A frontend's side of the project in `supabase/`: queues a job, follows it, and returns it with its assets.
 *
 *   const supabase = createClient(url, publishableKey);          // and sign in
 *   const job = await generate(supabase, { format: "image", prompt: "a heron over a bay", quantity: 3 }, show);
 *   for (const { url } of job.assets) …                          // temporary URLs
 */
import type { SupabaseClient } from "@supabase/supabase-js";

export type Status = "queued" | "processing" | "completed" | "failed" | "cancelled";

export interface Asset {
  asset_id: string;
  asset_index: number;
  asset_type: "image" | "video" | "text";
  /** Temporary URLs; null for a text. */
  url: string | null;
  thumbnail_url: string | null;
  content: string | null;
}

export interface Job {
  job_id: string;
  status: Status;
  expected_seconds: number | null;
  error_code: string | null;
  error_message: string | null;
  retryable: boolean | null;
  progress?: unknown;
  assets: Asset[];
}

/** The presets of `queue-job`; see docs/integration.md. */
export type Submission =
  | { format: "image" | "video"; prompt: string; quality?: "fast" | "high"; enhance?: "instruct" | "base"; [preset: string]: unknown }
  | { format: "text"; prompt: string; enhance: "instruct" | "base"; target?: "image" | "video"; [parameter: string]: unknown }
  | { format: "text"; messages: { role: "system" | "user" | "assistant"; content: string }[]; [parameter: string]: unknown };

/** Messages of Realtime can be lost, so the job is also read after this many milliseconds without one. */
const POLL_MS = 15_000;

/** Calls an edge function, and throws the error that it answers with. */
export async function invoke<T>(supabase: SupabaseClient, name: string, body: object): Promise<T> {
  const { data, error } = await supabase.functions.invoke(name, { body });
  if (!error) return data;
  const answer = await (error.context as Response | undefined)?.json?.().catch(() => undefined);
  throw new Error(answer?.error?.message ?? error.message, { cause: answer?.error });
}

/** Queues a job. The id is chosen here, so that a repetition after a lost answer does not make a second job. */
export async function queue(supabase: SupabaseClient, submission: Submission): Promise<string> {
  const body = { id: crypto.randomUUID(), ...submission };
  const { job_id } = await invoke<{ job_id: string }>(supabase, "queue-job", body);
  return job_id;
}

/**
 * Waits until a job has ended. Follows the user's private channel, and reads the job whenever something may have been missed.
 *
 * @param onChange Called with each state that was read.
 */
export async function follow(
  supabase: SupabaseClient,
  userId: string,
  jobId: string,
  onChange: (job: Job) => void,
  pollMs = POLL_MS,
): Promise<Job> {
  let wake = () => {};
  await supabase.realtime.setAuth(); // also where the session was restored and not signed in: a private channel needs the user's token
  const channel = supabase.channel(`jobs:${userId}`, { config: { private: true } })
    .on("broadcast", { event: "job" }, ({ payload }) => payload.id === jobId && wake())
    .subscribe(() => wake());
  try {
    while (true) {
      const changed = new Promise<void>((resolve) => wake = resolve);
      const job = await invoke<Job>(supabase, "job-status", { job_id: jobId });
      onChange(job);
      if (!["queued", "processing"].includes(job.status)) return job;
      let timer: ReturnType<typeof setTimeout> | undefined;
      await Promise.race([changed, new Promise<void>((resolve) => timer = setTimeout(resolve, pollMs))]);
      clearTimeout(timer);
    }
  } finally {
    await supabase.removeChannel(channel);
  }
}

/** Queues a job of the signed-in user and waits until it has ended. */
export async function generate(supabase: SupabaseClient, submission: Submission, onChange: (job: Job) => void): Promise<Job> {
  const { data } = await supabase.auth.getUser();
  if (!data.user) throw new Error("Sign in first.");
  return await follow(supabase, data.user.id, await queue(supabase, submission), onChange);
}
