/** Receives the callbacks of workers. The signature is its authentication: `verify_jwt` is off. */
import { isInvalidData } from "../_shared/database.ts";
import { optional, required } from "../_shared/environment.ts";
import { HttpError, isUuid, parseJson, readBody, respond, serve } from "../_shared/http.ts";
import { type Payload, settle } from "../_shared/settlement.ts";
import { isAuthentic } from "../_shared/webhook_signature.ts";

/** A payload without files: the text of a chat is the longest part. */
const MAX_BYTES = 1_048_576;

export async function handle(request: Request): Promise<Response> {
  const body = await readBody(request, MAX_BYTES);
  const secrets = [required("JOB_CALLBACK_SECRET"), optional("JOB_CALLBACK_SECRET_PREVIOUS", "")].filter(Boolean);
  if (!(await isAuthentic(request.headers, body, secrets))) {
    throw new HttpError(401, "UNAUTHORIZED", "The signature is missing, wrong or too old.");
  }
  const payload = parseJson(body) as Payload;
  // A job of another project, or without a row: retrying would not help, so the worker must not keep the payload.
  if (!isUuid(payload?.job_id)) return respond(200, { result: "unknown" });
  try {
    return respond(200, { result: await settle(payload) });
  } catch (error) {
    if (isInvalidData(error)) throw new HttpError(422, "INVALID_PAYLOAD", "The payload does not fit the job.");
    throw error;
  }
}

export default serve(handle);
