// The page: tabs, the form, and the job that runs.

import { Connection, fetchJson, payloadOf } from "/page/api.js";
import { childrenOf, findField, readObject, writeObject } from "/page/fields.js";
import { addToGallery } from "/page/gallery.js";
import { PRESETS } from "/page/presets.js";
import { clearResult, message, showCallback, showError, showJob, showProgress } from "/page/result.js";
import { snippet } from "/page/snippets.js";

const $ = (id) => document.getElementById(id);
const TABS = ["sdxl", "wan", "chat"];
const OWN_FIELDS = ["id", "job_id", "user_id", "callback_url"];
const FIRST = ["type", "prompt", "negative_prompt", "messages"];
const RUNNING = "playground.running";
const forms = {};
let tab = "sdxl";
let current; // the job that runs: { id, connection }

async function start() {
  await Promise.all(TABS.map(async (name) => (forms[name] = buildForm(await fetchJson(`/schemas/${name}.request.schema.json`)))));
  for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => select(name));
  document.querySelector("[role=tablist]").addEventListener("keydown", moveTab);
  $("preset").addEventListener("change", () => write(PRESETS[tab][$("preset").value]));
  $("run").addEventListener("click", run);
  $("cancel").addEventListener("click", () => current?.connection.cancel(current.id).catch(showFailure));
  $("show-json").addEventListener("click", toggleJson);
  $("form").addEventListener("submit", (event) => (event.preventDefault(), run()));
  $("form").addEventListener("mask", ({ detail }) => write(withMask(forms[tab].read() ?? {}, detail)));
  for (const each of $("copy").querySelectorAll("[data-language]")) each.addEventListener("click", () => copy(each.dataset.language));
  restoreConnection();
  const running = JSON.parse(sessionStorage.getItem(RUNNING) ?? "null");
  select(running?.tab ?? "sdxl");
  document.body.dataset.ready = "true";
  if (running) await resume(running);
  else await watchWorkers();
}

// The form

function buildForm(schema) {
  const root = { ...schema, properties: Object.fromEntries(Object.entries(schema.properties).filter(([name]) => !OWN_FIELDS.includes(name))) };
  const children = childrenOf({ ...root, required: [...(root.required ?? []), "type"] }, root, []);
  const main = children.filter(([name]) => FIRST.includes(name)).sort(([a], [b]) => FIRST.indexOf(a) - FIRST.indexOf(b));
  const others = children.filter(([name]) => !FIRST.includes(name));
  const more = document.createElement("details");
  more.append(Object.assign(document.createElement("summary"), { textContent: "More fields" }));
  more.append(...others.filter(([, { element }]) => element.tagName !== "DETAILS").map(([, { element }]) => element));
  const groups = others.filter(([, { element }]) => element.tagName === "DETAILS").map(([, { element }]) => element);
  return {
    elements: [...main.map(([, { element }]) => element), ...groups, more],
    read: () => readObject(children),
    write: (value) => writeObject(children, value),
    find(path) {
      more.open ||= others.some(([name]) => name === path[0]);
      return findField(children, path, []);
    },
  };
}

const withMask = (input, mask) => ({ ...input, config: { ...input.config, mask } });

function select(name) {
  tab = name;
  for (const each of TABS) {
    $(`tab-${each}`).setAttribute("aria-selected", each === name);
    $(`tab-${each}`).tabIndex = each === name ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", `tab-${name}`);
  $("form").replaceChildren(...forms[name].elements);
  $("preset").replaceChildren(...Object.keys(PRESETS[name]).map((title) => new Option(title)));
  if (!forms[name].started) write(Object.values(PRESETS[name])[0]);
  forms[name].started = true;
}

function moveTab({ key }) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (!step) return;
  select(TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length]);
  $(`tab-${tab}`).focus();
}

function write(input) {
  forms[tab].write(input);
  $("json").value = JSON.stringify(forms[tab].read(), null, 2);
}

/** Returns the request: the form's, or the edited JSON. */
function read() {
  const fields = jsonShown() ? JSON.parse($("json").value) : (forms[tab].read() ?? {});
  return { id: `page-${crypto.randomUUID()}`, user_id: "playground", ...fields };
}

const jsonShown = () => $("show-json").getAttribute("aria-pressed") === "true";

function toggleJson() {
  const shown = !jsonShown();
  try {
    if (shown) $("json").value = JSON.stringify(forms[tab].read(), null, 2);
    else forms[tab].write(JSON.parse($("json").value));
  } catch (error) {
    showError(`This is not JSON: ${error.message}`);
    return;
  }
  $("show-json").setAttribute("aria-pressed", shown);
  $("json-label").hidden = !shown;
  $("form").hidden = shown;
}

