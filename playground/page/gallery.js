// What was made in this tab, with its settings.

import { button } from "/page/dom.js";
import { assetElement } from "/page/result.js";

const list = document.getElementById("gallery");
const compare = document.getElementById("compare");
const comparison = document.getElementById("comparison");
const entries = [];

/** Adds the assets of a completed job. `reuse(tab, input)` is called for "use these settings". */
export function addToGallery(tab, input, payload, connection, reuse) {
  for (const asset of payload.assets.filter(({ type }) => type !== "text")) {
    const entry = { asset, connection, prompt: input.prompt, chosen: false };
    entries.unshift(entry);
    const item = document.createElement("li");
    const seeded = { ...input, config: { ...input.config, seed: asset.generation_seed, num_images: undefined } };
    item.append(assetElement(asset, connection), button("Use these settings", () => reuse(tab, seeded)), chooser(entry));
    list.prepend(item);
  }
}

function chooser(entry) {
  const element = button("Compare", () => {
    entry.chosen = !entry.chosen;
    element.setAttribute("aria-pressed", entry.chosen);
    compare.disabled = entries.filter(({ chosen }) => chosen).length !== 2;
  });
  element.setAttribute("aria-pressed", "false");
  return element;
}

compare.addEventListener("click", () => {
  comparison.hidden = false;
  comparison.replaceChildren(
    ...entries
      .filter(({ chosen }) => chosen)
      .map(({ asset, connection, prompt }) => {
        const figure = assetElement(asset, connection);
        figure.lastElementChild.prepend(`${prompt} · `);
        return figure;
      }),
  );
  comparison.scrollIntoView({ block: "nearest" });
});
