import type { ChatRequest, SdxlRequest, WanRequest } from "./contract/contract.ts";

export type ModelType = "sdxl" | "wan" | "chat";
export type Status = "queued" | "processing" | "completed" | "failed" | "cancelled";
export type WorkerRequest = SdxlRequest | WanRequest | ChatRequest;

/** A row of `jobs`, as far as functions use it. Times are ISO strings where the row comes from JSON, else dates. */
export interface Job {
  id: string;
  user_id: string;
  tier: string;
  job_type: string;
  format: "image" | "video" | "text";
  model_type: ModelType;
  status: Status;
  original_prompt: string | null;
  enhanced_prompt: string | null;
  request: WorkerRequest;
  error_code: string | null;
  error_message: string | null;
  retryable: boolean | null;
  attempts: number;
  max_attempts: number;
  parent_id: string | null;
  runpod_id: string | null;
  endpoint: string;
  expected_seconds: string | number | null;
  created_at: string | Date;
  submitted_at: string | Date | null;
  started_at: string | Date | null;
  completed_at: string | Date | null;
  deadline: string | Date;
}

/** Seconds that RunPod lets a job run: above the worker's own deadline, so that the worker answers first. */
export const EXECUTION_SECONDS: Record<ModelType, number> = { sdxl: 600, wan: 900, chat: 600 };
