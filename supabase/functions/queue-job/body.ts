/** The body of a submission: presets and prompt, not yet a request of a worker. */
import { z } from "zod";
import { HttpError } from "../_shared/http.ts";
import { withPresets } from "./job_types.ts";

/** `bucket/{user_id}/…` in the project's own Storage. */
const path = z.string().max(1024).regex(/^(workspace-temp|user-library)\/[^/]+\/.+$/, "must be a path in workspace-temp or user-library");
const prompt = z.string().min(1).max(10_000);

const common = {
  /** Chosen by the client, so that a repeated submission does not make a second job. */
  id: z.uuid().optional(),
  /** The client's own keys: kept with the job, never sent to a worker. */
  metadata: z.record(z.string(), z.unknown()).optional(),
};

const generation = {
  ...common,
  prompt,
  negative_prompt: z.string().max(10_000).optional(),
  quality: z.enum(["fast", "high"]).default("fast"),
  aspect_ratio: z.enum(["1:1", "16:9", "9:16", "4:3", "3:4"]).default("1:1"),
  seed: z.int().min(1).max(2_147_483_647).optional(),
  /** Has a chat model rewrite the prompt before it is used. */
  enhance: z.enum(["instruct", "base"]).optional(),
  /** Parameters of the worker that take precedence over the preset's. */
  config: z.strictObject({
    steps: z.int(),
    guidance_scale: z.number(),
    width: z.int(),
    height: z.int(),
    fps: z.int(),
    scheduler: z.string(),
    output_format: z.string(),
    sample_solver: z.string(),
    sample_shift: z.number(),
    preview: z.boolean(),
    loras: z.array(z.strictObject({ name: z.string(), scale: z.number().optional() })).max(8),
  }).partial().default({}),
};

const image = z.strictObject({
  ...generation,
  format: z.literal("image"),
  model: z.literal("sdxl").default("sdxl"),
  quantity: z.union([z.literal(1), z.literal(3), z.literal(6)]).default(1),
  reference: z.strictObject({
    path,
    type: z.enum(["style", "composition", "character", "modify"]).default("style"),
    strength: z.number().min(0).max(1).default(0.5),
  }).optional(),
});

/** An image of the video model. */
const still = z.strictObject({
  ...generation,
  format: z.literal("image"),
  model: z.literal("wan"),
  reference: z.strictObject({ path, strength: z.number().min(0).max(1).default(0.5) }).optional(),
});

const video = z.strictObject({
  ...generation,
  format: z.literal("video"),
  /** Seconds, at 16 frames per second. */
  duration: z.number().min(0.25).max(5).default(5),
  camera: z.enum(["static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "orbit"]).optional(),
  reference: z.strictObject({ path, strength: z.number().min(0).max(1).default(0.5) }).optional(),
  first_frame: path.optional(),
  last_frame: path.optional(),
});

const text = z.strictObject({
  ...common,
  format: z.literal("text"),
  enhance: z.undefined().optional(),
  messages: z.array(z.strictObject({ role: z.enum(["system", "user", "assistant"]), content: z.string().max(50_000) })).min(1).max(200),
  max_tokens: z.int().min(1).max(4096).default(512),
  temperature: z.number().min(0).max(2).default(0.7),
  seed: z.int().min(1).max(2_147_483_647).optional(),
});

/** A prompt that is only enhanced. */
const enhancement = z.strictObject({
  ...common,
  format: z.literal("text"),
  enhance: z.enum(["instruct", "base"]),
  /** What the enhanced prompt is for. */
  target: z.enum(["image", "video"]).default("image"),
  prompt,
  seed: z.int().min(1).max(2_147_483_647).optional(),
});

export const Body = z.discriminatedUnion("format", [
  z.discriminatedUnion("model", [image, still]),
  video,
  z.discriminatedUnion("enhance", [text, enhancement]),
]);
export type Body = z.infer<typeof Body>;
export type ImageBody = z.infer<typeof image>;
export type StillBody = z.infer<typeof still>;
export type VideoBody = z.infer<typeof video>;
export type TextBody = z.infer<typeof text>;
export type EnhancementBody = z.infer<typeof enhancement>;
/** A submission that may be preceded by an enhancement of its prompt. */
export type GenerationBody = ImageBody | StillBody | VideoBody;

/** Parses a body, or throws an error with all its problems. */
export function parseBody(value: unknown): Body {
  const parsed = Body.safeParse(withPresets(value));
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => ({ field: issue.path.join("."), message: issue.message }));
  throw new HttpError(400, "INVALID_REQUEST", "The request is not valid.", { problems });
}
