/** What reaches a frontend: the tables' changes as they are published, and the client of `examples/` with supabase-js' own Realtime client. */
import assert from "node:assert/strict";
import { createClient, type SupabaseClient } from "@supabase/supabase-js";
import postgres from "postgres";
import { follow, type Job } from "../../../examples/client.ts";
import { FakeRealtime } from "../doubles/realtime.ts";
import { callback, closes, functions, payloads, platform, sql, test, User } from "./harness.ts";

const URL_OF_DATABASE = Deno.env.get("SUPABASE_DB_URL")!;
const NEVER = 2 ** 31 - 1;
const { completed, processing } = payloads;

const realtime = await FakeRealtime.start(sql, (token) => platform.verify(token), URL_OF_DATABASE);
platform.others = (request) => {
  const { pathname } = new URL(request.url);
  if (pathname === "/realtime/v1/websocket") return realtime.upgrade(request);
  return pathname.endsWith("/job-status") ? functions.jobStatus.fetch(request) : new Response("no such service", { status: 404 });
};

/** Collects values and lets tests wait for one. */
class Log<T> {
  values: T[] = [];
  #waiting: (() => void)[] = [];

  add(value: T): void {
    this.values.push(value);
    this.#waiting.splice(0).forEach((resolve) => resolve());
  }

  async until(condition: (values: T[]) => boolean): Promise<void> {
    while (!condition(this.values)) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

async function signedIn(user: User): Promise<SupabaseClient> {
  const client = createClient(platform.url, "sb_publishable_test", { auth: { persistSession: false, autoRefreshToken: false } });
  const { error } = await client.auth.signInWithPassword({ email: `${user.id}@example.com`, password: "any" });
  assert.equal(error, null);
  return client;
}

/** Follows a job as a page does; without a message of Realtime, it reads the job again after `pollMs`. */
async function following(user: User, job: string, pollMs: number) {
  const client = await signedIn(user);
  const seen = new Log<Job>();
  const ended = follow(client, user.id, job, (state) => seen.add(state), pollMs)
    .finally(() => client.realtime.disconnect());
  return { seen, ended, statuses: () => new Set(seen.values.map(({ status }) => status)) };
}

test("each change of a job and each asset is published with the whole row, a deletion with the id alone, and no other table", async () => {
  const replication = postgres(URL_OF_DATABASE, { max: 1, publications: "supabase_realtime", onnotice: () => {} });
  const changes = new Log<{ table: string; command: string; row: any; old: unknown }>();
  await replication.subscribe("*", (row, info) => {
    const old = info.command === "update" ? info.old : null;
    changes.add({ table: info.relation.table, command: info.command, row, old });
  });
  const user = await User.create();
  const { job, run } = await user.queued({ quantity: 3 });
  await sql`update public.tiers set max_open_jobs = max_open_jobs`;
  await callback(processing(job, run));
  await callback(completed(job, run, user.id));
  await sql`delete from public.jobs where id = ${job}`;
  await changes.until((all) => all.some(({ table, command }) => table === "jobs" && command === "delete"));
  const ofJobs = changes.values.filter(({ table }) => table === "jobs");
  const written = ofJobs.filter(({ command }) => command !== "delete");
  assert.deepEqual([...new Set(written.map(({ row }) => row.status))], ["queued", "processing", "completed"]);
  for (const { row, old } of written) assert.deepEqual([row.user_id, row.original_prompt, old], [user.id, "a heron over a bay", null]);
  const assets = changes.values.filter(({ table, command }) => table === "workspace_assets" && command === "insert");
  assert.deepEqual(assets.map(({ row }) => [row.job_id, row.asset_index]), [[job, 0], [job, 1], [job, 2]]);
  const deleted = changes.values.filter(({ command }) => command === "delete").map(({ row }) => Object.values(row).filter(Boolean).length);
  assert.deepEqual(deleted, [1, 1, 1, 1], "only the id");
  assert.deepEqual(new Set(changes.values.map(({ table }) => table)), new Set(["jobs", "workspace_assets"]));
  await replication.end({ timeout: 1 });
});

test("a page learns by Realtime alone that its job is being processed and that it is completed", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({ quantity: 3 });
  const { seen, ended, statuses } = await following(user, job, NEVER);
  await seen.until(() => statuses().has("queued"));
  await callback(processing(job, run));
  await seen.until(() => statuses().has("processing"));
  await callback(completed(job, run, user.id));
  const { status, assets } = await ended;
  assert.deepEqual([status, assets.length], ["completed", 3]);
});

test("messages of a user's other jobs are not taken for the job's own", async () => {
  const user = await User.create();
  const [job, other] = [await user.queued(), await user.queued()];
  const { seen, ended } = await following(user, job.job, NEVER);
  await callback(completed(other.job, other.run, user.id));
  await callback(completed(job.job, job.run, user.id));
  assert.equal((await ended).job_id, job.job);
  assert.ok(seen.values.every(({ job_id }) => job_id === job.job));
});

test("a page whose connection broke reads its job again", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  const { seen, ended, statuses } = await following(user, job, NEVER);
  await callback(processing(job, run));
  await seen.until(() => statuses().has("processing"));
  realtime.isAway = true;
  realtime.disconnect();
  await callback(completed(job, run, user.id));
  realtime.isAway = false;
  assert.equal((await ended).status, "completed");
});

test("a page without Realtime reads its job from time to time", async () => {
  realtime.isAway = true;
  const user = await User.create();
  const { job, run } = await user.queued();
  const { seen, ended, statuses } = await following(user, job, 10);
  await callback(processing(job, run));
  await seen.until(() => statuses().has("processing"));
  await callback(completed(job, run, user.id));
  assert.equal((await ended).status, "completed");
  realtime.isAway = false;
});

test("nobody can join another user's channel", async () => {
  const [user, other] = [await User.create(), await User.create()];
  const client = await signedIn(other);
  const joined = async (owner: string) => {
    const channel = client.channel(`jobs:${owner}`, { config: { private: true } });
    const state = await new Promise<string>((resolve) => channel.subscribe((state) => resolve(state)));
    await client.removeChannel(channel);
    return state;
  };
  assert.deepEqual([await joined(other.id), await joined(user.id)], ["SUBSCRIBED", "CHANNEL_ERROR"]);
  client.realtime.disconnect();
});

test("Realtime closes", () => realtime.close());
closes();
