/**
 * Serves all functions on loopback under `/functions/v1/NAME`, in one process, and prints the URL:
 *
 *   deno run --config functions/deno.json … tests/doubles/serve.ts
 */
interface Function_ {
  default: { fetch(request: Request): Promise<Response> };
}

const folder = new URL("../../functions/", import.meta.url);
const functions = new Map<string, Function_>();
for (const { name, isDirectory } of Deno.readDirSync(folder)) {
  if (isDirectory && !name.startsWith("_")) functions.set(name, await import(new URL(`${name}/index.ts`, folder).href));
}

const onListen = ({ port }: Deno.NetAddr) => console.log(`http://127.0.0.1:${port}`);
Deno.serve({ hostname: "127.0.0.1", port: 0, onListen }, (request) => {
  const name = new URL(request.url).pathname.match(/^\/functions\/v1\/([a-z-]+)$/)?.[1] ?? "";
  return functions.get(name)?.default.fetch(request) ?? new Response("no such function", { status: 404 });
});
