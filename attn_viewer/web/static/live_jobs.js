/**
 * Jobs of the server behind the page (attn_viewer/web/live.py).
 *
 *   createJobs(secret)  {start, follow, cancel, keep, makeSources}
 *
 * What goes wrong is an Error whose message is for a reader.
 */

/** Weights that one reply holds, up to four bytes each. */
const REPLY_CELLS = 2 ** 19;

export function createJobs(secret) {
  async function request(path, words = null, more = {}) {
    const headers = { "x-secret": secret };
    const post = words && { method: "POST", body: JSON.stringify(words), headers: { ...headers, "content-type": "application/json" } };
    const reply = await fetch(path, post ? { ...post, ...more } : { headers, ...more }).catch(() => null);
    if (!reply) throw new Error("The server does not answer. Is it still running?");
    if (reply.ok) return reply;
    const { error } = await reply.json().catch(() => ({ error: "the server refuses this" }));
    throw new Error(`${error[0].toUpperCase()}${error.slice(1)}.`);
  }

  /** Call `tell` with each event of a job until its last one, which is returned. */
  async function follow(job, tell) {
    let count = 0;
    let last = null;
    while (!["done", "failed", "cancelled"].includes(last?.state)) {
      const reply = await request(`live/events?job=${job}&from=${count}`);
      await readEvents(reply, (event) => {
        count++;
        tell((last = event));
      });
    }
    return last;
  }

  return {
    start: async (words) => (await (await request("live/jobs", words)).json()).job,
    follow,
    /** `isLeaving` where the page goes away, which does not wait for the answer. */
    cancel: (job, isLeaving = false) => request("live/cancel", { job }, { keepalive: isLeaving }),
    /** Save a job's prompts to the data folder; promise of {saved: their places, folder}. */
    keep: async (job) => (await request("live/keep", { job })).json(),
    makeSources: (job, metas) => metas.map((meta, map) => makeSource(job, meta, map)),
  };

  /** Heads come with those of neighbouring layers: as many as a reply of some size holds. */
  function makeSource(job, meta, map) {
    const counts = meta.heads.map((numbers) => numbers.length);
    const many = Math.max(1, Math.floor(REPLY_CELLS / (meta.rows * meta.columns * Math.max(...counts))));
    const runs = new Map();
    const load = async (first) => new Uint8Array(await (await request(`live/weights?job=${job}&map=${map}&first=${first}&count=${many}`)).arrayBuffer());
    const sum = (numbers) => numbers.reduce((all, one) => all + one, 0);
    async function getHead(layer, head) {
      const i = meta.layers.indexOf(layer);
      const first = i - (i % many);
      if (!runs.has(first)) runs.set(first, load(first));
      const bytes = await runs.get(first);
      const size = bytes.length / sum(counts.slice(first, first + many));
      const at = (sum(counts.slice(first, i)) + meta.heads[i].indexOf(head)) * size;
      return bytes.subarray(at, at + size);
    }
    return { meta, getHead };
  }
}

/** Read a stream of server-sent events, whose data are JSON on one line each. */
async function readEvents(reply, tell) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true })); // cut off: the rest is asked for again
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) tell(JSON.parse(part.slice("data: ".length)));
  }
}
