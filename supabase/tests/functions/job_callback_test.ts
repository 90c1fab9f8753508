import assert from "node:assert/strict";
import { assetsOf, call, callback, closes, functions, jobOf, makeDue, payloads, post, SECRET, signed, sql, test, User } from "./harness.ts";

const { completed, failed, processing } = payloads;
const send = (request: Request) => call(functions.jobCallback, request);

test("a completed job has every asset with all its columns", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({ quantity: 3 });
  assert.equal(await callback(completed(job, run, user.id)), "completed");
  const assets = await assetsOf(job);
  assert.deepEqual(assets.map((asset) => asset.generation_seed), ["2147483645", "2147483646", "2147483647"]);
  const { user_id, asset_type, temp_storage_path, thumbnail_path, file_size_bytes, mime_type, width, height, model_used, original_prompt } =
    assets[0]!;
  assert.deepEqual(
    { user_id, asset_type, temp_storage_path, thumbnail_path, file_size_bytes, mime_type, width, height, model_used, original_prompt },
    {
      ...{
        user_id: user.id,
        asset_type: "image",
        temp_storage_path: `${user.id}/${job}/0.png`,
        thumbnail_path: `${user.id}/${job}/0.thumb.webp`,
      },
      ...{
        file_size_bytes: "1483922",
        mime_type: "image/png",
        width: 1024,
        height: 768,
        model_used: "sdxl",
        original_prompt: "a heron over a bay",
      },
    },
  );
  const row = await jobOf(job);
  assert.ok(row.started_at < row.completed_at && row.result.vram_used === 8192);
});

test("a video has its duration, its extras stay in its settings, and a text has its content", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({ format: "video" });
  const payload: any = completed(job, run, user.id, 1);
  const extras = [{ kind: "poster", url: `${user.id}/${job}/0.poster.png`, mime_type: "image/png", file_size_bytes: 4 }];
  Object.assign(payload.assets[0], { type: "video", duration_seconds: 5.0625, mime_type: "video/mp4", extras });
  await callback(payload);
  const [clip] = await assetsOf(job);
  assert.equal(clip!.duration_seconds, "5.063");
  assert.deepEqual(clip!.generation_settings.extras, extras);
  const chat = await user.queued({ format: "text", prompt: undefined, messages: [{ role: "user", content: "Hello" }] });
  await callback(payloads.enhanced(chat.job, chat.run, "Hello to you."));
  const [text] = await assetsOf(chat.job);
  assert.deepEqual([text!.content, text!.temp_storage_path, text!.model_used], ["Hello to you.", null, "qwen_instruct"]);
});

test("a forged, altered, unsigned or late callback is refused and changes nothing", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  const payload = completed(job, run, user.id);
  const valid = signed(payload);
  const altered = post((await signed(payload).text()) + " ", Object.fromEntries(valid.headers));
  const plain = post(payload, { "x-callback-signature": "sha256=0" });
  const refused = [signed(payload, { secret: "another secret, guessed" }), altered, post(payload), plain];
  refused.push(signed(payload, { at: Date.now() / 1000 - 301 }), signed(payload, { at: Date.now() / 1000 + 302 }));
  for (const request of refused) assert.equal((await send(request)).status, 401);
  assert.equal((await jobOf(job)).status, "queued");
  assert.equal((await assetsOf(job)).length, 0);
  assert.equal((await send(valid)).status, 200);
});

test("while the secret is rotated, the previous one is accepted too", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  const request = () => signed(processing(job, run), { secret: "whsec_" + btoa("the next secret of the project") });
  assert.equal((await send(request())).status, 401);
  Deno.env.set("JOB_CALLBACK_SECRET", "whsec_" + btoa("the next secret of the project"));
  Deno.env.set("JOB_CALLBACK_SECRET_PREVIOUS", SECRET);
  assert.equal((await send(request())).status, 200);
  assert.equal((await send(signed(processing(job, run)))).status, 200);
  Deno.env.set("JOB_CALLBACK_SECRET", SECRET);
  Deno.env.delete("JOB_CALLBACK_SECRET_PREVIOUS");
});

test("an oversized body is refused without being read to its end, signed or not", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  const payload: any = completed(job, run, user.id);
  payload.metadata.note = "x".repeat(1_100_000);
  assert.equal((await send(signed(payload))).status, 413);
  let sent = 0;
  const endless = new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(65_536).fill(32 + (sent++ % 2))) });
  const request = new Request("http://edge.example/", { method: "POST", body: endless, duplex: "half" } as RequestInit);
  assert.equal((await send(request)).status, 413);
  assert.ok(sent < 40);
  assert.equal((await jobOf(job)).status, "queued");
});

