import assert from "node:assert/strict";
import { isAuthentic } from "../../functions/_shared/webhook_signature.ts";

interface Vector {
  secret: string;
  timestamp: number;
  body: string;
  headers: Record<string, string>;
}

const VECTORS: Vector[] = JSON.parse(Deno.readTextFileSync(new URL("../../../tests/shared/vectors/webhook.json", import.meta.url)));
const bytes = (text: string) => new TextEncoder().encode(text);

for (const { secret, timestamp, body, headers } of VECTORS) {
  Deno.test(`what workers sign with ${secret.slice(0, 9)}… is authentic for five minutes`, async () => {
    const isAuthenticAt = (now: number, more: Record<string, string> = {}) =>
      isAuthentic(new Headers({ ...headers, ...more }), bytes(body), [secret], now);
    for (const seconds of [-300, 0, 300]) assert.ok(await isAuthenticAt(timestamp + seconds));
    for (const seconds of [-301, 301]) assert.ok(!(await isAuthenticAt(timestamp + seconds)));
    assert.ok(await isAuthenticAt(timestamp, { "webhook-signature": `v1,${"A".repeat(43)}= v2,x ${headers["webhook-signature"]}` }));
    for (
      const [name, value] of [["webhook-id", "msg_other"], ["webhook-timestamp", `${timestamp + 1}`], ["webhook-timestamp", "NaN"]] as const
    ) {
      assert.ok(!(await isAuthenticAt(timestamp, { [name]: value })), name);
    }
  });

  Deno.test(`a body, a secret or a header that differs is not authentic with ${secret.slice(0, 9)}…`, async () => {
    assert.ok(!(await isAuthentic(new Headers(headers), bytes(body + " "), [secret], timestamp)));
    assert.ok(!(await isAuthentic(new Headers(headers), bytes(body), ["another secret of a project"], timestamp)));
    assert.ok(await isAuthentic(new Headers(headers), bytes(body), ["another secret of a project", secret], timestamp));
    const older = new Headers({ "X-Callback-Signature": headers["X-Callback-Signature"]! });
    assert.ok(!(await isAuthentic(older, bytes(body), [secret], timestamp)));
  });
}
