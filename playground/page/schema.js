// Reads a JSON Schema of the contract: what a form has to know about each field.

/** Follows `$ref` and the optional form `anyOf: [type, null]`. */
export function resolve(schema, root) {
  let node = schema;
  while (true) {
    if (node.$ref) node = { ...root.$defs[node.$ref.split("/").pop()], ...omit(node, "$ref") };
    else if (node.anyOf?.some((each) => each.type === "null")) {
      const [first, ...others] = node.anyOf.filter((each) => each.type !== "null");
      node = others.length ? { ...node, anyOf: [first, ...others] } : { ...omit(node, "anyOf"), ...first, description: node.description ?? first.description };
      if (others.length) return node;
    } else return node;
  }
}

/** The kind of control for a field: what `fields.js` builds. */
export function kindOf(name, schema, root) {
  if (schema.contentMediaType?.startsWith("image/")) return "image";
  if (schema.enum) return "choice";
  if (schema.type === "boolean") return "flag";
  if (schema.type === "integer" || schema.type === "number") return "number";
  if (schema.type === "object" && schema.properties) return "group";
  if (schema.type === "string") return schema.maxLength >= 1000 || /prompt$/.test(name) ? "text" : "line";
  if (schema.type === "array" && resolve(schema.items, root).properties) return "rows";
  return schema.anyOf?.some(({ type }) => type === "string") ? "textOrJson" : "json";
}

/** The default that a description states, as a hint. */
export function defaultOf(schema) {
  return /Default: (.*?)\.?$/.exec(schema.description ?? "")?.[1] ?? "";
}

export const visible = ([, schema]) => !schema.deprecated;

function omit(object, key) {
  const { [key]: _, ...rest } = object;
  return rest;
}
