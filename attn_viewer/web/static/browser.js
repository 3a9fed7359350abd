/** The browser over a data folder: choices at the side, a grid of figures, and the viewer for one pattern. */

import { createAtlas } from "./browser_atlas.js";
import { PATTERN_FUNCTION, createFigures, createHeads, createModels } from "./browser_choices.js";
import { createGallery } from "./browser_gallery.js";
import { createPrompts, listPrompts } from "./browser_prompts.js";
import { createSingle } from "./browser_single.js";
import { createFiles, createServer } from "./browser_source.js";
import { mergeHeads, parseHeads, readState, spellHeads, writeState } from "./browser_state.js";
import { make, nameText } from "./dom.js";

const FEW_HEADS = 64;
const THEMES = ["auto", "light", "dark"];

const root = make("div", { class: "attn-viewer ab-app" });
const error = make("p", { class: "ab-error ab-alert", role: "alert", hidden: true });
const element = document.getElementById("browser");
const source = element.dataset.files ? createFiles(element.dataset.files) : createServer();
element.replaceChildren(root);
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Promise of an answer of the source, or of null when there is none, which the page then says. */
async function ask(answer) {
  try {
    const content = await answer;
    error.hidden = true;
    return content;
  } catch (problem) {
    error.textContent = problem.message;
    error.hidden = false;
    return null;
  }
}

/** What the link says, or the history, which has all prompts where there are too many for a link. */
function read() {
  const text = location.hash.slice(1);
  const kept = history.state?.state;
  return kept && writeState(kept) === text ? kept : readState(text);
}

function showTheme(theme) {
  root.dataset.theme = theme === "dark" || (theme === "auto" && dark.matches) ? "dark" : "light";
  document.documentElement.dataset.theme = root.dataset.theme;
}

async function start() {
  showTheme(readState(location.hash.slice(1)).theme);
  const title = make("div", { class: "ab-brand" }, make("h1", {}, "Attention Viewer"));
  const header = make("header", { class: "ab-header" }, title);
  root.append(error, header);
  const folder = await ask(source.getFolder());
  if (!folder) return;
  title.append(make("p", {}, folder.name));
  if (folder.models.length === 0) {
    const command = make("code", {}, "attn-viewer activations");
    root.append(make("p", { class: "ab-empty" }, "This folder holds no model yet. Make one with ", command, "."));
    return;
  }
  const prompts = new Map();
  let state = read();
  /** How far the gallery was scrolled when something was opened. */
  let left = 0;
  let everything = null;
  let generation = 0;

  const context = {
    ask,
    source,
    folder,
    functions: [PATTERN_FUNCTION, ...folder.functions.filter(({ name }) => name !== PATTERN_FUNCTION.name)],
    get state() {
      return state;
    },
    get models() {
      return folder.models.filter(({ name }) => state.models.includes(name));
    },
    get prompts() {
      return state.prompts === "*" ? (everything ?? []) : state.prompts;
    },
    /** `"light"` or `"dark"`, as it looks now. */
    get look() {
      return root.dataset.theme;
    },
    get heads() {
      try {
        return parseHeads(state.heads, mergeHeads(context.models));
      } catch {
        return new Map();
      }
    },
    remember({ hash, text, models }) {
      prompts.set(hash, { text: nameText(text, hash), models });
    },
    textOf: (hash) => prompts.get(hash)?.text ?? "",
    isThere: ({ model, prompt }) => prompts.get(prompt)?.models.includes(model) ?? true,
    listAll: async () => everything ?? (await listPrompts(context)),
    link: (patch) => `#${writeState({ ...state, ...patch })}`,
    update,
  };

  const theme = make("button", { class: "ab-small", onclick: () => update({ theme: THEMES[(THEMES.indexOf(state.theme) + 1) % 3] }) });
  const models = createModels(context);
  const table = createPrompts(context, (_, first) => {
    if (!location.hash && state.prompts.length === 0 && first.length) update({ prompts: [first[0].hash] }, false);
    gallery.show();
  });
  const heads = createHeads(context);
  const figures = createFigures(context);
  const gallery = createGallery(context);
  const single = createSingle(context);
  const atlas = createAtlas(context);
  const overPrompts = make("button", { class: "ab-small", onclick: () => update({ atlas: state.atlas ? "" : atlas.first, open: null, profile: "" }) });
  const side = make(
    "details",
    { class: "ab-side", open: innerWidth > 760 },
    make("summary", {}, "Models, prompts, heads and figures"),
    models.element,
    table.element,
    heads.element,
    figures.element,
  );
  const frame = make("div", { class: "ab-frame" }, side, gallery.element);
  header.append(make("div", {}, ...(atlas.isThere ? [overPrompts] : []), theme));
  root.append(frame, single.element, atlas.element);

  function settle() {
    const known = folder.models.map(({ name }) => name);
    state.models = state.models.filter((name) => known.includes(name));
    if (state.models.length === 0) state.models = [known[0]];
    if (!state.heads && !location.hash) {
      const available = mergeHeads(context.models);
      const total = [...available.values()].reduce((sum, count) => sum + count, 0);
      const [layer, count] = [...available][0];
      state.heads = total <= FEW_HEADS ? "L*H*" : spellHeads(new Map([[layer, new Set(Array(count).keys())]]), available);
    }
  }

  function update(patch, isStep = true) {
    const next = { ...state, ...patch };
    if (JSON.stringify(next) === JSON.stringify(state)) return;
    const isNew = isStep && ["open", "page", "atlas", "profile"].some((name) => name in patch);
    if (isNew) keepPlace();
    if (next.open && !state.open) left = scrollY;
    const isBack = state.open && !next.open;
    state = next;
    history[isNew ? "pushState" : "replaceState"]({ state }, "", `#${writeState(state)}`);
    show().then(() => isBack && scrollTo(0, left));
    if (isNew && !isBack) scrollTo(0, 0);
  }

  /** Where the gallery is, for when one comes back to it. */
  function keepPlace() {
    history.replaceState({ ...history.state, scroll: scrollY }, "");
  }

  async function show() {
    const mine = ++generation;
    error.hidden = true;
    showTheme(state.theme);
    theme.textContent = `Theme: ${state.theme}`;
    frame.hidden = state.open !== null || state.atlas !== "";
    overPrompts.textContent = state.atlas ? "Figures" : "Heads over all prompts";
    single.show();
    atlas.show();
    if (frame.hidden) return;
    if (state.prompts === "*") {
      everything = null;
      const found = await listPrompts(context);
      if (mine !== generation) return;
      everything = found;
    }
    for (const part of [models, table, heads, figures, gallery]) part.show();
  }

  function readHash() {
    if (location.hash.slice(1) === writeState(state)) return;
    state = read();
    settle();
    const scroll = state.open ? 0 : history.state?.scroll ?? 0;
    show().then(() => scrollTo(0, scroll));
  }

  history.scrollRestoration = "manual";
  addEventListener("pagehide", keepPlace);
  addEventListener("hashchange", readHash);
  addEventListener("popstate", readHash);
  dark.addEventListener("change", show);
  settle();
  const scroll = history.state?.scroll ?? 0;
  show().then(() => state.open || scrollTo(0, scroll));
}

start();
