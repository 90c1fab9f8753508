import assert from "node:assert/strict";
import { Validator } from "@cfworker/json-schema";
import { drawSeed } from "../../functions/queue-job/requests.ts";
import { call, callback, closes, functions, jobOf, makeDue, payloads, platform, post, runpod, sql, test, User } from "./harness.ts";

const contract = Object.fromEntries(
  ["sdxl", "wan", "chat"].map((name) => {
    const path = new URL(`../../functions/_shared/contract/${name}.request.schema.json`, import.meta.url);
    return [name, JSON.parse(Deno.readTextFileSync(path))];
  }),
);
const schemas = Object.fromEntries(Object.entries(contract).map(([name, schema]) => [name, new Validator(schema, "2020-12")]));

test("without a user's valid token nothing is queued", async () => {
  const user = await User.create();
  const { privateKey } = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"]) as CryptoKeyPair;
  const tokens = await Promise.all([
    platform.token(user.id, { key: privateKey }),
    platform.token(user.id, { seconds: -60 }),
    platform.token(user.id, { role: "service_role" }),
    platform.token(user.id, { role: "anon" }),
  ]);
  for (const headers of [{}, ...["sb_publishable_test", ...tokens].map((token) => ({ authorization: `Bearer ${token}` }))]) {
    const { status } = await call(functions.queueJob, post({ format: "image", prompt: "a heron" }, headers as Record<string, string>));
    assert.equal(status, 401);
  }
  for (const [name, target] of Object.entries(functions)) {
    if (name !== "jobCallback") assert.equal((await call(target, post({ job_id: crypto.randomUUID() }))).status, 401, name);
  }
  assert.equal(runpod.requests.length, 0);
});

test("tokens of legacy projects are accepted", async () => {
  const user = await User.create("pro", { legacy: true });
  assert.equal((await user.queue()).status, 202);
});

test("a queued job is submitted with complete parameters, its own seed, limits in milliseconds, and its id", async () => {
  const user = await User.create();
  const { status, body } = await user.queue({ quality: "high", quantity: 3, aspect_ratio: "16:9", metadata: { album: "birds" } });
  assert.equal(status, 202);
  const { endpoint, input, policy } = runpod.requestOf(body.job_id);
  assert.equal(endpoint, "sdxl1");
  assert.deepEqual([input.id, input.user_id, input.type], [body.job_id, user.id, "sdxl_image_high"]);
  const { seed, ...config } = input.config as Record<string, unknown>;
  assert.ok(Number.isInteger(seed) && Number(seed) >= 1 && Number(seed) <= 2_147_483_641);
  assert.deepEqual(config, { steps: 25, guidance_scale: 7.5, width: 1344, height: 768, num_images: 3 });
  assert.match(String(input.negative_prompt), /watermark/);
  assert.equal(policy.executionTimeout, 600_000);
  assert.ok(policy.ttl > 2_390_000 && policy.ttl <= 2_400_000);
  const job = await jobOf(body.job_id);
  assert.deepEqual([job.status, job.attempts, job.runpod_id, job.metadata], ["queued", 1, runpod.idsOf(job.id)[0], { album: "birds" }]);
  assert.deepEqual(job.request, input);
});

