/**
 * Jobs of the server behind the page (attn_viewer/web/live.py).
 *
 *   createJobs(secret)  {start, follow, cancel, makeSources}
 *
 * What goes wrong is an Error whose message is for a reader.
 */

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
    makeSources: (job, metas) => metas.map((meta, map) => makeSource(job, meta, map)),
  };

  function makeSource(job, meta, map) {
    const layers = new Map();
    const load = async (layer) => new Uint8Array(await (await request(`live/weights?job=${job}&map=${map}&layer=${layer}`)).arrayBuffer());
    async function getHead(layer, head) {
      if (!layers.has(layer)) layers.set(layer, load(layer));
      const numbers = meta.heads[meta.layers.indexOf(layer)];
      const bytes = await layers.get(layer);
      const size = bytes.length / numbers.length;
      const at = numbers.indexOf(head) * size;
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
