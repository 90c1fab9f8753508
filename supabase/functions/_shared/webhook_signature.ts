/**
 * Verifies callbacks by Standard Webhooks 1.0 (https://www.standardwebhooks.com) with WebCrypto, whose comparison takes constant time.
 *
 * The older header `X-Callback-Signature` is not accepted instead: it has no timestamp, so a recorded callback could be replayed for ever.
 */
const TOLERANCE_SECONDS = 300;
const encoder = new TextEncoder();

/** Decodes base64. `Uint8Array.fromBase64` does not exist in the hosted runtime. */
function fromBase64(text: string) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** Returns the key of a secret: what `whsec_` is followed by, decoded, else the secret's own bytes. */
function keyOf(secret: string) {
  return secret.startsWith("whsec_") ? fromBase64(secret.slice("whsec_".length)) : encoder.encode(secret);
}

/**
 * Whether a body is signed with one of the secrets and its timestamp is within five minutes of `now`.
 *
 * @param body The raw bytes, as received.
 * @param secrets More than one while the secret is being rotated.
 * @param now Seconds since 1970.
 */
export async function isAuthentic(
  headers: Headers,
  body: Uint8Array,
  secrets: string[],
  now: number = Date.now() / 1000,
): Promise<boolean> {
  const id = headers.get("webhook-id");
  const timestamp = headers.get("webhook-timestamp") ?? "";
  if (!id || !/^\d{1,12}$/.test(timestamp) || Math.abs(now - Number(timestamp)) > TOLERANCE_SECONDS) return false;
  const prefix = encoder.encode(`${id}.${timestamp}.`);
  const message = new Uint8Array(prefix.length + body.length);
  message.set(prefix);
  message.set(body, prefix.length);
  const signatures = (headers.get("webhook-signature") ?? "").split(" ").filter((part) => /^v1,[A-Za-z0-9+/]{43}=$/.test(part));
  for (const secret of secrets) {
    const key = await crypto.subtle.importKey("raw", keyOf(secret), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
    for (const signature of signatures) {
      if (await crypto.subtle.verify("HMAC", key, fromBase64(signature.slice(3)), message)) return true;
    }
  }
  return false;
}