test("every combination of presets is a valid request", async () => {
  const user = await User.create();
  await sql`update public.tiers set max_open_jobs = 1000 where name = 'pro'`;
  const picture = await user.upload();
  const ratios = ["1:1", "16:9", "9:16", "4:3", "3:4"];
  const types = [undefined, "style", "composition", "character", "modify"];
  const cameras = [undefined, "static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "orbit"];
  const frames = [{}, { first_frame: picture }, { last_frame: picture }, { first_frame: picture, last_frame: picture }, {
    reference: { path: picture },
  }];
  const own = await user.upload("workspace-temp");
  for (const quality of ["fast", "high"]) {
    for (const [index, aspect_ratio] of ratios.entries()) {
      for (const type of types) {
        const reference = type && { path: own, type, strength: 0.25 };
        await user.queued({ quality, aspect_ratio, quantity: [1, 3, 6][index % 3], reference });
      }
      for (const reference of [undefined, { path: own, strength: 0.25 }]) {
        await user.queued({ model: "wan", quality, aspect_ratio, reference });
      }
      for (const camera of cameras) await user.queued({ format: "video", quality, aspect_ratio, camera, ...frames[index] });
    }
  }
  for (const { endpoint, input } of runpod.requests) {
    assert.ok(schemas[endpoint.slice(0, -1)]!.validate(input).valid, JSON.stringify(input));
  }
  const panned = runpod.requests.filter(({ input }) => input.prompt?.endsWith("the camera pans slowly to the left"));
  assert.equal(panned.length, 10);
});

test("an image may be made by the video model", async () => {
  const user = await User.create();
  const path = await user.upload();
  const { job } = await user.queued({ model: "wan", quality: "high", aspect_ratio: "9:16", reference: { path, strength: 0.75 } });
  const { endpoint, input } = runpod.requestOf(job);
  const { seed, ...config } = input.config as Record<string, unknown>;
  assert.deepEqual([endpoint, input.type, typeof seed], ["wan1", "image_high", "number"]);
  assert.deepEqual(config, { steps: 50, guidance_scale: 7.5, width: 480, height: 832, image: path });
  assert.deepEqual(input.metadata, { reference_strength: 0.75 });
  const row = await jobOf(job);
  assert.deepEqual([row.format, row.model_type, row.job_type, row.quality], ["image", "wan", "image_high", "high"]);
  for (const more of [{ quantity: 3 }, { first_frame: path }, { reference: { path, type: "style" } }, { model: "other" }]) {
    assert.equal((await user.queue({ model: "wan", ...more })).status, 400);
  }
});

test("a prompt may be enhanced for its own sake", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({ format: "text", enhance: "base", target: "video", seed: 7 });
  const { input } = runpod.requestOf(job);
  const messages = input.messages as { role: string; content: string }[];
  assert.deepEqual([input.type, input.seed, messages[1]], ["enhance_base", 7, { role: "user", content: "a heron over a bay" }]);
  assert.match(messages[0]!.content, /video model/);
  assert.equal(await callback(payloads.enhanced(job, run, "a heron, wide-angle")), "completed");
  const { body } = await user.call(functions.jobStatus, { job_id: job });
  assert.deepEqual([body.format, body.assets[0].content], ["text", "a heron, wide-angle"]);
  const refused = await user.queue({ format: "text", enhance: "instruct", prompt: "a nude child" });
  assert.deepEqual([refused.status, refused.body.error.reason], [422, "sexual_content_about_minors"]);
});

test("every job type of the workers' contract can be submitted, and has the defaults of its type", async () => {
  const user = await User.create();
  await sql`update public.tiers set max_open_jobs = 1000 where name = 'pro'`;
  const types = Object.entries(contract).flatMap(([name, { properties: { type } }]) =>
    (type.enum ?? type.anyOf[0].enum).map((type: string) => [name, type] as const)
  );
  assert.equal(types.length, 21);
  for (const [name, type] of types) {
    const isChat = name === "chat" && !type.includes("enhance");
    const text = isChat ? { prompt: undefined, messages: [{ role: "user", content: "Name a bird." }] } : {};
    const { status, body } = await user.queue({ format: undefined, type, ...text });
    assert.equal(status, 202, `${type}: ${JSON.stringify(body)}`);
    const job = await jobOf(body.job_id);
    assert.equal(job.model_type, name);
    assert.equal(body.parent_id !== null, type.endsWith("_enhanced"), type);
    if (job.quality) assert.equal(job.quality, type.includes("fast") ? "fast" : "high", type);
    else assert.match(job.job_type, type === "enhance_base" ? /^enhance_base$/ : isChat ? /^chat$/ : /^enhance_instruct$/);
  }
  const { body } = await user.queue({ format: undefined, type: "video7b_high_enhanced" });
  assert.deepEqual([runpod.requestOf(body.parent_id).input.type, (await jobOf(body.job_id)).job_type], ["enhance_instruct", "video_high"]);
  for (const more of [{ type: "video_fast", format: "image" }, { type: "hologram" }, { type: "toString" }]) {
    assert.equal((await user.queue(more)).status, 400);
  }
});

