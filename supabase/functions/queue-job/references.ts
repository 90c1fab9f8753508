/** The user's pictures that a submission names. */
import type { Subject } from "../_shared/content_policy.ts";
import { HttpError } from "../_shared/http.ts";
import { LIBRARY } from "../_shared/storage.ts";
import type { Body } from "./body.ts";

interface Reference {
  field: string;
  path: string;
  character: boolean;
}

function references(body: Body): Reference[] {
  if (body.format === "text") return [];
  const frames: [string, string | undefined][] = body.format === "image" ? [] : [
    ["first_frame", body.first_frame],
    ["last_frame", body.last_frame],
  ];
  const listed: typeof frames = [["reference.path", body.reference?.path], ...frames];
  const character = body.format === "image" && body.model === "sdxl" && body.reference?.type === "character";
  return listed.flatMap(([field, path]) => path === undefined ? [] : [{ field, path, character }]);
}

/** Returns the paths of all references, or throws if one is not the user's own. Whether they exist is decided with the insertion. */
export function ownPaths(owner: string, body: Body): string[] {
  return references(body).map(({ field, path }) => {
    const [, folder, ...rest] = path.split("/");
    const isPlain = rest.every((segment) => segment !== "" && segment !== "." && segment !== "..") && !/[\\%\p{Cc}]/u.test(path);
    if (folder !== owner || !isPlain) throw new HttpError(403, "REFERENCE_NOT_OWN", `${field} must be a path in your own folder.`);
    return path;
  });
}

/** Describes the references for the content policy. What is in the library may have been uploaded. */
export function referencesOf(body: Body): Subject["references"] {
  return references(body).map(({ path, character }) => ({ uploaded: path.startsWith(`${LIBRARY}/`), character }));
}
