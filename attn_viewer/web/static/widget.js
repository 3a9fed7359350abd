/** The source of a notebook's widget, which asks Python for each head that is to be seen. */

import { mountViewer } from "./viewer.js";

export function render({ model, el }) {
  const waiting = new Map();
  // Answers go to every view of a widget, so that each asks under numbers of its own.
  const own = crypto.getRandomValues(new Uint32Array(2)).join("-");
  let count = 0;
  const receive = (message, buffers) => {
    const job = waiting.get(message.id);
    if (!job) return;
    waiting.delete(message.id);
    if (message.error) job.reject(new Error(message.error));
    else job.resolve(new Uint8Array(buffers[0].buffer, buffers[0].byteOffset, buffers[0].byteLength));
  };
  model.on("msg:custom", receive);
  const getHead = (layer, head) =>
    new Promise((resolve, reject) => {
      const id = `${own}-${++count}`;
      waiting.set(id, { resolve, reject });
      model.send({ id, layer, head });
    });
  const viewer = mountViewer(
    el,
    [{ meta: model.get("meta"), getHead }],
    {
      state: model.get("state"),
      theme: model.get("theme"),
      onState(text) {
        model.set("state", text);
        model.save_changes();
      },
    },
  );
  const follow = () => viewer.setState(model.get("state"));
  model.on("change:state", follow);
  return () => {
    model.off("msg:custom", receive);
    model.off("change:state", follow);
    viewer.destroy();
  };
}
