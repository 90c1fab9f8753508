// The inputs of single values. Each has `input`, `read()`, which returns undefined while it is empty, and `write(value)`.

import { imageControl } from "/page/image.js";
import { defaultOf } from "/page/schema.js";

export const CONTROLS = { choice, flag, number, text, line, json, textOrJson, image: imageControl };

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

/** Text, or a JSON object or array. */
function textOrJson(node, required, id) {
  const { input: element, ...control } = json(node, required, id);
  element.placeholder = "";
  return {
    input: element,
    read: () => (/^\s*[[{]/.test(element.value) ? control.read() : element.value || undefined),
    write: (value) => (typeof value === "string" ? (element.value = value) : control.write(value)),
  };
}
