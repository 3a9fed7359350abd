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
const answer = make("p", { class: "al-answer" });
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
let words = [];

function moreOf(what) {
  if (what === "generate") return { new_tokens: Number(count.value) };
  return what === "ablate" ? { heads: heads.value, mode: mode.value } : {};
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
  answer.replaceChildren();
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

function tellEvent({ state: now, before, tokens, text, weights, error }, { what }) {
  if (now === "waiting") say(before ? `Waiting: ${plural(before, "job")} before this one` : "Waiting");
  if (now === "running") say(`Running${tokens ? ` on ${plural(tokens, "token")}` : ""} …`);
  if (now === "failed") say(`${error[0].toUpperCase()}${error.slice(1)}.`, true);
  if (now === "cancelled") say("Cancelled");
  if (now !== "step" || what !== "generate") return;
  const strongest = weights.slice(1).reduce((best, value, i, all) => (value > all[best] ? i : best), 0) + 1;
  answer.append(make("span", { title: weights.length > 1 ? `looks most at token ${strongest}, but for the first: ${formatWeight(weights[strongest])}` : "" }, text));
}

function show(job, end, wanted) {
  const view = viewer?.state ?? "";
  viewer?.destroy();
  viewer = mountViewer(place, jobs.makeSources(job, end.maps), { state: view, allKeys: true });
  if (end.effect) effect.replaceChildren(...describeEffect(end.effect));
  const { rows, columns } = end.maps[0];
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
  return [
    make("p", {}, `${description}: mean loss of the prompt ${old} → ${now} nats. A is the model as it is, B without these heads.`),
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
    make("label", {}, "to", mode),
    cancel,
  ),
  state,
  answer,
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
