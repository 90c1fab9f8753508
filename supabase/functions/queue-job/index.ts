/** Queues a job of the user: validates it, applies content policy and quotas, inserts its row and submits it to RunPod. */
import { authenticate } from "../_shared/auth.ts";
import { refuse } from "../_shared/content_policy.ts";
import { sql } from "../_shared/database.ts";
import { HttpError, parseJson, readBody, respond, serve } from "../_shared/http.ts";
import type { Job, Status } from "../_shared/job.ts";
import { permissionsOf } from "../_shared/permissions.ts";
import { submit } from "../_shared/submission.ts";
import { type Body, parseBody } from "./body.ts";
import { describe } from "./described.ts";
import { ownPaths, referencesOf } from "./references.ts";
import { validate } from "./validation.ts";

const MAX_BYTES = 1_048_576;

type Submitted =
  | { outcome: "created"; job: Job; first: Job; place: number }
  | { outcome: "exists"; job: Job; place: number }
  | { outcome: "taken" }
  | { outcome: "quota" | "reference"; detail: string };

export async function handle(request: Request): Promise<Response> {
  const user = await authenticate(request);
  const body = parseBody(parseJson(await readBody(request, MAX_BYTES)));
  const references = ownPaths(user.id, body);
  await applyPolicy(body, user.tier);
  const jobs = describe(user.id, body);
  jobs.forEach(({ model_type, request }) => validate(model_type, request));
  const submission = { owner: user.id, tier: user.tier, jobs, references };
  const [{ submitted }] = await sql<[{ submitted: Submitted }]>`select public.submit_job(${sql.json(submission as never)}) as submitted`;
  if (submitted.outcome === "exists") return describeJob(200, submitted.job, submitted.job.status, submitted.place);
  if (submitted.outcome !== "created") throw refusal(submitted);
  return await submitFirst(submitted);
}

async function applyPolicy(body: Body, tier: string): Promise<void> {
  const texts = "messages" in body ? body.messages.map(({ content }) => content) : [body.prompt];
  const negative = body.format !== "text" && body.negative_prompt ? { negativePrompt: body.negative_prompt } : {};
  const refusal = await refuse({ texts, ...negative, references: referencesOf(body) }, await permissionsOf(tier));
  if (refusal) throw new HttpError(422, "CONTENT_POLICY", refusal.message, { reason: refusal.reason });
}

function refusal(submitted: Exclude<Submitted, { job: Job }>): HttpError {
  switch (submitted.outcome) {
    case "taken":
      return new HttpError(409, "ID_TAKEN", "There is a job with this id.");
    case "reference":
      return new HttpError(404, "REFERENCE_NOT_FOUND", "There is no such file.", { path: submitted.detail });
    case "quota":
      return new HttpError(429, "QUOTA_EXCEEDED", "You have reached the limit of your account.", { quota: submitted.detail });
  }
}

/** Submits the claimed job: the enhancement, if there is one. If it is refused, the job that waits for it has failed with it. */
async function submitFirst({ job, first, place }: Extract<Submitted, { outcome: "created" }>): Promise<Response> {
  const status = await submit(first, false);
  if (status !== "failed") return describeJob(202, job, job.id === first.id ? status : "queued", place);
  const [failed] = await sql<[Job]>`select error_code, error_message, retryable from public.jobs where id = ${first.id}`;
  const { error_code: code, error_message: message, retryable } = failed;
  return respond(503, { job_id: job.id, status, error: { code, message, retryable } });
}

function describeJob(httpStatus: number, job: Job, status: Status, place: number): Response {
  const expected_seconds = job.expected_seconds === null ? null : Number(job.expected_seconds);
  return respond(httpStatus, { job_id: job.id, parent_id: job.parent_id, status, job_type: job.job_type, place, expected_seconds });
}

export default serve(handle);
