/** Turns submissions into complete requests of the workers. */
import type { ChatRequest, SdxlRequest, WanRequest } from "../_shared/contract/contract.ts";
import { optional, required } from "../_shared/environment.ts";
import type { EnhancementBody, GenerationBody, ImageBody, StillBody, TextBody, VideoBody } from "./body.ts";
import { CAMERA_PROMPTS, ENHANCEMENT_PROMPTS, framesOf, SDXL_PRESETS, SDXL_SIZES, WAN_FPS, WAN_PRESETS, WAN_SIZES } from "./presets.ts";

/** The ids that every request carries. */
export interface Ids {
  id: string;
  user_id: string;
}

const MAX_SEED = 2_147_483_647;

/**
 * Draws a seed. Drawn here and stored in the request, it is the same in every attempt, so that attempts make the same files. It is never 0,
 * which callers have read as absent, and the seeds of a batch do not pass the largest one.
 */
export function drawSeed(): number {
  const [drawn] = crypto.getRandomValues(new Uint32Array(1));
  return 1 + (drawn! % (MAX_SEED - 6));
}

/** Returns what the user set and leaves out what is undefined. */
function defined<T extends object>(values: T): T {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as T;
}

export function sdxlRequest(ids: Ids, body: ImageBody): SdxlRequest {
  const { steps, guidance_scale, negative_prompt } = SDXL_PRESETS[body.quality];
  const config = { steps, guidance_scale, ...SDXL_SIZES[body.aspect_ratio], num_images: body.quantity, seed: body.seed ?? drawSeed() };
  return defined({
    ...ids,
    type: body.quality === "high" ? "sdxl_image_high" : "sdxl_image_fast",
    prompt: body.prompt,
    negative_prompt: body.negative_prompt ?? negative_prompt,
    config: { ...config, ...body.config } as SdxlRequest["config"],
    metadata: body.reference && sdxlReference(body.reference),
  } as SdxlRequest);
}

function sdxlReference({ path, type, strength }: NonNullable<ImageBody["reference"]>): SdxlRequest["metadata"] {
  if (type === "modify") return { reference_image_url: path, reference_mode: "modify", denoise_strength: 1 - strength };
  return { reference_image_url: path, reference_type: type, reference_strength: strength };
}

export function wanRequest(ids: Ids, body: VideoBody | StillBody): WanRequest {
  const { steps, guidance_scale, negative_prompt } = WAN_PRESETS[body.quality];
  const config = { steps, guidance_scale, ...WAN_SIZES[body.aspect_ratio], seed: body.seed ?? drawSeed(), image: body.reference?.path };
  return defined({
    ...ids,
    type: `${body.format}_${body.quality}`,
    prompt: body.format === "video" && body.camera ? `${body.prompt}, ${CAMERA_PROMPTS[body.camera]}` : body.prompt,
    negative_prompt: body.negative_prompt ?? negative_prompt,
    config: defined({ ...config, ...(body.format === "video" ? clipConfig(body) : {}), ...body.config }) as WanRequest["config"],
    metadata: body.reference && { reference_strength: body.reference.strength },
  } as WanRequest);
}

function clipConfig({ duration, first_frame, last_frame }: VideoBody) {
  return { frames: framesOf(duration), fps: WAN_FPS, first_frame, last_frame };
}

export function chatRequest(ids: Ids, body: TextBody): ChatRequest {
  const { messages, max_tokens, temperature } = body;
  return { ...ids, type: "chat", messages, max_tokens, temperature, seed: body.seed ?? drawSeed(), callback_url: callbackUrl() };
}

/** Returns the request that rewrites the prompt of a generation. */
export function enhancementRequest(ids: Ids, body: GenerationBody | EnhancementBody): ChatRequest {
  const type = body.enhance === "base" ? "enhance_base" : "enhance_instruct";
  const messages: ChatRequest["messages"] = [
    { role: "system", content: ENHANCEMENT_PROMPTS[body.format === "text" ? body.target : body.format] },
    { role: "user", content: body.prompt },
  ];
  // A seed of the submission is the generation's.
  const seed = (body.format === "text" ? body.seed : undefined) ?? drawSeed();
  return { ...ids, type, messages, max_tokens: 200, temperature: 0.7, seed, callback_url: callbackUrl() };
}

/** A chat worker posts a callback only if the request names one. It sends it to the operator's URL. */
function callbackUrl(): string {
  return optional("JOB_CALLBACK_URL", `${required("SUPABASE_URL")}/functions/v1/job-callback`);
}
