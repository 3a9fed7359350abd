/** Weights: from the bytes of a head to numbers, to thumbnails, to shares of a colour scale. */

/** Stands in a head's values where the causal mask hides a cell. */
export const HIDDEN = -Infinity;
const LOG_FLOOR = 1e-4;
const KEPT_BYTES = 256 * 2 ** 20;

/** Promise of what bytes hold that zlib deflated. */
export async function inflate(bytes) {
  const { readable, writable } = new DecompressionStream("deflate");
  const writer = writable.getWriter();
  for (const job of [writer.write(bytes), writer.close()]) job.catch(() => {}); // who reads is told what failed
  return new Uint8Array(await new Response(readable).arrayBuffer());
}

export function checkMeta(meta) {
  if (meta?.version !== 2) throw new Error(`this viewer reads version 2 of its data, got ${meta?.version}`);
}

/** By how much a stored weight may be off. */
export function findError({ type, power, scale, zero }) {
  return type === "uint8" ? (power * scale) / (2 * (zero || 255)) : 0;
}

export class HeadStore {
  constructor(meta, source) {
    this.meta = meta;
    this.source = source;
    this.heads = new Map();
    this.waiting = new Map();
    this.thumbnails = new Map();
    this.firstRows = Int32Array.from({ length: meta.columns }, (_, column) => findFirstRow(meta, column));
    this.most = Math.max(2, Math.floor(KEPT_BYTES / (4 * meta.rows * meta.columns)));
    this.table = meta.encoding.type === "uint8" ? makeTable(meta.encoding) : null;
  }

  headsOf(layer) {
    return this.meta.heads[this.meta.layers.indexOf(layer)];
  }

  /** The largest weight of a head, with the first token and without it; undefined where it is not known yet. */
  findMaxima(layer, head) {
    const i = this.meta.layers.indexOf(layer);
    const told = this.meta.maxima?.[i]?.[this.meta.heads[i].indexOf(head)];
    const here = told ? undefined : this.peek(layer, head);
    return told ?? (here && [here.max, here.maxRest]);
  }

  /** What is already here, or undefined. */
  peek(layer, head) {
    return this.heads.get(`${layer}.${head}`);
  }

  /** Promise of {values, max, maxRest}: row by row, `HIDDEN` above the diagonal; of a head, or of a mean as `spellMap` writes it. */
  load(layer, head) {
    const key = `${layer}.${head}`;
    const here = this.heads.get(key);
    if (here) {
      this.heads.delete(key);
      this.heads.set(key, here);
      return Promise.resolve(here);
    }
    if (!this.waiting.has(key)) {
      const job = (typeof head === "string" ? this.average(layer, head) : this.fetchHead(layer, head)).finally(() =>
        this.waiting.delete(key),
      );
      this.waiting.set(
        key,
        job.then((found) => this.keep(key, found)),
      );
    }
    return this.waiting.get(key);
  }

  keep(key, found) {
    this.heads.set(key, found);
    for (const oldest of this.heads.keys()) {
      if (this.heads.size <= this.most) break;
      this.heads.delete(oldest);
    }
    return found;
  }

  async fetchHead(layer, head) {
    return this.measure(layer, head, this.unpack(await this.source.getHead(layer, head)).values);
  }

  async average(layer, name) {
    const numbers = name.match(/\d+/g)?.map(Number);
    const sum = new Float32Array(this.meta.rows * this.meta.columns);
    let count = 0;
    for (const one of name.includes("layers") ? this.meta.layers : [layer]) {
      for (const head of this.headsOf(one).filter((head) => !numbers || numbers.includes(head))) {
        const { values } = this.peek(one, head) ?? (await this.fetchHead(one, head));
        for (let i = 0; i < sum.length; i++) sum[i] += values[i];
        count++;
      }
      await new Promise((resolve) => setTimeout(resolve)); // the page stays quick
    }
    for (let i = 0; i < sum.length; i++) sum[i] /= count;
    return this.measure(layer, name, sum);
  }