test("a reference becomes what its type asks for", async () => {
  const user = await User.create();
  const path = await user.upload("workspace-temp");
  const metadataOf = async (type: string) => {
    const { job } = await user.queued({ reference: { path, type, strength: 0.25 } });
    return runpod.requestOf(job).input.metadata;
  };
  assert.deepEqual(await metadataOf("style"), { reference_image_url: path, reference_type: "style", reference_strength: 0.25 });
  assert.deepEqual(await metadataOf("modify"), { reference_image_url: path, reference_mode: "modify", denoise_strength: 0.75 });
});

test("a picture of another user, a path that climbs, a URL and a missing file are refused", async () => {
  const [user, other] = [await User.create(), await User.create()];
  const theirs = await other.upload();
  const cases: [string, number, string][] = [
    [theirs, 403, "REFERENCE_NOT_OWN"],
    [`user-library/${user.id}/../${other.id}/x.png`, 403, "REFERENCE_NOT_OWN"],
    [`user-library/${user.id}/%2e%2e/x.png`, 403, "REFERENCE_NOT_OWN"],
    [`user-library/${user.id}/missing.png`, 404, "REFERENCE_NOT_FOUND"],
    ["https://example.com/x.png", 400, "INVALID_REQUEST"],
    [`other-bucket/${user.id}/x.png`, 400, "INVALID_REQUEST"],
  ];
  for (const [path, status, code] of cases) {
    for (const body of [{ reference: { path } }, { format: "video", first_frame: path }, { format: "video", last_frame: path }]) {
      const answer = await user.queue(body);
      assert.deepEqual([answer.status, answer.body.error.code], [status, code], path);
    }
  }
  assert.equal((await sql`select from public.jobs where user_id = ${user.id}`).length, 0);
});

test("what is wrong with a submission is listed, and nothing is queued", async () => {
  const user = await User.create();
  const { status, body } = await user.queue({ quality: "best", quantity: 2, surprise: 1 });
  assert.equal(status, 400);
  assert.deepEqual(body.error.problems.map(({ field }: { field: string }) => field).sort(), ["", "quality", "quantity"]);
  const beyond = await user.queue({ config: { steps: 99 } });
  assert.equal(beyond.status, 400);
  assert.equal(beyond.body.error.problems[0].field, "config.steps");
  assert.equal((await call(functions.queueJob, post("{", { authorization: `Bearer ${user.token}` }))).status, 400);
  assert.equal((await sql`select from public.jobs where user_id = ${user.id}`).length, 0);
});

test("no config can carry a reference past the check of ownership", async () => {
  const user = await User.create();
  for (const key of ["image", "mask", "controls", "references", "first_frame"]) {
    assert.equal((await user.queue({ config: { [key]: "https://example.com/x.png" } })).status, 400);
  }
});

test("open jobs and jobs a day are limited, also when submitted at once", async () => {
  await sql`insert into public.tiers (name, max_open_jobs, max_jobs_per_day) values ('test', 2, 3)`;
  const user = await User.create("test");
  const answers = await Promise.all(Array.from({ length: 8 }, () => user.queue()));
  assert.equal(answers.filter(({ status }) => status === 202).length, 2);
  const refused = answers.find(({ status }) => status === 429)!;
  assert.deepEqual([refused.body.error.code, refused.body.error.quota], ["QUOTA_EXCEEDED", "max_open_jobs"]);
  await sql`update public.jobs set status = 'completed', completed_at = now() where user_id = ${user.id}`;
  assert.equal((await user.queue({ enhance: "instruct" })).status, 202);
  await sql`update public.jobs set status = 'completed', completed_at = now() where user_id = ${user.id}`;
  assert.equal((await user.queue()).body.error.quota, "max_jobs_per_day");
  assert.equal((await User.create("no such tier").then((stranger) => stranger.queue())).status, 202, "quotas of free");
});

