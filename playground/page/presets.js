// Requests to start from. They suit the small models; every value can be changed.

const small = { resolution: "64x64", steps: 20, guidance_scale: 2, preview: true };

export const PRESETS = {
  sdxl: {
    "A red circle": { type: "sdxl_image_fast", prompt: "a red circle on a blue background", config: small },
    "Three pictures": { type: "sdxl_image_fast", prompt: "a cyan triangle on a red background", config: { ...small, num_images: 3 } },
    "With a LoRA": { type: "sdxl_image_high", prompt: "a green square on a white background", config: { ...small, loras: [{ name: "stripes", scale: 1 }] } },
    "Many steps": { type: "sdxl_image_high", prompt: "a black star on a cyan background", config: { ...small, steps: 50, num_images: 6 } },
  },
  wan: {
    "A moving circle": {
      type: "video_fast",
      prompt: "a red circle moves to the right on a blue background",
      config: { width: 64, height: 64, frames: 17, fps: 8, steps: 20, guidance_scale: 3, preview: true },
    },
    "A short clip": {
      type: "video_fast",
      prompt: "a green square moves to the left on a white background",
      config: { width: 64, height: 64, frames: 9, fps: 8, steps: 12, guidance_scale: 3, preview: true },
    },
  },
  chat: {
    "A question": { type: "chat", messages: [{ role: "user", content: "What is the capital of France?" }], max_tokens: 32, temperature: 0, stream: true },
    "A story": { type: "chat", messages: [{ role: "user", content: "Tell me a short story about a lighthouse." }], max_tokens: 96, seed: 7, stream: true },
    "JSON by a schema": {
      type: "chat",
      messages: [{ role: "user", content: "Name a city and its country." }],
      max_tokens: 64,
      response_format: {
        type: "json_schema",
        json_schema: { schema: { type: "object", properties: { city: { type: "string" }, country: { type: "string" } }, required: ["city", "country"] } },
      },
    },
  },
};