  /** {values, rows, columns, factor} of the bytes of a head, pooled as `poolCells` does. */
  unpack(bytes, most = Infinity, shown = findWindow(this.meta, { first: "keep" })) {
    const { rows, columns } = this.meta;
    const cells = this.table ? bytes : new Float32Array(bytes.slice().buffer);
    if (!this.table && !cells.every(Number.isFinite)) throw new Error("a head came with numbers that are none");
    let count = 0;
    for (let column = 0; column < columns; column++) count += rows - this.firstRows[column];
    if (cells.length !== count) throw new Error(`a head came with ${cells.length} weights, expected ${count}`);
    const pooled = makeGrid(this.meta, most);
    const { values, factor } = pooled;
    const starts = Int32Array.from({ length: rows }, (_, row) => Math.floor(row / factor) * pooled.columns);
    let next = 0;
    for (let column = 0; column < columns; column++) {
      const across = Math.floor(column / factor);
      const isOut = column < shown.columns[0] || column >= shown.columns[1];
      for (let row = this.firstRows[column]; row < rows; row++, next++) {
        if (isOut || row < shown.rows[0] || row >= shown.rows[1]) continue;
        const value = this.table ? this.table[cells[next]] : cells[next];
        const at = starts[row] + across;
        if (values[at] === HIDDEN || Math.abs(value) > Math.abs(values[at])) values[at] = value;
      }
    }
    return pooled;
  }

  /** Values with the largest of them, which the maps tell or which is looked for. */
  measure(layer, head, values) {
    const told = this.findMaxima(layer, head);
    if (told) return { layer, head, values, max: told[0], maxRest: told[1] };
    const { columns } = this.meta;
    const { rows, columns: kept } = findWindow(this.meta, { first: "hide" });
    let [max, maxRest] = [0, 0];
    for (let i = 0, column = 0, row = 0; i < values.length; i++) {
      const value = values[i] === HIDDEN ? 0 : Math.abs(values[i]);
      if (value > max) max = value;
      if (value > maxRest && column >= kept[0] && row >= rows[0]) maxRest = value;
      if (++column === columns) {
        column = 0;
        row++;
      }
    }
    return { layer, head, values, max, maxRest };
  }

  /** Promise of {values, side…}: the largest weights that are shown on a grid of at most `most` cells a side. */
  async loadThumbnail(layer, head, most, shown) {
    const key = `${layer}.${head}`;
    const look = JSON.stringify([most, shown]);
    if (this.thumbnailLook !== look) {
      this.thumbnails.clear();
      this.thumbnailLook = look;
    }
    if (!this.thumbnails.has(key)) {
      const pooled = await this.poolHead(layer, head, most, shown);
      if (this.thumbnailLook !== look) return pooled;
      this.thumbnails.set(key, pooled);
    }
    return this.thumbnails.get(key);
  }

  async poolHead(layer, head, most, shown) {
    const told = this.source && this.findMaxima(layer, head);
    if (told && !this.peek(layer, head)) {
      return { ...this.unpack(await this.source.getHead(layer, head), most, shown), layer, head, max: told[0], maxRest: told[1] };
    }
    const { values, max, maxRest } = this.peek(layer, head) ?? (await this.fetchHead(layer, head));
    return { ...poolCells(values, this.meta, most, shown), layer, head, max, maxRest };
  }
}

/** The second maps minus the first. */
export class DifferenceStore extends HeadStore {
  constructor(meta, first, second) {
    super(meta, null);
    this.pair = [first, second];
  }

  async fetchHead(layer, head) {
    const i = this.meta.layers.indexOf(layer);
    const j = this.meta.heads[i].indexOf(head);
    const load = (store) => store.load(store.meta.layers[i], store.meta.heads[i][j]); // numbers may differ
    const [first, second] = await Promise.all(this.pair.map(load));
    const values = second.values.map((value, i) => (value === HIDDEN ? HIDDEN : value - first.values[i]));
    return this.measure(layer, head, values);
  }
}

/** Numbers about heads: those that came with the maps, or a layer after another as the source finds them. */
export class ScoreTable {
  constructor(meta, source) {
    this.source = source;
    this.layers = meta.layers;
    this.names = meta.scores.map(({ name }) => name);
    this.values = new Map(meta.scores.map(({ name, values }) => [name, values ?? meta.layers.map(() => null)]));
    this.waiting = meta.scores.some(({ values }) => values === null) ? [...meta.layers.keys()] : [];
    /** How many layers are known of those that were asked for: what depends on scores changes with it. */
    this.version = 0;
  }

  /** The score of head j of layer i by position, or null where it has none, or none yet. */
  get(name, i, j) {
    return this.values.get(name)?.[i]?.[j] ?? null;
  }

  /** The ends of a colour scale over all heads. */
  range(name) {
    const known = (this.values.get(name) ?? []).flatMap((row) => row ?? []).filter((value) => value !== null);
    return [Math.min(...known), Math.max(...known)];
  }

  /** Ask for what is not known yet; `onLayer` is called after each layer. */
  async load(onLayer) {
    while (this.waiting.length && !this.isBusy) {
      this.isBusy = true;
      const i = this.waiting.shift();
      try {
        const found = await this.source.getScores(this.layers[i]);
        for (const name of this.names) this.values.get(name)[i] = found[name] ?? null;
      } catch {
        // Heads without a score stay without one.
      }
      this.isBusy = false;
      this.version++;
      onLayer();
    }
  }
}