test("a body that is no JSON, and a payload that does not fit the job, are refused for good", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  assert.equal((await send(signed("{"))).status, 400);
  const stranger = completed(job, run, "someone-else");
  const sculpture: any = completed(job, run, user.id);
  sculpture.assets[2].type = "sculpture";
  const climbing: any = completed(job, run, user.id);
  climbing.assets[0].temp_storage_path = `${user.id}/${job}/../x.png`;
  for (const payload of [stranger, sculpture, climbing, { ...stranger, status: "done" }]) {
    assert.equal((await send(signed(payload))).status, 422);
  }
  assert.deepEqual([(await jobOf(job)).status, (await assetsOf(job)).length], ["queued", 0]);
});

test("a text that PostgreSQL cannot store as it is does not lose the job", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({
    format: "text",
    prompt: undefined,
    messages: [{ role: "user", content: "nul \0, half \ud800" }],
  });
  assert.equal(await callback(payloads.enhanced(job, run, "nul \0, half \ud83d, whole \ud83d\ude00")), "completed");
  assert.equal((await assetsOf(job))[0]!.content, "nul \ufffd, half \ufffd, whole \ud83d\ude00");
});

test("a job that does not exist is answered with 200, so that the worker forgets it", async () => {
  assert.equal(await callback(failed(crypto.randomUUID(), "run-0")), "unknown");
  assert.equal(await callback(failed("job-1", "run-0")), "unknown");
});

test("of twenty deliveries at once one settles the job", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  const results = await Promise.all(Array.from({ length: 20 }, () => callback(completed(job, run, user.id))));
  assert.equal(results.filter((result) => result === "completed").length, 1);
  assert.equal(results.filter((result) => result === "final").length, 19);
  assert.equal((await assetsOf(job)).length, 3);
});

test("a settled job is changed by no replayed, reordered, repeated, contradicting or late callback", async () => {
  const user = await User.create();
  for (const kind of ["completed", "cancelled"]) {
    const { job, run } = await user.queued();
    const settling = signed(payload(job, kind, run, user.id));
    const replayed = settling.clone();
    const earlier = [signed(processing(job, run)), signed(payload(job, "failure", run, user.id))];
    assert.equal((await send(settling)).status, 200);
    const state = async () => [await jobOf(job), await assetsOf(job)];
    const before = await state();
    const fewer = completed(job, run, user.id, 1);
    const later = [...KINDS.map((kind) => payload(job, kind, run, user.id)), fewer, processing(job, "another-run")].map((body) =>
      signed(body)
    );
    const late = signed(completed(job, run, user.id), { at: Date.now() / 1000 - 301 });
    for (const request of [replayed, ...earlier, ...later]) {
      assert.deepEqual(await send(request), { status: 200, body: { result: "final" } });
    }
    assert.equal((await send(late)).status, 401);
    assert.deepEqual(await state(), before);
  }
});

test("each change of status is broadcast to the owner alone, without the prompt", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  for (const payload of [processing(job, run), completed(job, run, user.id)]) await callback(payload);
  const sent = await sql`select payload, private from realtime.messages where topic = ${"jobs:" + user.id} order by inserted_at`;
  assert.deepEqual(sent.map(({ payload }) => payload.status), ["queued", "processing", "completed"]);
  assert.ok(sent.every((message) => message.private && !JSON.stringify(message.payload).includes("heron")));
  const seenBy = (subject: string) =>
    sql.begin(async (transaction) => {
      await transaction`select set_config('request.jwt.claims', ${JSON.stringify({ sub: subject })}, true)`;
      await transaction`select set_config('realtime.topic', ${"jobs:" + user.id}, true)`;
      await transaction`set local role authenticated`;
      return (await transaction`select from realtime.messages`).length;
    });
  assert.ok(await seenBy(user.id) > 0);
  assert.equal(await seenBy(crypto.randomUUID()), 0);
});

