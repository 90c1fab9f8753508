import assert from "node:assert/strict";
import {
  asOperator,
  assetsOf,
  call,
  callback,
  closes,
  functions,
  jobOf,
  KEY,
  makeDue,
  makeOverdue,
  passDeadline,
  payloads,
  platform,
  post,
  runpod,
  sql,
  test,
  User,
} from "./harness.ts";

const { completed, failed, processing } = payloads;
const reconcile = () => asOperator(functions.reconcile);
const setRun = (run: string, state: object) => Object.assign(runpod.runs.get(run)!, state);

test("a user cancels a job: its row is final and RunPod stops the worker", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  await callback(processing(job, run));
  const { status, body } = await user.call(functions.cancelJob, { job_id: job });
  assert.deepEqual([status, body.status, body.worker_stopped], [200, "cancelled", true]);
  assert.ok(runpod.cancelled.includes(run));
  assert.equal(await callback(failed(job, run, "CANCELLED", false)), "final");
  assert.equal(await callback(completed(job, run, user.id)), "final");
  assert.equal((await user.call(functions.cancelJob, { job_id: job })).body.status, "cancelled");
});

test("a cancellation that RunPod does not answer is repeated until it does", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  const due = () => sql`update private.cancellations set next_attempt_at = now() where runpod_id = ${run}`;
  const requested = async () => (await sql`select from private.cancellations where runpod_id = ${run}`).length;
  runpod.cancelFaults = [500, 503];
  const { body } = await user.call(functions.cancelJob, { job_id: job });
  assert.deepEqual([body.status, body.worker_stopped], ["cancelled", false]);
  await reconcile();
  assert.equal(runpod.cancelFaults.length, 1, "not before it is due");
  await due();
  await reconcile();
  assert.deepEqual([runpod.cancelFaults.length, runpod.cancelled.includes(run), await requested()], [0, false, 1]);
  await due();
  await reconcile();
  assert.deepEqual([runpod.cancelled.includes(run), await requested()], [true, 0]);
});

test("a cancellation is not repeated for a run that RunPod has forgotten, nor after two hours", async () => {
  const user = await User.create();
  const [forgotten, old] = [await user.queued(), await user.queued()];
  runpod.cancelFaults = [500, 500];
  for (const { job } of [forgotten, old]) await user.call(functions.cancelJob, { job_id: job });
  runpod.runs.delete(forgotten.run);
  await sql`update private.cancellations set requested_at = now() - interval '2 hours' where runpod_id = ${old.run}`;
  await sql`update private.cancellations set next_attempt_at = now()`;
  await reconcile();
  assert.equal((await sql`select from private.cancellations`).length, 0);
  assert.equal(runpod.cancelled.includes(old.run), false);
});

test("a run whose id was lost is stopped as soon as its worker reports it, if its job was cancelled or given up meanwhile", async () => {
  const user = await User.create();
  for (
    const end of [(job: string) => user.call(functions.cancelJob, { job_id: job }), (job: string) => passDeadline(job).then(reconcile)]
  ) {
    runpod.faults = ["accepted, then 504"];
    const { body } = await user.queue();
    const run = runpod.idsOf(body.job_id)[0]!;
    await end(body.job_id);
    assert.equal(runpod.cancelled.includes(run), false);
    assert.equal(await callback(processing(body.job_id, run)), "final");
    assert.ok(runpod.cancelled.includes(run));
  }
});

test("another user's job can be neither cancelled nor seen", async () => {
  const [user, other] = [await User.create(), await User.create()];
  const { job } = await user.queued();
  assert.equal((await other.call(functions.cancelJob, { job_id: job })).status, 404);
  assert.equal((await other.call(functions.jobStatus, { job_id: job })).status, 404);
  assert.equal((await user.call(functions.jobStatus, { job_id: "x" })).status, 400);
  assert.equal((await jobOf(job)).status, "queued");
});

test("an enhancement and the generation that waits for it are cancelled together", async () => {
  const user = await User.create();
  const { body } = await user.queue({ enhance: "instruct" });
  await user.call(functions.cancelJob, { job_id: body.job_id });
  assert.deepEqual([(await jobOf(body.job_id)).status, (await jobOf(body.parent_id)).status], ["cancelled", "cancelled"]);
  assert.ok(runpod.cancelled.includes(runpod.idsOf(body.parent_id)[0]!));
});

