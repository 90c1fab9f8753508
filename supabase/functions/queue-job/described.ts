/** Describes the rows that a submission becomes. */
import { required } from "../_shared/environment.ts";
import { HttpError } from "../_shared/http.ts";
import { EXECUTION_SECONDS, type ModelType, type WorkerRequest } from "../_shared/job.ts";
import type { Body, EnhancementBody, GenerationBody } from "./body.ts";
import { CHAT_SECONDS, QUEUE_SECONDS, SDXL_PRESETS, STILL_SHARE, WAN_PRESETS } from "./presets.ts";
import { chatRequest, enhancementRequest, type Ids, sdxlRequest, wanRequest } from "./requests.ts";

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

function describeJob(ids: Ids, body: Body): Described {
  if (body.format === "text") return describeText(ids, body);
  const { quality, prompt: original_prompt, metadata = {} } = body;
  if (body.format === "image" && body.model === "sdxl") {
    const expected_seconds = SDXL_PRESETS[quality].seconds * body.quantity;
    return { ...row("sdxl", "image", sdxlRequest(ids, body), expected_seconds), quality, original_prompt, metadata };
  }
  const share = body.format === "video" ? body.duration / 5 : STILL_SHARE;
  return { ...row("wan", body.format, wanRequest(ids, body), WAN_PRESETS[quality].seconds * share), quality, original_prompt, metadata };
}

function describeText(ids: Ids, body: Extract<Body, { format: "text" }>): Described {
  const metadata = body.metadata ?? {};
  if (body.enhance) return { ...describeEnhancement(ids, body), metadata };
  const last = body.messages.findLast(({ role }) => role === "user");
  if (!last) throw new HttpError(400, "INVALID_REQUEST", "messages requires one of role user.");
  return { ...row("chat", "text", chatRequest(ids, body), CHAT_SECONDS), original_prompt: last.content, metadata };
}

function describeEnhancement(ids: Ids, body: GenerationBody | EnhancementBody): Described {
  return { ...row("chat", "text", enhancementRequest(ids, body), CHAT_SECONDS), original_prompt: body.prompt, metadata: {} };
}

function row(model_type: ModelType, format: Body["format"], request: WorkerRequest, expected_seconds: number) {
  return {
    id: request.id!,
    job_type: request.type!,
    format,
    quality: null,
    model_type,
    request,
    endpoint: required(`RUNPOD_${model_type.toUpperCase()}_ENDPOINT`),
    expected_seconds: Math.round(expected_seconds),
    patience_seconds: QUEUE_SECONDS[model_type] + EXECUTION_SECONDS[model_type],
  };
}
