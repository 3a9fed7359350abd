/** One pattern, or two side by side: the viewer over weights that come a head at a time, and the figures of the head. */

import { isSameHead, pairSources } from "./browser_compare.js";
import { makePicture } from "./browser_gallery.js";
import { PATTERN } from "./browser_state.js";
import { make, nameText, plural } from "./dom.js";
import { mountViewer } from "./viewer.js";

export function createSingle(context) {
  const place = make("div", { class: "ab-viewer" });
  const text = make("p", { class: "ab-prompt" });
  const strip = make("div", { class: "ab-strip" });
  const turn = (sign, by, word) =>
    make("button", { class: "ab-small", "aria-label": `${word} prompt`, title: `${word} prompt`, onclick: () => goOn(by) }, sign);
  const where = make("span", { class: "ab-count" });
  const turns = make("nav", { class: "ab-pages", "aria-label": "Prompts" }, turn("‹", -1, "Previous"), where, turn("›", 1, "Next"));
  const census = make("button", { class: "ab-small", onclick: goToCensus }, "This head over all prompts");
  const element = make(
    "section",
    { class: "ab-single", hidden: true },
    make(
      "div",
      { class: "ab-title" },
      make("button", { class: "ab-back", onclick: leave }, "← All figures"),
      turns,
      census,
      text,
    ),
    place,
    strip,
  );
  let viewer = null;
  let key = null;
  let sides = [];
  let start = null;

  function leave() {
    context.update({ open: null, beside: null, view: "" });
  }

  addEventListener("keydown", ({ key, defaultPrevented, target }) => {
    // The viewer, and what a key closes or clears by itself, come first.
    if (key === "Escape" && context.state.open && !defaultPrevented && !target.closest?.("input, select, dialog")) leave();
  });

  function close() {
    viewer?.destroy();
    viewer = null;
    key = null;
    place.replaceChildren();
    strip.replaceChildren();
  }

  /** Two single heads stay what they are; whatever else is beside is told apart by its prompt and model alone. */
  function spell({ open, beside }) {
    const isFixed = beside && !isSameHead(open, beside);
    return JSON.stringify([open, beside].filter(Boolean).map(({ model, prompt, layer, head }) => [model, prompt, ...(isFixed ? [layer, head] : [])]));
  }

  async function open() {
    const { open: wanted, beside } = context.state;
    const mine = (key = spell(context.state));
    viewer?.destroy();
    viewer = null;
    text.textContent = "";
    strip.replaceChildren();
    place.replaceChildren(make("p", { class: "ab-empty" }, "Loading…"));
    turns.hidden = true;
    const items = [wanted, beside].filter(Boolean);
    const replies = await Promise.all(items.map((item) => context.ask(context.source.getPrompt(item))));
    if (mine !== key) return;
    place.replaceChildren();
    if (replies.includes(null)) return; // the page says why
    tellPlace();
    const texts = replies.map((reply, i) => nameText(reply.text, items[i].prompt));
    text.textContent = [...new Set(texts)].map((one) => one.slice(0, 400)).join(" | ");
    text.title = replies[0].text.slice(0, 2000);
    sides = replies.map((reply, i) => ({ ...reply, item: items[i], text: texts[i], source: makeSource(items[i]) }));
    const { layer, head } = wanted;
    const wrong = replies.find(({ meta }) => !meta);
    if (wrong) {
      place.append(make("p", { class: "ab-empty" }, `${wrong.error[0].toUpperCase()}${wrong.error.slice(1)}.`));
      showFigures(layer, head);
      return;
    }
    const sources = beside ? pairSources(sides, context.folder.palettes) : [{ ...sides[0].source, meta: sides[0].meta }];
    const { meta } = sources[0];
    start = { layer: meta.layers[0], head: meta.heads[0][0] };
    viewer = mountViewer(place, sources, {
      state: context.state.view || `view=heatmap&layer=${layer}&head=${head}`,
      allKeys: true,
      theme: context.state.theme,
      hasTheme: false,
      onState: follow,
    });
    follow(viewer.state); // a link may name a head that is not there
  }

  function makeSource({ model, prompt }) {
    const { source } = context;
    return {
      getHead: (layer, head) => source.getHead({ model, prompt, layer, head }),
      getScores: (layer) => source.getScores({ model, prompt, layer }),
    };
  }

  function follow(view) {
    const words = new URLSearchParams(view);
    const layer = Number(words.get("layer") ?? start.layer);
    const head = words.get("head") === "mean" ? null : Number(words.get("head") ?? start.head);
    const { open: now, beside } = context.state;
    showFigures(layer, head);
    const place = { layer, head: head ?? now.head };
    const isFixed = beside && !isSameHead(now, beside);
    const also = beside && !isFixed ? { beside: { ...beside, ...place } } : {};
    context.update({ view, ...(isFixed ? {} : { open: { ...now, ...place } }), ...also }, false);
  }

  function showFigures(layer, head) {
    const isFixed = sides.length > 1 && !isSameHead(...sides.map(({ item }) => item));
    const shown = sides.flatMap(({ item, figures }) => {
      const at = isFixed ? item : { ...item, layer, head };
      return at.head === null ? [] : figures.filter((figure) => figure !== PATTERN).map((figure) => ({ ...at, figure }));
    });
    const now = JSON.stringify([shown, context.look]);
    if (strip.dataset.shown === now && strip.childElementCount === shown.length) return;
    strip.dataset.shown = now;
    strip.replaceChildren(
      ...shown.map((item) => {
        const name = make("b", {}, `L${item.layer} H${item.head}`);
        return make("figure", {}, makePicture(context, item), make("figcaption", {}, name, ` ${item.figure}`));
      }),
    );
  }

  /** The prompts to go through: those that were chosen, or where that is one alone all that the search finds. */
  async function listTurns() {
    const chosen = context.prompts.filter((prompt) => context.isThere({ ...context.state.open, prompt }));
    return chosen.length > 1 ? chosen : (await context.listAll()).filter((prompt) => context.isThere({ ...context.state.open, prompt }));
  }

  function goToCensus() {
    const { model, layer, head } = context.state.open;
    context.update({ open: null, beside: null, view: "", atlas: model, profile: `${layer}.${head}` });
  }

  async function tellPlace() {
    census.hidden = !context.folder.models.find(({ name }) => name === context.state.open?.model)?.atlas;
    turns.hidden = Boolean(context.state.beside);
    if (turns.hidden) return;
    const all = await listTurns();
    const at = all.indexOf(context.state.open?.prompt);
    where.textContent = at < 0 ? plural(all.length, "prompt") : `prompt ${at + 1} of ${all.length}`;
    turns.children[0].disabled = at <= 0;
    turns.children[2].disabled = at === all.length - 1;
  }

  async function goOn(by) {
    const all = await listTurns();
    const next = all[all.indexOf(context.state.open.prompt) + by];
    if (next) context.update({ open: { ...context.state.open, prompt: next } }, false);
  }

  function show() {
    const { state } = context;
    element.hidden = state.open === null;
    if (!state.open) close();
    else if (key !== spell(state)) open();
    else if (viewer) viewer.setTheme(state.theme);
    if (state.open && viewer && state.view && state.view !== viewer.state) viewer.setState(state.view);
  }

  return { element, show };
}