test("an enhancement and its generation count as one open job, before and after the prompt is enhanced", async () => {
  await sql`insert into public.tiers (name, max_open_jobs, max_jobs_per_day) values ('two', 2, 100)`;
  const user = await User.create("two");
  const [first, second] = [(await user.queue({ enhance: "instruct" })).body, (await user.queue({ enhance: "instruct" })).body];
  assert.equal((await user.queue()).status, 429);
  await callback(payloads.enhanced(first.parent_id, runpod.idsOf(first.parent_id)[0]!, "a heron"));
  assert.equal((await user.queue()).status, 429);
  await callback(payloads.completed(first.job_id, runpod.idsOf(first.job_id)[0]!, user.id));
  assert.equal((await user.queue()).status, 202);
  assert.equal((await jobOf(second.job_id)).status, "queued");
});

test("two submissions of one id make one job; of another user's id, none", async () => {
  const [user, other] = [await User.create(), await User.create()];
  const id = crypto.randomUUID();
  const answers = await Promise.all(Array.from({ length: 5 }, () => user.queue({ id })));
  assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 200, 200, 200, 202]);
  assert.ok(answers.every(({ body }) => body.job_id === id));
  assert.equal(runpod.idsOf(id).length, 1);
  assert.equal((await other.queue({ id })).body.error.code, "ID_TAKEN");
});

test("an enhanced prompt: chat is asked first, and the generation is queued with its answer", async () => {
  const user = await User.create();
  const { body } = await user.queue({ enhance: "instruct", quantity: 3 });
  const { endpoint, input } = runpod.requestOf(body.parent_id);
  assert.deepEqual([endpoint, input.type, input.user_id], ["chat1", "enhance_instruct", user.id]);
  assert.match(String(input.callback_url), /\/functions\/v1\/job-callback$/);
  assert.equal(runpod.idsOf(body.job_id).length, 0);
  await callback(payloads.enhanced(body.parent_id, runpod.idsOf(body.parent_id)[0]!, " a heron, wide-angle, at dawn \n"));
  assert.equal(runpod.requestOf(body.job_id).input.prompt, "a heron, wide-angle, at dawn");
  const job = await jobOf(body.job_id);
  assert.deepEqual([job.original_prompt, job.enhanced_prompt, job.attempts], ["a heron over a bay", "a heron, wide-angle, at dawn", 1]);
  assert.equal(await callback(payloads.enhanced(body.parent_id, runpod.idsOf(body.parent_id)[0]!, "again")), "final");
  assert.equal(runpod.idsOf(body.job_id).length, 1);
});

test("a generation whose enhancement fails, is empty, or breaks the content policy fails, and says why", async () => {
  const user = await User.create();
  const settled = async (payload: (job: string, run: string) => object) => {
    const { body } = await user.queue({ enhance: "base" });
    await callback(payload(body.parent_id, runpod.idsOf(body.parent_id)[0]!));
    assert.equal(runpod.idsOf(body.job_id).length, 0);
    const { status, error_code } = await jobOf(body.job_id);
    return [status, error_code];
  };
  assert.deepEqual(await settled((job, run) => payloads.failed(job, run, "GENERATION_ERROR", false)), ["failed", "ENHANCEMENT_FAILED"]);
  assert.deepEqual(await settled((job, run) => payloads.enhanced(job, run, " \n")), ["failed", "ENHANCEMENT_FAILED"]);
  assert.deepEqual(await settled((job, run) => payloads.enhanced(job, run, "a nude heron")), ["failed", "CONTENT_POLICY"]);
  await sql`insert into public.tiers (name, max_open_jobs, max_jobs_per_day, allows_adult_content) values ('adult', 9, 99, true)`;
  const adult = await User.create("adult");
  for (const more of [{ negative_prompt: "adult, mature" }, { reference: { path: await adult.upload() } }]) {
    const { body } = await adult.queue({ enhance: "base", prompt: "a person", ...more });
    await callback(payloads.enhanced(body.parent_id, runpod.idsOf(body.parent_id)[0]!, "a nude person"));
    assert.equal((await jobOf(body.job_id)).error_code, "CONTENT_POLICY", "with what else the request has");
  }
  assert.deepEqual(await settled((job, run) => payloads.failed(job, run, "CANCELLED", false)), ["cancelled", null]);
});

