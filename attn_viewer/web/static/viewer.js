/**
 * The attention viewer: one front end for a file, a notebook and a server, each of which only makes a `source`.
 *
 *   mountViewer(element, source, options) -> viewer
 *
 * `source.meta`  What `describe_maps` or `describe_facts` of attn_viewer/web/encode.py returns, parsed from JSON:
 *   version            2
 *   model_id, kind, causal, tokens_key, …
 *                      every fact of `MapFacts` (attn_viewer/facts.py) by its name there; labels are as they are shown, and
 *                      `tokens_query` is absent where queries are keys
 *   rows, columns      how many cells a head has
 *   averaged           null | what the one map of each layer is, where it is that of no head
 *   encoding           {type: "float32"} | {type: "uint8", power, scale, zero}: weight = scale · (code / 255) ^ power, or
 *                      of maps with a sign ± scale · (|code − zero| / zero) ^ power, where `zero` is else 0
 *   maxima             null | one list a layer of [largest weight, largest without the first token] a head
 *   scores             [{name, values: one list a layer, null where a head has none; or null: `getScores` tells}]
 *   notes              sentences that a reader must see
 *   palette, masked    256 colours as hexadecimal digits, pale to dark; the colours of what is hidden, on a light and a dark page
 *   palette_dark       of maps with a sign alone, whose palette has 0 in the middle: the one for dark pages
 *   parts              absent | [{layers, href}]: pages with the full weights of some layers each
 *
 * `source.getHead(layer, head)`  Promise of a Uint8Array: the bytes of `encode_head` for these true numbers. It rejects
 *   with an Error whose message is for a reader. Heads are asked for when they are to be seen, and kept.
 *
 * `source.getScores(layer)`  Promise of {name: values of the heads of a layer}, where `meta.scores` leaves them out. Asked
 *   when heads are to be sorted or coloured by one.
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

import { createControls } from "./controls.js";
import { HeadStore, ScoreTable, checkMeta } from "./data.js";
import { make } from "./dom.js";
import { createHeatmap } from "./heatmap.js";
import { createLines } from "./lines.js";
import { createOverview } from "./overview.js";
import { readState, writeState, startState } from "./state.js";
import { createText } from "./text.js";
import { readTheme } from "./theme.js";
import { createTooltip } from "./tooltip.js";

const VIEWS = { overview: createOverview, heatmap: createHeatmap, text: createText, lines: createLines };

export function mountViewer(element, source, options = {}) {
  const { useHash = false, allKeys = false, hasTheme = true, onState = null } = options;
  const meta = source.meta;
  checkMeta(meta);
  const abort = new AbortController();
  const listen = (target, type, handler, more = {}) =>
    target.addEventListener(type, handler, { signal: abort.signal, ...more });

  const root = make("div", { class: "attn-viewer" });
  const live = make("div", { class: "av-live", "aria-live": "polite" });
  const stage = make("main", { class: "av-stage", id: "av-stage", role: "tabpanel", tabindex: "-1" });
  let state = startState(meta, options.theme);
  let view = null;
  let frame = 0;

  const context = {
    meta,
    root,
    hasTheme,
    store: new HeadStore(meta, source),
    scores: new ScoreTable(meta, source),
    tooltip: createTooltip(root),
    listen,
    get state() {
      return state;
    },
    get theme() {
      return theme;
    },
    update,
    announce(text) {
      live.textContent = text;
    },
    redraw,
  };
  const controls = createControls(context);
  root.append(controls.header, controls.bar, stage, controls.notes, live);
  element.append(root);
  let theme = readTheme(context);

  function update(patch) {
    const next = { ...state, ...patch };
    const themeChanged = next.theme !== state.theme;
    if (!themeChanged && writeState(next, meta) === writeState(state, meta)) return;
    const previous = state;
    state = next;
    if (themeChanged) theme = readTheme(context);
    if (useHash) writeHash(next.view !== previous.view);
    onState?.(writeState(state, meta));
    redraw();
  }

  /** Another view is a place to come back from; all else changes the place where one is. */
  function writeHash(isNew) {
    const text = writeState(state, meta);
    const place = text ? `#${text}` : location.pathname + location.search;
    if (isNew) history.pushState(history.state, "", place);
    else history.replaceState(history.state, "", place);
  }

  function redraw() {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(draw);
  }

  function draw() {
    if (view?.name !== state.view) {
      view?.destroy();
      context.tooltip.hide();
      view = { name: state.view, ...VIEWS[state.view](context) };
      stage.replaceChildren(view.element);
    }
    controls.show();
    view.show();
  }

  function setState(text) {
    update({ ...startState(meta, state.theme), ...readState(text, meta) });
  }

  /** Show what the address says, which is in the address already. */
  function restore(text) {
    state = { ...startState(meta, state.theme), ...readState(text, meta) };
    onState?.(writeState(state, meta));
    redraw();
  }

  function handleKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.target.isContentEditable) return;
    if (view?.handleKey?.(event) || controls.handleKey(event)) event.preventDefault();
  }

  state = { ...state, ...readState(useHash && location.hash.length > 1 ? location.hash.slice(1) : options.state, meta) };
  theme = readTheme(context);
  listen(allKeys ? document : root, "keydown", handleKey);
  if (useHash) listen(window, "popstate", () => restore(location.hash.slice(1)));
  listen(matchMedia("(prefers-color-scheme: dark)"), "change", () => {
    theme = readTheme(context);
    redraw();
  });
  const watcher = new ResizeObserver(redraw);
  watcher.observe(root);
  draw();

  return {
    get state() {
      return writeState(state, meta);
    },
    setState,
    setTheme: (name) => update({ theme: name }),
    destroy() {
      abort.abort();
      watcher.disconnect();
      cancelAnimationFrame(frame);
      view?.destroy();
      root.remove();
    },
  };
}
