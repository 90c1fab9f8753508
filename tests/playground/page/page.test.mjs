// The playground in a real browser, against real workers on small models. `test_page.py` starts them and reads the results.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";
import { chromium } from "playwright-core";
import { screenshot } from "./outline.mjs";

const { GATEWAY, CHROMIUM, AXE, SCREENSHOTS } = process.env;
const MINUTE = 60_000;
let browser;
let page;
let problems;

before(async () => {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  browser = await chromium.launch({ executablePath: CHROMIUM, args });
});
after(() => browser.close());
afterEach(async () => {
  await page.context().close();
  assert.deepEqual(problems, []);
});

async function open(viewport = { width: 1280, height: 900 }) {
  problems = [];
  const context = await browser.newContext({ viewport });
  const opened = await context.newPage();
  opened.setDefaultTimeout(MINUTE);
  opened.on("pageerror", (error) => problems.push(error.message));
  opened.on("request", (request) => new URL(request.url()).origin === GATEWAY || request.url().startsWith("data:") || problems.push(request.url()));
  await opened.goto(GATEWAY);
  await opened.waitForSelector("body[data-ready]");
  return opened;
}

const status = (text, on = page) => on.waitForFunction((expected) => document.getElementById("status").textContent === expected, text, { timeout: 2 * MINUTE });
const steps = (on = page) => on.waitForFunction(() => document.getElementById("status").textContent.startsWith("Step"), null, { timeout: 2 * MINUTE });
const picture = (name) => screenshot(page, SCREENSHOTS ?? "docs/images", name, SCREENSHOTS !== undefined);

async function select(tab, preset) {
  await page.click(`#tab-${tab}`);
  if (preset) await page.selectOption("#preset", preset);
}

test("a newcomer opens the page, presses Run, and sees a picture", async () => {
  page = await open();
  await page.click("#run");
  await status("Completed");
  const image = page.locator("#output img");
  assert.equal(await image.evaluate((each) => each.decode().then(() => each.naturalWidth)), 64);
  assert.equal(await page.locator("#timings span", { hasText: "generate" }).count(), 1);
  await page.locator("#callback summary", { hasText: "both signatures are valid" }).waitFor();
  await picture("images");
});

test("previews are shown while the steps go on", async () => {
  page = await open();
  await select("sdxl", "Many steps");
  await page.click("#show-json");
  const request = JSON.parse(await page.inputValue("#json"));
  // So large that it is not done before the page has asked for a preview.
  await page.fill("#json", JSON.stringify({ ...request, config: { ...request.config, resolution: "256x256" } }));
  await page.click("#run");
  await page.locator("#previews img").first().waitFor();
  await page.click("#cancel");
  await status("Cancelled");
});

test("cancelling stops the job, and the next one runs", async () => {
  page = await open();
  await select("sdxl", "Many steps");
  await page.click("#run");
  await steps();
  await page.click("#cancel");
  await status("Cancelled");
  await select("sdxl", "A red circle");
  await page.click("#run");
  await status("Completed");
});

test("the clip of a video job plays", async () => {
  page = await open();
  await select("wan", "A short clip");
  await page.click("#run");
  await status("Completed");
  await page.waitForFunction(() => document.querySelector("#output video")?.readyState >= 2);
  await picture("video");
});

test("the answer of a chat is streamed", async () => {
  page = await open();
  await select("chat", "A question");
  await page.click("#run");
  await page.locator("#output .assistant").waitFor();
  await status("Completed");
  assert.match(await page.textContent("#output .assistant:not(.user)"), /Paris/);
  await picture("chat");
});

test("a wrong value is explained at its field", async () => {
  page = await open();
  await page.getByRole("spinbutton", { name: "steps", exact: true }).first().fill("99");
  await page.click("#run");
  await status("Failed");
  const field = page.locator('[data-path="config.steps"]');
  assert.match(await field.locator(".problem").textContent(), /must be a whole number from 10 to 50 .*; got 99/);
  assert.match(await page.textContent("#error"), /config\.steps/);
  await picture("error");
});

test("a LoRA that is not installed is named with those that are", async () => {
  page = await open();
  await page.getByRole("button", { name: "Add to loras" }).click();
  await page.getByRole("group", { name: "loras 1" }).getByLabel("name *").fill("absent");
  await page.click("#run");
  await status("Failed");
  assert.match(await page.textContent("#error"), /absent.*stripes/s);
});

test("rows of a list are added, filled and removed by the keyboard", async () => {
  page = await open();
  const add = page.getByRole("button", { name: "Add to loras" });
  for (const name of ["stripes", "dots", "waves"]) {
    await add.focus();
    await page.keyboard.press("Enter");
    await page.keyboard.type(name);
    await page.keyboard.press("Tab");
    await page.keyboard.type("0.5");
  }
  await page.getByRole("button", { name: "Remove loras 2" }).press("Enter");
  assert.equal(await add.evaluate((each) => each === document.activeElement), true);
  await page.click("#show-json");
  assert.deepEqual(JSON.parse(await page.inputValue("#json")).config.loras, [{ name: "stripes", scale: 0.5 }, { name: "waves", scale: 0.5 }]);
});

test("a wrong value in a row is explained in that row", async () => {
  page = await open();
  await select("sdxl", "With a LoRA");
  await page.getByRole("group", { name: "loras 1" }).getByLabel("scale").fill("9");
  await page.click("#run");
  await status("Failed");
  assert.match(await page.getByRole("group", { name: "loras 1" }).locator(".problem").textContent(), /must be .*; got 9/);
});

