/** The page with a prompt box: a form, what the model answers as it comes, and the viewer over the result. */

import { formatWeight, make, plural, shorten } from "./dom.js";
import { createJobs } from "./live_jobs.js";
import { mountViewer } from "./viewer.js";

const MOST_PROMPTS = 8;
/** Stands for a job that the server has not named yet. */
const ASKED = "asked";
const element = document.getElementById("live");
const facts = JSON.parse(element.dataset.facts);
const jobs = createJobs(facts.secret);
const dark = matchMedia("(prefers-color-scheme: dark)");

const prompt = make("textarea", { class: "al-input", "aria-label": "Prompt", placeholder: "Type a prompt", spellcheck: "false" });
const chat = make("input", { type: "checkbox" });
const count = make("input", { class: "al-input al-count", type: "number", min: 1, max: facts.newTokens, value: Math.min(20, facts.newTokens) });
const heads = make("input", { class: "al-input al-heads", placeholder: "1.3,2.0" });
const mode = make("select", {}, ...["zero", "mean", "uniform", "bos"].map((name) => make("option", {}, name)));
const state = make("p", { class: "al-state", role: "status" });
const answers = make("div", { class: "al-answers" });
const effect = make("section", { class: "al-effect", "aria-label": "Effect" });
const last = make("nav", { class: "al-last", "aria-label": "Last prompts" });
const place = make("div", { class: "al-viewer" });
const run = (what) => () => start({ what, prompt: prompt.value, chat: chat.checked, ...moreOf(what) });
const buttons = [
  make("button", { class: "al-do al-main", type: "button", onclick: run("capture") }, "Capture"),
  make("button", { class: "al-do", type: "button", onclick: run("generate") }, "Generate"),
  make("button", { class: "al-do", type: "button", onclick: run("ablate") }, "Take heads out"),
];
const cancel = make("button", { class: "al-do", type: "button", disabled: true, onclick: () => tryTo(() => jobs.cancel(running)) }, "Cancel");

let running = null;
let viewer = null;
/** What the viewer shows where its state says nothing. */
let first = null;
let words = [];

function moreOf(what) {
  const more = what === "ablate" ? { heads: heads.value, mode: mode.value } : {};
  return what === "capture" ? {} : { new_tokens: Number(count.value), ...more };
}

/** Put the head that the viewer shows among those to take out. */
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
  for (const button of buttons) button.disabled = Boolean(job);
  element.dataset.state = job ? "busy" : "ready";
}

async function start(wanted) {
  if (running) return;
  setBusy(ASKED);
  answers.replaceChildren();
  effect.replaceChildren();
  say("");
  await tryTo(async () => {
    const job = await jobs.start(wanted);
    setBusy(job);
    const end = await jobs.follow(job, (event) => tellEvent(event, wanted));
    if (end.state === "done") await show(job, end, wanted);
  });
  setBusy(null);
}

function tellEvent({ state: now, before, tokens, error, ...step }, { what }) {
  if (now === "waiting") say(before ? `Waiting: ${plural(before, "job")} before this one` : "Waiting");
  if (now === "running") say(`Running${tokens ? ` on ${plural(tokens, "token")}` : ""} …`);
  if (now === "failed") say(`${error[0].toUpperCase()}${error.slice(1)}.`, true);
  if (now === "cancelled") say("Cancelled");
  if (now === "step") tellToken(step, what);
}

function tellToken({ answer, text, weights }, what) {
  const names = what === "ablate" ? [make("b", {}, "AB"[answer]), " "] : [];
  if (!answers.children[answer]) answers.append(make("p", { class: "al-answer" }, ...names));
  const rest = weights.slice(1); // the first token is where heads rest
  const strongest = rest.indexOf(Math.max(...rest)) + 1;
  const title = rest.length ? `looks most at token ${strongest} (${formatWeight(weights[strongest])}), mean of all heads without the first token` : "";
  answers.children[answer].append(make("span", { title }, text));
}

function show(job, end, wanted) {
  const view = viewer?.state ?? "";
  viewer?.destroy();
  viewer = mountViewer(place, jobs.makeSources(job, end.maps), { state: view, allKeys: true });
  if (end.effect) effect.replaceChildren(...describeEffect(end.effect));
  const { rows, columns, layers, heads: numbers } = end.maps[0];
  first = { layer: layers[0], head: numbers[0][0] };
  say(`${rows} × ${columns} weights a head`);
  words = [wanted.prompt, ...words.filter((text) => text !== wanted.prompt)].slice(0, MOST_PROMPTS);
  last.replaceChildren(...words.map((text) => make("button", { type: "button", onclick: () => (prompt.value = text) }, shorten(text, 60))));
}

function describeEffect({ description, loss, before, after }) {
  const [old, now] = loss.map((value) => value.toFixed(3));
  const table = (title, rows) =>
    make(
      "table",
      {},
      make("caption", {}, title),
      make("tr", {}, ...["next token", "before", "after"].map((name) => make("th", { scope: "col" }, name))),
      ...rows.map(([label, ...values]) => make("tr", {}, make("td", {}, label), ...values.map((value) => make("td", {}, formatWeight(value))))),
    );
  const [[was], [is]] = [before[0], after[0]];
  const turn = was === is ? `The likeliest next token is ${was} with and without them.` : `The likeliest next token was ${was} and is ${is} without them.`;
  return [
    make("p", {}, `A: the model as it is; B: ${description}. ${turn} Mean loss of the prompt ${old} → ${now} nats.`),
    make("div", { class: "al-tables" }, table("Likeliest before", before), table("Likeliest after", after)),
  ];
}

function showTheme() {
  root.dataset.theme = document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
}

const limits = `up to ${plural(facts.tokens, "token")}, prompt and answer together; answers up to ${facts.newTokens}; one job at a time`;
const root = make(
  "div",
  { class: "attn-viewer al-form" },
  make("div", { class: "al-brand" }, make("h1", {}, facts.model), make("p", {}, limits)),
  prompt,
  make(
    "div",
    { class: "al-row" },
    buttons[0],
    buttons[1],
    make("label", {}, "new tokens", count),
    ...(facts.hasChat ? [make("label", {}, chat, "as a chat message")] : []),
    buttons[2],
    make("label", {}, "layer.head", heads),
    make("button", { class: "al-do", type: "button", title: "Add the head that is chosen below", onclick: addHead }, "+ chosen"),
    make("label", {}, "to", mode),
    cancel,
  ),
  state,
  answers,
  effect,
  last,
);
showTheme();
dark.addEventListener("change", showTheme);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run("capture")();
});
addEventListener("pagehide", () => cancel.disabled || jobs.cancel(running, true));
element.replaceChildren(root, place);
setBusy(null);
