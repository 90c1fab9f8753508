// The request of the form as a program.

const BUILDERS = { curl, python, typescript };

export function snippet(language, connection, input) {
  return BUILDERS[language](`${connection.base}/${connection.endpoint}`, input);
}

function curl(url, input) {
  const body = JSON.stringify({ input }, null, 2).replaceAll("'", "'\\''");
  return `curl ${url}/runsync \\\n  -H "Authorization: Bearer $RUNPOD_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d '${body}'`;
}

function python(url, input) {
  const at = url.lastIndexOf("/");
  return [
    "import json, os",
    "",
    `os.environ["RUNPOD_ENDPOINT_BASE_URL"] = ${JSON.stringify(url.slice(0, at))}  # read by the import`,
    "import runpod",
    "",
    'runpod.api_key = os.environ.get("RUNPOD_API_KEY", "any")',
    `request = json.loads(r'''${JSON.stringify({ input }, null, 2)}''')`,
    `print(runpod.Endpoint(${JSON.stringify(url.slice(at + 1))}).run_sync(request))`,
  ].join("\n");
}

function typescript(url, input) {
  return [
    `const response = await fetch(${JSON.stringify(`${url}/runsync`)}, {`,
    '  method: "POST",',
    '  headers: { "Content-Type": "application/json", Authorization: `Bearer ${process.env.RUNPOD_API_KEY}` },',
    `  body: JSON.stringify(${JSON.stringify({ input }, null, 2).replaceAll("\n", "\n  ")}),`,
    "});",
    "console.log(await response.json());",
  ].join("\n");
}
