// A client of RunPod's API: of this page's server, or of a real endpoint.

const POLL_MS = 150;
const FINAL = ["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"];

export class Connection {
  constructor(base, endpoint, key) {
    Object.assign(this, { base: base || `${location.origin}/v2`, endpoint, key, local: !base || base.startsWith(location.origin) });
  }

  async call(path, body) {
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(this.key && { Authorization: `Bearer ${this.key}` }) };
    const response = await fetch(`${this.base}/${this.endpoint}/${path}`, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
    const content = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(content.error ?? `The server answered with status ${response.status}.`);
    return content;
  }

  health = () => this.call("health");
  run = (input) => this.call("run", { input });
  cancel = (id) => this.call(`cancel/${id}`, {});
  status = (id) => this.call(`status/${id}`);

  /** Follows a job to its end. Calls `onStatus` for each state, and `onText` for text that is streamed. */
  async follow(id, onStatus, onText) {
    let ended = false;
    const streaming = onText && this.#stream(id, onText, () => ended);
    while (true) {
      const job = await this.status(id);
      ended = FINAL.includes(job.status);
      if (ended) await streaming;
      onStatus(job);
      if (ended) return job;
      await new Promise((done) => setTimeout(done, POLL_MS));
    }
  }

  async #stream(id, onText, ended) {
    while (true) {
      const { status, stream } = await this.call(`stream/${id}`);
      for (const { output } of stream) if (typeof output?.delta === "string") onText(output.delta);
      if (FINAL.includes(status) && (stream.length === 0 || ended())) return;
    }
  }
}

/** The payload in a job's output: the handler's return value, or the last one of a streaming worker. */
export const payloadOf = (job) => (Array.isArray(job.output) ? job.output.at(-1) : job.output);

export async function fetchJson(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: status ${response.status}`);
  return response.json();
}
