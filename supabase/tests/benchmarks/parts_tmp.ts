import { functions, platform, post, runpod, sql, User } from "../functions/harness.ts";
const { authenticate } = await import("../../functions/_shared/auth.ts");
const { parseBody } = await import("../../functions/queue-job/body.ts");
const { describe } = await import("../../functions/queue-job/described.ts");
const { validate } = await import("../../functions/queue-job/validation.ts");
const { refuse } = await import("../../functions/_shared/content_policy.ts");
const { run } = await import("../../functions/_shared/runpod.ts");
const { sql: conn } = await import("../../functions/_shared/database.ts");
const user = await User.create();
const BODY = { format: "image", prompt: "a heron over a bay", quantity: 3 };
const req = () => post(BODY, { authorization: `Bearer ${user.token}` });
const parsed = parseBody(structuredClone(BODY));
const jobs = describe(user.id, parsed);
async function time(name: string, f: () => unknown, n = 300) {
  for (let i = 0; i < 50; i++) await f();
  const ds: number[] = [];
  for (let i = 0; i < n; i++) { const t = performance.now(); await f(); ds.push(performance.now() - t); }
  ds.sort((a, b) => a - b);
  console.log(name.padEnd(14), "median", ds[n >> 1]!.toFixed(3), "p10", ds[n / 10 | 0]!.toFixed(3));
}
await time("authenticate", () => authenticate(req()));
await time("parse", () => parseBody(structuredClone(BODY)));
await time("policy", () => refuse({ texts: ["a heron over a bay"], references: [] }, { adultContent: false, realPeople: false }));
await time("policy long", () => refuse({ texts: ["a heron over a bay at dawn, ".repeat(100)], references: [] }, { adultContent: false, realPeople: false }));
await time("describe", () => describe(user.id, parsed));
await time("validate", () => validate("sdxl", jobs[0]!.request));
await time("runpod", () => run("sdxl1", jobs[0]!.request, { executionTimeout: 600000, ttl: 600000 }));
await time("select 1", () => conn`select 1`);
await time("submit_job", () => conn`select public.submit_job(${conn.json({ owner: user.id, tier: "free", jobs: describe(user.id, parsed), references: [] } as never)}) as submitted`);
await Promise.all([sql.end(), conn.end(), runpod.close(), platform.close()]);