function findFirstRow(meta, column) {
  if (!meta.causal) return 0;
  const [down, across] = meta.cell;
  const first = Math.ceil((column * across - meta.first_query + 1) / down) - 1;
  return Math.min(meta.rows, Math.max(0, first));
}

function makeTable({ power, scale, zero }) {
  const steps = zero || 255;
  return Float32Array.from({ length: 256 }, (_, code) => {
    const step = code - zero;
    return Math.sign(step) * scale * (Math.abs(step) / steps) ** power;
  });
}

/** Weights on a grid of at most `most` cells a side, each the largest there; all but the window `shown` is masked. */
export function poolCells(values, meta, most, shown) {
  const grid = makeGrid(meta, most);
  const { values: pooled, columns: width, factor } = grid;
  for (let row = shown.rows[0]; row < shown.rows[1]; row++) {
    const base = Math.floor(row / factor) * width;
    for (let column = shown.columns[0]; column < shown.columns[1]; column++) {
      const value = values[row * meta.columns + column];
      const at = base + Math.floor(column / factor);
      if (value !== HIDDEN && (pooled[at] === HIDDEN || Math.abs(value) > Math.abs(pooled[at]))) pooled[at] = value;
    }
  }
  return grid;
}

/** A grid of nothing seen, of at most `most` cells a side, each of factor × factor cells. */
function makeGrid({ rows, columns }, most) {
  const factor = Math.max(1, Math.ceil(Math.max(rows, columns) / most));
  const [height, width] = [Math.ceil(rows / factor), Math.ceil(columns / factor)];
  return { values: new Float32Array(height * width).fill(HIDDEN), rows: height, columns: width, factor };
}

/** How many rows the lines' queries stand further down than their first key, to be beside their own keys. */
export function findOffset(meta) {
  return meta.kind === "cross" ? 0 : Math.floor(meta.first_query / meta.cell[0]);
}

/**
 * The rows and columns that are shown, [first, end] each. When the first token is hidden its column goes, and its row if
 * that is its own; of a pair of texts only the queries of one and the keys of one may be chosen.
 */
export function findWindow(meta, { first, pair = "all" }) {
  const { kind, first_query, cell, sentence_b_start } = meta;
  const ends = { rows: [0, meta.rows], columns: [0, meta.columns] };
  if (first === "hide") {
    ends.rows[0] = kind !== "cross" && first_query === 0 && cell[0] === 1 ? 1 : 0;
    ends.columns[0] = 1;
  }
  if (pair !== "all") {
    cutToText(ends.rows, pair[0], (sentence_b_start - first_query) / cell[0]);
    cutToText(ends.columns, pair[1], sentence_b_start / cell[1]);
  }
  return ends;
}

/** A cell of tokens of both texts belongs to either. */
function cutToText(ends, text, border) {
  if (text === "A") ends[1] = Math.max(ends[0], Math.ceil(border));
  else ends[0] = Math.max(ends[0], Math.floor(border));
}

export function isShown({ rows, columns }, row, column) {
  return row >= rows[0] && row < rows[1] && column >= columns[0] && column < columns[1];
}

/**
 * The weight at the dark end of the scale: the head's own largest, or that of all heads. Of maps that are side by side,
 * the larger one of both, so that a colour means the same in either.
 */
export function findTop({ meta, state, partner }, found) {
  const side = Number(state.first === "hide");
  const all = (maps) => maps.maxima?.flat().reduce((top, pair) => Math.max(top, pair[side]), 0) ?? maps.encoding.scale ?? 1;
  if (state.range === "all") return Math.max(all(meta), partner ? all(partner.meta) : 0) || 1;
  const other = partner?.findMaxima(found.layer, found.head)?.[side] ?? 0;
  return Math.max(other, side ? found.maxRest : found.max) || 1;
}

/** Return the function from a weight to its share of the scale, 0 to 1, or below 0 as the weight is. */
export function makeScale(state, top) {
  const { min } = state;
  const power = 1 / state.amp;
  const norm =
    state.scale === "linear"
      ? (share) => share
      : state.scale === "power"
        ? Math.sqrt
        : (share) => 1 - Math.log(Math.max(share, LOG_FLOOR)) / Math.log(LOG_FLOOR);
  return (weight) => {
    const size = Math.abs(weight);
    if (!(size > 0) || weight === HIDDEN || size < min) return 0;
    const share = norm(Math.min(1, size / top));
    return Math.sign(weight) * (power === 1 ? share : share ** power);
  };
}