test("RunPod full or away: the job fails at once and is retryable; RunPod refuses: it is not", async () => {
  const user = await User.create();
  const outcome = async (...faults: number[]) => {
    runpod.faults = faults;
    const { status, body } = await user.queue();
    const job = await jobOf(body.job_id);
    return [status, job.status, job.error_code, job.retryable];
  };
  assert.deepEqual(await outcome(429), [503, "failed", "QUEUE_FULL", true]);
  assert.deepEqual(await outcome(401), [503, "failed", "QUEUE_REFUSED", false]);
  const closed = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  Deno.env.set("RUNPOD_API_URL", `http://127.0.0.1:${(closed.addr as Deno.NetAddr).port}/v2`);
  closed.close();
  assert.deepEqual(await outcome(), [503, "failed", "QUEUE_UNAVAILABLE", true]);
  const waiting = await user.queue({ enhance: "instruct" });
  assert.deepEqual([waiting.status, (await jobOf(waiting.body.job_id)).error_code], [503, "ENHANCEMENT_FAILED"]);
  Deno.env.set("RUNPOD_API_URL", runpod.url);
});

test("an ambiguous answer leaves the job queued: its callback settles it, or another attempt is due later", async () => {
  const user = await User.create();
  runpod.faults = ["accepted, then 504"];
  const { status, body } = await user.queue();
  assert.deepEqual([status, body.status], [202, "queued"]);
  assert.equal((await jobOf(body.job_id)).runpod_id, null);
  assert.equal(await callback(payloads.completed(body.job_id, runpod.idsOf(body.job_id)[0]!, user.id)), "completed");
  runpod.faults = [500];
  const lost = await user.queue();
  await makeDue(lost.body.job_id);
  await call(functions.reconcile, post({}, { apikey: "sb_secret_test" }));
  assert.deepEqual((await jobOf(lost.body.job_id)).attempts, 2);
  assert.equal(runpod.idsOf(lost.body.job_id).length, 1);
});

test("a callback that overtakes the answer of the submission is not undone by it", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  await sql`update public.jobs set runpod_id = null where id = ${job}`;
  assert.equal(await callback(payloads.failed(job, run)), "queued");
  await sql`select public.record_submission(${job}, 'sdxl1', ${run})`;
  assert.equal((await jobOf(job)).runpod_id, null, "this attempt is over");
});

test("the expected time follows what the last jobs of the type took, and the place counts the endpoint's open jobs", async () => {
  const user = await User.create();
  const before = await user.queue({ format: "video", quality: "high" });
  assert.equal(before.body.expected_seconds, 250);
  await callback({ ...payloads.completed(before.body.job_id, runpod.idsOf(before.body.job_id)[0]!, user.id, 1) });
  const after = await user.queue({ format: "video", quality: "high" });
  assert.equal(after.body.expected_seconds, 6);
  assert.equal((await user.queue({ format: "video" })).body.place, after.body.place + 1);
});

test("seeds are never 0 and leave room for a batch", () => {
  const seeds = Array.from({ length: 1000 }, drawSeed);
  assert.ok(seeds.every((seed) => seed >= 1 && seed <= 2_147_483_647 - 6));
  assert.equal(new Set(seeds).size, 1000);
  return Promise.resolve();
});

closes();
