/**
 * A fake of the service Realtime, as far as private Broadcast from the database goes: Phoenix' channel protocol 2.0.0 over a WebSocket. It
 * reads messages from the database by logical replication, and lets the database's own policies decide who may join, as Realtime does.
 */
import postgres from "postgres";

type Frame = [joinRef: string | null, ref: string | null, topic: string, event: string, payload: any];

const PREFIX = "realtime:";
const UNDONE = new Error("undone");

export class FakeRealtime {
  /** Refuses connections. */
  isAway = false;
  #members = new Map<WebSocket, Map<string, string | null>>();
  #replication: postgres.Sql;

  private constructor(private sql: postgres.Sql, private verify: (token: string) => Promise<object>, url: string) {
    this.#replication = postgres(url, { max: 1, publications: "supabase_realtime_messages_publication", onnotice: () => {} });
  }

  /**
   * @param sql A connection to the database, which may take any role.
   * @param verify Returns the claims of a token.
   * @param url The database's URL.
   */
  static async start(sql: postgres.Sql, verify: (token: string) => Promise<object>, url: string): Promise<FakeRealtime> {
    const realtime = new FakeRealtime(sql, verify, url);
    await realtime.#replication.subscribe("insert:realtime.messages", (row) => realtime.#deliver(row as unknown as Message));
    return realtime;
  }

  /** Accepts a connection. */
  upgrade(request: Request): Response {
    if (this.isAway) return new Response("away", { status: 503 });
    const { socket, response } = Deno.upgradeWebSocket(request);
    this.#members.set(socket, new Map());
    socket.onmessage = ({ data }) => this.#receive(socket, JSON.parse(data));
    socket.onclose = () => this.#members.delete(socket);
    return response;
  }

  /** Breaks all connections. */
  disconnect(): void {
    for (const socket of this.#members.keys()) socket.close();
  }

  async #receive(socket: WebSocket, [joinRef, ref, topic, event, payload]: Frame): Promise<void> {
    let response: object = {};
    let status = "ok";
    if (event === "phx_join") {
      const isAllowed = payload.config.private && await this.#mayJoin(topic.slice(PREFIX.length), payload.access_token);
      if (isAllowed) this.#members.get(socket)?.set(topic, joinRef);
      else [status, response] = ["error", { reason: "Unauthorized: You do not have permissions to read from this Channel topic" }];
    } else if (event === "phx_leave") this.#members.get(socket)?.delete(topic);
    send(socket, [joinRef, ref, topic, "phx_reply", { status, response }]);
  }

  /** Whether a message on a topic could be selected with a token, tried and undone. */
  async #mayJoin(topic: string, token: string): Promise<boolean> {
    const claims = await this.verify(token).catch(() => undefined);
    if (!claims) return false;
    let isVisible = false;
    await this.sql.begin(async (transaction) => {
      await transaction`insert into realtime.messages (topic, extension, event, private) values (${topic}, 'broadcast', 'probe', true)`;
      await transaction`select set_config('request.jwt.claims', ${
        JSON.stringify(claims)
      }, true), set_config('realtime.topic', ${topic}, true)`;
      await transaction`set local role authenticated`;
      isVisible = (await transaction`select from realtime.messages where topic = ${topic}`).length > 0;
      throw UNDONE;
    }).catch((error) => {
      if (error !== UNDONE) throw error;
    });
    return isVisible;
  }

  #deliver({ topic, event, payload }: Message): void {
    for (const [socket, topics] of this.#members) {
      if (topics.has(PREFIX + topic)) send(socket, [null, null, PREFIX + topic, "broadcast", { type: "broadcast", event, payload }]);
    }
  }

  async close(): Promise<void> {
    this.disconnect();
    await this.#replication.end({ timeout: 1 });
  }
}

interface Message {
  topic: string;
  event: string;
  payload: unknown;
}

function send(socket: WebSocket, frame: Frame): void {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
}