test("a job that is cancelled while it is being submitted is cancelled at RunPod too", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  await callback(failed(job, run));
  await makeDue(job);
  const submitting = reconcile();
  await user.call(functions.cancelJob, { job_id: job });
  await submitting;
  assert.equal((await jobOf(job)).status, "cancelled");
  for (const id of runpod.idsOf(job).slice(1)) assert.ok(runpod.cancelled.includes(id));
});

test("a run whose job has ended or is gone before RunPod answers is cancelled", async () => {
  const user = await User.create();
  const due = async (): Promise<string> => {
    const { job, run } = await user.queued();
    await callback(failed(job, run));
    await makeDue(job);
    return job;
  };
  const [completedMeanwhile, deleted] = [await due(), await due()];
  runpod.onRun = async ({ id }) => {
    if (id === completedMeanwhile) await callback(completed(id, runpod.idsOf(id)[0]!, user.id));
    if (id === deleted) await sql`delete from public.jobs where id = ${id}`;
  };
  await reconcile();
  runpod.onRun = async () => {};
  for (const id of [completedMeanwhile, deleted]) assert.ok(runpod.cancelled.includes(runpod.idsOf(id)[1]!));
});

test("a completed job shows its assets with temporary URLs", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({ quantity: 3 });
  await callback(completed(job, run, user.id));
  for (const { temp_storage_path } of await assetsOf(job)) platform.objects.set(`workspace-temp/${temp_storage_path}`, "picture");
  const { body } = await user.call(functions.jobStatus, { job_id: job });
  assert.deepEqual([body.status, body.assets.length, body.assets[2].generation_seed], ["completed", 3, 2147483647]);
  assert.ok(
    body.assets.every(({ url }: { url: string }) => url.startsWith(`${platform.url}/storage/v1/object/sign/workspace-temp/${user.id}/`)),
  );
  assert.equal(body.assets[0].thumbnail_url, null, "an object that does not exist");
});

test("an overdue job shows its progress, and is settled from what RunPod says", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({ quantity: 3 });
  await makeOverdue(job);
  setRun(run, { status: "IN_PROGRESS", output: { progress: 40 } });
  const running = await user.call(functions.jobStatus, { job_id: job });
  assert.deepEqual([running.body.status, running.body.progress], ["processing", { progress: 40 }]);
  setRun(run, { status: "COMPLETED", output: completed(job, run, user.id) });
  assert.equal((await user.call(functions.jobStatus, { job_id: job })).body.status, "processing", "asked a moment ago");
  await makeOverdue(job);
  assert.equal((await user.call(functions.jobStatus, { job_id: job })).body.status, "completed");
});

test("reconcile settles jobs whose callback was lost", async () => {
  const user = await User.create();
  const jobs = await Promise.all(Array.from({ length: 8 }, () => user.queued({ quantity: 3 })));
  const [done, streamed, broken, killed, timed, cancelled, forgotten, waiting] = jobs as [typeof jobs[0], ...typeof jobs];
  setRun(done!.run, { status: "COMPLETED", output: completed(done!.job, done!.run, user.id) });
  setRun(streamed!.run, { status: "COMPLETED", output: ["chunk", completed(streamed!.job, streamed!.run, user.id)] });
  setRun(broken!.run, { status: "FAILED", error: "x", output: failed(broken!.job, broken!.run, "VALIDATION_ERROR", false) });
  setRun(killed!.run, { status: "FAILED", error: "worker exited" });
  setRun(timed!.run, { status: "TIMED_OUT" });
  setRun(cancelled!.run, { status: "CANCELLED" });
  runpod.runs.delete(forgotten!.run);
  for (const { job } of jobs) await makeOverdue(job);
  const { body } = await reconcile();
  assert.ok(body.checked >= 8 && body.errors === 0);
  const states = await Promise.all(jobs.map(({ job }) => jobOf(job).then(({ status, error_code }) => [status, error_code])));
  assert.deepEqual(states, [
    ["completed", null],
    ["completed", null],
    ["failed", "VALIDATION_ERROR"],
    ["queued", "INTERNAL_ERROR"],
    ["queued", "JOB_TIMEOUT"],
    ["cancelled", "CANCELLED"],
    ["queued", "RESULT_LOST"],
    ["queued", null],
  ]);
  assert.equal((await assetsOf(done!.job)).length, 3);
  assert.equal((await jobOf(waiting!.job)).runpod_id, waiting!.run);
});

