/**
 * The prompt as running text, twice. Observed: which later tokens look at the one pointed at. Observer: which earlier
 * ones it looks at. A strip a head under each token; its strength is the weight on the scale that all views share.
 * Of several pinned tokens: the sum over keys, the mean over queries. Patches of pictures stand in the picture, each in the colour of the mean weight of the heads that are on.
 */

import { HIDDEN, findTop, findWindow, isShown, makeScale } from "./data.js";
import { MARGIN, make, nameHead, nameSegment, plural, shorten, sizeCanvas, tellWeight } from "./dom.js";
import { MOST_TOLD, createLegend, loadHeads } from "./legend.js";
import { createPicture, listPictures } from "./pictures.js";
import { hasRowsBefore } from "./state.js";
import { pickColor, spellColor } from "./theme.js";

const LONGEST_TOKEN = 60;
const PATCHES = "A patch has the colour of the mean weight of the heads that are on, from 1 % of where the colours end.";
/** The square on a patch, as a share of its sides; under the second share of the largest weight there is none. */
const [COVER, LEAST_SQUARE] = [0.76, 0.01];

export function createText(context) {
  const { meta } = context;
  const legend = createLegend(context);
  const panes = [
    createPane(context, "observed", "Observed", `who looks at it${meta.causal ? ", among the tokens after" : ""}`),
    createPane(context, "observer", "Observer", `what it looks at${meta.causal ? ", among the tokens before" : ""}`),
  ];
  const advice = "Point at a token. A click, a tap or Enter pins it in one view and leaves the other free; with Shift or Ctrl, several.";
  const isGenerated = meta.prompt_length < meta.tokens_key.length;
  const more = [isGenerated && "Bold tokens were generated.", meta.spans?.length && PATCHES];
  const hint = make("p", { class: "av-hint" }, [advice, ...more].filter(Boolean).join(" "));
  const element = make(
    "div",
    { class: "av-text" },
    legend.element,
    make("div", { class: "av-panes" }, ...panes.map((pane) => pane.element)),
    hint,
  );
  let asked = 0;
  let isGone = false;
  for (const pane of panes) {
    pane.onpoint = (token, event, side) => {
      pointAll(token, side);
      context.share(token === null ? null : { [side === "query" ? "query" : "key"]: token });
      if (event) tell(pane, token, event);
      else context.tooltip.hide();
    };
  }

  function pointAll(token, side) {
    for (const pane of panes) if (pane.axis === side) pane.point(token);
  }

  function follow(place) {
    const isCross = meta.kind === "cross";
    for (const side of isCross ? ["query", "key"] : ["all"]) pointAll(place?.[isCross ? side : "key"] ?? null, side);
  }

  function goTo(place) {
    for (const pane of panes) {
      const token = pane.axis === "query" ? place.query : place.key ?? null;
      if (token === undefined || token === null) continue;
      pane.reveal(token);
      pane.point(token);
    }
  }

  function tell(pane, index, event) {
    const lines = pane.describe(index);
    if (lines) context.tooltip.show(event.clientX, event.clientY, lines);
    else context.tooltip.hide();
  }

  async function show() {
    legend.show();
    const turn = ++asked;
    let loaded;
    try {
      loaded = await loadHeads(context);
    } catch (error) {
      hint.textContent = error.message;
      return;
    }
    if (isGone || turn !== asked) return;
    if (meta.spans?.length) loaded.mean = averageHeads(loaded.heads);
    for (const pane of panes) pane.show(loaded);
    element.dataset.ready = String(loaded.layer);
  }

  function handleKey(event) {
    return panes.some((pane) => pane.element.contains(event.target) && pane.handleKey(event));
  }

  function destroy() {
    isGone = true;
    context.tooltip.hide();
    for (const pane of panes) pane.destroy();
  }

  /** Both panes below each other. */
  function picture() {
    const pictures = panes.map((pane) => pane.picture());
    if (pictures.includes(null)) return null;
    const paint = (drawing) => {
      drawing.save();
      for (const part of pictures) {
        drawing.save();
        part.paint(drawing);
        drawing.restore();
        drawing.translate(0, part.height);
      }
      drawing.restore();
    };
    const height = pictures.reduce((sum, part) => sum + part.height, 0);
    return { width: Math.max(...pictures.map((part) => part.width)), height, paint };
  }

  return { element, show, follow, goTo, picture, handleKey, destroy };
}

