// The control of a picture: dropped, chosen, given by URL, or painted as a mask.

import { button } from "/page/dom.js";
import { paintMask } from "/page/mask.js";

export function imageControl(node, required, id) {
  const element = Object.assign(document.createElement("div"), { className: "drop" });
  const picture = Object.assign(document.createElement("img"), { alt: "", hidden: true });
  const url = Object.assign(document.createElement("input"), { id, type: "text", placeholder: "URL, or drop a picture here" });
  const file = Object.assign(document.createElement("input"), { type: "file", accept: "image/*" });
  file.setAttribute("aria-label", "Choose a picture");
  const buttons = Object.assign(document.createElement("div"), { className: "row" });
  let content;

  function write(value) {
    content = value?.startsWith?.("data:") ? value : undefined;
    url.value = content ? "" : (value ?? "");
    picture.hidden = !value;
    if (value) picture.src = value;
    url.placeholder = content ? "a picture of this page" : "URL, or drop a picture here";
  }

  async function take(blob) {
    if (blob?.type.startsWith("image/")) write(await dataUrl(blob));
  }

  url.addEventListener("input", () => write(url.value || undefined));
  file.addEventListener("change", () => take(file.files[0]));
  element.addEventListener("dragover", (event) => (event.preventDefault(), element.classList.add("over")));
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => (event.preventDefault(), element.classList.remove("over"), take(event.dataTransfer.files[0])));
  buttons.append(
    button("Paint a mask on it", async () => {
      const mask = await paintMask(content ?? url.value);
      element.dispatchEvent(new CustomEvent("mask", { bubbles: true, detail: mask }));
    }),
    button("Remove", () => write(undefined)),
  );
  element.append(picture, url, file, buttons);
  return { element, input: url, read: () => content ?? (url.value || undefined), write };
}

export function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}