test("what RunPod has forgotten is taken from the payload that the worker stored", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({ quantity: 3 });
  runpod.runs.delete(run);
  platform.objects.set(`workspace-temp/${user.id}/${job}/callback.json`, JSON.stringify(completed(job, run, user.id)));
  await makeOverdue(job);
  await reconcile();
  assert.equal((await jobOf(job)).status, "completed");
});

test("a retryable failure is submitted again with the same request up to the last attempt", async () => {
  const user = await User.create();
  const { job } = await user.queued();
  for (let attempt = 1; attempt <= 3; attempt++) {
    const run = runpod.idsOf(job)[attempt - 1]!;
    assert.equal(await callback(failed(job, run)), attempt === 3 ? "failed" : "queued");
    await reconcile();
    assert.equal(runpod.idsOf(job).length, attempt, "not before it is due");
    await makeDue(job);
    await reconcile();
  }
  const requests = runpod.requests.filter(({ input }) => input.id === job);
  assert.equal(requests.length, 3);
  assert.deepEqual(requests[2]!.input, requests[0]!.input);
  assert.deepEqual([(await jobOf(job)).status, (await jobOf(job)).retryable], ["failed", true]);
});

test("pending assets are waited for before the GPU works again", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  await callback(failed(job, run, "UPLOAD_ERROR", true, { assets_pending: ["a.png"] }));
  const { next_attempt_at, status } = await jobOf(job);
  assert.equal(status, "queued");
  assert.ok(next_attempt_at.getTime() - Date.now() > 500_000);
  assert.equal(await callback(completed(job, run, user.id)), "completed");
});

test("a result of an earlier attempt ends the later one", async () => {
  const user = await User.create();
  const { job, run } = await user.queued();
  await callback(failed(job, run));
  await makeDue(job);
  await reconcile();
  assert.equal(await callback(completed(job, run, user.id)), "completed");
  assert.ok(runpod.cancelled.includes(runpod.idsOf(job)[1]!));
});

test("past its deadline every open job fails, whether submitted, waiting, or never answered; a late result still counts", async () => {
  const user = await User.create();
  const { job: submitted, run } = await user.queued();
  const waiting = (await user.queue({ enhance: "instruct" })).body;
  runpod.faults = ["accepted, then 504"];
  const ambiguous = (await user.queue()).body.job_id;
  for (const job of [submitted, waiting.job_id, waiting.parent_id, ambiguous]) await passDeadline(job);
  await reconcile();
  for (const job of [submitted, waiting.parent_id, ambiguous]) assert.equal((await jobOf(job)).error_code, "DEADLINE_EXCEEDED");
  assert.equal((await jobOf(waiting.job_id)).status, "failed");
  assert.ok(runpod.cancelled.includes(run));
  assert.equal(await callback(completed(submitted, run, user.id)), "completed");
});

test("two reconcilers at once submit nothing twice", async () => {
  const user = await User.create();
  const jobs = await Promise.all(Array.from({ length: 6 }, () => user.queued()));
  for (const { job, run } of jobs) await callback(failed(job, run));
  for (const { job } of jobs) await makeDue(job);
  await Promise.all([reconcile(), reconcile(), reconcile()]);
  for (const { job } of jobs) assert.equal(runpod.idsOf(job).length, 2);
});

test("the schedule calls reconcile and clean-up with the operator's key from the Vault, and nothing without it", async () => {
  const commands = await sql`select jobname, schedule, command from cron.job order by jobname`;
  assert.deepEqual(commands.map(({ jobname, schedule }) => [jobname, schedule]), [["clean-up", "17 * * * *"], [
    "reconcile-jobs",
    "* * * * *",
  ]]);
  for (const { command } of commands) await sql.unsafe(command);
  assert.equal((await sql`select from net.http_request_queue`).length, 0);
  await sql`select vault.create_secret('https://project.example', 'project_url'), vault.create_secret(${KEY}, 'cron_key')`;
  for (const { command } of commands) await sql.unsafe(command);
  const requests = await sql`select * from net.http_request_queue order by id`;
  assert.deepEqual(requests.map(({ url }) => url), ["clean-up", "reconcile"].map((name) => `https://project.example/functions/v1/${name}`));
  assert.equal((await call(functions.reconcile, post(requests[1]!.body, requests[1]!.headers))).status, 200);
  const wrong = { ...requests[1]!.headers, apikey: "sb_publishable_test" };
  assert.equal((await call(functions.reconcile, post({}, wrong))).status, 401);
});