/** The mean weights of heads; null of none. */
function averageHeads(heads) {
  const values = heads[0]?.found.values.slice() ?? null;
  for (const { found } of heads.slice(1)) for (let i = 0; i < values.length; i++) values[i] += found.values[i];
  return values && { values: values.map((sum) => sum / heads.length) };
}

/** One view of the text. For cross attention it holds two: the keys' and the queries'. */
function createPane(context, name, title, subtitle) {
  const { meta } = context;
  const isCross = meta.kind === "cross";
  const focusSide = isCross ? (name === "observed" ? "key" : "query") : "all";
  const paintSide = isCross ? (name === "observed" ? "query" : "key") : "all";
  const status = make("p", { class: "av-status" });
  const letGo = make(
    "button",
    { type: "button", class: "av-plain", onclick: () => context.update({ [name]: null }) },
    "Let go",
  );
  const labelsOf = (side) => (side === "query" && meta.tokens_query) || meta.tokens_key;
  const groups = new Map();
  for (const side of isCross ? ["key", "query"] : ["all"]) groups.set(side, createTokens(labelsOf(side), side));
  const painted = groups.get(paintSide);
  const focused = groups.get(focusSide);
  const element = make(
    "section",
    { class: "av-pane", "data-pane": name, "aria-label": title },
    make("header", {}, make("h2", {}, title), make("p", {}, subtitle), letGo),
    status,
    ...[...groups].flatMap(([side, group]) => [
      ...(isCross ? [make("h3", {}, side === "key" ? "Keys (source)" : "Queries (target)")] : []),
      group.element,
    ]),
  );
  let loaded = null;
  let shown = null;
  let hovered = null;
  let look = "";
  const watcher = new ResizeObserver(() => {
    painted.measure();
    paint();
  });
  watcher.observe(painted.element);
  painted.element.addEventListener("scroll", () => painted.isOutside() && paint(), { passive: true });

  const pane = { element, axis: focusSide, onpoint: null, picture, show, point, reveal, describe, handleKey, destroy: () => watcher.disconnect() };

  function createTokens(labels, side) {
    const canvas = make("canvas");
    const pictures = side === "query" ? [] : listPictures(meta);
    const patches = new Map(pictures.flatMap((picture) => [...picture.patches]));
    const names = labels.map((label, index) => {
      const patch = patches.get(index);
      return patch ? patch.time ?? `patch ${label}` : shorten(label, LONGEST_TOKEN);
    });
    const spans = labels.map((label, index) => {
      const isPatch = patches.has(index);
      const isNew = side !== "query" && index >= meta.prompt_length;
      return make(
        "span",
        {
          class: isPatch ? "av-patch" : isNew ? "av-token av-new" : "av-token",
          "data-token": index,
          role: "option",
          id: context.id(`${name}-${side}-${index}`),
          "aria-label": isPatch ? names[index] : null,
        },
        isPatch ? "" : names[index],
      );
    });
    const items = pictures.map((picture) => createPicture(picture, (token) => spans[token], context.redraw));
    const firsts = new Map(items.map((item) => [Math.min(...item.patches.keys()), item.element]));
    const wrapped = spans.flatMap((span, i) => {
      if (patches.has(i)) return firsts.get(i) ?? [];
      return /⏎/.test(labels[i]) ? [span, make("br")] : [span];
    });
    const box = make(
      "div",
      {
        class: "av-tokens",
        role: "listbox",
        tabindex: side === focusSide ? 0 : -1,
        "aria-label": `${title}: ${side === "query" ? "query tokens" : "tokens"}`,
      },
      canvas,
      ...wrapped,
    );
    const find = (event) => {
      const span = event.target.closest?.("[data-token]");
      return span ? Number(span.dataset.token) : null;
    };
    box.addEventListener("pointermove", (event) => {
      const token = find(event);
      if (token !== null) pane.onpoint(token, event, side);
    });
    box.addEventListener("pointerleave", () => pane.onpoint(null, null, side));
    box.addEventListener("click", (event) => {
      const token = find(event);
      if (token !== null && side === focusSide) pin(token, event);
    });
    return {
      element: box,
      spans,
      names,
      items,
      patches,
      canvas,
      boxes: null,
      /** Lay out once what painting needs, since to ask in between would lay out again. */
      measure() {
        this.boxes = spans.map((span) => ({ x: span.offsetLeft, y: span.offsetTop, width: span.offsetWidth, height: span.offsetHeight }));
        this.sight = box.clientHeight;
        this.width = box.clientWidth;
        canvas.hidden = true; // it would count as content
        // It covers what is in sight and a margin, so that a long text is as quick as a short one.
        this.height = Math.min(box.scrollHeight, this.sight + 2 * MARGIN);
        this.end = box.scrollHeight - this.height;
        this.top = null;
        canvas.hidden = false;
      },
      isOutside() {
        const { scrollTop } = box;
        return scrollTop < this.top || scrollTop + this.sight > this.top + this.height;
      },
      /** Clear the canvas, at the place that is in sight. */
      clear() {
        if (this.top === null || this.isOutside()) {
          this.top = Math.max(0, Math.min(this.end, box.scrollTop - MARGIN));
          canvas.style.transform = `translateY(${this.top}px)`;
        }
        const drawing = sizeCanvas(canvas, this.width, this.height);
        drawing.translate(0, -this.top);
        return drawing;
      },
    };
  }

  /** The tokens in focus: those that are pinned, or the one pointed at. */
  function current() {
    return context.state[name] ?? (hovered === null ? [] : [hovered]);
  }

  /** Pin a token, or let go of it; with Shift all from the last pinned one on, with Ctrl one more. */
  function pin(token, { shiftKey, ctrlKey, metaKey }) {
    const before = context.state[name] ?? [];
    const isIn = before.includes(token);
    let next = isIn && before.length === 1 ? [] : [token];
    if (shiftKey && before.length) {
      const [low, high] = [Math.min(token, before[0]), Math.max(token, before.at(-1))];
      next = Array.from({ length: high - low + 1 }, (_, i) => low + i);
    } else if (ctrlKey || metaKey) next = isIn ? before.filter((one) => one !== token) : [...before, token].sort((a, b) => a - b);
    context.update({ [name]: next.length ? next : null });
  }

  function point(token) {
    if (hovered === token) return;
    hovered = token;
    if (context.state[name] === null) paint();
  }

  /** Scroll the box, and no more than that, to a token. */
  function reveal(token) {
    const { element: box, spans } = focused;
    box.scrollTop = spans[token].offsetTop - box.clientHeight / 2;
  }

  function show(next) {
    loaded = next;
    shown = findWindow(meta, context.state);
    const strips = Math.max(1, loaded.heads.length);
    const height = strips <= 2 ? 6 : strips <= 4 ? 4 : strips <= 20 ? 2 : 1;
    if (look !== `${strips}.${height}`) {
      look = `${strips}.${height}`;
      element.style.setProperty("--strips", `${strips * height + 2}px`);
      painted.boxes = null;
    }
    painted.strip = height;
    element.classList.toggle("av-frozen", context.state[name] !== null);
    paint();
  }

  /** Weight between the tokens in focus and another: the sum over keys, the mean over queries; HIDDEN where none is shown. */
  function readWeight({ values }, focus, other) {
    let [sum, count, seen, last] = [0, 0, 0, -1];
    for (const one of focus) {
      const [row, column] = findCell(one, other);
      const at = row * meta.columns + column;
      if (!isShown(shown, row, column) || at === last) continue; // of tokens in a cell, one
      last = at;
      count++;
      if (values[at] === HIDDEN) continue;
      seen++;
      sum += values[at];
    }
    if (!seen) return HIDDEN;
    return name === "observed" ? sum : sum / count;
  }

  /** The largest of these where several tokens are in focus, which may be more than any weight; else 0. */
  function findMost(found, focus) {
    let most = 0;
    for (let other = 0; other < painted.spans.length && focus.length > 1; other++) {
      const size = Math.abs(readWeight(found, focus, other));
      if (size > most && size < Infinity) most = size;
    }
    return most;
  }

  function findCell(one, other) {
    const [query, key] = name === "observed" ? [other, one] : [one - Number(isFromBefore(one)), other];
    return [Math.floor((query - (isCross ? 0 : meta.first_query)) / meta.cell[0]), Math.floor(key / meta.cell[1])];
  }

  /** Whether what a token looks at is read from the row before its own, which produced it. */
  function isFromBefore(token) {
    const { rows } = context.state;
    if (name !== "observer" || !hasRowsBefore(meta) || token === 0) return false;
    return rows === "before" || (rows === "auto" && token >= meta.prompt_length);
  }

  function paint() {
    if (!loaded || !element.isConnected) return;
    const focus = current();
    if (!painted.boxes) painted.measure();
    const drawing = painted.clear();
    mark(focus);
    for (const item of painted.items) item.show(focus.length && loaded.mean, context.theme.isDark);
    if (!focus.length) {
      status.textContent = "—";
      return;
    }
    const isFar = ({ y, height }) => y + height < painted.top || y > painted.top + painted.height;
    paintStrips(drawing, focus, isFar);
    paintPatches(drawing, focus, isFar);
    status.textContent = tellStatus(focus);
  }

  function tellStatus(focus) {
    const [first, last] = [focus[0], focus.at(-1)].map((token) => `${token}  ${shorten(focused.names[token] ?? "", 40)}`);
    if (focus.length > 1) {
      return `${focus.length} tokens, ${first} … ${last}: ${name === "observed" ? "sum over these keys" : "mean over these queries"}${tellPatches(focus)}`;
    }
    return `${first}${nameSegment(meta, focus[0], focusSide)}${tellRow(focus[0])}${tellPatches(focus)}`;
  }

  /** Where the colours of patches end, and how much of the weight of a query is on them, in words. */
  function tellPatches(focus) {
    if (!painted.patches.size || !loaded?.mean) return "";
    const top = tellWeight(findTopOfPatches(focus), meta.encoding);
    if (name === "observed" || meta.signed || meta.weighting !== "attention" || meta.reduction === "pooled") return `; colours of patches up to ${top}`;
    let sum = 0;
    for (const token of painted.patches.keys()) sum += Math.max(0, readWeight(loaded.mean, focus, token));
    return `; ${Math.round(100 * sum)} % on patches, colours up to ${top}`;
  }

  /** The largest mean weight between a patch of this pane and any token that is shown. */
  function findTopOfPatches(focus) {
    const most = findMost(loaded.mean, focus);
    if (context.state.range === "all") return Math.max(most, findTop(context, {}));
    const look = JSON.stringify(shown);
    if (loaded.tops?.[name]?.look !== look) {
      const isObserver = name === "observer";
      const [own, all] = isObserver ? [shown.columns, shown.rows] : [shown.rows, shown.columns];
      const cells = new Set([...painted.patches.keys()].map((token) => findCell(token, token)[Number(isObserver)]));
      let top = 0;
      for (const at of cells) {
        for (let other = all[0]; other < all[1] && at >= own[0] && at < own[1]; other++) {
          const size = Math.abs(loaded.mean.values[isObserver ? other * meta.columns + at : at * meta.columns + other]);
          if (size > top && size < Infinity) top = size;
        }
      }
      loaded.tops = { ...loaded.tops, [name]: { look, top } };
    }
    return Math.max(most, loaded.tops[name].top) || 1;
  }

  function paintPatches(drawing, focus, isFar) {
    if (!painted.patches.size || !loaded.mean) return;
    const top = findTopOfPatches(focus);
    const scale = makeScale(context.state, top);
    for (const token of painted.patches.keys()) {
      const { x, y, width, height } = painted.boxes[token];
      if (isFar(painted.boxes[token])) continue;
      const weight = readWeight(loaded.mean, focus, token);
      if (!(Math.abs(weight) >= LEAST_SQUARE * top) || weight === HIDDEN || !scale(weight)) continue;
      drawing.fillStyle = spellColor(pickColor(context.theme, scale(weight)));
      drawing.fillRect(x + ((1 - COVER) / 2) * width, y + ((1 - COVER) / 2) * height, COVER * width, COVER * height);
    }
  }

  function paintStrips(drawing, focus, isFar) {
    const { boxes, spans, strip, patches } = painted;
    const most = loaded.heads.map(({ found }) => findMost(found, focus));
    const shared = context.state.range === "all" ? Math.max(...most) : 0;
    loaded.heads.forEach(({ color, found }, i) => {
      const scale = makeScale(context.state, Math.max(findTop(context, found), most[i], shared));
      drawing.fillStyle = color;
      for (let other = 0; other < spans.length; other++) {
        if (patches.has(other) || isFar(boxes[other])) continue;
        const weight = readWeight(found, focus, other);
        const share = Math.abs(scale(weight));
        if (share < 0.01) continue; // nobody sees it
        const { x, y, width: wide, height: high } = boxes[other];
        drawing.globalAlpha = share;
        drawing.fillRect(x + 1, y + high - (loaded.heads.length - i) * strip, wide - 2, strip - (strip > 2 ? 0.5 : 0));
      }
    });
    drawing.globalAlpha = 1;
  }

  /** All tokens of this pane, past what its box shows, with the strips of the one in focus. */
  function picture() {
    if (!loaded) return null;
    const focus = current();
    const parts = [...groups.values()];
    for (const part of parts) if (!part.boxes) part.measure();
    const heights = parts.map(({ boxes }) => Math.max(...boxes.map((box) => box.y + box.height)) + 12);
    const paint = (drawing) => {
      const { theme } = context;
      drawing.textAlign = "left";
      drawing.textBaseline = "middle";
      drawing.font = "600 13px ui-sans-serif, system-ui, sans-serif";
      drawing.fillStyle = theme.ink;
      drawing.fillText(`${title}: ${subtitle}`, 0, 10);
      drawing.font = "14px ui-sans-serif, system-ui, sans-serif";
      drawing.fillStyle = theme.muted;
      drawing.fillText(focus.length ? tellStatus(focus) : "no token chosen", 0, 30);
      drawing.translate(0, 44);
      parts.forEach((part, i) => {
        for (const { canvas, element } of part.items) {
          if (canvas) drawing.drawImage(canvas, element.offsetLeft, element.offsetTop, element.offsetWidth, element.offsetHeight);
        }
        part.names.forEach((text, token) => {
          const { x, y, width, height } = part.boxes[token];
          const isFocus = part === focused && focus.includes(token);
          drawing.fillStyle = drawing.strokeStyle = isFocus ? theme.accent : part.patches.has(token) ? theme.frame : theme.ink;
          if (!part.patches.has(token)) drawing.fillText(text, x + 2, y + 10, width);
          else drawing.strokeRect(x, y, width, height);
        });
        if (part === painted && focus.length) {
          paintStrips(drawing, focus, () => false);
          paintPatches(drawing, focus, () => false);
        }
        drawing.translate(0, heights[i]);
      });
    };
    return { width: Math.max(...parts.map((part) => part.width)), height: 44 + heights.reduce((a, b) => a + b), paint };
  }

  function tellRow(token) {
    if (name !== "observer" || !hasRowsBefore(meta)) return "";
    if (!isFromBefore(token)) return "  (its own row)";
    return `  (row of ${token - 1} ${shorten(focused.names[token - 1] ?? "", 20)}, which produced it)`;
  }

  /** The largest weight of a token that is pointed at, over the heads that are on, in words. */
  function tellStrongest(focus) {
    let best = null;
    for (const { head, found } of loaded?.heads ?? []) {
      for (let other = 0; other < painted.spans.length; other++) {
        const weight = readWeight(found, focus, other);
        if (weight > (best?.weight ?? 0)) best = { weight, head, other };
      }
    }
    if (!best) return "";
    const label = shorten(painted.names[best.other], 40);
    return `; strongest: ${best.other} ${label}, ${nameHead(meta, best.head, context.state)}, ${tellWeight(best.weight, meta.encoding)}`;
  }

  let marked = [];
  function mark(focus) {
    for (const token of marked) focused.spans[token]?.classList.remove("av-focus");
    for (const token of focus) focused.spans[token]?.classList.add("av-focus");
    if (focus.length) focused.element.setAttribute("aria-activedescendant", context.id(`${name}-${focusSide}-${focus.at(-1)}`));
    else focused.element.removeAttribute("aria-activedescendant");
    marked = focus;
  }

  /** What the heads say about a token pointed at, seen from the frozen one; without that the status says all. */
  function describe(index) {
    const frozen = context.state[name];
    if (frozen === null || !loaded) return null;
    const lines = [`${index}  ${shorten(painted.names[index] ?? "", 40)}`];
    for (const { head, found } of loaded.heads.slice(0, MOST_TOLD)) {
      const weight = readWeight(found, frozen, index);
      if (weight !== HIDDEN) lines.push(`${nameHead(meta, head, context.state)}  ${tellWeight(weight, meta.encoding)}`);
    }
    if (loaded.heads.length > MOST_TOLD) lines.push(`and ${plural(loaded.heads.length - MOST_TOLD, "more head")}`);
    return lines;
  }

  function handleKey(event) {
    const { key, shiftKey } = event;
    const count = focused.spans.length;
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (key in moves && !shiftKey) {
      const next = Math.min(count - 1, Math.max(0, (hovered ?? (moves[key] > 0 ? -1 : count)) + moves[key]));
      pane.onpoint(next, null, focusSide);
      focused.spans[next].scrollIntoView({ block: "nearest" });
      context.announce(`token ${next}, ${focused.names[next]}${tellStrongest([next])}`);
      return true;
    }
    if (key === "Enter" && hovered !== null) {
      pin(hovered, event);
      return true;
    }
    return false;
  }

  return pane;
}
