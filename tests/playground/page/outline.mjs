// What a screenshot shows, as text: the accessibility tree of the page, without what differs from run to run.
//
// It is kept beside each screenshot of the documentation. It does not depend on fonts or pixels, so a test can tell whether the page
// still shows what the screenshot shows.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";

const TOKEN = /[A-Za-z0-9+/=_,-]{24,}/g; // ids, signatures, data
const NUMBER = /\d+(?:[.,]\d+)*/g; // seeds, times, sizes, percentages
const PREVIEW = /^ *- img "Preview/; // as many as there was time for
const TIMINGS = /(?:\b[a-z]+ 0 m?s\b ?)+/g; // a step that took no time is not shown

async function outline(page) {
  await page.locator("#run:not([disabled])").waitFor(); // all that belongs to the job is shown
  const tree = await page.locator("body").ariaSnapshot();
  const lines = tree.split("\n").map((line) => line.replace(TOKEN, "…").replace(NUMBER, "0").replace(TIMINGS, "timings").trimEnd());
  return lines.filter((line) => !PREVIEW.test(line)).join("\n") + "\n";
}

const digest = (file) => createHash("sha256").update(readFileSync(file)).digest("hex");

/** Takes a screenshot and writes its outline, or, without `write`, compares the page with the outline of the screenshot that is there. */
export async function screenshot(page, folder, name, write) {
  const [image, text] = [`${folder}/playground_${name}.png`, `${folder}/playground_${name}.txt`];
  const shown = await outline(page);
  if (write) {
    await page.screenshot({ path: image });
    writeFileSync(text, `${digest(image)}\n${shown}`);
    return;
  }
  const [taken, ...rest] = readFileSync(text, "utf8").split("\n");
  assert.equal(taken, digest(image), `${image} is not the screenshot that ${text} describes: run \`make pictures\``);
  assert.equal(shown, rest.join("\n"), `the page no longer shows what ${image} shows: run \`make pictures\``);
}
