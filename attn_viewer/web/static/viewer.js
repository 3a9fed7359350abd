/**
 * The attention viewer: one front end for a file, a notebook and a server, each of which only makes a `source`.
 *
 *   mountViewer(element, sources, options) -> viewer
 *
 * `sources` are those of all maps that the page holds, most often one. Of several a switch shows one, or two side by side.
 *
 * `source.meta`  What `describe_maps` or `describe_facts` of attn_viewer/web/encode.py returns, parsed from JSON:
 *   version            2
 *   model_id, kind, causal, tokens_key, …
 *                      every fact of `MapFacts` (attn_viewer/facts.py) by its name there; labels are as they are shown, and
 *                      `tokens_query` is absent where queries are keys
 *   rows, columns      how many cells a head has
 *   unit               what a label stands for: "token", "word", "sentence", "part"
 *   sentence_b_start   of a pair of texts the first key of the second, else null
 *   averaged           null | what the one map of each layer is, where it is that of no head
 *   encoding           {type: "float32"} | {type: "uint8", power, scale, zero}: weight = scale · (code / 255) ^ power, or
 *                      of maps with a sign ± scale · (|code − zero| / zero) ^ power, where `zero` is else 0
 *   maxima             null | one list a layer of [largest weight, largest without the first token] a head
 *   scores             [{name, values: one list a layer, null where a head has none; or null: `getScores` tells}]
 *   notes              sentences that a reader must see
 *   palette, masked    256 colours as hexadecimal digits, pale to dark; the colours of what is hidden, on a light and a dark page
 *   palette_dark       of maps with a sign alone, whose palette has 0 in the middle: the one for dark pages
 *   pictures           absent | [{href, width, height}]: the pictures whose patches are among the keys, by their numbers
 *   parts              absent | [{layers, href}]: pages with the full weights of some layers each
 *   name               of several maps what the switch calls these, else absent
 *   no_difference      absent | of the first of two maps, why there is no difference of both
 *   difference         absent | true: these are the second maps minus the first, which `getHead` is not asked for
 *   links              absent | {query, key}: of several maps with different tokens, for each token of these its position
 *                      in the first maps, or null
 *
 * `source.getHead(layer, head)`  Promise of a Uint8Array: the bytes of `encode_head` for these true numbers. It rejects
 *   with an Error whose message is for a reader. Heads are asked for when they are to be seen, and kept.
 *
 * `source.getScores(layer)`  Promise of {name: values of the heads of a layer}, where `meta.scores` leaves them out. Asked
 *   when heads are to be sorted or coloured by one.
 *
 * `source.isLocal`  true where heads cost nothing to ask for: those out of sight too are then drawn, to be printed.
 *
 * `options` (all may be left out)
 *   state      string such as "view=heatmap&layer=3&head=2", what the URL's hash holds
 *   useHash    true: the state lives in the URL's hash
 *   allKeys    true: arrow keys work wherever the focus is in the document, else only inside `element`
 *   theme      "auto" | "light" | "dark"
 *   hasTheme   false: no button changes the theme, which is then the page's to choose (`viewer.setTheme`)
 *   onState    called with the state as a string whenever it changes
 *
 * `viewer.state` is that string; `viewer.setState(string)` shows it; `viewer.destroy()` lets go of everything.
 *
 * Nothing here asks the network for anything, and no label is ever parsed as markup.
 */

import { createControls, describe, listCuts, makeNotes } from "./controls.js";
import { DifferenceStore, HeadStore, ScoreTable, checkMeta } from "./data.js";
import { make, tellWeight } from "./dom.js";
import { createFind } from "./find.js";
import { createHeatmap } from "./heatmap.js";
import { createKeep, drawSheets } from "./keep.js";
import { createLines } from "./lines.js";
import { movePlace, moveState } from "./links.js";
import { createOverview } from "./overview.js";
import { createSwitch, describePair, listShown, readMaps } from "./several.js";
import { readState, writeState, startState } from "./state.js";
import { createText } from "./text.js";
import { readTheme } from "./theme.js";
import { createTooltip } from "./tooltip.js";

/**
 * What makes each view of `VIEW_LABELS`: from a context {element, show(), destroy()}, and if it can handleKey(event),
 * goTo(place), follow(place), listCuts() and picture(). `show` draws `context.state`, and is called when that changes.
 */
