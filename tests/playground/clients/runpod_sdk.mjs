// What RunPod's JavaScript client sees, as JSON. `test_official_clients.py` runs this and checks it.

import runpodSdk from "runpod-sdk";

const { BASE_URL, API_KEY, SDXL, CHAT } = process.env;
const runpod = runpodSdk(API_KEY, { baseUrl: BASE_URL });
const [images, chat] = [runpod.endpoint(SDXL), runpod.endpoint(CHAT)];
const image = (id, prompt = "a blue square", config = {}) => ({
  input: { id, user_id: "client-tests", type: "sdxl_image_fast", prompt, config: { steps: 10, seed: 7, ...config } },
});

async function follow(endpoint, id) {
  while (true) {
    const { status } = await endpoint.status(id);
    if (!["IN_QUEUE", "IN_PROGRESS"].includes(status)) return status;
    await new Promise((done) => setTimeout(done, 200));
  }
}

const seen = { sync: await images.runSync(image("js-sync"), 600_000) };
const submitted = await images.run(image("js-run"));
seen.submitted = submitted.status;
seen.followed = await follow(images, submitted.id);
const text = await chat.run({ input: { prompt: "Hello there", max_tokens: 16, stream: true } });
seen.streamed = [];
for await (const { output } of chat.stream(text.id)) seen.streamed.push(output);
const slow = await images.run(image("js-cancelled", "slowly", { steps: 50, num_images: 6 }));
seen.cancelled = (await images.cancel(slow.id)).status;
seen.health = await images.health();
console.log(JSON.stringify(seen));
