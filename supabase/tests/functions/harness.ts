/** The functions as a hosted project runs them: with their environment, a real database, and fakes of Auth, Storage and RunPod. */
import { Buffer } from "node:buffer";
import { createHmac } from "node:crypto";
import postgres from "postgres";
import { FakePlatform } from "../doubles/platform.ts";
import { FakeRunPod } from "../doubles/runpod.ts";

export const runpod = new FakeRunPod();
export const platform = await FakePlatform.start();
export const SECRET = "a secret with ü, no base64";
export const KEY = "sb_secret_test";
export const sql = postgres(Deno.env.get("SUPABASE_DB_URL")!, { max: 4, onnotice: () => {} });

const environment = {
  SUPABASE_URL: platform.url,
  SUPABASE_PUBLISHABLE_KEYS: JSON.stringify({ default: "sb_publishable_test" }),
  SUPABASE_SECRET_KEYS: JSON.stringify({ default: KEY }),
  JOB_CALLBACK_SECRET: SECRET,
  RUNPOD_API_URL: runpod.url,
  RUNPOD_API_KEY: "runpod-key",
  RUNPOD_SDXL_ENDPOINT: "sdxl1",
  RUNPOD_WAN_ENDPOINT: "wan1",
  RUNPOD_CHAT_ENDPOINT: "chat1",
};
for (const [name, value] of Object.entries(environment)) Deno.env.set(name, value);

interface Function_ {
  fetch(request: Request): Promise<Response>;
}

const load = async (name: string): Promise<Function_> => (await import(`../../functions/${name}/index.ts`)).default;
export const functions = {
  queueJob: await load("queue-job"),
  jobCallback: await load("job-callback"),
  cancelJob: await load("cancel-job"),
  jobStatus: await load("job-status"),
  reconcile: await load("reconcile"),
  metrics: await load("metrics"),
  cleanUp: await load("clean-up"),
  saveToLibrary: await load("save-to-library"),
};

export function post(body: BodyInit | object, headers: Record<string, string> = {}): Request {
  const content = typeof body === "string" || body instanceof Uint8Array ? body as BodyInit : JSON.stringify(body);
  return new Request("http://edge.example/functions/v1/any", { method: "POST", body: content, headers });
}

/** Calls a function and returns the status and the body. */
export async function call(target: Function_, request: Request): Promise<{ status: number; body: any }> {
  const response = await target.fetch(request);
  return { status: response.status, body: await response.json() };
}

/** A user who exists, and what they call functions with. */
export class User {
  private constructor(readonly id: string, readonly token: string) {}

  static async create(tier = "pro", options: { legacy?: boolean } = {}): Promise<User> {
    const id = crypto.randomUUID();
    await sql`insert into auth.users (id) values (${id})`;
    return new User(id, await platform.token(id, { tier, ...options }));
  }

  call(target: Function_, body: object) {
    return call(target, post(body, { authorization: `Bearer ${this.token}`, apikey: "sb_publishable_test" }));
  }

  queue(body: object = {}) {
    return this.call(functions.queueJob, { format: "image", prompt: "a heron over a bay", ...body });
  }

  /** Queues a job and returns its id and RunPod's. */
  async queued(body: object = {}): Promise<{ job: string; run: string }> {
    const { status, body: answer } = await this.queue(body);
    if (status !== 202) throw new Error(JSON.stringify(answer));
    return { job: answer.job_id, run: runpod.idsOf(answer.parent_id ?? answer.job_id)[0]! };
  }

  /** Stores a picture in this user's folder and returns its path with the bucket. */
  async upload(bucket = "user-library", name = `${this.id}/${crypto.randomUUID()}.png`): Promise<string> {
    await sql`insert into storage.objects (bucket_id, name) values (${bucket}, ${name})`;
    platform.objects.set(`${bucket}/${name}`, "picture");
    return `${bucket}/${name}`;
  }
}

/** Calls a function as the schedule does. */
export const asOperator = (target: Function_) => call(target, post({}, { apikey: KEY }));

