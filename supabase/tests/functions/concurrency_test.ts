/** Functions of the database in overlapping transactions, as many instances of the edge functions run them. */
import assert from "node:assert/strict";
import { assetsOf, callback, closes, jobOf, makeDue, payloads, runpod, sql, test, User } from "./harness.ts";

const OVERLAP_MS = 100;

/** Runs `second` while the transaction of `first` is open, and returns its result. */
async function overlapping<T>(first: string, second: () => PromiseLike<T>): Promise<T> {
  let result: Promise<T> | undefined;
  await sql.begin(async (transaction) => {
    await transaction.unsafe(first);
    result = Promise.resolve(second());
    result.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, OVERLAP_MS));
  });
  return await result!;
}

const literal = (value: object) => `'${JSON.stringify(value).replaceAll("'", "''")}'`;

test("of two callbacks at once one settles the job and the other finds it settled", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  const payload = payloads.completed(job, run, user.id);
  const settle = `select public.settle_job(${literal(payload)}) ->> 'result' as result`;
  const [second] = await overlapping(settle, () => sql.unsafe(settle));
  assert.equal(second!.result, "final");
  assert.equal((await assetsOf(job)).length, 3);
});

test("a callback that fails half-way leaves no trace", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  const payload: any = payloads.completed(job, run, user.id);
  payload.assets[2].asset_index = 1;
  await assert.rejects(callback(payload));
  assert.deepEqual([(await jobOf(job)).status, (await assetsOf(job)).length], ["queued", 0]);
});

test("two submissions at once do not pass a quota together", async () => {
  await sql`insert into public.tiers (name, max_open_jobs, max_jobs_per_day) values ('one', 1, 10)`;
  const user = await User.create("one");
  const submit = () => {
    const described = {
      id: crypto.randomUUID(),
      job_type: "chat",
      format: "text",
      model_type: "chat",
      request: {},
      endpoint: "chat1",
      patience_seconds: 60,
    };
    return `select public.submit_job(${
      literal({ owner: user.id, tier: "one", jobs: [described], references: [] })
    }) ->> 'outcome' as outcome`;
  };
  const [second] = await overlapping(submit(), () => sql.unsafe(submit()));
  assert.equal(second!.outcome, "quota");
});

test("two reconcilers at once claim a job once", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  await callback(payloads.failed(job, run));
  await makeDue(job);
  const claim = `select id from public.claim_due_jobs(10, array['${job}']::uuid[])`;
  assert.equal((await overlapping(claim, () => sql.unsafe(claim))).length, 0);
  assert.equal((await jobOf(job)).attempts, 2);
  await sql`update public.jobs set submitted_at = now() - interval '1 hour', runpod_id = 'r', next_attempt_at = null where id = ${job}`;
  const look = "select id from public.claim_unsettled_jobs(100)";
  assert.ok(!(await overlapping(look, () => sql.unsafe(look))).some(({ id }) => id === job));
});

test("a cancellation waits for the callback that is being applied, and the other way round", async () => {
  const user = await User.create();
  const [first, second] = [await user.queued(), await user.queued()];
  const settle = ({ job, run }: typeof first) =>
    `select public.settle_job(${literal(payloads.completed(job, run, user.id))}) ->> 'result' as result`;
  const cancel = ({ job }: typeof first) => `select public.cancel_job('${user.id}', '${job}') ->> 'status' as status`;
  assert.equal((await overlapping(settle(first), () => sql.unsafe(cancel(first))))[0]!.status, "completed");
  assert.equal((await overlapping(cancel(second), () => sql.unsafe(settle(second))))[0]!.result, "final");
});

test("a generation is cancelled while its enhancement completes, without a deadlock", async () => {
  const user = await User.create();
  const { body } = await user.queue({ enhance: "instruct" });
  const run = runpod.idsOf(body.parent_id)[0]!;
  const lockParent = `select 1 from public.jobs where id = '${body.parent_id}' for update`;
  const cancel = `select public.cancel_job('${user.id}', '${body.job_id}') ->> 'status' as status`;
  let cancelled: Promise<readonly { status: string }[]> | undefined;
  await sql.begin(async (transaction) => {
    await transaction.unsafe(lockParent);
    cancelled = Promise.resolve(sql.unsafe<{ status: string }[]>(cancel));
    await new Promise((resolve) => setTimeout(resolve, OVERLAP_MS));
    await transaction.unsafe(`select public.settle_job(${literal(payloads.enhanced(body.parent_id, run, "a heron"))})`);
  });
  assert.equal((await cancelled!)[0]!.status, "cancelled");
  assert.equal((await jobOf(body.parent_id)).status, "completed");
});

closes();
