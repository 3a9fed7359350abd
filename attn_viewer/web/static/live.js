/** The page with a prompt box: a form, what the model answers as it comes, and the viewer over the result. */

import { formatWeight, make, plural, shorten } from "./dom.js";
import { createJobs } from "./live_jobs.js";
import { describeComparison, describeEffect, describeNext } from "./live_results.js";
import { mountViewer } from "./viewer.js";

const MOST_PROMPTS = 8;
/** Stands for a job that the server has not named yet. */
const ASKED = "asked";
const element = document.getElementById("live");
let facts = JSON.parse(element.dataset.facts);
const jobs = createJobs(facts.secret);
const dark = matchMedia("(prefers-color-scheme: dark)");

const title = make("div", { class: "al-brand" });
const models = make("select", { "aria-label": "Model", onchange: () => start({ what: "load" }) }, ...facts.models.map((name, i) => make("option", { value: i }, name)));
const prompt = make("textarea", { class: "al-input", "aria-label": "Prompt", placeholder: "Type a prompt", spellcheck: "false" });
const chat = make("input", { type: "checkbox" });
const picture = make("input", { type: "file", accept: "image/*" });
const [chatLabel, pictureLabel] = [make("label", { title: "Turns begin with user:, assistant: or system:" }, chat, "as chat"), make("label", {}, "picture", picture)];
const count = make("input", { class: "al-input al-count", type: "number", min: 1 });
const heads = make("input", { class: "al-input al-heads", placeholder: "1.3,2.0" });
const mode = make("select", {}, ...facts.modes.map((name) => make("option", {}, name)));
const state = make("p", { class: "al-state", role: "status" });
const answers = make("div", { class: "al-answers" });
const result = make("section", { class: "al-effect", "aria-label": "Result" });
const last = make("nav", { class: "al-last", "aria-label": "Last prompts" });
const place = make("div", { class: "al-viewer" });
const makeDo = (name, words, title = null) => make("button", { class: "al-do", type: "button", title, onclick: () => start(words()) }, name);
const buttons = {
  capture: makeDo("Capture", () => ({ what: "capture" })),
  generate: makeDo("Generate", () => ({ what: "generate", new_tokens: Number(count.value) })),
  predict: makeDo("Next tokens", () => ({ what: "predict" }), "The likeliest next tokens at each position"),
  compare: makeDo("Compare with last", () => ({ what: "compare", other: words[0].text }), "Change words of the last prompt, and see both"),
  change: makeDo("Change heads", () => ({ what: "change", new_tokens: Number(count.value), heads: heads.value, mode: mode.value })),
};
buttons.capture.classList.add("al-main");
const cancel = make("button", { class: "al-do", type: "button", disabled: true, onclick: () => tryTo(() => jobs.cancel(running)) }, "Cancel");

let running = null;
let viewer = null;
/** What the viewer shows where its state says nothing. */
let first = null;
/** The last prompts, {text, job, keeps} each: `keeps` where a data folder can hold it. */
let words = [];

/** Say what the model takes, and offer that alone. */
function showFacts() {
  const { name, tokens, newTokens, megabytes, hasChat, sees } = facts;
  const limits = `up to ${plural(tokens, "token")}, prompt and answer together; answers up to ${newTokens}; ${megabytes.toLocaleString("en")} MB a job; one job at a time`;
  title.replaceChildren(make("h1", {}, name), ...(facts.models.length > 1 ? [models] : []), make("p", {}, limits));
  count.max = newTokens;
  count.value = Math.min(20, newTokens);
  chatLabel.hidden = !hasChat;
  pictureLabel.hidden = !sees;
  chat.checked = false;
  picture.value = "";
}

/** Promise of the chosen picture in base64, or nothing. */
async function readPicture() {
  const file = picture.files[0];
  if (!file) return {};
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 2 ** 15) text += String.fromCharCode(...bytes.subarray(i, i + 2 ** 15));
  return { picture: btoa(text) };
}

/** Put the head that the viewer shows among those to change. */
function addHead() {
  const shown = new URLSearchParams(viewer?.state ?? "");
  if (!viewer || shown.get("head") === "mean") {
    say("Capture a prompt, and choose one head below.", true);
    return;
  }
  const head = `${shown.get("layer") ?? first.layer}.${shown.get("head") ?? first.head}`;
  const chosen = heads.value.split(",").map((word) => word.trim()).filter(Boolean);
  heads.value = [...new Set([...chosen, head])].join(",");
}

async function tryTo(work) {
  try {
    return await work();
  } catch (problem) {
    say(problem.message, true);
    return null;
  }
}

function say(text, isWrong = false) {
  state.textContent = text;
  state.classList.toggle("al-wrong", isWrong);
}

