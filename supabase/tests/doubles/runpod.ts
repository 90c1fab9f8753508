/** A fake of RunPod's API for callers, on loopback. */

type Fault = number | "accepted, then 504";

interface Run {
  id: string;
  status: string;
  output?: unknown;
  error?: string;
}

interface RunRequest {
  endpoint: string;
  input: Record<string, unknown> & { id: string; config?: Record<string, unknown>; prompt?: string };
  policy: { executionTimeout: number; ttl: number };
}

export class FakeRunPod {
  /** All accepted requests, in order. */
  requests: RunRequest[] = [];
  runs = new Map<string, Run>();
  cancelled: string[] = [];
  /** What happens to the next requests to `/run` instead of a good answer. */
  faults: Fault[] = [];
  /** The statuses of the next answers to `/cancel`, which do not cancel. */
  cancelFaults: number[] = [];
  /** Called with the input of each accepted request before it is answered. */
  onRun: (input: RunRequest["input"]) => Promise<void> = async () => {};
  #server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => this.#answer(request));
  #count = 0;

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}/v2`;
  }

  /** RunPod's ids of the runs of a job, in order. */
  idsOf(job: string): string[] {
    return this.requests.flatMap(({ input }, index) => input.id === job ? [`run-${index + 1}`] : []);
  }

  requestOf(job: string): RunRequest {
    return this.requests.findLast(({ input }) => input.id === job)!;
  }

  async #answer(request: Request): Promise<Response> {
    if (request.headers.get("authorization") !== "Bearer runpod-key") return new Response("", { status: 401 });
    const [, , endpoint = "", verb, id = ""] = new URL(request.url).pathname.split("/");
    if (verb === "run") return await this.#run(endpoint, await request.json());
    const run = this.runs.get(id);
    if (!run) return Response.json({ error: "job not found" }, { status: 404 });
    if (verb === "cancel") {
      const fault = this.cancelFaults.shift();
      if (fault) return Response.json({ error: "fault" }, { status: fault });
      this.cancelled.push(id);
      run.status = "CANCELLED";
    }
    return Response.json(run);
  }

  async #run(endpoint: string, body: Omit<RunRequest, "endpoint">): Promise<Response> {
    const fault = this.faults.shift();
    if (typeof fault === "number") return Response.json({ error: "fault" }, { status: fault });
    const id = `run-${++this.#count}`;
    this.requests.push({ ...body, endpoint });
    this.runs.set(id, { id, status: "IN_QUEUE" });
    await this.onRun(body.input);
    if (fault) return new Response("", { status: 504 });
    return Response.json({ id, status: "IN_QUEUE" });
  }

  close(): Promise<void> {
    return this.#server.shutdown();
  }
}
