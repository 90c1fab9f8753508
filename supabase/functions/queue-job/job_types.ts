/** The job types of the workers' contract as presets. */
import type { ChatRequest, SdxlRequest, WanRequest } from "../_shared/contract/contract.ts";

export type JobType = SdxlRequest["type"] | WanRequest["type"] | NonNullable<ChatRequest["type"]>;

/** What stands for a job type in a submission. */
export interface Presets {
  format: "image" | "video" | "text";
  model?: "wan";
  quality?: "fast" | "high";
  enhance?: "instruct" | "base";
}

const wanImage = { format: "image", model: "wan" } as const;
const video = { format: "video" } as const;
const text = { format: "text" } as const;

/** By job type. The workers treat types with equal presets alike; `…_enhanced` is a prompt that is enhanced first. */
export const JOB_TYPES: Record<JobType, Presets> = {
  sdxl_image_fast: { format: "image", quality: "fast" },
  sdxl_image_high: { format: "image", quality: "high" },
  sdxl_generate: { format: "image", quality: "high" },
  image_fast: { ...wanImage, quality: "fast" },
  image_high: { ...wanImage, quality: "high" },
  image7b_fast_enhanced: { ...wanImage, quality: "fast", enhance: "instruct" },
  image7b_high_enhanced: { ...wanImage, quality: "high", enhance: "instruct" },
  video_fast: { ...video, quality: "fast" },
  video_high: { ...video, quality: "high" },
  wan_generate: { ...video, quality: "high" },
  wan_video_fast: { ...video, quality: "fast" },
  wan_video_high: { ...video, quality: "high" },
  video7b_fast_enhanced: { ...video, quality: "fast", enhance: "instruct" },
  video7b_high_enhanced: { ...video, quality: "high", enhance: "instruct" },
  chat: text,
  chat_conversation: text,
  generate: text,
  enhance: { ...text, enhance: "instruct" },
  chat_enhance: { ...text, enhance: "instruct" },
  enhance_instruct: { ...text, enhance: "instruct" },
  enhance_base: { ...text, enhance: "base" },
};

/** Replaces `type` in a submission by its presets. What is no type, or contradicts other fields, is left for the validation to refuse. */
export function withPresets(body: unknown): unknown {
  if (typeof body !== "object" || body === null || !("type" in body)) return body;
  const { type, ...rest } = body;
  const presets = Object.hasOwn(JOB_TYPES, String(type)) ? JOB_TYPES[type as JobType] : undefined;
  const contradicts = Object.keys(presets ?? {}).some((key) => key in rest);
  return presets && !contradicts ? { ...rest, ...presets } : body;
}
