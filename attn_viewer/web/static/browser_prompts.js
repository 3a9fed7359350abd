/** The searchable table of prompts: rows are asked for as they scroll into sight. */

import { make, nameText } from "./dom.js";

const ROW = 32;
const PAGE = 100;

/**
 * `context.state`, `context.update(patch)`, `context.ask(answer)`, `context.source`.
 * `onTotal(total)` is told how many prompts a search finds.
 */
export function createPrompts(context, onTotal) {
  let key = null;
  let pages = new Map();
  let total = 0;
  let timer = 0;

  const input = make("input", {
    type: "search",
    class: "ab-input",
    placeholder: "Search prompts",
    "aria-label": "Search prompts",
    maxlength: 300,
    oninput: () => {
      clearTimeout(timer);
      const { value } = input; // a click elsewhere puts back there what is searched for
      timer = setTimeout(() => context.update({ search: value }), 150);
    },
  });
  const heads = ["text", "n_tokens"].map((name) =>
    make("button", { class: "ab-sort", onclick: () => sortBy(name) }, name === "text" ? "Prompt" : "Tokens"),
  );
  const all = make("button", { class: "ab-small", onclick: () => context.update({ prompts: "*", page: 0 }) }, "All");
  const none = make("button", { class: "ab-small", onclick: () => context.update({ prompts: [], page: 0 }) }, "None");
  const count = make("span", { class: "ab-count", "aria-live": "polite" });
  const body = make("div", { class: "ab-rows" });
  const scroller = make(
    "div",
    { class: "ab-scroller", role: "group", "aria-label": "Prompts", tabindex: "0", onscroll: () => drawRows() },
    body,
  );
  const element = make(
    "section",
    { class: "ab-section" },
    make("div", { class: "ab-title" }, make("h2", {}, "Prompts"), count, all, none),
    input,
    make("div", { class: "ab-headings" }, ...heads),
    scroller,
  );

  function sortBy(name) {
    context.update({ table: context.state.table === name ? `-${name}` : name });
  }

  function spell() {
    const { models, search, table } = context.state;
    return JSON.stringify([models, search, table]);
  }

  async function fetchPage(number) {
    const mine = key;
    pages.set(number, null);
    const { models, search, table } = context.state;
    const reply = await context.ask(context.source.listPrompts({ models, search, table, offset: number * PAGE, limit: PAGE }));
    if (mine !== key) return;
    if (!reply) {
      pages.delete(number);
      return;
    }
    pages.set(number, reply.prompts);
    for (const prompt of reply.prompts) context.remember(prompt);
    if (number === 0) {
      total = reply.total;
      count.textContent = reply.total === reply.of ? `${total}` : `${total} of ${reply.of}`;
      onTotal(total, reply.prompts);
    }
    drawRows();
  }

  function drawRows() {
    body.style.height = `${total * ROW}px`;
    const first = Math.max(0, Math.floor(scroller.scrollTop / ROW) - 4);
    const last = Math.min(total, first + Math.ceil((scroller.clientHeight || 240) / ROW) + 9);
    for (let page = Math.floor(first / PAGE); page * PAGE < last; page++) if (!pages.has(page)) fetchPage(page);
    const focused = body.contains(document.activeElement) ? document.activeElement.value : null;
    body.replaceChildren();
    for (let i = first; i < last; i++) {
      const prompt = pages.get(Math.floor(i / PAGE))?.[i % PAGE];
      const row = prompt ? makeRow(prompt) : make("div", { class: "ab-row ab-waiting" });
      row.style.top = `${i * ROW}px`;
      body.append(row);
      if (prompt && prompt.hash === focused) row.querySelector("input").focus({ preventScroll: true });
    }
    if (total === 0 && pages.get(0)) body.append(make("p", { class: "ab-empty" }, context.state.search ? "No prompt matches." : "No prompts here yet."));
  }

  function makeRow(prompt) {
    const isChosen = context.state.prompts === "*" || context.state.prompts.includes(prompt.hash);
    const box = make("input", { type: "checkbox", checked: isChosen, value: prompt.hash, onchange: () => toggle(prompt.hash) });
    return make(
      "label",
      { class: "ab-row", title: prompt.text.slice(0, 300) },
      box,
      make("span", { class: "ab-text" }, nameText(prompt.text, prompt.hash)),
      make("span", { class: "ab-number" }, String(prompt.n_tokens)),
    );
  }

  async function toggle(hash) {
    let chosen = context.state.prompts;
    if (chosen === "*") chosen = await context.listAll();
    context.update({ prompts: chosen.includes(hash) ? chosen.filter((h) => h !== hash) : [...chosen, hash], page: 0 });
  }

  function show() {
    const { table, search } = context.state;
    if (document.activeElement !== input) input.value = search;
    for (const [i, name] of ["text", "n_tokens"].entries()) {
      const isThis = table.replace("-", "") === name;
      heads[i].dataset.order = isThis ? (table.startsWith("-") ? "down" : "up") : "";
    }
    if (spell() !== key) {
      key = spell();
      pages = new Map();
      scroller.scrollTop = 0;
      fetchPage(0);
    } else {
      drawRows();
    }
  }

  return { element, show };
}

/** Promise of every prompt that a search finds, a page after another. */
export async function listPrompts(context) {
  const { models, search, table } = context.state;
  const found = [];
  for (let total = 1; found.length < total; ) {
    const reply = await context.ask(context.source.listPrompts({ models, search, table, offset: found.length, limit: 500 }));
    if (!reply || reply.prompts.length === 0) break;
    for (const prompt of reply.prompts) context.remember(prompt);
    found.push(...reply.prompts.map((prompt) => prompt.hash));
    total = reply.total;
  }
  return found;
}