function setBusy(job) {
  running = job;
  cancel.disabled = !job || job === ASKED;
  for (const button of [...Object.values(buttons), models]) button.disabled = Boolean(job);
  buttons.compare.disabled ||= !words.length;
  element.dataset.state = job ? "busy" : "ready";
}

async function start(wanted) {
  if (running) return;
  setBusy(ASKED);
  answers.replaceChildren();
  result.replaceChildren();
  say("");
  await tryTo(async () => {
    const asked = wanted.ids || wanted.what === "load" ? {} : { prompt: prompt.value, chat: chat.checked, ...(await readPicture()) };
    const job = await jobs.start({ model: Number(models.value), ...asked, ...wanted });
    setBusy(job);
    const end = await jobs.follow(job, (event) => tellEvent(event, wanted));
    if (end.state !== "done") return;
    if (end.facts) {
      facts = { ...facts, ...end.facts };
      showFacts();
      say("");
    } else show(job, end, wanted);
  });
  setBusy(null);
}

function tellEvent({ state: now, before, tokens, loads, error, ...step }, { what }) {
  if (now === "waiting") say(before ? `Waiting: ${plural(before, "job")} before this one` : "Waiting");
  if (now === "running") say(loads ? `Loading ${loads} …` : `Running${tokens ? ` on ${plural(tokens, "token")}` : ""} …`);
  if (now === "failed") say(`${error[0].toUpperCase()}${error.slice(1)}.`, true);
  if (now === "cancelled") say("Cancelled");
  if (now === "step") tellToken(step, what);
}

function tellToken({ answer, text, weights }, what) {
  const names = what === "change" ? [make("b", {}, "AB"[answer]), " "] : [];
  if (!answers.children[answer]) answers.append(make("p", { class: "al-answer" }, ...names));
  const rest = weights.slice(1); // the first token is where heads rest
  const strongest = rest.indexOf(Math.max(...rest)) + 1;
  const title = rest.length ? `looks most at token ${strongest} (${formatWeight(weights[strongest])}), mean of all heads without the first token` : "";
  answers.children[answer].append(make("span", { title }, text));
}

function show(job, end, { ids }) {
  const view = viewer?.state ?? "";
  viewer?.destroy();
  viewer = mountViewer(place, jobs.makeSources(job, end.maps), { state: view, allKeys: true });
  const open = (layer, head) => viewer.setState(`view=heatmap&layer=${layer}&head=${head}`);
  if (end.effect) result.replaceChildren(...describeEffect(end.effect));
  if (end.next) result.replaceChildren(...describeNext(end, (tried) => start({ what: "predict", ids: tried })));
  if (end.distances) result.replaceChildren(...describeComparison(end, open));
  if (ids) prompt.value = end.text;
  const { rows, columns, layers, heads: numbers } = end.maps[0];
  first = { layer: layers[0], head: numbers[0][0] };
  say(`${rows} × ${columns} weights a head`);
  const text = prompt.value;
  words = [{ text, job, keeps: end.keeps }, ...words.filter((one) => one.text !== text)].slice(0, MOST_PROMPTS);
  const choices = words.map((one) => make("button", { type: "button", onclick: () => (prompt.value = one.text) }, shorten(one.text, 60)));
  last.replaceChildren(...choices, make("button", { class: "al-do", type: "button", onclick: keepAll }, "Save these prompts"));
}

async function keepAll() {
  const kept = words.filter(({ keeps }) => keeps).map(({ job }) => job);
  const replies = await tryTo(() => Promise.all(kept.map(jobs.keep)));
  if (!replies) return;
  const saved = replies.reduce((sum, one) => sum + one.saved, 0);
  const rest = words.length - kept.length;
  const told = saved ? `${plural(saved, "prompt")} saved to ${replies[0].folder}` : "Nothing saved";
  say(rest ? `${told}; ${rest} not: a folder keeps prompts that are typed text alone` : told);
}

function showTheme() {
  root.dataset.theme = document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
}

const root = make(
  "div",
  { class: "attn-viewer al-form" },
  title,
  prompt,
  make(
    "div",
    { class: "al-row" },
    buttons.capture,
    buttons.generate,
    make("label", {}, "new tokens", count),
    buttons.predict,
    buttons.compare,
    chatLabel,
    pictureLabel,
    cancel,
  ),
  make(
    "div",
    { class: "al-row" },
    buttons.change,
    make("label", {}, "layer.head", heads),
    make("button", { class: "al-do", type: "button", title: "Add the head that is chosen below", onclick: addHead }, "+ chosen"),
    make("label", {}, "to", mode),
  ),
  state,
  answers,
  result,
  last,
);
showFacts();
showTheme();
dark.addEventListener("change", showTheme);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) buttons.capture.click();
});
addEventListener("pagehide", () => cancel.disabled || jobs.cancel(running, true));
element.replaceChildren(root, place);
setBusy(null);
