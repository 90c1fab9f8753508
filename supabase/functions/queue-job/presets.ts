/** What the presets of a submission mean for the workers. */

export type Quality = "fast" | "high";
export type AspectRatio = "1:1" | "16:9" | "9:16" | "4:3" | "3:4";
export type Camera = "static" | "pan_left" | "pan_right" | "tilt_up" | "tilt_down" | "zoom_in" | "zoom_out" | "orbit";

interface Size {
  width: number;
  height: number;
}

/** Sizes of about 1024 × 1024 pixels, for which SDXL was trained (https://arxiv.org/abs/2307.01952, appendix I). */
export const SDXL_SIZES: Record<AspectRatio, Size> = {
  "1:1": { width: 1024, height: 1024 },
  "16:9": { width: 1344, height: 768 },
  "9:16": { width: 768, height: 1344 },
  "4:3": { width: 1152, height: 896 },
  "3:4": { width: 896, height: 1152 },
};

/** Sizes of at most 480 × 832 pixels, each side a multiple of 16. */
export const WAN_SIZES: Record<AspectRatio, Size> = {
  "1:1": { width: 624, height: 624 },
  "16:9": { width: 832, height: 480 },
  "9:16": { width: 480, height: 832 },
  "4:3": { width: 720, height: 544 },
  "3:4": { width: 544, height: 720 },
};

interface Preset {
  steps: number;
  guidance_scale: number;
  /** Used if the user gives none. */
  negative_prompt?: string;
  /** Seconds of one output, until there are measured ones. */
  seconds: number;
}

const FLAWS = "blurry, low quality, jpeg artifacts, watermark, signature, text, deformed, extra limbs, extra fingers, bad anatomy";

export const SDXL_PRESETS: Record<Quality, Preset> = {
  fast: { steps: 15, guidance_scale: 6, seconds: 5 },
  high: { steps: 25, guidance_scale: 7.5, negative_prompt: FLAWS, seconds: 8 },
};

export const WAN_PRESETS: Record<Quality, Preset> = {
  fast: { steps: 25, guidance_scale: 6.5, seconds: 130 },
  high: { steps: 50, guidance_scale: 7.5, negative_prompt: `${FLAWS}, still image, flicker, jitter`, seconds: 250 },
};

/** What an image of the video model takes of the time of a clip. */
export const STILL_SHARE = 0.1;

export const WAN_FPS = 16;
const MAX_FRAMES = 83;

/** Returns the frames of a clip: the first, and one per interval. */
export function framesOf(seconds: number): number {
  return Math.min(MAX_FRAMES, Math.round(seconds * WAN_FPS) + 1);
}

/** The model has no parameter for the camera: it follows the prompt. */
export const CAMERA_PROMPTS: Record<Camera, string> = {
  static: "static camera, locked-off shot",
  pan_left: "the camera pans slowly to the left",
  pan_right: "the camera pans slowly to the right",
  tilt_up: "the camera tilts up slowly",
  tilt_down: "the camera tilts down slowly",
  zoom_in: "the camera zooms in slowly",
  zoom_out: "the camera zooms out slowly",
  orbit: "the camera orbits around the subject",
};

/** What the chat model is told before it enhances a prompt. */
export const ENHANCEMENT_PROMPTS: Record<"image" | "video", string> = {
  image:
    "Rewrite the user's prompt for an image model in one paragraph of at most 70 words: subject, setting, light, composition, style. " +
    "Keep everything that the user names and add nothing that contradicts it. Answer with the prompt only.",
  video: "Rewrite the user's prompt for a video model in one paragraph of at most 90 words: subject, movement, setting, light, camera. " +
    "Keep everything that the user names and add nothing that contradicts it. Answer with the prompt only.",
};

export const CHAT_SECONDS = 10;
/** Seconds that a job may wait for a worker, besides the time it may run. */
export const QUEUE_SECONDS = { sdxl: 1800, wan: 3600, chat: 600 } as const;
