/** Validates requests against the JSON Schemas that are generated from the workers' own models. */
import { type OutputUnit, type Schema, Validator } from "@cfworker/json-schema";
import { HttpError } from "../_shared/http.ts";
import type { ModelType, WorkerRequest } from "../_shared/job.ts";
import chatSchema from "../_shared/contract/chat.request.schema.json" with { type: "json" };
import sdxlSchema from "../_shared/contract/sdxl.request.schema.json" with { type: "json" };
import wanSchema from "../_shared/contract/wan.request.schema.json" with { type: "json" };

// It interprets the schema: code generated from strings is not allowed in every runtime.
const validators: Record<ModelType, Validator> = {
  sdxl: new Validator(sdxlSchema as Schema, "2020-12", false),
  wan: new Validator(wanSchema as Schema, "2020-12", false),
  chat: new Validator(chatSchema as Schema, "2020-12", false),
};

/** Throws an error with the problems of a request that its worker would refuse. */
export function validate(model: ModelType, request: WorkerRequest): void {
  const { valid, errors } = validators[model].validate(request);
  if (!valid) throw new HttpError(400, "INVALID_REQUEST", "The worker would refuse this request.", { problems: problemsOf(errors) });
}

/** Returns the innermost errors: an outer one only says that an inner one exists. */
function problemsOf(errors: OutputUnit[]) {
  const depth = (error: OutputUnit) => error.instanceLocation.split("/").length;
  const deepest = Math.max(...errors.map(depth));
  return errors.filter((error) => depth(error) === deepest && !/Expected "null"/.test(error.error))
    .map(({ instanceLocation, error }) => ({ field: instanceLocation.replace(/^#\/?/, "").replaceAll("/", "."), message: error }));
}