test("rows of messages keep text and parts of text", async () => {
  page = await open();
  await select("chat", "A question");
  const request = { type: "chat", messages: [{ role: "system", content: "5" }, { role: "user", content: [{ type: "text", text: "Hello" }] }], stop: "end" };
  await page.click("#show-json");
  await page.fill("#json", JSON.stringify(request));
  await page.click("#show-json");
  assert.equal(await page.getByRole("group", { name: "messages 1" }).getByLabel("content *").inputValue(), "5");
  await page.click("#show-json");
  assert.deepEqual(JSON.parse(await page.inputValue("#json")), request);
});

test("two pages run their jobs at once, and each gets its own", async () => {
  page = await open();
  const other = await page.context().newPage();
  await other.goto(GATEWAY);
  await other.waitForSelector("body[data-ready]");
  await other.getByLabel("prompt *", { exact: true }).fill("a green square on a white background");
  await Promise.all([page.click("#run"), other.click("#run")]);
  await Promise.all([status("Completed"), status("Completed", other)]);
  const urls = await Promise.all([page, other].map((each) => each.locator("#output img").getAttribute("src")));
  assert.notEqual(urls[0], urls[1]);
});

test("a page that is loaded again in mid-job follows it to its end", async () => {
  page = await open();
  await select("wan", "A moving circle");
  await page.click("#run");
  await steps();
  await page.reload();
  await status("Completed");
  assert.equal(await page.getAttribute("#tab-wan", "aria-selected"), "true");
  assert.equal(await page.locator("#output video").count(), 1);
});

test("a picture of the gallery brings its settings back, and draws the same again", async () => {
  page = await open();
  await select("sdxl", "With a LoRA");
  await page.click("#run");
  await status("Completed");
  await select("sdxl", "Three pictures");
  await page.getByRole("button", { name: "Use these settings" }).click();
  assert.equal(await page.getByLabel("prompt *", { exact: true }).inputValue(), "a green square on a white background");
  assert.equal(await page.getByRole("group", { name: "loras 1" }).getByLabel("name *").inputValue(), "stripes");
  await page.click("#run");
  await page.locator("#gallery li").nth(1).waitFor();
  await page.getByRole("button", { name: "Compare", exact: true }).first().click();
  await page.getByRole("button", { name: "Compare", exact: true }).last().click();
  await page.click("#compare");
  const pixels = await page.locator("#comparison img").evaluateAll(async (images) => Promise.all(images.map(async (image) => (await fetch(image.src)).arrayBuffer().then((bytes) => [...new Uint8Array(bytes)].join()))));
  assert.equal(pixels.length, 2);
  assert.equal(pixels[0], pixels[1]);
});

test("a mask is painted on the reference", async () => {
  page = await open();
  const source = await page.evaluate(() => Object.assign(document.createElement("canvas"), { width: 64, height: 64 }).toDataURL());
  await page.locator("summary", { hasText: /^metadata$/ }).click();
  await page.getByLabel("reference_image_url", { exact: true }).fill(source);
  await page.locator('[data-path="metadata.reference_image_url"]').getByRole("button", { name: "Paint a mask on it" }).click();
  await page.locator("#mask-canvas").waitFor();
  const box = await page.locator("#mask-canvas").boundingBox();
  await page.mouse.move(box.x + 20, box.y + 20);
  await page.mouse.down();
  await page.mouse.move(box.x + 60, box.y + 60);
  await page.mouse.up();
  await page.click("#mask-done");
  await page.click("#show-json");
  const { config, metadata } = JSON.parse(await page.inputValue("#json"));
  assert.match(config.mask, /^data:image\/png;base64,/);
  assert.equal(metadata.reference_image_url, source);
});

test("the request can be edited as JSON, and copied as a program", async () => {
  page = await open();
  await page.click("#show-json");
  const request = JSON.parse(await page.inputValue("#json"));
  await page.fill("#json", JSON.stringify({ ...request, prompt: "a black star" }));
  await page.click("#copy summary");
  for (const [language, text] of [["curl", "/v2/sdxl/runsync"], ["python", "import runpod"], ["typescript", "await fetch"]]) {
    await page.click(`[data-language=${language}]`);
    const snippet = await page.textContent("#snippet");
    assert.ok(snippet.includes(text) && snippet.includes("a black star"), snippet);
  }
  await page.click("#show-json");
  assert.equal(await page.getByLabel("prompt *", { exact: true }).inputValue(), "a black star");
});

test("tabs are moved by the arrow keys", async () => {
  page = await open();
  await page.focus("#tab-sdxl");
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.evaluate(() => document.activeElement.id), "tab-wan");
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("ArrowLeft");
  assert.equal(await page.getAttribute("#tab-chat", "aria-selected"), "true");
});

for (const colorScheme of ["light", "dark"]) {
  test(`axe finds nothing serious in the ${colorScheme} scheme`, async () => {
    page = await open();
    await page.emulateMedia({ colorScheme });
    await select("sdxl", "With a LoRA");
    await page.click("#run");
    await status("Completed");
    await page.evaluate(readFileSync(AXE, "utf8"));
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    assert.deepEqual(violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).map(({ id, nodes }) => [id, nodes[0].html]), []);
  });
}

test("at 380 pixels nothing is cut off, and Run stays in view", async () => {
  page = await open({ width: 380, height: 700 });
  for (const list of ["loras", "controls", "references"]) await page.getByRole("button", { name: `Add to ${list}` }).click();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true);
  await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
  const box = await page.locator("#run").boundingBox();
  assert.ok(box.y >= 0 && box.y + box.height <= 700);
});
