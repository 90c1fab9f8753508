/** RunPod's API for serverless endpoints. */
import { optional, required } from "./environment.ts";
import { parseStorable } from "./http.ts";

export interface Policy {
  /** Milliseconds that the job may run. */
  executionTimeout: number;
  /** Milliseconds from submission until RunPod forgets the job, waiting included. */
  ttl: number;
}

/** A job as `/status` describes it. States that are not listed here are not final. */
export interface RunStatus {
  id: string;
  status: "IN_QUEUE" | "IN_PROGRESS" | "COMPLETED" | "FAILED" | "CANCELLED" | "TIMED_OUT" | string;
  output?: unknown;
  error?: unknown;
}

/** `unknown`: RunPod may have queued the job and may not have. */
export type RunOutcome =
  | { kind: "accepted"; id: string }
  | { kind: "refused"; code: "QUEUE_FULL" | "QUEUE_UNAVAILABLE" | "QUEUE_REFUSED"; retryable: boolean }
  | { kind: "unknown" };

const TIMEOUT_MS = 10_000;

function call(path: string, init: RequestInit = {}): Promise<Response> {
  const base = optional("RUNPOD_API_URL", "https://api.runpod.ai/v2");
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${required("RUNPOD_API_KEY")}` };
  return fetch(`${base}/${path}`, { ...init, headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
}

/** Whether a request failed before it was sent, so that RunPod cannot have seen it. Newer runtimes say why in `cause`. */
function isUnsent(error: unknown): boolean {
  if (!(error instanceof TypeError)) return false;
  const cause = error.cause instanceof Error ? error.cause.message : "";
  return /client error \(Connect\)/.test(`${error.message} ${cause}`);
}

/** Queues a job. */
export async function run(endpoint: string, input: unknown, policy: Policy): Promise<RunOutcome> {
  try {
    const response = await call(`${endpoint}/run`, { method: "POST", body: JSON.stringify({ input, policy }) });
    const body = await response.text();
    if (response.status === 429) return { kind: "refused", code: "QUEUE_FULL", retryable: true };
    if (response.status >= 400 && response.status < 500) return { kind: "refused", code: "QUEUE_REFUSED", retryable: false };
    const id = response.ok ? JSON.parse(body).id : undefined;
    return typeof id === "string" ? { kind: "accepted", id } : { kind: "unknown" };
  } catch (error) {
    return isUnsent(error) ? { kind: "refused", code: "QUEUE_UNAVAILABLE", retryable: true } : { kind: "unknown" };
  }
}

/** Returns a job's state, `forgotten` if RunPod does not know it, `unavailable` if RunPod did not say. */
export async function status(endpoint: string, id: string): Promise<RunStatus | "forgotten" | "unavailable"> {
  try {
    const response = await call(`${endpoint}/status/${encodeURIComponent(id)}`);
    if (response.status === 404) {
      await response.body?.cancel();
      return "forgotten";
    }
    const body = await response.text();
    return response.ok ? parseStorable(body) as RunStatus : "unavailable";
  } catch {
    return "unavailable";
  }
}

/** Cancels a job. Returns whether it will not run any further: RunPod accepted it, or does not know the job. */
export async function cancel(endpoint: string, id: string): Promise<boolean> {
  try {
    const response = await call(`${endpoint}/cancel/${encodeURIComponent(id)}`, { method: "POST" });
    await response.body?.cancel();
    return response.ok || response.status === 404;
  } catch {
    return false;
  }
}
