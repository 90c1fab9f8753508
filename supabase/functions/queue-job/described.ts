/** Describes the rows that a submission becomes. */
import { required } from "../_shared/environment.ts";
import { HttpError } from "../_shared/http.ts";
import { EXECUTION_SECONDS, type ModelType, type WorkerRequest } from "../_shared/job.ts";
import type { Body, ImageBody, VideoBody } from "./body.ts";
import { CHAT_SECONDS, QUEUE_SECONDS, SDXL_PRESETS, WAN_PRESETS } from "./presets.ts";
import { chatRequest, enhancementRequest, sdxlRequest, wanRequest } from "./requests.ts";

/** A row of `jobs` to insert. */
export interface Described {
  id: string;
  job_type: string;
  format: Body["format"];
  quality: "fast" | "high" | null;
  model_type: ModelType;
  original_prompt: string | null;
  request: WorkerRequest;
  metadata: Record<string, unknown>;
  endpoint: string;
  expected_seconds: number;
  patience_seconds: number;
}

/** Returns the job of a submission, preceded by the enhancement it waits for, if any. */
export function describe(owner: string, body: Body): Described[] {
  const ids = { id: body.id ?? crypto.randomUUID(), user_id: owner };
  const job = describeJob(ids, body);
  if (body.format === "text" || !body.enhance) return [job];
  const enhancement = describeEnhancement({ ...ids, id: crypto.randomUUID() }, body);
  return [enhancement, { ...job, patience_seconds: job.patience_seconds + enhancement.patience_seconds }];
}

function describeJob(ids: { id: string; user_id: string }, body: Body): Described {
  const metadata = body.metadata ?? {};
  switch (body.format) {
    case "image": {
      const expected_seconds = SDXL_PRESETS[body.quality].seconds * body.quantity;
      return { ...row("sdxl", sdxlRequest(ids, body), expected_seconds), quality: body.quality, original_prompt: body.prompt, metadata };
    }
    case "video": {
      const expected_seconds = WAN_PRESETS[body.quality].seconds * (body.duration / 5);
      return { ...row("wan", wanRequest(ids, body), expected_seconds), quality: body.quality, original_prompt: body.prompt, metadata };
    }
    case "text": {
      const last = body.messages.findLast(({ role }) => role === "user");
      if (!last) throw new HttpError(400, "INVALID_REQUEST", "messages requires one of role user.");
      return { ...row("chat", chatRequest(ids, body), CHAT_SECONDS), original_prompt: last.content, metadata };
    }
  }
}

function describeEnhancement(ids: { id: string; user_id: string }, body: ImageBody | VideoBody): Described {
  return { ...row("chat", enhancementRequest(ids, body), CHAT_SECONDS), original_prompt: body.prompt, metadata: {} };
}

const FORMATS = { sdxl: "image", wan: "video", chat: "text" } as const;

function row(model_type: ModelType, request: WorkerRequest, expected_seconds: number) {
  return {
    id: request.id!,
    job_type: request.type!,
    format: FORMATS[model_type],
    quality: null,
    model_type,
    request,
    endpoint: required(`RUNPOD_${model_type.toUpperCase()}_ENDPOINT`),
    expected_seconds: Math.round(expected_seconds),
    patience_seconds: QUEUE_SECONDS[model_type] + EXECUTION_SECONDS[model_type],
  };
}
