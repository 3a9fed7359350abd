/** The page with a prompt box: a form, what the model answers as it comes, and the viewer over the result. */

import { formatWeight, make, plural, shorten } from "./dom.js";
import { createJobs } from "./live_jobs.js";
import { describeComparison, describeEffect, describeNext } from "./live_results.js";
import { mountViewer } from "./viewer.js";

const MOST_PROMPTS = 8;
/** Pixels a side of a weight in the rows of an answer that comes. */
const CELL = 6;
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
const heads = make("input", { class: "al-input al-heads", placeholder: "1.3,2.0", oninput: markHeads });
const pick = make("button", { class: "al-do", type: "button", "aria-pressed": "false", title: "Click heads in the bird's eye to choose them", onclick: () => setPicking(!isPicking()) }, "Pick heads");
const mode = make("select", { "aria-describedby": "al-meaning", onchange: showMeaning }, ...Object.keys(facts.modes).map((name) => make("option", {}, name)));
const meaning = make("p", { class: "al-meaning", id: "al-meaning" });
const state = make("p", { class: "al-state", role: "status" });
const answers = make("div", { class: "al-answers" });
const result = make("section", { class: "al-effect", "aria-label": "Result" });
const last = make("nav", { class: "al-last", "aria-label": "Last prompts" });
const place = make("div", { class: "al-viewer" });
place.addEventListener("click", pickHead, true); // before the viewer opens the head
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
let focused = null;
let viewer = null;
/** How chosen heads look. */
const frames = new CSSStyleSheet();
document.adoptedStyleSheets.push(frames);
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

const isPicking = () => pick.getAttribute("aria-pressed") === "true";
const listHeads = () => heads.value.split(",").map((word) => word.trim()).filter(Boolean);

/** Let clicks in the bird's eye choose heads, or open them as elsewhere. */
function setPicking(isOn) {
  if (isOn && !viewer) return say("Capture a prompt first, whose heads then stand below.", true);
  pick.setAttribute("aria-pressed", String(isOn));
  if (!isOn) return say("");
  const wanted = new URLSearchParams(viewer.state);
  wanted.set("view", "overview");
  viewer.setState(String(wanted));
  say("Click heads in the bird's eye to choose them; click again to leave them out");
}

/** Choose the head that was clicked, or leave it out again, in place of opening it. */
function pickHead(event) {
  const head = event.target.closest("[data-key]")?.dataset.key;
  if (!head || !isPicking()) return;
  event.stopPropagation();
  const chosen = listHeads();
  heads.value = (chosen.includes(head) ? chosen.filter((one) => one !== head) : [...chosen, head]).join(",");
  markHeads();
  say(heads.value ? `Heads to change: ${heads.value.replaceAll(",", ", ")}` : "No head is chosen");
}

/** Frame the chosen heads wherever bird's eyes show them, now and later. */
function markHeads() {
  const known = listHeads().filter((head) => /^\d+\.\d+$/.test(head));
  frames.replaceSync(known.map((head) => `.al-viewer [data-key="${head}"] { outline: 3px dashed var(--accent); outline-offset: -3px; z-index: 3; }`).join(""));
}

function showMeaning() {
  meaning.textContent = `${mode.value}: ${facts.modes[mode.value]}.`;
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
  if (job === ASKED) focused = document.activeElement; // which a button loses that is disabled
  running = job;
  cancel.disabled = !job || job === ASKED;
  for (const button of [...Object.values(buttons), models]) button.disabled = Boolean(job);
  buttons.compare.disabled ||= !words.length;
  element.dataset.state = job ? "busy" : "ready";
  if (!job && document.activeElement === document.body) focused?.focus();
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
  if (!answers.children[answer]) answers.append(makeAnswer(names, weights.length));
  drawRow(answers.children[answer].querySelector("canvas"), weights);
  const rest = weights.slice(1); // the first token is where heads rest
  const strongest = rest.indexOf(Math.max(...rest)) + 1;
  const title = rest.length ? `looks most at token ${strongest} (${formatWeight(weights[strongest])}), mean of all heads without the first token` : "";
  answers.children[answer].querySelector(".al-answer").append(make("span", { title }, text));
}

/** A place for the tokens of an answer, and for a row of weights each, over all tokens before it. */
function makeAnswer(names, length) {
  const size = { width: CELL * (length + Number(count.value) - 1), height: CELL * Number(count.value) };
  const told = "Where each token of the answer looks among those before it: a row each, mean of all heads without the first token";
  const rows = make("canvas", { ...size, role: "img", "aria-label": told });
  const caption = answers.childElementCount ? [] : [make("p", { class: "al-meaning" }, `${told}.`)];
  return make("div", {}, ...caption, make("p", { class: "al-answer" }, ...names), rows);
}

/** Draw a row of weights below those that are there, the first key left out as in titles. */
function drawRow(canvas, weights) {
  const drawing = canvas.getContext("2d");
  const at = Number((canvas.dataset.rows ??= 0));
  canvas.dataset.rows = at + 1;
  drawing.fillStyle = getComputedStyle(root).color;
  const most = Math.max(...weights.slice(1));
  weights.forEach((weight, i) => {
    drawing.globalAlpha = i && most ? Math.sqrt(weight / most) : 0;
    drawing.fillRect(CELL * i, CELL * at, CELL, CELL);
  });
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
  const { rows, columns } = end.maps[0];
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
  const saved = new Set(replies.flatMap((one) => one.saved)).size; // jobs may have a prompt in common
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
    pick,
    make("label", {}, "to", mode),
  ),
  meaning,
  state,
  answers,
  result,
  last,
);
showFacts();
showMeaning();
showTheme();
dark.addEventListener("change", showTheme);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) buttons.capture.click();
});
addEventListener("pagehide", () => cancel.disabled || jobs.cancel(running, true));
element.replaceChildren(root, place);
setBusy(null);