function copy(language) {
  const text = snippet(language, connection(), read());
  $("snippet").textContent = text;
  navigator.clipboard?.writeText(text).catch(() => {}); // without permission it can be copied by hand
}

// The connection

function connection() {
  return new Connection($("api-base").value.trim().replace(/\/$/, ""), $("api-endpoint").value.trim() || tab, $("api-key").value.trim());
}

function restoreConnection() {
  for (const id of ["api-base", "api-endpoint", "api-key"]) {
    $(id).value = sessionStorage.getItem(id) ?? "";
    $(id).addEventListener("change", () => sessionStorage.setItem(id, $(id).value));
  }
}

async function watchWorkers() {
  while (!current) {
    const { workers } = await connection().health();
    const ready = workers.idle + workers.running > 0;
    setStatus(ready ? "Ready" : "Worker is starting …");
    if (ready) return;
    await new Promise((done) => setTimeout(done, 500));
  }
}

// The job

async function run() {
  clearResult();
  clearProblems();
  let input;
  try {
    input = read();
  } catch (error) {
    showError(`This is not JSON: ${error.message}`);
    return;
  }
  const target = connection();
  try {
    const { id } = await target.run(tab === "chat" && target.local ? { ...input, callback_url: `${location.origin}/callbacks` } : input);
    await resume({ id, tab, input }, target);
  } catch (error) {
    showFailure(error);
  }
}

/** Follows a job that has been submitted, maybe before the page was loaded again. */
async function resume(running, target = connection()) {
  current = { id: running.id, connection: target };
  sessionStorage.setItem(RUNNING, JSON.stringify(running));
  $("run").disabled = true;
  $("cancel").disabled = false;
  try {
    await follow(running, target);
  } catch (error) {
    showFailure(error);
  } finally {
    current = undefined;
    sessionStorage.removeItem(RUNNING);
    $("run").disabled = false;
    $("cancel").disabled = true;
  }
}

async function follow({ id, tab: name, input }, target) {
  const texts = (input.messages ?? []).map(({ role, content }) => message(role, typeof content === "string" ? content : JSON.stringify(content)));
  texts.forEach((each) => each.classList.add("user"));
  document.getElementById("output").replaceChildren(...texts);
  const job = await target.follow(id, showState, input.stream ? appendText : undefined);
  showJob(job, target);
  const payload = payloadOf(job);
  if (payload?.status === "completed") addToGallery(name, input, payload, target, reuse);
  if (job.status === "FAILED") showProblems(job, payload);
  await showCallback(input.id, target);
}

function reuse(name, input) {
  select(name);
  const { id: _id, user_id: _user, ...fields } = input;
  write(fields);
}

function showState(job) {
  showProgress(job);
  const left = job.output?.seconds_left;
  const texts = {
    IN_QUEUE: "Waiting for a worker …",
    IN_PROGRESS: job.output?.step ? `Step ${job.output.step} of ${job.output.steps}${left ? `, ${Math.ceil(left)} s left` : ""}` : "Running …",
    COMPLETED: "Completed",
    CANCELLED: "Cancelled",
    TIMED_OUT: "Timed out",
    FAILED: "Failed",
  };
  setStatus(texts[job.status]);
}

function appendText(delta) {
  const output = $("output");
  const last = output.lastElementChild;
  const target = last?.classList.contains("assistant") && !last.classList.contains("user") ? last : output.appendChild(message("assistant", ""));
  target.append(delta);
}

function setStatus(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function showFailure(error) {
  setStatus("Failed");
  showError(error.message);
}

function showProblems(job, payload) {
  showError(payload?.error_message ?? job.error);
  for (const { field, sent, allowed } of payload?.metadata?.problems ?? []) {
    const found = forms[tab].find(field.split(/[.[\]]+/).filter(Boolean));
    if (!found) continue;
    found.input.classList.add("invalid");
    found.input.setAttribute("aria-invalid", "true");
    found.element.append(Object.assign(document.createElement("span"), { className: "problem", textContent: sent ? `must be ${allowed}; got ${sent}` : allowed }));
  }
}

function clearProblems() {
  for (const element of $("form").querySelectorAll(".problem")) element.remove();
  for (const element of $("form").querySelectorAll(".invalid")) {
    element.classList.remove("invalid");
    element.removeAttribute("aria-invalid");
  }
}

start().catch(showFailure);
