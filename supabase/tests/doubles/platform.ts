/** A fake of a project's Auth and Storage on loopback, which passes other requests on. */
import * as jose from "npm:jose@6.2.18";

const SECRET = "sb_secret_test";
const LEGACY_SECRET = new TextEncoder().encode("the project's legacy secret for tokens");

export class FakePlatform {
  /** Objects by bucket and name. */
  objects = new Map<string, string>();
  isStorageAway = false;
  /** Answers what is neither for Auth nor for Storage. */
  others: (request: Request) => Response | Promise<Response> = () => new Response("no such service", { status: 404 });
  #server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => this.#answer(request));

  private constructor(private privateKey: CryptoKey, private jwk: jose.JWK) {}

  static async start(): Promise<FakePlatform> {
    const { privateKey, publicKey } = await jose.generateKeyPair("ES256", { extractable: true });
    return new FakePlatform(privateKey, { ...(await jose.exportJWK(publicKey)), kid: "key-1", alg: "ES256", use: "sig" });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}`;
  }

  /** Returns a user's token. */
  token(user: string, { tier, role = "authenticated", seconds = 3600, legacy = false, key }: TokenOptions = {}): Promise<string> {
    const claims = { role, app_metadata: tier ? { tier } : {} };
    return new jose.SignJWT(claims).setSubject(user).setIssuedAt().setAudience("authenticated")
      .setExpirationTime(Math.floor(Date.now() / 1000) + seconds)
      .setProtectedHeader(legacy ? { alg: "HS256" } : { alg: "ES256", kid: "key-1" })
      .sign(legacy ? LEGACY_SECRET : key ?? this.privateKey);
  }

  async #answer(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname === "/auth/v1/.well-known/jwks.json") return Response.json({ keys: [this.jwk] });
    if (pathname === "/auth/v1/user") return await this.#user(request);
    if (pathname === "/auth/v1/token") return await this.#signIn(await request.json());
    if (!pathname.startsWith("/storage/")) return await this.others(request);
    if (request.headers.get("apikey") !== SECRET) return Response.json({ message: "Unauthorized" }, { status: 401 });
    if (this.isStorageAway) return Response.json({ message: "away" }, { status: 500 });
    return await this.#storage(request, decodeURIComponent(pathname.replace("/storage/v1/object/", "")));
  }

  async #user(request: Request): Promise<Response> {
    try {
      const { payload } = await jose.jwtVerify(request.headers.get("authorization")!.slice("Bearer ".length), LEGACY_SECRET);
      return Response.json({ id: payload.sub, role: payload.role, app_metadata: payload.app_metadata });
    } catch {
      return Response.json({ code: 403, error_code: "bad_jwt", msg: "invalid JWT" }, { status: 403 });
    }
  }

  /** Signs in by an address `{user id}@…` and any password. */
  async #signIn({ email }: { email: string }): Promise<Response> {
    const id = email.split("@")[0]!;
    const session = { access_token: await this.token(id), token_type: "bearer", expires_in: 3600, refresh_token: "none" };
    return Response.json({ ...session, user: { id, aud: "authenticated", role: "authenticated" } });
  }

  /** Returns the claims of a token, or throws if it is not authentic. */
  async verify(token: string): Promise<jose.JWTPayload> {
    return (await jose.jwtVerify(token, await jose.importJWK(this.jwk, "ES256"))).payload;
  }

  async #storage(request: Request, path: string): Promise<Response> {
    if (request.method === "GET") {
      const content = this.objects.get(path);
      return content === undefined
        ? Response.json({ statusCode: "404", message: "Object not found" }, { status: 400 })
        : new Response(content);
    }
    const body = await request.json();
    if (request.method === "DELETE") {
      const removed = body.prefixes.filter((name: string) => this.objects.delete(`${path}/${name}`));
      return Response.json(removed.map((name: string) => ({ name })));
    }
    if (path === "copy") return this.#copy(body);
    const bucket = path.replace("sign/", "");
    return Response.json(body.paths.map((name: string) => {
      const exists = this.objects.has(`${bucket}/${name}`);
      return { path: name, signedURL: exists ? `/object/sign/${bucket}/${name}?token=t` : null, error: exists ? null : "not found" };
    }));
  }

  #copy({ bucketId, sourceKey, destinationBucket, destinationKey }: Record<string, string>): Response {
    const content = this.objects.get(`${bucketId}/${sourceKey}`);
    if (content === undefined) return Response.json({ statusCode: "404", message: "Object not found" }, { status: 400 });
    if (this.objects.has(`${destinationBucket}/${destinationKey}`)) {
      return Response.json({ statusCode: "409", error: "Duplicate", message: "The resource already exists" }, { status: 400 });
    }
    this.objects.set(`${destinationBucket}/${destinationKey}`, content);
    return Response.json({ Key: `${destinationBucket}/${destinationKey}` });
  }

  close(): Promise<void> {
    return this.#server.shutdown();
  }
}

interface TokenOptions {
  tier?: string;
  role?: string;
  seconds?: number;
  legacy?: boolean;
  key?: CryptoKey;
}