const VIEWS = { overview: createOverview, heatmap: createHeatmap, text: createText, lines: createLines };
/** Contexts made so far in this document: each has ids of its own. */
let made = 0;

export function mountViewer(element, sources, options = {}) {
  const { useHash = false, allKeys = false, hasTheme = true, onState = null } = options;
  const metas = sources.map(({ meta }) => meta);
  metas.forEach(checkMeta);
  const abort = new AbortController();
  const listen = (target, type, handler, more = {}) =>
    target.addEventListener(type, handler, { signal: abort.signal, ...more });

  const root = make("div", { class: "attn-viewer" });
  const live = make("div", { class: "av-live", "aria-live": "polite" });
  const tooltip = createTooltip();
  const stores = [];
  const contexts = sources.map(makeContext);
  const stage = make("main", { class: "av-stage", role: "tabpanel", tabindex: "-1" });
  let panes = [];
  let drawn = "";
  let frame = 0;
  let state = read(useHash && location.hash.length > 1 ? location.hash.slice(1) : options.state, options.theme);
  let moved = { state: null };
  let themes = readThemes();

  function makeContext(source, index) {
    const { meta } = source;
    stores.push(meta.difference ? new DifferenceStore(meta, ...stores) : new HeadStore(meta, source));
    const number = made++ || "";
    return {
      meta,
      root,
      hasTheme,
      tooltip,
      listen,
      redraw,
      isLocal: Boolean(source.isLocal),
      store: stores[index],
      scores: new ScoreTable(meta, source),
      id: (name) => `av${number}-${name}`,
      /** What this viewer shows, in words. */
      get title() {
        const shown = listShown(state, metas);
        return shown.length > 1 ? describePair(shown.map((i) => metas[i])) : meta.model_id;
      },
      get isPaired() {
        return listShown(state, metas).length > 1;
      },
      /** The store of the maps beside these, if there are any. */
      get partner() {
        const other = listShown(state, metas).find((i) => i !== index);
        return other === undefined ? null : stores[other];
      },
      get state() {
        return stateOf(index);
      },
      get theme() {
        return themes[index];
      },
      update: (patch) => update(patch, index),
      /** Show in the other maps what is pointed at in these, {query, key} or null; lines on its weight there. */
      share: (place, value) => share(index, place, value),
      announce(text) {
        live.textContent = text;
      },
    };
  }

  function lead() {
    return listShown(state, metas)[0];
  }

  function write() {
    return writeState(state, metas[lead()]);
  }

  function read(text, theme) {
    const maps = readMaps(text, metas);
    const meta = metas[listShown({ maps }, metas)[0]];
    return { ...startState(meta, theme), ...readState(text, meta), maps };
  }

  /** The state holds tokens, layers and heads of the maps that are shown first; of others it is derived. */
  function stateOf(index) {
    if (index === lead()) return state;
    if (moved.state !== state) moved = { state };
    moved[index] ??= moveState(state, metas[lead()], metas[index]);
    return moved[index];
  }

  function share(from, place, value) {
    const values = { [from]: value };
    const lines = [];
    for (const { index, view } of panes) {
      if (index === from) continue;
      const found = view.follow?.(place && movePlace(place, metas[from], metas[index]));
      if (!found) continue;
      lines.push(`${metas[index].name}: ${found.text}`);
      values[index] = found.value;
    }
    const difference = metas.find((meta) => meta.difference);
    if (difference && Number.isFinite(values[1] - values[0])) {
      lines.push(`${difference.name}: ${tellWeight(values[1] - values[0], difference.encoding)}`);
    }
    return lines;
  }

  function readThemes() {
    return metas.map((meta) => readTheme({ meta, root, state }));
  }

  function update(patch, index = lead()) {
    const before = lead();
    let next = { ...state, ...moveState(patch, metas[index], metas[before]) };
    const after = listShown(next, metas)[0];
    if (after !== before) next = moveState(next, metas[before], metas[after]);
    const themeChanged = next.theme !== state.theme;
    if (!themeChanged && after === before && writeState(next, metas[after]) === write()) return;
    const previous = state;
    state = next;
    if (themeChanged) themes = readThemes();
    if (useHash) writeHash(next.view !== previous.view || next.maps !== previous.maps);
    onState?.(write());
    redraw();
  }

  /** Another view is a place to come back from; all else changes the place where one is. */
  function writeHash(isNew) {
    const text = write();
    const place = text ? `#${text}` : location.pathname + location.search;
    try {
      history[isNew ? "pushState" : "replaceState"](history.state, "", place);
    } catch {
      // A frame made of text (srcdoc), as notebooks make them, has no address of its own.
    }
  }

  function redraw() {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(draw);
  }

  function draw() {
    const shown = listShown(state, metas);
    if (drawn !== `${state.view} ${shown}`) {
      drawn = `${state.view} ${shown}`;
      for (const { view } of panes) view.destroy();
      tooltip.hide();
      panes = shown.map((index) => ({ index, context: contexts[index], view: VIEWS[state.view](contexts[index]) }));
      stage.replaceChildren(...(panes.length > 1 ? [makePair()] : [panes[0].view.element]));
      showControls(panes[0].context);
    }
    switcher?.show(state);
    controls.show();
    for (const { view } of panes) view.show();
    tellCuts();
  }

  function tellCuts() {
    const all = panes.flatMap(({ context, view }) => [...listCuts(context.state), ...(view.listCuts?.() ?? [])]);
    const text = [...new Set(all)].join("; ");
    cuts.hidden = !text;
    cuts.textContent = text && `${text[0].toUpperCase()}${text.slice(1)}.`;
  }

  function makePair() {
    const sections = panes.map(({ context: { meta }, view }) => {
      const name = `${meta.name}: ${meta.model_id}`;
      const heading = make("header", { class: "av-map-name" }, make("h2", {}, name), make("p", {}, describe(meta)));
      return make("section", { class: "av-map", "aria-label": name }, heading, view.element);
    });
    return make("div", { class: "av-pair" }, ...sections);
  }

  const keep = createKeep(() => panes);
  const find = createFind(() => panes);
  const cuts = make("p", { class: "av-hint av-cuts" });
  const printed = make("div", { class: "av-printed", "aria-hidden": true });
  const switcher = metas.length > 1 ? createSwitch(metas, update) : null;
  let controls = null;
  /** Layers, heads and scores to choose from are those of the maps that are shown first. */
  function showControls(context) {
    const focused = root.contains(document.activeElement) ? document.activeElement : null;
    controls = createControls(context);
    stage.id = context.id("stage");
    controls.header.querySelector(".av-aside").prepend(keep);
    controls.bar.prepend(find.element);
    find.show();
    const notes = panes.map((pane) => makeNotes(pane.context.meta));
    const middle = switcher ? [switcher.element, controls.bar] : [controls.bar];
    root.replaceChildren(controls.header, ...middle, cuts, stage, ...notes, live, tooltip.element, printed);
    if (focused?.isConnected) focused.focus();
    else if (focused?.dataset.view) root.querySelector(`[role="tab"][data-view="${focused.dataset.view}"]`)?.focus();
  }

  function setState(text) {
    update(read(text, state.theme));
  }

  /** Show what the address says, which is in the address already. */
  function restore(text) {
    state = read(text, state.theme);
    onState?.(write());
    redraw();
  }

  function handleKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.target.isContentEditable) return;
    if (event.key === "/" && panes[0].view.goTo) {
      event.preventDefault();
      find.focus();
      return;
    }
    const { view } = panes.find((pane) => pane.view.element.contains(event.target)) ?? panes[0];
    if (view.handleKey?.(event) || controls.handleKey(event)) event.preventDefault();
  }

  element.append(root);
  listen(allKeys ? document : root, "keydown", handleKey);
  if (useHash) listen(window, "popstate", () => restore(location.hash.slice(1)));
  listen(matchMedia("(prefers-color-scheme: dark)"), "change", () => {
    themes = readThemes();
    redraw();
  });
  // Paper has no scroll bars: what is printed is the whole picture, at the width of the sheet.
  listen(window, "beforeprint", () => {
    printed.replaceChildren(...drawSheets(panes));
    root.classList.toggle("av-has-picture", printed.childElementCount > 0);
  });
  listen(window, "afterprint", () => printed.replaceChildren());
  const watcher = new ResizeObserver(redraw);
  watcher.observe(root);
  draw();

  return {
    get state() {
      return write();
    },
    setState,
    setTheme: (name) => update({ theme: name }),
    destroy() {
      abort.abort();
      watcher.disconnect();
      cancelAnimationFrame(frame);
      for (const { view } of panes) view.destroy();
      root.remove();
    },
  };
}