test("a job of three images costs three messages of Realtime and less than 5 kB of rows", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({ quantity: 3, quality: "high", prompt: "a heron over a bay, ".repeat(10) });
  await callback(processing(job, run));
  await callback(completed(job, run, user.id));
  const [size] = await sql<[{ bytes: string }]>`
    select sum(bytes) as bytes from (
      select pg_column_size(j) as bytes from public.jobs as j where id = ${job}
      union all select pg_column_size(a) from public.workspace_assets as a where job_id = ${job}
    ) as rows`;
  assert.ok(Number(size.bytes) > 1000 && Number(size.bytes) < 5000, size.bytes);
  assert.equal((await sql`select from realtime.messages where topic = ${"jobs:" + user.id}`).length, 3);
});

// The property test: a simple model of a job predicts the state after any sequence of callbacks.

class Model {
  status = "queued";
  attempts = 1;
  earlier: string[] = [];
  assets = 0;
  code: string | null = null;
  constructor(readonly job: string, public run: string | null) {}

  receive(kind: string, run: string): void {
    if (this.status === "completed" || this.status === "cancelled") return;
    if (kind === "completed") Object.assign(this, { status: "completed", assets: 3, code: null });
    if (kind === "completed" || this.status === "failed") return;
    if (this.earlier.includes(run) || (this.run !== null && this.run !== run)) return;
    if (kind === "processing") Object.assign(this, { status: "processing", run });
    if (kind === "cancelled") Object.assign(this, { status: "cancelled", code: "CANCELLED" });
    if (kind === "final failure") Object.assign(this, { status: "failed", code: "VALIDATION_ERROR" });
    if (kind === "failure") this.fail(run);
  }

  private fail(run: string): void {
    this.code = "OOM_ERROR";
    if (this.attempts === 3) this.status = "failed";
    else Object.assign(this, { status: "queued", earlier: [...this.earlier, run], run: null });
  }
}

/** A reproducible sequence of numbers from 0 to `below` (mulberry32). */
function random(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let bits = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return Math.floor(((bits ^ (bits >>> 14)) >>> 0) / 4294967296 * below);
  };
}

const KINDS = ["processing", "processing", "failure", "failure", "failure", "final failure", "cancelled", "completed"];

test("1,000 callbacks in random order with repetitions end in the state that a simple model predicts", async () => {
  const user = await User.create("pro");
  await sql`update public.tiers set max_open_jobs = 1000, max_jobs_per_day = 10000 where name = 'pro'`;
  const below = random(7);
  const models: Model[] = [];
  for (let index = 0; index < 120; index++) models.push(await user.queued().then(({ job, run }) => new Model(job, run)));
  const sent: [Model, string, string][] = [];
  for (let count = 0; count < 1000; count++) {
    const model = models[below(models.length)]!;
    // A job that waits for another attempt gets it sooner or later, unless a result of an earlier one comes first.
    if (model.status === "queued" && model.run === null && below(3) > 0) await resubmit(model, `${model.job}-${model.attempts + 1}`);
    const runs = [model.run, ...model.earlier].filter((run) => run !== null);
    const fresh: [Model, string, string] = [model, KINDS[below(KINDS.length)]!, runs[below(runs.length)]!];
    const event = sent.length > 0 && below(4) === 0 ? sent[below(sent.length)]! : fresh;
    sent.push(event);
    const [target, kind, run] = event;
    await callback(payload(target.job, kind, run, user.id));
    target.receive(kind, run);
  }
  for (const model of models) {
    const { status, attempts, error_code } = await jobOf(model.job);
    const state = { status, attempts, code: error_code, assets: (await assetsOf(model.job)).length };
    assert.deepEqual(state, { status: model.status, attempts: model.attempts, code: model.code, assets: model.assets });
  }
  assert.deepEqual(new Set(models.map(({ status }) => status)), new Set(["queued", "processing", "completed", "failed", "cancelled"]));
});

async function resubmit(model: Model, run: string): Promise<void> {
  await makeDue(model.job);
  const claimed = await sql`select id from public.claim_due_jobs(1, ${[model.job]})`;
  assert.equal(claimed.length, 1);
  await sql`select public.record_submission(${model.job}, 'sdxl1', ${run})`;
  Object.assign(model, { attempts: model.attempts + 1, run });
}

function payload(job: string, kind: string, run: string, user: string): object {
  if (kind === "processing") return processing(job, run);
  if (kind === "completed") return completed(job, run, user);
  if (kind === "cancelled") return failed(job, run, "CANCELLED", false);
  return kind === "failure" ? failed(job, run, "OOM_ERROR", true) : failed(job, run, "VALIDATION_ERROR", false);
}

closes();
