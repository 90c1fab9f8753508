/**
 * Measures what a submission adds to RunPod's own time, and how many are taken in a second, on loopback. Prints one JSON object, times in
 * milliseconds. `python -m benchmarks.submissions` runs it.
 */
import { functions, platform, post, runpod, sql, User } from "../functions/harness.ts";

const SEQUENTIAL = 300;
const CONCURRENT = 1000;
const AT_ONCE = 16;
/** So many that none reaches the quota of open jobs. */
const USERS = 100;
const BODY = { format: "image", prompt: "a heron over a bay", quantity: 3 };

const users = await Promise.all(Array.from({ length: USERS }, () => User.create()));
let submitted = 0;

async function submit(): Promise<number> {
  const { token } = users[submitted++ % USERS]!;
  const started = performance.now();
  const response = await functions.queueJob.fetch(post(BODY, { authorization: `Bearer ${token}` }));
  if (response.status !== 202) throw new Error(await response.text());
  await response.body?.cancel();
  return performance.now() - started;
}

for (let count = 0; count < USERS; count++) await submit();
const durations: number[] = [];
for (let count = 0; count < SEQUENTIAL; count++) durations.push(await submit());
durations.sort((a, b) => a - b);

const started = performance.now();
let remaining = CONCURRENT;
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  while (remaining-- > 0) await submit();
}));
const per_second = CONCURRENT / ((performance.now() - started) / 1000);
const at = (share: number) => durations[Math.floor(durations.length * share)]!;
console.log(JSON.stringify({ median: at(0.5), p95: at(0.95), at_once: AT_ONCE, per_second }));

const { sql: connection } = await import("../../functions/_shared/database.ts");
await Promise.all([sql.end(), connection.end(), runpod.close(), platform.close()]);
