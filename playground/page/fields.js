// One control per field of the schema. Each has `read()`, which returns undefined while it is empty, and `write(value)`.

import { defaultOf, kindOf, resolve, visible } from "/page/schema.js";
import { imageControl } from "/page/image.js";

// Shown at once; the other fields of a group are folded away.
const COMMON = new Set(["num_images", "steps", "guidance_scale", "resolution", "frames", "fps", "seed", "loras", "reference_image_url", "reference_type", "reference_strength"]);

let nextId = 0;

/** Returns { element, read, write, at(path) } for a field of the schema. */
export function field(name, schema, root, required, path) {
  const node = resolve(schema, root);
  const kind = kindOf(name, node);
  return kind === "group" ? group(name, node, root, path) : leaf(name, node, kind, required, path);
}

function group(name, node, root, path) {
  const element = document.createElement("details");
  const summary = element.appendChild(document.createElement("summary"));
  summary.textContent = name;
  const children = childrenOf(node, root, path);
  const rare = document.createElement("details");
  rare.append(Object.assign(document.createElement("summary"), { textContent: `more of ${name}` }));
  for (const [key, child] of children) (path.length > 1 || COMMON.has(key) ? element : rare).append(child.element);
  if (rare.children.length > 1) element.append(rare);
  return {
    element,
    read: () => readObject(children),
    write(value) {
      writeObject(children, value);
      element.open ||= value !== undefined;
    },
    at: (target) => findField(children, target, path, () => (element.open = rare.open = true)),
  };
}

/** Builds the fields of an object. */
export function childrenOf(node, root, path) {
  return Object.entries(node.properties)
    .filter(visible)
    .map(([name, schema]) => [name, field(name, schema, root, node.required?.includes(name) ?? false, [...path, name])]);
}

export function readObject(children) {
  const entries = children.map(([name, child]) => [name, child.read()]).filter(([, value]) => value !== undefined);
  return entries.length ? Object.fromEntries(entries) : undefined;
}

export function writeObject(children, value) {
  for (const [name, child] of children) child.write(value?.[name]);
}

export function findField(children, target, path, reveal = () => {}) {
  const [, child] = children.find(([name]) => name === target[path.length]) ?? [];
  if (!child) return undefined;
  reveal();
  return child.at(target);
}

function leaf(name, node, kind, required, path) {
  const id = `field-${nextId++}`;
  const element = document.createElement("div");
  element.className = "field";
  element.dataset.path = path.join(".");
  const control = CONTROLS[kind](node, required, id);
  const label = document.createElement("label");
  label.htmlFor = id;
  label.textContent = name + (required ? " *" : "");
  const help = document.createElement("span");
  help.className = "help";
  help.id = `${id}-help`;
  help.textContent = [node.description, range(node)].filter(Boolean).join(" ");
  control.input.setAttribute("aria-describedby", help.id);
  element.append(label, control.element ?? control.input, help);
  return { element, read: control.read, write: control.write, at: () => ({ element, input: control.input }) };
}

function range({ minimum, maximum, multipleOf }) {
  if (minimum === undefined && maximum === undefined) return "";
  return `(${minimum ?? "…"} to ${maximum ?? "…"}${multipleOf ? `, in steps of ${multipleOf}` : ""})`;
}

const CONTROLS = { choice, flag, number, text, line, json, image: imageControl };

function input(tag, id, properties) {
  return Object.assign(document.createElement(tag), { id, ...properties });
}

function simple(element, parse = (text) => text, format = String) {
  return {
    input: element,
    read: () => (element.value === "" ? undefined : parse(element.value)),
    write: (value) => (element.value = value === undefined || value === null ? "" : format(value)),
  };
}

function choice(node, required, id) {
  const element = input("select", id);
  if (!required) element.append(new Option(`default${defaultOf(node) ? `: ${defaultOf(node)}` : ""}`, ""));
  element.append(...node.enum.map((value) => new Option(String(value), JSON.stringify(value))));
  return simple(element, JSON.parse, JSON.stringify);
}

function flag(node, required, id) {
  const element = input("select", id);
  element.append(new Option(`default${defaultOf(node) ? `: ${defaultOf(node)}` : ""}`, ""), new Option("yes", "true"), new Option("no", "false"));
  return simple(element, JSON.parse, JSON.stringify);
}

function number(node, required, id) {
  const step = node.multipleOf ?? (node.type === "integer" ? 1 : "any");
  const element = input("input", id, { type: "number", step, placeholder: defaultOf(node) });
  if (node.minimum !== undefined) element.min = node.minimum;
  if (node.maximum !== undefined) element.max = node.maximum;
  return simple(element, Number);
}

function text(node, required, id) {
  return simple(input("textarea", id, { rows: 3, required }));
}

function line(node, required, id) {
  return simple(input("input", id, { type: "text", placeholder: defaultOf(node), required }));
}

function json(node, required, id) {
  const element = input("textarea", id, { rows: 2, spellcheck: false, placeholder: "JSON" });
  // What is not JSON is sent as text: the worker then says what is wrong with it.
  const parse = (value) => {
    try {
      return JSON.parse(value);
    } catch {
      return value;
    }
  };
  return simple(element, parse, (value) => {
    const lines = JSON.stringify(value, null, 1);
    element.rows = Math.min(lines.split("\n").length, 12);
    return lines;
  });
}
