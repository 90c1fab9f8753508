// Elements that several parts of the page make.

/** Returns a button that submits nothing. */
export function button(text, onClick) {
  const element = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  element.addEventListener("click", onClick);
  return element;
}
