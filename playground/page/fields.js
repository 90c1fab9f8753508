// One control per field of the schema. Each has `read()`, which returns undefined while it is empty, and `write(value)`.

import { CONTROLS } from "/page/controls.js";
import { button } from "/page/dom.js";
import { kindOf, resolve, visible } from "/page/schema.js";

// Shown at once; the other fields of a group are folded away.
const COMMON = new Set(["num_images", "steps", "guidance_scale", "resolution", "frames", "fps", "seed", "loras", "controls", "references", "reference_image_url", "reference_type", "reference_strength"]);

const SHOWN_IN_ROW = 3;

let nextId = 0;

/** Returns { element, read, write, at(path) } for a field of the schema. */
export function field(name, schema, root, required, path) {
  const node = resolve(schema, root);
  const kind = kindOf(name, node, root);
  if (kind === "group") return group(name, node, root, path);
  return kind === "rows" ? rows(name, node, root, required, path) : leaf(name, node, kind, required, path);
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

/** A list of objects: a row of fields for each. */
function rows(name, node, root, required, path) {
  const element = Object.assign(document.createElement("fieldset"), { className: "rows" });
  const list = document.createElement("div");
  const help = Object.assign(document.createElement("span"), { className: "help", textContent: node.description ?? "" });
  const add = button(`Add to ${name}`, () => insert({}).querySelector("input, select, textarea").focus());
  element.dataset.path = path.join(".");
  element.append(Object.assign(document.createElement("legend"), { textContent: name + (required ? " *" : "") }), help, list, add);
  let entries = [];

  function insert(value) {
    const children = childrenOf(resolve(node.items, root), root, [...path, "item"]);
    const row = rowElement(children, () => (remove(row), add.focus()));
    writeObject(children, value);
    entries.push({ row, children });
    list.append(row);
    number();
    return row;
  }

  function remove(row) {
    entries = entries.filter((entry) => entry.row !== row);
    row.remove();
    number();
  }

  function number() {
    entries.forEach(({ row }, index) => {
      row.firstElementChild.textContent = `${name} ${index + 1}`;
      row.lastElementChild.setAttribute("aria-label", `Remove ${name} ${index + 1}`);
    });
    add.disabled = entries.length >= (node.maxItems ?? Infinity);
  }

  return {
    element,
    read: () => (entries.length ? entries.map(({ children }) => readObject(children) ?? {}) : undefined),
    write(value) {
      entries.forEach(({ row }) => row.remove());
      entries = [];
      [value ?? []].flat().forEach(insert);
    },
    at(target) {
      const entry = entries[target[path.length]];
      return (entry && findField(entry.children, target, [...path, "item"])) ?? { element, input: add };
    },
  };
}

/** The first fields of a row are shown at once, and the optional ones after them folded away. */
function rowElement(children, onRemove) {
  const row = Object.assign(document.createElement("fieldset"), { className: "item" });
  const more = document.createElement("details");
  more.append(Object.assign(document.createElement("summary"), { textContent: "more" }));
  row.append(document.createElement("legend"));
  children.forEach(([, { element }], index) => (index < SHOWN_IN_ROW ? row : more).append(element));
  if (more.children.length > 1) row.append(more);
  row.append(button("Remove", onRemove));
  return row;
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
