/**
 * Measures what a submission adds to RunPod's own time, and how many are taken in a second, on loopback:
 *
 *   python -m tests.supabase.benchmark
 */
import { functions, platform, post, runpod, sql, User } from "../functions/harness.ts";

const SEQUENTIAL = 300;
const CONCURRENT = 1000;
const AT_ONCE = 16;
const BODY = { format: "image", prompt: "a heron over a bay", quantity: 3 };

await sql`update public.tiers set max_open_jobs = 100000, max_jobs_per_day = 100000`;
const user = await User.create();

async function submit(): Promise<number> {
  const started = performance.now();
  const response = await functions.queueJob.fetch(post(BODY, { authorization: `Bearer ${user.token}` }));
  if (response.status !== 202) throw new Error(await response.text());
  await response.body?.cancel();
  return performance.now() - started;
}

for (let count = 0; count < 50; count++) await submit();
const durations: number[] = [];
for (let count = 0; count < SEQUENTIAL; count++) durations.push(await submit());
durations.sort((a, b) => a - b);

const started = performance.now();
let remaining = CONCURRENT;
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  while (remaining-- > 0) await submit();
}));
const perSecond = CONCURRENT / ((performance.now() - started) / 1000);
const at = (share: number) => durations[Math.floor(durations.length * share)]!.toFixed(1);
console.log(`one after the other: median ${at(0.5)} ms, 95 % within ${at(0.95)} ms; ${AT_ONCE} at once: ${perSecond.toFixed(0)} a second`);

const { sql: connection } = await import("../../functions/_shared/database.ts");
await Promise.all([sql.end(), connection.end(), runpod.close(), platform.close()]);
