// What a job has made: pictures, clips, text, its timings, its callback, its error.

import { fetchJson, payloadOf } from "/page/api.js";

const $ = (id) => document.getElementById(id);

export function clearResult() {
  for (const id of ["output", "previews", "timings"]) $(id).replaceChildren();
  for (const id of ["error", "previews", "timings", "callback", "payload", "progress"]) $(id).hidden = true;
}

export function showProgress(job) {
  const update = job.output;
  if (job.status !== "IN_PROGRESS" || typeof update?.step !== "number") return;
  $("progress").hidden = false;
  $("progress").value = update.percent;
  if (update.preview) addPreview(update.preview);
}

function addPreview(source) {
  const strip = $("previews");
  strip.hidden = false;
  if (strip.lastElementChild?.src !== source) strip.append(Object.assign(new Image(), { src: source, alt: `Preview ${strip.children.length + 1}` }));
}

export function showJob(job, connection) {
  $("progress").hidden = true;
  const payload = payloadOf(job);
  if (payload?.status === "completed") {
    $("output").replaceChildren(...[...$("output").querySelectorAll(".user")], ...payload.assets.map((asset) => assetElement(asset, connection)));
    showTimings(job, payload.metadata.timings);
  }
  if (payload) showText("payload", payload);
}

/** The element that shows an asset. */
export function assetElement(asset, connection) {
  if (asset.type === "text") return message("assistant", asset.content);
  const source = sourceOf(asset.url ?? asset.temp_storage_path, connection);
  const media = asset.type === "video" ? Object.assign(document.createElement("video"), { controls: true, loop: true, muted: true, autoplay: true }) : new Image();
  media.src = source;
  if (asset.type !== "video") media.alt = `Picture ${asset.asset_index + 1}`;
  else media.setAttribute("aria-label", "Clip");
  const figure = document.createElement("figure");
  const { width, height, frames } = asset.metadata;
  const caption = [`${width}×${height}`, frames && `${frames} frames`, `${asset.file_size_bytes.toLocaleString()} bytes`, `seed ${asset.generation_seed}`];
  figure.append(media, Object.assign(document.createElement("figcaption"), { textContent: caption.filter(Boolean).join(" · ") }));
  return figure;
}

function sourceOf(path, connection) {
  return /^(https?|data):/.test(path) || !connection.local ? path : `/assets/${path}`;
}

export function message(role, text) {
  const element = Object.assign(document.createElement("div"), { className: `message ${role}` });
  element.append(Object.assign(document.createElement("strong"), { textContent: role }), document.createTextNode(text));
  return element;
}

function showTimings(job, timings) {
  const parts = [["wait", (job.delayTime ?? 0) / 1000], ...Object.entries(timings)].filter(([, seconds]) => seconds > 0);
  const total = parts.reduce((sum, [, seconds]) => sum + seconds, 0);
  $("timings").hidden = total === 0;
  $("timings").replaceChildren(
    ...parts.map(([name, seconds]) => {
      const text = `${name} ${seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`}`;
      const part = Object.assign(document.createElement("span"), { textContent: text, title: text });
      part.style.flexGrow = seconds / total;
      return part;
    }),
  );
}

/** Shows the callback of a job as it was signed, and whether it verifies. */
export async function showCallback(jobId, connection) {
  if (!connection.local) return;
  const callback = (await fetchJson(`/callbacks/${encodeURIComponent(jobId)}`)).find(({ headers }) => headers["webhook-id"]);
  if (!callback) return;
  const box = $("callback");
  box.hidden = false;
  box.firstElementChild.textContent = callback.problem ? `Callback: refused, ${callback.problem}` : "Callback: both signatures are valid";
  const headers = Object.entries(callback.headers).map(([name, value]) => `${name}: ${value}`);
  box.lastElementChild.textContent = [...headers, "", callback.body].join("\n");
}

function showText(id, content) {
  $(id).hidden = false;
  $(id).lastElementChild.textContent = JSON.stringify(content, null, 2);
}

/** Shows an error as the caller sees it. */
export function showError(text) {
  $("error").hidden = false;
  $("error").textContent = text;
}