test("while a secret key is rotated, the old and the new one are accepted, and afterwards the new one alone", async () => {
  const keys = (...named: string[]) =>
    Deno.env.set("SUPABASE_SECRET_KEYS", JSON.stringify(Object.fromEntries(named.map((key) => [key, key]))));
  const statuses = () =>
    Promise.all([KEY, "sb_secret_next"].map((key) => call(functions.metrics, post({}, { apikey: key })).then(({ status }) => status)));
  const before = Deno.env.get("SUPABASE_SECRET_KEYS")!;
  keys(KEY, "sb_secret_next");
  assert.deepEqual(await statuses(), [200, 200]);
  keys("sb_secret_next");
  assert.deepEqual(await statuses(), [401, 200]);
  Deno.env.set("SUPABASE_SECRET_KEYS", before);
});

test("clean-up removes expired objects and rows, and keeps what is saved or not expired", async () => {
  const user = await User.create();
  const [old, recent] = [await user.queued({ quantity: 3 }), await user.queued({ quantity: 3 })];
  for (const { job, run } of [old, recent]) {
    await callback(completed(job, run, user.id));
    for (const { temp_storage_path, thumbnail_path } of await assetsOf(job)) {
      for (const path of [temp_storage_path, thumbnail_path]) await user.upload("workspace-temp", path);
    }
  }
  const [asset] = await assetsOf(old.job);
  const saved = await user.call(functions.saveToLibrary, { asset_id: asset!.id });
  await sql`update public.workspace_assets set expires_at = now() - interval '1 hour' where job_id = ${old.job}`;
  await sql`update storage.objects set created_at = now() - interval '8 days' where name like ${user.id + "/%"}`;
  platform.isStorageAway = true;
  assert.equal((await asOperator(functions.cleanUp)).status, 500);
  assert.equal((await assetsOf(old.job)).length, 3, "not before their objects");
  platform.isStorageAway = false;
  const { body } = await asOperator(functions.cleanUp);
  assert.deepEqual([body.objects, body.assets], [6, 3]);
  assert.equal(platform.objects.has(`workspace-temp/${user.id}/${old.job}/0.png`), false);
  assert.equal(platform.objects.get(`user-library/${saved.body.storage_path}`), "picture");
  assert.ok(platform.objects.has(`workspace-temp/${user.id}/${recent.job}/0.png`));
});

test("an asset is saved to the library once, by its owner", async () => {
  const [user, other] = [await User.create(), await User.create()];
  const { job, run } = await user.queued();
  await callback(completed(job, run, user.id, 1));
  const [asset] = await assetsOf(job);
  for (const name of [asset!.temp_storage_path, asset!.thumbnail_path]) platform.objects.set(`workspace-temp/${name}`, "picture");
  const answers = await Promise.all([1, 2].map(() => user.call(functions.saveToLibrary, { asset_id: asset!.id })));
  assert.deepEqual(answers.map(({ status }) => status), [200, 200]);
  assert.equal(answers[0]!.body.id, answers[1]!.body.id);
  assert.equal(answers[0]!.body.storage_path, `${user.id}/${asset!.id}.png`);
  assert.equal((await other.call(functions.saveToLibrary, { asset_id: asset!.id })).status, 404);
});

test("metrics describe performance by type and queues by endpoint", async () => {
  const user = await User.create();
  const { job, run } = await user.queued({ quality: "high" });
  await callback(completed(job, run, user.id));
  const { body } = await asOperator(functions.metrics);
  const performance = body.performance.find(({ job_type }: { job_type: string }) => job_type === "sdxl_image_high");
  assert.deepEqual(performance, {
    ...{ job_type: "sdxl_image_high", jobs: 1, expected_seconds: 8, actual_seconds: 6, actual_seconds_p95: 6, ratio: 0.75 },
    ...{ vram_used: 8192, vram_total: 16384, vram_utilisation: 0.5 },
  });
  const queue = body.queues.find(({ endpoint }: { endpoint: string }) => endpoint === "sdxl1");
  assert.ok(queue.queue_length > 0 && queue.jobs_per_hour > 0 && queue.error_rate > 0 && queue.error_rate < 1);
});

closes();