export interface SignOptions {
  secret?: string;
  at?: number;
  id?: string;
}

/** Returns a callback signed as workers sign it. */
export function signed(payload: object | string, { secret = SECRET, at = Date.now() / 1000, id = "msg_1" }: SignOptions = {}): Request {
  const body = typeof payload === "string" ? payload : JSON.stringify(payload);
  const timestamp = String(Math.floor(at));
  const key = secret.startsWith("whsec_") ? Buffer.from(secret.slice(6), "base64") : Buffer.from(secret);
  const signature = createHmac("sha256", key).update(`${id}.${timestamp}.${body}`).digest("base64");
  return post(body, { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": `v1,${signature}` });
}

export async function callback(payload: object): Promise<string> {
  const { status, body } = await call(functions.jobCallback, signed(payload));
  if (status !== 200) throw new Error(`${status} ${JSON.stringify(body)}`);
  return body.result;
}

export const payloads = {
  processing: (job: string, run: string) => ({
    job_id: job,
    status: "processing",
    assets: [],
    metadata: { runpod_id: run },
    error_message: null,
  }),
  completed: (job: string, run: string, user: string, count = 3) => ({
    job_id: job,
    worker_id: "sdxl_worker_1",
    status: "completed",
    assets: Array.from({ length: count }, (_, index) => ({
      type: "image",
      asset_index: index,
      url: `${user}/${job}/${index}.png`,
      temp_storage_path: `${user}/${job}/${index}.png`,
      thumbnail_path: `${user}/${job}/${index}.thumb.webp`,
      mime_type: "image/png",
      file_size_bytes: 1483922,
      generation_seed: 2147483645 + index,
      metadata: { width: 1024, height: 768, steps: 25 },
    })),
    metadata: {
      ...{ runpod_id: run, job_type: "sdxl_image_fast", model_used: "sdxl", processing_time: 6, vram_used: 8192, vram_total: 16384 },
      ...{ error_code: null, error_type: null, retryable: null, assets_pending: null },
    },
    error_message: null,
  }),
  failed: (job: string, run: string, code = "GENERATION_ERROR", retryable = true, extra = {}) => ({
    job_id: job,
    status: "failed",
    assets: [],
    metadata: { runpod_id: run, error_code: code, retryable, ...extra },
    error_message: "It failed.",
  }),
  enhanced: (job: string, run: string, text: string) => ({
    job_id: job,
    status: "completed",
    assets: [{
      type: "text",
      asset_index: 0,
      content: text,
      metadata: { tokens_generated: 9, prompt_tokens: 30, model_used: "qwen_instruct" },
    }],
    metadata: { runpod_id: run, job_type: "enhance_instruct", processing_time: 2, error_code: null },
    error_message: null,
    enhanced_prompt: text,
    response: text,
  }),
};

export async function jobOf(id: string): Promise<any> {
  const [row] = await sql`select * from public.jobs where id = ${id}`;
  return row;
}

export const assetsOf = (job: string) => sql`select * from public.workspace_assets where job_id = ${job} order by asset_index`;

/** Makes a job due for its next attempt, as time does. */
export const makeDue = (job: string) =>
  sql`update public.jobs set next_attempt_at = now() where id = ${job} and next_attempt_at is not null`;

/** Makes a job as old as if its callback were overdue, as time does. */
export const makeOverdue = (job: string) =>
  sql`update public.jobs set submitted_at = now() - interval '5 minutes', checked_at = null where id = ${job}`;

export const passDeadline = (job: string) =>
  sql`update public.jobs set deadline = now() - interval '1 second', checked_at = null where id = ${job}`;

/** Defines a test that uses the servers of this module, which outlive it. */
export function test(name: string, run: () => Promise<void>): void {
  Deno.test({ name, fn: run, sanitizeOps: false, sanitizeResources: false });
}

/** The last test of each file. */
export function closes(): void {
  test("the servers close", async () => {
    const { sql: connection } = await import("../../functions/_shared/database.ts");
    await Promise.all([sql.end(), connection.end(), runpod.close(), platform.close()]);
  });
}
